"""Twin of numpyllm.tokenizer.training.learn_merges: the same merges by the same method, with arrays for dicts.

The pieces stand in one row of places, a separator before, between and after them. A token covers a place for each of its
bytes. Its id stands at the first and at the last of them, so its neighbours are found without links:

    place      0   1   2   3   4   5   6   7   8            before the token at 6: what stands at 5, the last place of "o"
    byte       |   t   h   e   |   o   t   h   e ...        after it: what stands at 6 + the length of "th"
    id        -1  th  th   e  -1   o  th  th   e ...

A merge writes its new id, which is larger than all before. So where a pair was once noted, it still is if, and only if,
its two ids are found there.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit_borrowing

SEPARATOR = -1
MULTIPLIER = 0x1E3779B97F4A7C15     # odd and without pattern: the product's middle bits depend on all bits of a key
MOST_BYTES = (1 << 31) - 1          # of pieces and the separators between them, as places are int32
FIRST_PAIRS = 1 << 16               # room at first: for all pairs of bytes
STEP = 64                           # merges in one call; between two calls one may report, or be interrupted


class Row(NamedTuple):
    """The pieces, as above, and the tokens in them."""
    ids: np.ndarray             # (N, 2) int32: the id at each place, and the number of its piece
    text: np.ndarray            # (N,) uint8: the byte at each place
    numbers: np.ndarray         # (pieces,) int64: how often each piece occurs
    lengths: np.ndarray         # (V,) int64: bytes of each token
    where: np.ndarray           # (V,) int64: a place where the bytes of each token begin


class Pairs(NamedTuple):
    """All pairs so far, numbered in order of appearance, in arrays that grow together."""
    index: np.ndarray           # (2 P,) int32, a hash table: the number of a pair, -1 where free
    key: np.ndarray             # (P,) int64: left id * 2**32 + right id
    count: np.ndarray           # (P,) int64: occurrences
    first: np.ndarray           # (P,) int64: its places are places[first:first + size],
    size: np.ndarray            # (P,) int64  ascending, some of them outdated
    heap: np.ndarray            # (P,) int32: numbers of pairs, the one to merge next on top
    believed: np.ndarray        # (P,) int64: the count that each entry of the heap was put there with


class Tally(NamedTuple):
    """Counts by id; all zero between two merges."""
    count: np.ndarray           # (V,) int64: occurrences
    places: np.ndarray          # (V,) int64: at how many places
    ids: np.ndarray             # (V,) int32: the ids counted are ids[:n[0]]
    n: np.ndarray               # (1,) int64


@jit_borrowing
def _slot(pairs, key):
    """Where in the hash table the number of a pair is, or would be."""
    mask = pairs.index.size - 1
    slot = (key * MULTIPLIER >> 32) & mask
    while pairs.index[slot] >= 0 and pairs.key[pairs.index[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@jit_borrowing
def _move(pairs, n_pairs, larger):
    """Copy the pairs, and the heap, to larger arrays."""
    for slot in range(larger.index.size):
        larger.index[slot] = -1
    for pair in range(n_pairs):
        larger.key[pair], larger.count[pair] = pairs.key[pair], pairs.count[pair]
        larger.first[pair], larger.size[pair] = pairs.first[pair], pairs.size[pair]
        larger.heap[pair], larger.believed[pair] = pairs.heap[pair], pairs.believed[pair]
        larger.index[_slot(larger, larger.key[pair])] = pair


@jit_borrowing
def _precedes(row, pairs, by_bytes, pair, count, other, other_count):
    """Whether a pair with this count is merged before the other."""
    if count != other_count:
        return count > other_count
    key, other_key = pairs.key[pair], pairs.key[other]
    if not by_bytes:
        return key < other_key
    a, b = key >> 32, other_key >> 32
    if a == b:                              # no two tokens are spelt alike
        a, b = key & 0xFFFFFFFF, other_key & 0xFFFFFFFF
    i, j = row.where[a], row.where[b]
    for k in range(min(row.lengths[a], row.lengths[b])):
        if row.text[i + k] != row.text[j + k]:
            return row.text[i + k] > row.text[j + k]
    return row.lengths[a] > row.lengths[b]


@jit_borrowing
def _rise(row, pairs, by_bytes, i, pair, count):
    """Put a pair at place i of the heap, or above, where it belongs."""
    heap, believed = pairs.heap, pairs.believed
    while i > 0:
        above = (i - 1) // 2
        if not _precedes(row, pairs, by_bytes, pair, count, heap[above], believed[above]):
            break
        heap[i], believed[i] = heap[above], believed[above]
        i = above
    heap[i], believed[i] = pair, count


@jit_borrowing
def _sink(row, pairs, by_bytes, n_heap, pair, count):
    """Put a pair at the top of the heap, or below, where it belongs."""
    heap, believed = pairs.heap, pairs.believed
    i = 0
    while 2 * i + 1 < n_heap:
        below = 2 * i + 1
        if below + 1 < n_heap and _precedes(row, pairs, by_bytes, heap[below + 1], believed[below + 1], heap[below],
                                            believed[below]):
            below += 1
        if not _precedes(row, pairs, by_bytes, heap[below], believed[below], pair, count):
            break
        heap[i], believed[i] = heap[below], believed[below]
        i = below
    heap[i], believed[i] = pair, count


@jit_borrowing
def _enter(row, pairs, by_bytes, sizes, left, right, count, size):
    """Enter a new pair, with room for its places. -> where in `places` they begin. There must be room for the pair."""
    pair, n_heap, first = sizes[0], sizes[1], sizes[2]
    key = np.int64(left) << 32 | right
    pairs.index[_slot(pairs, key)] = pair
    pairs.key[pair], pairs.count[pair], pairs.first[pair], pairs.size[pair] = key, count, first, size
    _rise(row, pairs, by_bytes, n_heap, pair, count)
    sizes[0], sizes[1], sizes[2] = pair + 1, n_heap + 1, first + size
    return first


@jit_borrowing
def _lay_out(row, data, bounds):
    """Fill the row with the pieces data[bounds[i]:bounds[i + 1]]."""
    row.lengths[:256] = 1
    row.ids[0, 0], row.ids[0, 1] = SEPARATOR, 0
    place = 1
    for piece in range(bounds.size - 1):
        for byte in data[bounds[piece]:bounds[piece + 1]]:
            row.ids[place, 0], row.ids[place, 1] = byte, piece
            row.text[place] = byte
            row.where[byte] = place
            place += 1
        row.ids[place, 0], row.ids[place, 1] = SEPARATOR, piece
        place += 1


@jit_borrowing
def _enter_pairs_of_bytes(row, pairs, sizes, places, count, end, min_frequency, by_bytes):
    """Enter all pairs there are at first. count, end (65536,): zeros."""
    ids = row.ids
    for i in range(1, len(ids) - 1):
        if ids[i, 0] != SEPARATOR and ids[i + 1, 0] != SEPARATOR:
            pair = ids[i, 0] << 8 | ids[i + 1, 0]
            count[pair] += row.numbers[ids[i, 1]]
            end[pair] += 1
    for pair in range(1 << 16):
        if count[pair] >= min_frequency:
            end[pair] = _enter(row, pairs, by_bytes, sizes, pair >> 8, pair & 255, count[pair], end[pair])
    for i in range(1, len(ids) - 1):
        if ids[i, 0] != SEPARATOR and ids[i + 1, 0] != SEPARATOR:
            pair = ids[i, 0] << 8 | ids[i + 1, 0]
            if count[pair] >= min_frequency:
                places[end[pair]] = i
                end[pair] += 1


@jit_borrowing
def _count(tally, i, number):
    if tally.places[i] == 0:
        tally.ids[tally.n[0]] = i
        tally.n[0] += 1
    tally.count[i] += number
    tally.places[i] += 1


@jit_borrowing
def _clear(tally):
    for i in tally.ids[:tally.n[0]]:
        tally.count[i], tally.places[i] = 0, 0
    tally.n[0] = 0


@jit_borrowing
def _merge(row, places, left, right, new, before, after):
    """Merge a pair at its places, ascending: of aaa, the first two. The places that are not outdated stay. -> their number.

    Counts, by x and by y, how often the pairs (x, left) and (right, y) have gone.
    """
    ids = row.ids
    to_right, width = row.lengths[left], row.lengths[left] + row.lengths[right]
    n_merged = 0
    for i in places:
        j, k = i + to_right, i + width
        if ids[i, 0] != left or ids[j, 0] != right:
            continue
        x, y, number = ids[i - 1, 0], ids[k, 0], row.numbers[ids[i, 1]]
        if x != SEPARATOR and x != new:     # before the merge at x, which is done, it was `right`: counted there
            _count(before, x, number)
        if y != SEPARATOR:
            _count(after, y, number)
        ids[j, 0] = SEPARATOR               # no token begins here any more; if it is the last place, the next line counts
        ids[i, 0], ids[k - 1, 0] = new, new
        places[n_merged] = i
        n_merged += 1
    row.lengths[new], row.where[new] = width, places[0]
    return n_merged


@jit_borrowing
def _subtract(pairs, left, right, count):
    pair = pairs.index[_slot(pairs, np.int64(left) << 32 | right)]
    if pair >= 0:                           # one that was too rare was not entered
        pairs.count[pair] -= count


@jit_borrowing
def _count_neighbours(row, merged, new, before, after):
    """Count, by x and by y, the pairs (x, new) and (new, y) at these places; (new, new) among the latter."""
    ids, width = row.ids, row.lengths[new]
    for i in merged:
        x, y, number = ids[i - 1, 0], ids[i + width, 0], row.numbers[ids[i, 1]]
        if x != SEPARATOR and x != new:
            _count(before, x, number)
        if y != SEPARATOR:
            _count(after, y, number)


@jit_borrowing
def _note_places(row, merged, new, places, before, after):
    """Note where these pairs are: the next place of (x, new) goes to places[before.places[x]], unless that is negative."""
    ids, width = row.ids, row.lengths[new]
    for i in merged:
        x, y = ids[i - 1, 0], ids[i + width, 0]
        if x != SEPARATOR and x != new and before.places[x] >= 0:
            places[before.places[x]] = i - row.lengths[x]
            before.places[x] += 1
        if y != SEPARATOR and after.places[y] >= 0:
            places[after.places[y]] = i
            after.places[y] += 1


@jit_borrowing
def _enter_tally(row, pairs, by_bytes, sizes, tally, new, new_is_right, min_frequency):
    """Enter the pairs (i, new) or (new, i) that are tallied by i; tally.places then is where their places go, -1 for none."""
    for i in tally.ids[:tally.n[0]]:
        if tally.count[i] < min_frequency:
            tally.places[i] = -1
        else:
            left, right = (i, new) if new_is_right else (new, i)
            tally.places[i] = _enter(row, pairs, by_bytes, sizes, left, right, tally.count[i], tally.places[i])


@jit_borrowing
def _learn(merges, done, stop, row, pairs, sizes, places, before, after, min_frequency, by_bytes):
    """Fill merges[done:stop], less if the heap runs empty or there is no room for more pairs. -> merges done.

    sizes (3,): number of pairs, size of the heap, number of places; kept up to date.
    """
    while sizes[1] > 0 and done < stop:
        pair, believed = pairs.heap[0], pairs.believed[0]
        count, size = pairs.count[pair], pairs.size[pair]
        if min_frequency <= count < believed:
            _sink(row, pairs, by_bytes, sizes[1], pair, count)
            continue
        new = 256 + done
        if sizes[0] + 2 * min(size, new + 1) > pairs.key.size:
            break
        sizes[1] -= 1
        last = sizes[1]
        _sink(row, pairs, by_bytes, last, pairs.heap[last], pairs.believed[last])
        if count < min_frequency:
            continue
        left, right, first = pairs.key[pair] >> 32, pairs.key[pair] & 0xFFFFFFFF, pairs.first[pair]
        merges[done, 0], merges[done, 1] = left, right
        done += 1
        n_merged = _merge(row, places[first:first + size], left, right, new, before, after)
        for x in before.ids[:before.n[0]]:
            _subtract(pairs, x, left, before.count[x])
        for y in after.ids[:after.n[0]]:
            _subtract(pairs, right, y, after.count[y])
        _clear(before)
        _clear(after)
        merged = places[first:first + n_merged]
        _count_neighbours(row, merged, new, before, after)
        _enter_tally(row, pairs, by_bytes, sizes, before, new, True, min_frequency)
        _enter_tally(row, pairs, by_bytes, sizes, after, new, False, min_frequency)
        _note_places(row, merged, new, places, before, after)
        _clear(before)
        _clear(after)
    return done


def learn_merges(pieces, limit, *, min_frequency=1, tie_break="smallest-id", progress=None):
    """As the text's, from Pieces (bpe_count.py) of MOST_BYTES with a separator for each; progress is called every STEP merges."""
    data, bounds, numbers = pieces
    n_places = len(data) + len(bounds)
    limit = min(limit, len(data))           # each merge takes away a token at least
    V = 256 + limit
    row = Row(np.empty((n_places, 2), np.int32), np.empty(n_places, np.uint8), numbers, np.zeros(V, np.int64),
              np.zeros(V, np.int64))
    _lay_out(row, data, bounds)
    # A merge takes away one token and adds two pairs at most, so more places than these are never noted. What is not
    # written to takes no memory.
    places = np.empty(3 * n_places, np.int32)
    merges, done = np.empty((limit, 2), np.int64), 0
    pairs, sizes = _pairs(FIRST_PAIRS), np.zeros(3, np.int64)
    pairs.index[:] = -1
    by_bytes = tie_break == "greatest-bytes"
    _enter_pairs_of_bytes(row, pairs, sizes, places, np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64), min_frequency,
                          by_bytes)
    before, after = _tally(V), _tally(V)
    while done < limit and sizes[1] > 0:
        stop = min(done + STEP, limit)
        done = _learn(merges, done, stop, row, pairs, sizes, places, before, after, min_frequency, by_bytes)
        if done < stop and sizes[1] > 0:
            larger = _pairs(2 * len(pairs.key))
            _move(pairs, sizes[0], larger)
            pairs = larger
        elif progress is not None:
            progress(done, limit)
    return [tuple(pair) for pair in merges[:done].tolist()]


def _pairs(capacity):
    return Pairs(np.empty(2 * capacity, np.int32), *(np.empty(capacity, np.int64) for _ in range(4)),
                 np.empty(capacity, np.int32), np.empty(capacity, np.int64))


def _tally(V):
    return Tally(np.zeros(V, np.int64), np.zeros(V, np.int64), np.empty(V, np.int32), np.zeros(1, np.int64))
