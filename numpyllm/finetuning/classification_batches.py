"""Batches of labelled texts for a Trainer: texts of like length together, so that little is padding."""

import numpy as np

from ..data.permutation import shuffled
from ..random import generator
from .classification_data import label_numbers
from .packing import padded

POOL = 16       # batches whose texts are sorted by length together


class ClassificationBatches:
    """Batches of texts of similar lengths, each text once in an epoch, in an order of its own in each: a pure
    function of (seed, step).

    All epochs, one shuffled after the other, are one endless row of texts. POOL batches at a time are sorted by
    length, cut, and shuffled again as whole batches. micro_batches: in a step, at most; micro-batch m of step s is
    batch number s * micro_batches + m.
    """

    def __init__(self, examples, labels, *, batch_size, seed, micro_batches=1):
        self.rows, self.labels = [example.ids for example in examples], label_numbers(examples, labels)
        self.lengths = np.array([len(ids) for ids in self.rows])
        self.batch_size, self.seed, self.micro_batches = batch_size, seed, micro_batches

    def __call__(self, step, micro=0):
        """-> ids (B, T), padded with 0 on the right, lengths (B), labels (B)."""
        pool, place = divmod(step * self.micro_batches + micro, POOL)
        rng = generator(self.seed, "batch/pool", step=pool)
        size = POOL * self.batch_size
        chosen = shuffled(pool * size, size, len(self.rows), self.seed, "texts")
        chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")].reshape(POOL, -1)[rng.permutation(POOL)[place]]
        return *padded([self.rows[i] for i in chosen]), self.labels[chosen]
