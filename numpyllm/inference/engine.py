"""Many texts continued at once: whoever has one hands it in, a thread of the engine's own decodes all of them side by side.

A text takes a free sequence of the decoder at any step and gives it back when it ends (continuous batching: Yu et al. 2022,
Orca); further ones wait in line. What becomes of a text does not depend on its neighbours, to the bit.
"""

import threading
import time
from collections import deque
from typing import NamedTuple

from ..errors import InputError
from .continuation import log_probability

AT_ONCE = 16            # tokens of a prompt that are scored together


class Busy(Exception):
    """The line is full, or the engine is being closed."""


class Piece(NamedTuple):
    """What has become certain of a text since its last piece."""

    number: int                 # of its job
    text: str
    n_tokens: int               # that it has by now
    finish_reason: str | None   # "stop" or "length"; None while it goes on
    error: Exception | None     # why it ended early


class Job:
    """A Continuation for the engine, with the TextStream that its tokens go through.

    Pieces are put into `news`, a queue that several jobs may share: each as it comes, or (streamed=False) all text in one at the end.
    score_prompt, a number of likely tokens to note: prompt_logprobs gets a LogProbability for each token of the prompt but the
    first, which nothing predicts, before the first piece comes.
    """

    def __init__(self, text, out, news, *, number=0, streamed=False, score_prompt=None):
        self.text, self.out, self.news, self.number = text, out, news, number
        self.streamed, self.score_prompt, self.prompt_logprobs = streamed, score_prompt, []
        self.cancelled = False
        self._pieces = []

    def put(self, text, error=None):
        """Pass on this text, or the news that all is over."""
        reason = self.text.finish_reason
        self._pieces.append(text)
        if error is not None or reason is not None or (self.streamed and text):
            self.news.put(Piece(self.number, "".join(self._pieces), len(self.text.tokens), reason, error))
            self._pieces.clear()


class Engine:
    """Continues jobs with a Decoder, as many at once as it has sequences, at most `line` more waiting. To be closed.

    The decoder is the engine's alone until then. Any thread may call these methods.
    """

    def __init__(self, decoder, *, line=64):
        self._decoder, self.line = decoder, line
        self.sequences = len(decoder.past.lengths)
        self._active, self._waiting = {}, deque()       # {sequence: job}; both change under the lock only
        self._changed = threading.Condition()
        self._deadline = None                           # once it is being closed
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, jobs):
        """Take in all of these jobs, or raise Busy."""
        with self._changed:
            if self._deadline is not None:
                raise Busy("the server is being stopped")
            if len(self._active) + len(self._waiting) + len(jobs) > self.sequences + self.line:
                raise Busy(f"{len(self._active)} texts are being continued and {len(self._waiting)} waiting, room is for "
                           f"{self.sequences} and {self.line}: try again later")
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs):
        """Nobody wants these any more: those that wait are dropped now, those at work at their next token."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def counts(self):
        """How many texts are being continued, how many wait."""
        with self._changed:
            return len(self._active), len(self._waiting)

    def alive(self):
        """Whether the thread is there: it ends when the engine is closed, and only then."""
        return self._thread.is_alive()

    def close(self, seconds=0.0):
        """Take no more jobs, go on with those there are for so long, end the rest with Busy as their error."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                while not (self._active or self._waiting or self._deadline is not None):
                    self._changed.wait()
                closing = self._deadline is not None
                if closing and (time.monotonic() >= self._deadline or not (self._active or self._waiting)):
                    break
                new = self._seat()
            for sequence in new:
                self._begin(sequence)
            self._step()
        for job in [*self._active.values(), *self._waiting]:
            job.put("", Busy("the server was stopped"))
        self._active, self._waiting = {}, deque()

    def _seat(self):
        """Give free sequences to those who wait -> these sequences."""
        new = []
        for sequence in range(self.sequences):
            if self._waiting and sequence not in self._active:
                self._active[sequence] = self._waiting.popleft()
                new.append(sequence)
        return new

    def _begin(self, sequence):
        job = self._active[sequence]
        try:
            logits = self._scored(job, sequence) if job.score_prompt is not None else self._decoder.start(job.text.prompt, sequence)
            self._take(sequence, logits)
        except Exception as error:          # whatever it is, it is this job's affair
            self._end(sequence, error)

    def _step(self):
        """One more token for each that is at work."""
        for sequence in [sequence for sequence, job in self._active.items() if job.cancelled]:
            self._end(sequence)
        if not self._active:
            return
        sequences = list(self._active)
        try:
            rows = self._decoder.step([self._active[sequence].text.tokens[-1] for sequence in sequences], sequences)
        except Exception as error:
            for sequence in sequences:
                self._end(sequence, error)
            return
        for sequence, logits in zip(sequences, rows, strict=True):
            try:
                self._take(sequence, logits)
            except Exception as error:
                self._end(sequence, error)

    def _take(self, sequence, logits):
        """Let a job choose its next token; its sequence is free again if that was the last."""
        job = self._active[sequence]
        token = job.text.take(logits)
        piece = "" if token is None else job.out.feed(token)
        if job.out.stopped:
            job.text.stop()
        if job.text.finish_reason is not None:
            piece += job.out.flush()
            self._end(sequence, text=piece)
        else:
            job.put(piece)

    def _end(self, sequence, error=None, text=""):
        with self._changed:
            job = self._active.pop(sequence)
        if not job.cancelled:
            job.put(text, error)

    def _scored(self, job, sequence):
        """As Decoder.start, and note how likely each token of the prompt was. InputError if they do not all fit into the context."""
        ids, block_size = job.text.prompt, self._decoder.model.config.block_size
        if len(ids) > block_size:
            raise InputError(f"a prompt that is to be scored must fit into the context of {block_size} tokens, got {len(ids)}")
        logits = self._decoder.start(ids[:1], sequence)
        for first in range(1, len(ids), AT_ONCE):
            tokens = ids[first:first + AT_ONCE]
            rows = self._decoder.extend(tokens, sequence)
            job.prompt_logprobs += [log_probability(row, token, job.score_prompt)
                                    for token, row in zip(tokens, [logits, *rows[:-1]], strict=True)]
            logits = rows[-1]
        return logits
