"""What decoding remembers: the keys and values of every position seen so far, so that a new token costs one position's work.

A cached key never changes: causal attention lets position t see only 0 .. t, so nothing that comes later alters what t computed.
Where a query sees only a window of last keys, those before it are forgotten: not one by one, which would move all others at each
token, but when there is no room left, all at once.
"""

import numpy as np

CHUNK = 64                  # positions that a window's memory takes in at once, at least


class Past:
    """Keys and values of all layers for a number of sequences, each with a length of its own.

    keys, values (n_layer, sequences, n_head, capacity, head_size): one head's keys lie together, in the order in which a
    query reads them. lengths (sequences): positions that are valid; what lies beyond is garbage. first (sequences): the position
    that lies at place 0. capacity is block_size, with a window as much as it and `chunk` positions need: so many can be taken in
    at once, after `make_room`. Memory is taken from the system only where it is written.
    """

    def __init__(self, n_layer, sequences, n_head, block_size, head_size, dtype, window=None):
        self.window, self.chunk = window, block_size
        if window is not None:
            self.chunk = min(block_size, max(window, CHUNK))
        capacity = min(block_size, self.kept(block_size) + self.chunk)
        self.keys, self.values = (np.empty((n_layer, sequences, n_head, capacity, head_size), dtype) for _ in range(2))
        self.lengths, self.first = np.zeros(sequences, np.int64), np.zeros(sequences, np.int64)

    def kept(self, length):
        """How many of so many positions the next one still sees."""
        return length if self.window is None else min(length, self.window - 1)

    def make_room(self, sequence, start, stop):
        """Have places for positions start to stop, at most `chunk`: if there are none, forget what `start` does not see any more."""
        if stop - self.first[sequence] > self.keys.shape[3]:
            first = start - self.kept(start)
            old = slice(first - self.first[sequence], start - self.first[sequence])
            for kept in (self.keys, self.values):
                kept[:, sequence, :, :start - first] = kept[:, sequence, :, old].copy()
            self.first[sequence] = first

    def can_cut(self, sequence, length):
        """Whether a sequence can be cut to this length: what its next position sees must be there."""
        return length == 0 or self.first[sequence] <= length - self.kept(length)

    def cut(self, sequence, length):
        """Forget all but the first `length` positions."""
        self.lengths[sequence] = length
        self.first[sequence] = min(length, self.first[sequence])

    def copy(self, source, sequence):
        """Make a sequence the same as another one."""
        places = self.lengths[source] - self.first[source]
        for kept in (self.keys, self.values):
            kept[:, sequence, :, :places] = kept[:, source, :, :places]
        self.lengths[sequence], self.first[sequence] = self.lengths[source], self.first[source]

    def of(self, sequence, start=None, wait=None):
        """The same memory, one sequence alone, from position `start` on; `wait` is called between writing and reading."""
        part = object.__new__(Past)
        part.window, part.chunk = self.window, self.chunk
        part.keys, part.values = self.keys[:, sequence:sequence + 1], self.values[:, sequence:sequence + 1]
        part.lengths = self.lengths[sequence:sequence + 1] if start is None else np.array([start])
        part.first = self.first[sequence:sequence + 1]
        part.wait = wait
        return part

    wait = None

    def layers(self):
        """One KeyValues a layer."""
        return [KeyValues(keys, values, self.lengths, self.first, self.wait) for keys, values in zip(self.keys, self.values, strict=True)]


class KeyValues:
    """One layer's part of a Past."""

    def __init__(self, keys, values, lengths, first, wait=None):
        self.keys, self.values, self.lengths, self.first, self.wait = keys, values, lengths, first, wait

    def extend(self, sequence, k, v):
        """Write k, v (T, H, D) behind what this sequence has -> all its keys and values that are kept, (S, H, D) views."""
        start = self.lengths[sequence] - self.first[sequence]
        end = start + len(k)
        self.keys[sequence, :, start:end] = k.swapaxes(0, 1)
        self.values[sequence, :, start:end] = v.swapaxes(0, 1)
        if self.wait is not None:
            self.wait()
        return self.keys[sequence, :, :end].swapaxes(0, 1), self.values[sequence, :, :end].swapaxes(0, 1)
