"""Several arrays of tokens, such as memory-mapped shards, seen as one long row; only what is asked for is read."""

import numpy as np

from ..errors import InputError


class TokenRow:
    """The tokens of some arrays (n_i,), one array after the other.

    arrays      integer arrays, or one of them; a TokenRow is taken as it is
    n_vocab     if given, an id from n_vocab on is an InputError when it is read: it names the array, as `names` calls it
    """

    def __init__(self, arrays, *, names=None, n_vocab=None):
        arrays = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
        self.arrays, self.n_vocab = arrays, n_vocab
        self.names = names or [f"array {i}" for i in range(len(arrays))]
        self._starts = np.cumsum([0, *map(len, arrays)])

    @classmethod
    def of(cls, tokens):
        """A TokenRow as it is, an array as a row of one."""
        return tokens if isinstance(tokens, TokenRow) else cls(np.asarray(tokens))

    def __len__(self):
        return int(self._starts[-1])

    def read(self, start, stop):
        """Tokens start ... stop - 1 as int64 (stop - start,), across the borders of arrays."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        parts, i = [], int(np.searchsorted(self._starts, start, "right")) - 1
        while start < stop:
            begin, end = int(self._starts[i]), min(stop, int(self._starts[i + 1]))
            part = self.arrays[i][start - begin:end - begin].astype(np.int64)
            if self.n_vocab is not None and part.size and part.max() >= self.n_vocab:
                raise InputError(f"{self.names[i]}: ids must be below the vocabulary's {self.n_vocab}, got {part.max()}: it was "
                                 "made with another tokenizer, or is damaged")
            parts.append(part)
            start, i = end, i + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def windows(self, starts, length):
        """Tokens (len(starts), length), int64: row r begins at starts[r]."""
        rows = np.empty((len(starts), length), np.int64)
        for row, start in zip(rows, starts, strict=True):
            row[:] = self.read(int(start), int(start) + length)
        return rows
