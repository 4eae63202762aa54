"""Byte-pair encoding's algorithm (Gage 1994; Sennrich et al. 2016), for any sequence: bytes or characters."""

from heapq import heappop, heappush


def merged(sequence, rank):
    """The parts into which a sequence merges, from single entries on.

    rank(i, j, k) tells when the neighbours sequence[i:j] and sequence[j:k] become one part: the lowest first, the leftmost of equals,
    until there are none that have one; None: never. Takes n log n steps for n entries.
    """
    n = len(sequence)
    end = list(range(1, n + 1))     # end[i]: where the part that begins at i ends; 0 when none begins there
    begin = list(range(-1, n))      # begin[j]: where the part that ends at j begins
    candidates = []                 # heap of (rank, i, j, k): the parts from i to j and j to k may become one
    for i in range(n - 1):
        if (found := rank(i, i + 1, i + 2)) is not None:
            heappush(candidates, (found, i, i + 1, i + 2))
    while candidates:
        _, i, j, k = heappop(candidates)
        if end[i] != j or end[j] != k:
            continue                # one of the two parts has been merged with another meanwhile
        end[i], end[j], begin[k] = k, 0, i
        if i > 0 and (found := rank(begin[i], i, k)) is not None:
            heappush(candidates, (found, begin[i], i, k))
        if k < n and (found := rank(i, k, end[k])) is not None:
            heappush(candidates, (found, i, k, end[k]))
    i = 0
    while i < n:
        yield sequence[i:end[i]]
        i = end[i]
