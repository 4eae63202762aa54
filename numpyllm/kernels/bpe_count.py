"""The distinct pieces of a text and how often each occurs: a hash table over UTF-8 bytes, behind the compiled pre-tokeniser.

Twin of numpyllm.tokenizer.training.count_pieces for the named patterns. Nine of ten pieces are short enough for their bytes
to be the key, all in a line of the processor's cache with the count. The others are found by a hash and then compared.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit_borrowing
from ._words import load, pointer
from .pretokenize import PATTERNS, piece_end

LOW, HIGH, NUMBER, START = range(4)     # columns of Table.slots
SHORT = 15                              # bytes of a piece that fit a key
ONE, EIGHT = np.uint64(1), np.uint64(8)
LONG = np.uint64(255 << 56)
MULTIPLIER = np.uint64(0x9E37_79B9_7F4A_7C15)
PADDING = 16                            # bytes that must exist behind a piece, since they are read by eights


class Pieces(NamedTuple):
    """Distinct pieces, in no particular order."""
    data: np.ndarray        # (bytes,) uint8: one after the other
    bounds: np.ndarray      # (pieces + 1,) int64: piece i is data[bounds[i]:bounds[i + 1]]
    numbers: np.ndarray     # (pieces,) int64: how often it occurs


class Table(NamedTuple):
    """An open-addressing hash table, at most half full.

    The key of a short piece is its bytes in 15 bytes of LOW and HIGH, and its length in the highest of HIGH. That of a
    longer one is a hash in LOW, and 255 and the length in HIGH. Where a slot is free HIGH is 0.
    """
    slots: np.ndarray       # (2**n, 4) uint64
    text: np.ndarray        # (room,) uint8: the pieces, one after the other; each from its START
    used: np.ndarray        # (2,) int64: pieces, bytes of text


@jit_borrowing
def _key(data, start, size):
    """LOW and HIGH of the piece data[start:start + size]."""
    if size > SHORT:
        low = np.uint64(size)
        for i in range(start, start + size - 8, 8):
            low = (low ^ load(data, i)) * MULTIPLIER
            low ^= low >> np.uint64(32)
        return (low ^ load(data, start + size - 8)) * MULTIPLIER, LONG | np.uint64(size)
    low, high = load(data, start), np.uint64(0)
    if size < 8:
        low &= (ONE << np.uint64(8 * size)) - ONE
    else:
        high = load(data, start + 8) & ((ONE << np.uint64(8 * size - 64)) - ONE)
    return low, high | np.uint64(size) << np.uint64(56)


@jit_borrowing
def _same(text, i, data, j, size):
    for k in range(size):
        if text[i + k] != data[j + k]:
            return False
    return True


@jit_borrowing
def _first_slot(low, high, mask):
    mixed = (low ^ high * MULTIPLIER) * MULTIPLIER
    return np.int64(mixed >> np.uint64(32) ^ mixed >> np.uint64(16)) & mask


@jit_borrowing
def _add(table, data, start, size, number):
    """Count a piece. There must be room for it."""
    slots = table.slots
    mask = len(slots) - 1
    low, high = _key(data, start, size)
    slot = _first_slot(low, high, mask)
    while slots[slot, HIGH] != 0:
        if slots[slot, LOW] == low and slots[slot, HIGH] == high and (
                size <= SHORT or _same(table.text, np.int64(slots[slot, START]), data, start, size)):
            slots[slot, NUMBER] += number
            return
        slot = (slot + 1) & mask
    first = table.used[1]
    for k in range(size):
        table.text[first + k] = data[start + k]
    slots[slot, LOW], slots[slot, HIGH], slots[slot, NUMBER], slots[slot, START] = low, high, number, np.uint64(first)
    table.used[0] += 1
    table.used[1] += size


@jit_borrowing
def _room(table, size):
    """Whether another piece of this size can be counted."""
    return 2 * table.used[0] < len(table.slots) and table.used[1] + size + PADDING <= len(table.text)


@jit_borrowing
def _count(table, data, bounds, text, start, pattern, classes):
    """Count the pieces of the texts data[bounds[i]:bounds[i + 1]], i >= text, the first from `start` on.

    -> text, start and size of the first piece for which there is no room. All counted: the number of texts, 0, 0.
    """
    data_, classes_ = pointer(data), pointer(classes)
    while text < len(bounds) - 1:
        start, stop = max(start, bounds[text]), bounds[text + 1]
        while start < stop:
            end = piece_end(data_, start, stop, pattern, classes_)
            if not _room(table, end - start):
                return text, start, end - start
            _add(table, data, start, end - start, ONE)
            start = end
        text += 1
    return text, 0, 0


@jit_borrowing
def _move(table, larger):
    """Fill a larger table with the entries of this one, text and all."""
    for k in range(table.used[1]):
        larger.text[k] = table.text[k]
    mask = len(larger.slots) - 1
    for entry in table.slots:
        if entry[HIGH] != 0:
            slot = _first_slot(entry[LOW], entry[HIGH], mask)
            while larger.slots[slot, HIGH] != 0:
                slot = (slot + 1) & mask
            for column in range(4):
                larger.slots[slot, column] = entry[column]
    larger.used[0], larger.used[1] = table.used[0], table.used[1]


@jit_borrowing
def _size(high):
    size = np.int64(high >> np.uint64(56))
    return size if size <= SHORT else np.int64(high & ~LONG)


@jit_borrowing
def _absorb(table, other, first):
    """Count what another table has counted, from slot `first` on. -> slot and size of the piece for which there is no room."""
    for i in range(first, len(other.slots)):
        entry = other.slots[i]
        if entry[HIGH] != 0:
            size = _size(entry[HIGH])
            if not _room(table, size):
                return i, size
            _add(table, other.text, np.int64(entry[START]), size, entry[NUMBER])
    return len(other.slots), 0


@jit_borrowing
def _list(table, data, bounds, numbers):
    """Fill the fields of Pieces."""
    piece = end = 0
    for slot in table.slots:
        if slot[HIGH] != 0:
            start = np.int64(slot[START])
            for i in range(start, start + _size(slot[HIGH])):
                data[end] = table.text[i]
                end += 1
            numbers[piece] = slot[NUMBER]
            piece += 1
            bounds[piece] = end


class PieceCounter:
    """Counts the pieces of texts. For one thread at a time; the GIL is released while it counts.

    pattern     one of PATTERNS
    classes     numpyllm.tokenizer.unicode.class_table()
    """

    def __init__(self, pattern, classes):
        self._pattern, self._classes = PATTERNS[pattern], classes
        self._table = _table(1, 1)
        self._make_room(1 << 16)            # so that the first counter compiles all that others run in threads

    def count(self, texts):
        """texts: a list of bytes of valid UTF-8. No piece reaches from one into the next."""
        bounds = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=bounds[1:])
        data = np.frombuffer(b"".join([*texts, bytes(PADDING)]), np.uint8)
        text = start = 0
        size = None
        while size != 0:
            text, start, size = _count(self._table, data, bounds, text, start, self._pattern, self._classes)
            self._make_room(size)

    def absorb(self, other):
        """Count what another counter has counted."""
        slot, entries = 0, other._table
        while slot < len(entries.slots):
            slot, size = _absorb(self._table, entries, slot)
            self._make_room(size)

    def pieces(self):
        """-> Pieces"""
        n, size = self._table.used
        pieces = Pieces(np.empty(size, np.uint8), np.zeros(n + 1, np.int64), np.empty(n, np.int64))
        _list(self._table, *pieces)
        return pieces

    def _make_room(self, size):
        if not _room(self._table, size):
            slots, text, used = self._table
            larger = _table(4 * max(len(slots), 1 << 12), 4 * (int(used[1]) + size + PADDING))
            _move(self._table, larger)
            self._table = larger


def _table(slots, room):
    return Table(np.zeros((slots, 4), np.uint64), np.empty(room, np.uint8), np.zeros(2, np.int64))


def pieces_of(counted):
    """The Pieces of a dict {piece as bytes: number of occurrences}."""
    bounds = np.zeros(len(counted) + 1, np.int64)
    np.cumsum([len(piece) for piece in counted], out=bounds[1:])
    return Pieces(np.frombuffer(b"".join(counted), np.uint8), bounds, np.fromiter(counted.values(), np.int64, len(counted)))
