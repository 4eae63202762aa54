"""Training byte-pair encoding: from counted pieces to merges.

Start from single bytes. Again and again make a new token of the adjacent pair that occurs most often, until
there are enough. (Gage 1994, as compression; Sennrich, Haddow and Birch 2016, section 3.2, for words.)

    aaabdaaabac     aa occurs most often (4 times, overlaps count):  Z = aa
    ZabdZabac       Za and ab tie at 2, the smaller ids win:         Y = ab
    ZYdZYac         ZY occurs twice:                                 X = ZY
    XdXac

Which of several pairs that occur equally often goes first decides all that follows, and trainers differ:
"smallest-id" takes the smallest (left id, right id), "greatest-bytes" the greatest (left bytes, right bytes).

Counting anew for each merge would cost corpus x merges. Instead each distinct piece is kept once, with its
number; an index leads from a pair to the places where it occurs, and a merge touches only those.
"""

from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush

from .patterns import split

FIRST_MERGE = 256       # ids 0 to 255 are the bytes themselves
NO_ID = -1              # in the row of ids: between two pieces, and where a right half has been merged away
TIE_BREAKS = ("smallest-id", "greatest-bytes")


def count_pieces(texts, pattern):
    """{piece as bytes: number of occurrences} of the pieces into which a `Pattern` cuts some texts."""
    counted = Counter()
    for text in texts:
        counted.update(split(pattern, text))
    return {piece.encode("utf-8"): number for piece, number in counted.items()}


def learn_merges(counted, limit, *, min_frequency=1, tie_break="smallest-id", progress=None):
    """The merges learned from pieces, as a list of pairs of ids; the pair at place k makes the token 256 + k.

    counted         {piece as bytes: number of occurrences}; their order does not matter
    limit           number of merges; fewer are returned when no pair is left that occurs min_frequency times
    tie_break       one of TIE_BREAKS
    progress        called after each merge with the merges done and the limit

    The merges for a smaller limit are the first ones of those for a larger.
    """
    ids, before, after, number_at = _row(counted)
    counts = defaultdict(int)       # pair -> occurrences
    places = defaultdict(list)      # pair -> where its left half is, or once was
    for i, pair in enumerate(zip(ids, ids[1:])):
        if NO_ID not in pair:
            counts[pair] += number_at[i]
            places[pair].append(i)
    # An entry holds the count of its pair when it was pushed. Later the count can only fall, since what a
    # merge adds has the new id in it. So an outdated entry comes up too early, never too late: it goes back
    # corrected, or is dropped for good once the count is too low.
    tokens = [bytes([byte]) for byte in range(FIRST_MERGE)]

    def rank(pair):                 # what is less is merged first
        return pair if tie_break == "smallest-id" else _Greatest((tokens[pair[0]], tokens[pair[1]]))

    heap = [(-count, rank(pair), pair) for pair, count in counts.items()]
    heapify(heap)
    merges = []
    while heap and len(merges) < limit:
        entry, _, pair = heappop(heap)
        count = counts[pair]
        if count < min_frequency:
            continue
        if count != -entry:
            heappush(heap, (-count, rank(pair), pair))
            continue
        new = FIRST_MERGE + len(merges)
        merges.append(pair)             # it never comes up again, so its own count needs no upkeep
        left, right = pair
        tokens.append(tokens[left] + tokens[right])
        born = set()
        for i in places.pop(pair):      # ascending, as they were found: of aaa, the first two are merged
            j = after[i]
            if ids[i] != left or ids[j] != right:
                continue                # no longer here
            h, k, number = before[i], after[j], number_at[i]
            if ids[h] != NO_ID:         # h i j  ->  h new
                counts[ids[h], left] -= number
                counts[ids[h], new] += number
                places[ids[h], new].append(h)
                born.add((ids[h], new))
            if ids[k] != NO_ID:         # i j k  ->  new k
                counts[right, ids[k]] -= number
                counts[new, ids[k]] += number
                places[new, ids[k]].append(i)
                born.add((new, ids[k]))
            ids[i], ids[j], after[i], before[k] = new, NO_ID, k, i
        for pair in born:
            heappush(heap, (-counts[pair], rank(pair), pair))
        if progress is not None:
            progress(len(merges), limit)
    return merges


class _Greatest(tuple):
    """A tuple that is less than those it would be greater than."""

    __lt__ = tuple.__gt__


def _row(counted):
    """All pieces in one row, NO_ID before, between and after them: four lists, by place.

    ids; the place before; the place after; how often the piece occurs.
    """
    ids, number_at = [NO_ID], [0]
    for piece, number in counted.items():
        ids += piece
        ids.append(NO_ID)
        number_at += [number] * (len(piece) + 1)
    return ids, list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1)), number_at
