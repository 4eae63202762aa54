"""Decoding with a cache of keys and values: the prompt in one pass, then one token at a time.

A Decoder has room for several sequences, each with a past of its own length; each can be begun anew, lengthened, cut back or
copied at any moment. On kernels a token goes the compiled way (compiled.py); otherwise, with experts, and for prompts, it is GPT.step.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import blas
from .. import ops as text
from ..errors import InputError
from ..workspace import Workspace
from .together import together
from .weights import StoredWeights

SMALL = 4_000_000           # parameters: below, a thread is quicker alone than in company

FEW = 16                    # tokens of a prompt that go the way of single ones: with more, products of matrices are quicker


class Decoder:
    """Room for so many sequences of a model. To be closed, or used as `with Decoder(model) as decoder`; one thread uses it.

    weights: how matrices are stored (weights.py): "float32", "bfloat16", "int8", or a StoredWeights. With the latter two, or if
    `weights` is a StoredWeights, all results are those of a model with the stored weights. LoRA is merged in, as it is now.
    threads None: as many as cores, one for a small model. Meanwhile BLAS is held to one thread in the whole process.
    """

    def __init__(self, model, *, sequences=1, weights="float32", threads=None):
        model = model.merged()
        stored = weights if isinstance(weights, StoredWeights) else StoredWeights(model, weights)
        if stored.kind != "float32":
            model = model.astype(model.parameters.dtype)
            stored.write_into(model)
        if threads is None:
            threads = 1 if model.n_params() < SMALL else os.cpu_count()
        self.model, self.threads = model, threads
        self.past = model.past(sequences)
        self._tokens = [[] for _ in range(sequences)]
        self._workspaces = [Workspace() for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._compiled = None
        if model.ops is not text and not model.config.n_expert:     # the compiled way knows one MLP a block
            from .compiled import CompiledStep
            self._compiled = CompiledStep(model, stored, threads, self._pool)
        self._blas = blas.limited(1)
        self._blas.__enter__()                                  # last, so that nothing is held where something failed

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the threads, let BLAS go."""
        if self._blas is not None:
            self._pool.shutdown()
            self._blas.__exit__(None, None, None)
            self._blas = None

    def length(self, sequence):
        """How many tokens the past of a sequence has."""
        return int(self.past.lengths[sequence])

    def start(self, ids, sequence=0):
        """Begin a sequence anew with these tokens, at least one, the last block_size of them -> logits (V) after the last."""
        ids = np.asarray(ids, np.int64).reshape(1, -1)
        if ids.size == 0:
            raise InputError("a prompt must have at least one token, got none: begin with a newline or an end-of-text token")
        ids = self.model.check_ids(ids[:, -self.model.config.block_size:])
        self._tokens[sequence] = ids[0].tolist()
        self.past.cut(sequence, 0)
        at_once = min(ids.size, FEW)
        if ids.size > FEW:
            at_once = 1
            self._prefill(ids[:, :-1], sequence)
        start = self.length(sequence)
        return self._positions(ids[0, start:], np.full(at_once, sequence), np.arange(start, ids.size))[-1]

    def step(self, tokens, sequences=None):
        """One more token for each of these different sequences (default: all) -> logits (N, V) after each.

        A sequence that has block_size tokens keeps its last block_size // 2, which are then seen anew: learned positions cannot slide.
        """
        sequences = range(len(self._tokens)) if sequences is None else sequences
        tokens, sequences = np.asarray(tokens, np.int64), np.asarray(sequences, np.int64)
        for sequence in sequences:
            self._make_room(sequence)
        logits = self._positions(tokens, sequences, self.past.lengths[sequences])
        for token, sequence in zip(tokens.tolist(), sequences.tolist(), strict=True):
            self._tokens[sequence].append(token)
        return logits

    def extend(self, tokens, sequence=0):
        """Several tokens for one sequence, in one pass -> logits (T, V) after each of them: the same as one `step` for each."""
        self._make_room(sequence)
        start = self.length(sequence)
        tokens = np.asarray(tokens, np.int64)
        if start + len(tokens) > self.model.config.block_size:
            raise InputError(f"{len(tokens)} tokens after {start} do not fit into block_size={self.model.config.block_size}")
        logits = self._positions(tokens, np.full(len(tokens), sequence), start + np.arange(len(tokens)))
        self._tokens[sequence] += tokens.tolist()
        return logits

    def room(self, sequence=0):
        """How many tokens `extend` takes at once now; at the context's limit, that is after it was cut."""
        block_size, length = self.model.config.block_size, self.length(sequence)
        return block_size - (length if length < block_size else block_size // 2)

    def cut(self, length, sequence=0):
        """Forget all but the first `length` tokens of a sequence."""
        del self._tokens[sequence][length:]
        if self.past.can_cut(sequence, length):
            self.past.cut(sequence, length)
        else:                                                   # a window has moved on: see the rest anew
            self.start(self._tokens[sequence], sequence)

    def copy(self, source, sequence):
        """Make a sequence the same as another one."""
        self.past.copy(source, sequence)
        self._tokens[sequence] = list(self._tokens[source])

    def _make_room(self, sequence):
        block_size = self.model.config.block_size
        if self.length(sequence) == block_size:
            kept = self._tokens[sequence][block_size - block_size // 2:]
            self.cut(0, sequence)
            if kept:
                self.start(kept, sequence)

    def _positions(self, tokens, sequences, positions):
        """logits (N, V) of these tokens at these positions; they belong to the past then."""
        self.model.check_ids(tokens[:, None])
        if self._compiled is None:
            return np.stack([self.model.step(token[None, None], self.past.of(sequence))[0, 0]
                             for token, sequence in zip(tokens, sequences, strict=True)])
        logits = self._compiled(tokens, sequences, positions, self.past)
        np.maximum.at(self.past.lengths, sequences, positions + 1)
        return logits

    def _prefill(self, ids, sequence):
        """Take in ids (1, T), without their logits, as many at once as the past can."""
        for first in range(0, ids.shape[1], self.past.chunk):
            self._prefill_chunk(ids[:, first:first + self.past.chunk], sequence)

    def _prefill_chunk(self, ids, sequence):
        """Each thread takes some of the positions: in every layer they wait for each other between writing keys and reading them."""
        T, start = ids.shape[1], self.length(sequence)
        self.past.make_room(sequence, start, start + T)         # before there are threads
        parts = min(self.threads, T)
        barrier = threading.Barrier(parts)

        def part(i):
            first, last = T * i // parts, T * (i + 1) // parts
            try:
                with self._workspaces[i].activate():
                    self.model.trunk_step(ids[:, first:last], self.past.of(sequence, start + first, barrier.wait))
            except threading.BrokenBarrierError:
                pass                        # another thread has failed, and says why
            except BaseException:
                barrier.abort()             # nobody waits for a thread that is no more
                raise

        together(self._pool, parts, part, barrier.abort)
        self.past.lengths[sequence] = start + T
