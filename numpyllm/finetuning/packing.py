"""Batches of examples of different lengths: several to a row, none of which sees another, or
each in a row of its own.

    ids      a a a a a b b b c c . .        starts   0 0 0 0 0 5 5 5 8 8 10 10      (. is padding: nothing is asked)

Shapes: of an example ids and targets (T); of a batch ids, targets and starts (B, T), as models take
them, T its longest row.
"""

import numpy as np

from ..errors import InputError
from ..random import generator


def first_fit_decreasing(lengths, room):
    """Which of these lengths share a row of this room: a list of lists of their numbers.

    The longest first, each goes into the first row that it fits into; of equal ones the first first.
    That needs at most 11/9 of the least possible number of rows, and 6/9 of a row (Dosa 2007).
    InputError for a length without room.
    """
    rows, left, first, before = [], [], 0, None
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > room:
            raise InputError(f"an example must have at most {room} tokens, number {i} has {lengths[i]}")
        if lengths[i] != before:        # where one of a length did not fit, the next of the same does not, either
            first, before = 0, lengths[i]
        while first < len(rows) and left[first] < lengths[i]:
            first += 1
        if first == len(rows):
            rows.append([])
            left.append(room)
        rows[first].append(i)
        left[first] -= lengths[i]
    return rows


class ExampleBatches:
    """Examples without replacement: each once in an epoch, in another order in each. Batch number `step` is a pure
    function of (seed, step).

    examples        of which each has ids (T) and targets (T)
    micro_batches   in a step, at most, as EpochBatches
    pack            fill rows of block_size tokens; if not, an example is a row, and batches have no starts

    What is packed with what changes from epoch to epoch: examples of equal length change places. The
    number of rows does not.
    """

    def __init__(self, examples, *, batch_size, block_size, seed, micro_batches=1, pack=True):
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.micro_batches, self.pack = micro_batches, pack
        self._lengths = np.array([len(example.ids) for example in examples])
        self._places = rows_of(examples, block_size, pack)
        self._epoch = None, None

    @property
    def n_rows(self):
        """Rows of an epoch."""
        return len(self._places)

    def __call__(self, step, micro=0):
        """Batch number `step`, micro-batch `micro` -> ids, targets, starts (B, T), int64; without starts
        if nothing is packed."""
        first = (step * self.micro_batches + micro) * self.batch_size
        return as_batch([[self.examples[i] for i in self.row(number)]
                         for number in range(first, first + self.batch_size)], self.pack)

    def row(self, number):
        """Which examples row `number` of all epochs, one after the other, holds."""
        epoch, place = divmod(number, self.n_rows)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._rows(epoch)
        return self._epoch[1][place]

    def epoch(self, step):
        """How many epochs have been read when step number `step` begins, as a float."""
        return step * self.micro_batches * self.batch_size / self.n_rows

    def _rows(self, epoch):
        """The rows of an epoch, shuffled, and in them examples that have changed places with
        others of their length."""
        rng = generator(self.seed, "examples", step=epoch)
        shuffled = np.lexsort((rng.random(len(self.examples)), self._lengths))
        usual = np.argsort(self._lengths, kind="stable")
        instead = np.empty(len(shuffled), np.int64)
        instead[usual] = shuffled
        return [[instead[i] for i in self._places[row]] for row in rng.permutation(self.n_rows)]


def rows_of(examples, block_size, pack=True):
    """Which examples share a row: a list of lists of their numbers, one in each without `pack`."""
    if not pack:
        return [[i] for i in range(len(examples))]
    return first_fit_decreasing([len(example.ids) for example in examples], block_size)


def in_order(examples, *, batch_size, block_size, pack=True):
    """All examples once, always in the same batches: for evaluation. A list of them."""
    places = rows_of(examples, block_size, pack)
    rows = [[examples[i] for i in row] for row in places]
    return [as_batch(rows[first:first + batch_size], pack) for first in range(0, len(rows), batch_size)]


def as_batch(rows, pack=True):
    """Lists of examples, a row each -> ids, targets, starts (B, T), int64; without `pack` no starts, and
    a row is one example."""
    T = max(sum(len(example.ids) for example in row) for row in rows)
    shape = len(rows), T
    ids, targets, starts = np.zeros(shape, np.int64), np.full(shape, -1), np.zeros(shape, np.int64)
    for row, some in enumerate(rows):
        begin = 0
        for example in some:
            end = begin + len(example.ids)
            ids[row, begin:end], targets[row, begin:end], starts[row, begin:end] = example.ids, example.targets, begin
            begin = end
        starts[row, begin:] = begin
    return (ids, targets, starts) if pack else (ids, targets)


def filled_up(rows, value):
    """Rows of whole numbers, of several lengths -> (N, T) int64 of the longest, `value` behind the end of each."""
    filled = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for target, row in zip(filled, rows, strict=True):
        target[:len(row)] = row
    return filled


def padded(rows):
    """Rows of tokens -> ids (B, T) with 0 behind them, lengths (B)."""
    return filled_up(rows, 0), np.array([len(row) for row in rows], np.int64)
