"""How far a long task is and how long it still takes: one line on a terminal that is written over again and again."""

import sys
import time

PAUSE = 0.1         # seconds between two states of the line


class Progress:
    """Called as progress(done, total), it keeps a line on standard error; nothing where that is no terminal.

        with Progress("encoding") as progress:
            for part in parts:
                ...
                progress(bytes_done, bytes_in_all)

    The line is gone when the block ends. A total of None is one that is not known. For a task in stages, `stage` is called
    as progress.stage(what, done, total).
    """

    def __init__(self, what, stream=None):
        self.what, self.stream = what, sys.stderr if stream is None else stream
        self.shown = self.stream.isatty()
        self.started, self.due, self.width = time.monotonic(), 0.0, 0

    def __enter__(self):
        return self

    def __call__(self, done, total):
        now = time.monotonic()
        if not self.shown or now < self.due:
            return
        self.due = now + PAUSE
        line = f"{self.what}: {done:,}"
        if total:
            line = f"{self.what}: {done / total:4.0%}"
            if done:
                line += f", {clock((now - self.started) * (total - done) / done)} left"
        self._write(line)

    def stage(self, what, done, total):
        """As the call, of the stage `what`; the time left is that of the stage."""
        if what != self.what:
            self.what, self.started, self.due = what, time.monotonic(), 0.0
        self(done, total)

    def __exit__(self, *error):
        if self.width:
            self._write("")
            self.stream.write("\r")
            self.stream.flush()

    def _write(self, line):
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width = len(line)


def clock(seconds):
    """Seconds as people write them: 0m 05s, 2h 01m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {seconds:02d}s"
