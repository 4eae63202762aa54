"""Which keys a block of queries sees: from spans to the rows, tiles and parts that attention's twin multiplies.

Q queries from `first` on, S keys in all; spans (T, M, 2) as in numpyllm.ops.mask. With one interval a query the K keys of a block lie
side by side from key `low` on; with several they are gathered.
"""

import numpy as np

from ._jit import jit
from .matmul import ROWS

ROUND = 16                  # loops over a row go over multiples of it: what remains of a loop over vectors is slow


@jit
def clipped(interval, S):
    return max(interval[0], 0), min(interval[1], S)


@jit
def hull(spans, first, stop, S):
    """The keys, low to high, that queries first to stop look at, at most. spans (T, M, 2)."""
    low, high = S, 0
    for t in range(first, stop):
        for m in range(spans.shape[1]):
            start, end = clipped(spans[t, m], S)
            if start < end:
                low, high = min(low, start), max(high, end)
    return min(low, high), high


@jit
def bounds_of(bounds, tiles, spans, first, Q, low, K):
    """One interval a query: bounds[i] is that of query first + i, counted from key `low`, and tiles[n] what the queries of a tile
    see. Who sees nothing gets (K, 0), such a tile (0, 1): there is no product of nothing, and its probabilities are 0."""
    for n in range(-(-Q // ROWS)):
        tiles[n, 0], tiles[n, 1] = K, 0
        for i in range(n * ROWS, min(Q, n * ROWS + ROWS)):
            start, end = clipped(spans[first + i, 0], low + K)
            bounds[i, 0], bounds[i, 1] = (start - low, end - low) if start < end else (K, 0)
            tiles[n, 0], tiles[n, 1] = min(tiles[n, 0], bounds[i, 0]), max(tiles[n, 1], bounds[i, 1])
        if tiles[n, 0] >= tiles[n, 1]:
            tiles[n, 0], tiles[n, 1] = 0, 1


@jit
def key_parts(parts, bounds, Q, K, known_low, known_high):
    """Cut keys 0 to K into parts [key, stop, i, end, add]: queries i to end see them, some has or none has given them a gradient
    before -> how many. All queries see the largest part; before and behind it are tiles. Known keys are known_low to known_high."""
    left, right = 0, K                                  # what all queries see
    for i in range(Q):
        left, right = max(left, bounds[i, 0]), min(right, bounds[i, 1])
    left, right = left + -left % 4, right - (right - K) % 4             # rows by fours: single ones are slow
    if left >= right:
        left, right = K, K
    key, n = 0, 0
    while key < K:
        stop, i, end = right, 0, Q
        if not left <= key < right:
            stop = min(key + ROWS, left if key < left else K)
        add = known_low <= key < known_high
        if add:
            stop = min(stop, known_high)
        elif key < known_low:
            stop = min(stop, known_low)
        if not left <= key < right:
            while end > 0 and not (bounds[end - 1, 0] < stop and bounds[end - 1, 1] > key):
                end -= 1
            while i < end and not (bounds[i, 0] < stop and bounds[i, 1] > key):
                i += 1
            end = max(end, 1)                           # nobody: a product with a probability of 0
            i = min(i, end - 1)
        parts[n, 0], parts[n, 1], parts[n, 2], parts[n, 3], parts[n, 4] = key, stop, i, end, add
        key, n = stop, n + 1
    return n


@jit
def gather(keys, place, spans, first, stop, S):
    """Several intervals a query: keys[:K] are those that queries first to stop see, in order, and place[s] where s is -> K."""
    place[:] = 0
    for t in range(first, stop):
        for m in range(spans.shape[1]):
            start, end = clipped(spans[t, m], S)
            for s in range(start, end):
                place[s] = 1
    K = 0
    for s in range(S):
        if place[s]:
            keys[K], place[s] = s, K
            K += 1
    return K


@jit
def hide(row, seen, place, spans, S):
    """Put -inf where a query sees nothing, so that exp makes 0 of it. row is of gathered keys; spans (M, 2)."""
    seen[:row.size] = 0
    for m in range(spans.shape[0]):
        start, end = clipped(spans[m], S)
        if start < end:
            seen[place[start]:place[start] + end - start] = 1
    for j in range(row.size):
        row[j] = row[j] if seen[j] else -np.inf


@jit
def whole_vectors(row, start, end):
    """Where whole vectors of a row begin and end that hold start to end, if anything does; zeros are put into the others.

    Loops then go over this part of the row: over indices that do not begin at 0 LLVM makes no vectors.
    """
    low = start // ROUND * ROUND if start < end else 0
    high = min(low - (low - end) // ROUND * ROUND, row.size) if start < end else 0
    row[:low] = 0
    row[high:] = 0
    return low, high
