"""Tasks shared out among processes, which tell how far they are and stop as soon as nobody listens.

Each worker has a pipe. Tasks go down, and up come the numbers that a task yields, None when it is done, or an error. A worker
that finds its pipe closed, because this process was interrupted or killed, leaves its task the way an exception would: files
half-written are removed.
"""

import multiprocessing
import signal
import threading
from contextlib import contextmanager
from multiprocessing.connection import wait

from ..errors import InputError


class Workers:
    """Processes that each call make(*arguments) -> work once, and then list(work(task)) for one task after the other.

    n       processes; with 1 or less there is none, all is done here
    Use as `with Workers(...) as pool: for number in pool.run(tasks): ...`. make must be a function of a module, and arguments
    and tasks what goes through a pipe.
    """

    def __init__(self, n, make, arguments):
        self.n, self.make, self.arguments = n, make, arguments
        self.processes, self.pipes = [], []

    def __enter__(self):
        if self.n > 1:
            try:
                self._start()
            except BaseException:
                self.__exit__()
                raise
        return self

    def _start(self):
        context = multiprocessing.get_context("spawn")          # not "fork": BLAS and Numba may have threads by now
        for _ in range(self.n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self.make), daemon=True)
            with _ignoring_interrupts():
                process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)
        for pipe in self.pipes:                                 # not with the start, which would wait until they are read
            _send(pipe, self.arguments)

    def __exit__(self, *error):
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()

    def run(self, tasks):
        """The numbers that the tasks yield, as they come. InputError as a task raises it, and where a worker dies."""
        tasks = iter(tasks)
        if not self.pipes:
            work = self.make(*self.arguments)
            for task in tasks:
                yield from work(task)
            return
        busy = [pipe for pipe in self.pipes if _give(pipe, tasks)]
        while busy:
            for pipe in wait(busy):
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    raise _died() from None
                if isinstance(message, InputError):
                    raise message
                if message is not None:
                    yield message
                elif not _give(pipe, tasks):
                    busy.remove(pipe)


def call_in_process(function, *arguments):
    """Call a function of a module in a process of its own, for what it leaves behind on the disk, not in memory."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments, daemon=True)
    with _ignoring_interrupts():
        process.start()
    process.join()


def _give(pipe, tasks):
    """Send the next task -> whether there was one."""
    for task in tasks:
        _send(pipe, task)
        return True
    return False


def _send(pipe, what):
    try:
        pipe.send(what)
    except ConnectionError:
        raise _died() from None


def _died():
    return InputError("a worker process died (was it killed for want of memory?): what is done stays; go on with --resume and "
                      "fewer --workers")


@contextmanager
def _ignoring_interrupts():
    """Processes that are started meanwhile ignore Ctrl-C from their first moment: it is for this one, which closes the pipes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe, make):
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = make(*pipe.recv())
        while True:
            for number in work(pipe.recv()):
                pipe.send(number)
            pipe.send(None)
    except (EOFError, ConnectionError):
        pass
    except InputError as error:
        pipe.send(error)
