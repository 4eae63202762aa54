"""Batches of contexts: a pure function of (seed, step), so that any step can be repeated and none needs to be stored.

Shapes: tokens (n), ids and targets (B, T); the target of a token is the one after it, -1 where none is asked.
"""

import numpy as np

from ..errors import InputError
from ..random import generator


class Batches:
    """Contexts of block_size tokens at random places of a text, batch_size at a time, with replacement.

    Raises InputError if the text has no block_size + 1 tokens.
    """

    def __init__(self, tokens, *, batch_size, block_size, seed, name="train"):
        if len(tokens) <= block_size:
            raise InputError(f"the {name} text must be longer than one context, got {len(tokens)} tokens for "
                             f"block_size={block_size}: give more text or a smaller block_size")
        self.tokens, self.batch_size, self.block_size = tokens, batch_size, block_size
        self.seed, self.name = seed, name

    def __call__(self, step, micro=0):
        """Batch number `step`, micro-batch `micro` -> ids (B, T), targets (B, T), int64."""
        rng = generator(self.seed, f"batch/{self.name}", step=step, micro=micro)
        starts = rng.integers(0, len(self.tokens) - self.block_size, size=self.batch_size)
        rows = self.tokens[starts[:, None] + np.arange(self.block_size + 1)].astype(np.int64)
        return rows[:, :-1], rows[:, 1:]


def consecutive(tokens, *, batch_size, block_size):
    """The whole text once: windows of block_size side by side, every token but the first a target exactly once.

    Yields ids (B, T), targets (B, T); the last window is filled up with id 0 and target -1.
    """
    n_targets = len(tokens) - 1
    n_windows = -(-n_targets // block_size)
    ids = np.zeros(n_windows * block_size, np.int64)
    targets = np.full(n_windows * block_size, -1, np.int64)
    ids[:n_targets], targets[:n_targets] = tokens[:-1], tokens[1:]
    ids, targets = ids.reshape(n_windows, -1), targets.reshape(n_windows, -1)
    for first in range(0, n_windows, batch_size):
        yield ids[first:first + batch_size], targets[first:first + batch_size]
