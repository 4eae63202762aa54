"""Batches of contexts: a pure function of (seed, step), so that any step can be repeated and none needs to be stored.

Shapes: tokens (n), ids and targets (B, T); the target of a token is the one after it, -1 where none is asked. Tokens are an
array or a TokenRow.
"""

import numpy as np

from ..errors import InputError
from ..random import generator
from .permutation import ROUNDS, Permutation
from .token_row import TokenRow


class Batches:
    """Contexts of block_size tokens at random places of a text, batch_size at a time, with replacement.

    Raises InputError if the text has no block_size + 1 tokens.
    """

    def __init__(self, tokens, *, batch_size, block_size, seed, name="train"):
        self.tokens, self.batch_size, self.block_size = TokenRow.of(tokens), batch_size, block_size
        self.seed, self.name = seed, name
        _check_length(self.tokens, block_size, name)

    def __call__(self, step, micro=0):
        """Batch number `step`, micro-batch `micro` -> ids (B, T), targets (B, T), int64."""
        rng = generator(self.seed, f"batch/{self.name}", step=step, micro=micro)
        starts = rng.integers(0, len(self.tokens) - self.block_size, size=self.batch_size)
        rows = self.tokens.windows(starts, self.block_size + 1)
        return rows[:, :-1], rows[:, 1:]


class EpochBatches:
    """Contexts without replacement: each window of the text once in an epoch, in an order of its own in each.

    In an epoch the text is cut into n_windows windows of block_size tokens side by side, from a place on that is drawn for
    the epoch, 0 ... block_size - 1, so that cuts fall elsewhere each time; less than two windows are left out at the ends. The
    windows of all epochs, one shuffled epoch after the other, are one endless row, and batch number `step` is a piece of it.

    micro_batches   in a step, at most: micro-batch m of step s begins at window (s * micro_batches + m) * batch_size of the
                    row. One that is not asked for is left out of the epoch
    Raises InputError if the text has no block_size + 1 tokens.
    """

    def __init__(self, tokens, *, batch_size, block_size, seed, micro_batches=1, name="train"):
        self.tokens, self.batch_size, self.block_size = TokenRow.of(tokens), batch_size, block_size
        self.seed, self.micro_batches, self.name = seed, micro_batches, name
        _check_length(self.tokens, block_size, name)
        self.n_windows = max(1, (len(self.tokens) - block_size) // block_size)

    def __call__(self, step, micro=0):
        """Batch number `step`, micro-batch `micro` -> ids (B, T), targets (B, T), int64."""
        first = (step * self.micro_batches + micro) * self.batch_size
        rows = self.tokens.windows(self.starts(first, self.batch_size), self.block_size + 1)
        return rows[:, :-1], rows[:, 1:]

    def starts(self, first, count):
        """Where in the text windows first ... first + count - 1 of the endless row begin: (count,) int64."""
        epochs, places = np.divmod(np.arange(first, first + count), self.n_windows)
        starts = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rng = generator(self.seed, f"epoch/{self.name}", step=int(epoch))
            shuffled = Permutation(self.n_windows, rng.bit_generator.random_raw(ROUNDS))(places[here])
            spare = len(self.tokens) - 1 - self.n_windows * self.block_size     # tokens that no window needs
            starts[here] = rng.integers(0, min(self.block_size, spare + 1)) + shuffled * self.block_size
        return starts

    def epoch(self, step):
        """How many epochs have been read when step number `step` begins, as a float."""
        return step * self.micro_batches * self.batch_size / self.n_windows


def consecutive(tokens, *, batch_size, block_size):
    """The whole text once: windows of block_size side by side, every token but the first a target exactly once.

    Yields ids (B, T), targets (B, T); the last window is filled up with id 0 and target -1.
    """
    tokens = TokenRow.of(tokens)
    n_targets = len(tokens) - 1
    n_windows = -(-n_targets // block_size)
    for first in range(0, n_windows, batch_size):
        n_rows = min(batch_size, n_windows - first)
        read = tokens.read(first * block_size, min((first + n_rows) * block_size, n_targets) + 1)
        ids, targets = np.zeros(n_rows * block_size, np.int64), np.full(n_rows * block_size, -1, np.int64)
        ids[:len(read) - 1], targets[:len(read) - 1] = read[:-1], read[1:]
        yield ids.reshape(n_rows, -1), targets.reshape(n_rows, -1)


def _check_length(tokens, block_size, name):
    if len(tokens) <= block_size:
        raise InputError(f"the {name} text must be longer than one context, got {len(tokens)} tokens for "
                         f"block_size={block_size}: give more text or a smaller block_size")
