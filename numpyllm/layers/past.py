"""What decoding remembers: the keys and values of every position seen so far, so that a new token costs one position's work.

A cached key never changes: causal attention lets position t see only 0 .. t, so nothing that comes later alters what t computed.
"""

import numpy as np


class Past:
    """Keys and values of all layers for a number of sequences, each with a length of its own.

    keys, values (n_layer, sequences, n_head, block_size, head_size): one head's keys lie together, in the order in which a
    query reads them. lengths (sequences): positions that are valid; what lies beyond is garbage. Memory is taken from the
    system only where it is written.
    """

    def __init__(self, n_layer, sequences, n_head, block_size, head_size, dtype):
        self.keys, self.values = (np.empty((n_layer, sequences, n_head, block_size, head_size), dtype) for _ in range(2))
        self.lengths = np.zeros(sequences, np.int64)

    def of(self, sequence, start=None, wait=None):
        """The same memory, one sequence alone, from position `start` on; `wait` is called between writing and reading."""
        part = object.__new__(Past)
        part.keys, part.values = self.keys[:, sequence:sequence + 1], self.values[:, sequence:sequence + 1]
        part.lengths = self.lengths[sequence:sequence + 1] if start is None else np.array([start])
        part.wait = wait
        return part

    wait = None

    def layers(self):
        """One KeyValues a layer."""
        return [KeyValues(keys, values, self.lengths, self.wait) for keys, values in zip(self.keys, self.values, strict=True)]


class KeyValues:
    """One layer's part of a Past."""

    def __init__(self, keys, values, lengths, wait=None):
        self.keys, self.values, self.lengths, self.wait = keys, values, lengths, wait

    def extend(self, sequence, k, v):
        """Write k, v (T, H, D) behind what this sequence has -> all its keys and values so far, (S, H, D) views."""
        start = self.lengths[sequence]
        end = start + len(k)
        self.keys[sequence, :, start:end] = k.swapaxes(0, 1)
        self.values[sequence, :, start:end] = v.swapaxes(0, 1)
        if self.wait is not None:
            self.wait()
        return self.keys[sequence, :, :end].swapaxes(0, 1), self.values[sequence, :, :end].swapaxes(0, 1)
