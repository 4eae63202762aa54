"""Preferences: a prompt with two answers, of which one is better. How they are read, and made into batches.

Shapes: N pairs, ids and targets (N, 2, T): of each pair the chosen answer, then the rejected one, each behind the
prompt. Targets are -1 but for the answers' tokens; shorter rows are filled up with id 0, target -1.
"""

from typing import NamedTuple

import numpy as np

from ..data import read_records, text_field
from ..data.permutation import shuffled
from ..errors import InputError
from ..random import Draws
from .packing import filled_up


class Preference(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


class EncodedPair(NamedTuple):
    preference: Preference
    chosen: tuple           # ids, targets
    rejected: tuple


def read_preferences(path, form, *, skip_bad=False, skipped=None):
    """The pairs of a file with the fields prompt, chosen, rejected: a list of EncodedPair. skip_bad, skipped, and
    InputError with the line of the file, for what is too long as well: as data.read_records."""
    def parse(fields):
        pair = Preference(*(text_field(fields, name) for name in Preference._fields))
        if pair.chosen == pair.rejected:
            raise InputError("chosen and rejected must differ, they are the same: such a pair says nothing")
        return EncodedPair(pair, *(form.encode(pair.prompt, answer) for answer in pair[1:]))

    return read_records(path, parse, columns=Preference._fields, skip_bad=skip_bad, skipped=skipped)


class Pairs:
    """Encoded pairs as arrays: ids, targets (N, 2, T), and what else there is of each, such as a
    reference's log-probabilities."""

    def __init__(self, encoded):
        rows = [part for pair in encoded for part in (pair.chosen, pair.rejected)]
        self.ids, self.targets = (filled_up([row[i] for row in rows], value).reshape(len(encoded), 2, -1)
                                  for i, value in ((0, 0), (1, -1)))
        self.others = ()

    def __len__(self):
        return len(self.ids)

    def rows(self, places):
        """ids, targets (B, 2, T), no longer than they need be, and the others of these pairs."""
        ids, targets = self.ids[places], self.targets[places]
        T = int(np.flatnonzero((targets != -1).any(axis=(0, 1)))[-1]) + 1
        return ids[..., :T], targets[..., :T], *(other[places] for other in self.others)

    def consecutive(self, batch_size):
        """All pairs once, in order, a batch after the other."""
        for first in range(0, len(self), batch_size):
            yield self.rows(slice(first, first + batch_size))


class PairBatches:
    """Batches of Pairs for a Trainer: all pairs once an epoch, in an order of its own in each. A pure
    function of seed and step."""

    def __init__(self, pairs, *, batch_size, seed, micro_batches=1):
        self.pairs, self.batch_size, self.seed, self.micro_batches = pairs, batch_size, seed, micro_batches

    def __call__(self, step, micro=0):
        first = (step * self.micro_batches + micro) * self.batch_size
        return self.pairs.rows(shuffled(first, self.batch_size, len(self.pairs), self.seed, "pairs"))


def two_rows_each(draws):
    """Where pairs begin with row n, their answers begin with row 2n: so masks do not depend on how a batch
    was divided. None: None."""
    return draws and Draws(draws.seed, step=draws.step, micro=draws.micro, first_row=2 * draws.first_row)


def check_label_smoothing(value):
    """InputError unless it is in [0, 1/2)."""
    if not 0 <= value < 0.5:
        raise InputError("label_smoothing must be at least 0 and below 0.5, where preferences say nothing, got "
                         f"{value!r}")


TIE = 1e-5                  # rewards this close differ by rounding: those of a model that is still its reference


class PreferenceEvaluation(NamedTuple):
    loss: float             # mean, nats a pair; ln 2 for who does not know
    accuracy: float         # share of the pairs whose chosen answer has the higher reward; those within TIE count half
    margin: float           # mean reward of the chosen answer less that of the rejected one
    chosen: float           # mean rewards
    rejected: float
    pairs: int

    def __str__(self):
        return (f"validation loss {self.loss:.4f}, {self.accuracy:.1%} of {self.pairs} pairs in the right order, "
                "margin {:.3f} ({:+.3f} against {:+.3f})".format(*(round(value, 3) + 0.0 for value in (self.margin, self.chosen,
                                                                                                    self.rejected))))

    def metrics(self):
        return {"val/loss": self.loss, "val/accuracy": self.accuracy, "val/margin": self.margin,
                "val/chosen": self.chosen, "val/rejected": self.rejected}


def evaluate_pairs(objective, pairs, batch_size):
    """PreferenceEvaluation of all pairs. The objective has judge(*batch) -> rewards (B, 2), sum of the loss."""
    rewards, loss = [], 0.0
    for batch in pairs.consecutive(batch_size):
        found, batch_loss = objective.judge(*batch)
        rewards.append(found)
        loss += float(batch_loss)
    chosen, rejected = np.concatenate(rewards).T
    right = float((chosen > rejected + TIE).mean() + (np.abs(chosen - rejected) <= TIE).mean() / 2)
    return PreferenceEvaluation(loss / len(pairs), right, float((chosen - rejected).mean()), float(chosen.mean()),
                                float(rejected.mean()), len(pairs))
