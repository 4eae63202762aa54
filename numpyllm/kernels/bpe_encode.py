"""Twin of numpyllm.tokenizer.bpe: from UTF-8 to ids in one function.

    pieces      pretokenize.py cuts the text
    words       a cache of pieces of up to 15 bytes with their ids: nearly every piece is answered here
    tokens      a piece that is itself a token is that token
    pairs       else its bytes are merged: rank of the token that two neighbours make, by their ids

What text and id a token has stays the same, so `Vocabulary` is shared by all threads; a `Workspace` serves one call at a time.

Merging looks at pairs of ids, the definition at joined bytes. That is the same once every pair that merging can meet is in
the table. Before the token of rank r can be made, its bytes merge by lower ranks alone, always in the same way; if that
leaves two parts, these are the only pair that ever makes it. If not, which no trained vocabulary has, all pairs of
tokens with these bytes go into the table.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit
from ._words import load
from .pretokenize import piece_end

ID_BITS = 21
MOST_IDS = 1 << ID_BITS         # two ids and the one they make fit into a word
NO_RANK = 0x7FFF_FFFF
NO_PAIR = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MIX_1, MIX_2 = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xC2B2_AE3D_27D4_EB4F)      # odd, with bits of all places

WORD_BITS = 16                  # the cache has 2^16 slots of 32 bytes: 2 MB
WORD_BYTES = 15                 # longest key
WORD_IDS = 4                    # most ids of an entry
PROBES = 4                      # slots in which an entry may be
ONE = np.uint64(1)
KEY_OF_SLOT = (ONE << np.uint64(60)) - ONE      # without the number of ids
SCANNED = 96                    # ids up to which the next pair to merge is looked for from end to end


class Vocabulary(NamedTuple):
    """The tokens, laid out for the kernels."""
    text: np.ndarray            # uint8: the bytes of all tokens, by id
    offsets: np.ndarray         # (ids + 1,) int64: where each begins; special tokens and holes are empty
    tokens: np.ndarray          # (2^k,) int32: hash table of ids by bytes, -1 where empty
    pairs: np.ndarray           # (2^k,) uint64: hash table of left id, right id, id of both joined; NO_PAIR where empty
    byte_ids: np.ndarray        # (256,) int32


class Workspace(NamedTuple):
    """What one call at a time changes. All is left ready for the next."""
    words: np.ndarray           # (2^WORD_BITS + PROBES, 4) uint64: 8 bytes; 7 bytes, length, number of ids; four ids
    scan: np.ndarray            # (2, SCANNED) int32: ids and ranks of a piece
    chains: np.ndarray          # (4, ids) int32 for long pieces, see _merge_long


def vocabulary(tokens):
    """The `Vocabulary` of a list of tokens by id, b"" for ids that no text leads to."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths)))
    text = np.frombuffer(b"".join(tokens) + bytes(8), dtype=np.uint8)
    size = 1 << (2 * len(tokens)).bit_length()
    table = Vocabulary(text, offsets, np.full(size, -1, np.int32), np.full(size, NO_PAIR, np.uint64),
                       np.full(256, -1, np.int32))
    crowded = _fill(table, int(lengths.max()))
    while crowded:
        table = table._replace(pairs=np.full(2 * len(table.pairs), NO_PAIR, np.uint64))
        crowded = _fill(table, int(lengths.max()))
    return table


def workspace(ids):
    """A new `Workspace` for a vocabulary of so many ids."""
    chains = np.full((4, ids), -1, np.int32)
    return Workspace(np.zeros(((1 << WORD_BITS) + PROBES, 4), np.uint64), np.empty((2, SCANNED), np.int32), chains)


@jit
def _hash_of(data, start, stop):
    h = np.uint64(stop - start)
    for i in range(start, stop):
        h = (h ^ np.uint64(data[i])) * MIX_1
        h ^= h >> np.uint64(29)
    return h


@jit
def _token(vocabulary, data, start, stop):
    """The id of data[start:stop], -1 if it is no token."""
    text, offsets, tokens = vocabulary.text, vocabulary.offsets, vocabulary.tokens
    last = len(tokens) - 1
    slot = np.int64(_hash_of(data, start, stop)) & last
    while tokens[slot] >= 0:
        first, end = offsets[tokens[slot]], offsets[tokens[slot] + 1]
        if end - first == stop - start:
            same = 0
            while same < stop - start and text[first + same] == data[start + same]:
                same += 1
            if same == stop - start:
                return np.int64(tokens[slot])
        slot = (slot + 1) & last
    return np.int64(-1)


@jit
def _slot_of_pair(pairs, key):
    return np.int64((key * MIX_1) >> np.uint64(32)) & (len(pairs) - 1)


@jit
def _rank(pairs, left, right):
    """The id that two ids make, NO_RANK if none."""
    key = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    slot = _slot_of_pair(pairs, key)
    while True:
        entry = pairs[slot]
        if entry >> np.uint64(ID_BITS) == key:
            return np.int32(entry & np.uint64(MOST_IDS - 1))
        if entry == NO_PAIR:
            return np.int32(NO_RANK)
        slot = (slot + 1) & (len(pairs) - 1)


@jit
def _add_pair(pairs, left, right, made):
    key = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    slot = _slot_of_pair(pairs, key)
    while pairs[slot] != NO_PAIR:
        slot = (slot + 1) & (len(pairs) - 1)
    pairs[slot] = key << np.uint64(ID_BITS) | np.uint64(made)


@jit
def _fill(vocabulary, longest):
    """Fill the empty tables. Whether the table of pairs was too small: it must be at most half full."""
    text, offsets, tokens, pairs = vocabulary.text, vocabulary.offsets, vocabulary.tokens, vocabulary.pairs
    last = len(tokens) - 1
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        if stop == start or _token(vocabulary, text, start, stop) >= 0:
            continue
        slot = np.int64(_hash_of(text, start, stop)) & last
        while tokens[slot] >= 0:
            slot = (slot + 1) & last
        tokens[slot] = i
        if stop - start == 1:
            vocabulary.byte_ids[text[start]] = i
    ids, ranks = np.empty(longest, np.int32), np.empty(longest, np.int32)
    entries = 0
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 2:
            continue
        if entries + longest > len(pairs) // 2:
            return True
        if _merge_short(ids, ranks, text, start, stop, vocabulary) == 2:
            _add_pair(pairs, ids[0], ids[1], i)
            entries += 1
        else:
            for middle in range(start + 1, stop):
                left, right = _token(vocabulary, text, start, middle), _token(vocabulary, text, middle, stop)
                if left >= 0 and right >= 0:
                    _add_pair(pairs, left, right, i)
                    entries += 1
    return False


@jit
def _merge_short(ids, ranks, data, start, stop, vocabulary):
    """Merge data[start:stop] into ids[:n]; returns n. `ranks` is scratch. n squared steps."""
    pairs = vocabulary.pairs
    n = stop - start
    for i in range(n):
        ids[i] = vocabulary.byte_ids[data[start + i]]
    for i in range(n - 1):
        ranks[i] = _rank(pairs, ids[i], ids[i + 1])
    while n > 1:
        place, least = 0, ranks[0]
        for i in range(1, n - 1):
            if ranks[i] < least:
                place, least = i, ranks[i]
        if least == NO_RANK:
            break
        ids[place] = least
        n -= 1
        for i in range(place + 1, n):
            ids[i] = ids[i + 1]
        for i in range(place + 1, n - 1):
            ranks[i] = ranks[i + 1]
        if place + 1 < n:
            ranks[place] = _rank(pairs, least, ids[place + 1])
        if place > 0:
            ranks[place - 1] = _rank(pairs, ids[place - 1], least)
    return n


# Long pieces. The pairs of one rank form a chain, by place in the piece, and a heap holds the ranks that have one: so ten
# million equal characters are a few chains, not ten million entries in a heap. A place is where a part begins.
#   head, tail      of the chain of each rank, -1 if empty
#   state           bit 0: the rank is in the heap; bit 1: its chain is out of order
#   heap            its first elements, smallest first in the usual sense
HEAD, TAIL, STATE, HEAP = range(4)
QUEUED, UNSORTED = 1, 2


@jit
def _push(heap, size, rank):
    i = size
    while i > 0 and heap[(i - 1) >> 1] > rank:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = rank
    return size + 1


@jit
def _pop(heap, size):
    size -= 1
    rank, i = heap[size], 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= rank:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = rank
    return size


@jit
def _link(chains, size, ranks, before, after, place, rank):
    """Put the pair at `place` into the chain of its rank, if it has one. Returns the size of the heap."""
    head, tail, state = chains[HEAD], chains[TAIL], chains[STATE]
    ranks[place] = rank
    if rank == NO_RANK:
        return size
    if head[rank] < 0:
        head[rank] = tail[rank] = place
        before[place] = after[place] = -1
        if state[rank] & QUEUED == 0:
            size = _push(chains[HEAP], size, rank)
        state[rank] = QUEUED
    elif place < head[rank]:
        before[place], after[place] = -1, head[rank]
        before[head[rank]] = place
        head[rank] = place
    else:
        if place < tail[rank]:
            state[rank] |= UNSORTED
        before[place], after[place] = tail[rank], -1
        after[tail[rank]] = place
        tail[rank] = place
    return size


@jit
def _unlink(chains, ranks, before, after, place):
    rank = ranks[place]
    if rank == NO_RANK:
        return
    if before[place] < 0:
        chains[HEAD, rank] = after[place]
    else:
        after[before[place]] = after[place]
    if after[place] < 0:
        chains[TAIL, rank] = before[place]
    else:
        before[after[place]] = before[place]


@jit
def _sort_chain(chains, before, after, rank):
    count, place = 0, chains[HEAD, rank]
    while place >= 0:
        count, place = count + 1, after[place]
    places, place = np.empty(count, np.int32), chains[HEAD, rank]
    for i in range(count):
        places[i], place = place, after[place]
    places.sort()
    for i in range(count):
        before[places[i]] = places[i - 1] if i > 0 else -1
        after[places[i]] = places[i + 1] if i + 1 < count else -1
    chains[HEAD, rank], chains[TAIL, rank] = places[0], places[count - 1]
    chains[STATE, rank] = QUEUED


@jit
def _merge_long(data, start, stop, vocabulary, chains):
    """As _merge_short, in n log n steps: returns the ids."""
    pairs = vocabulary.pairs
    n = stop - start
    ids, left, right = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    ranks, before, after = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    size = 0
    for i in range(n):
        ids[i], left[i], right[i] = vocabulary.byte_ids[data[start + i]], i - 1, i + 1
    ranks[n - 1] = NO_RANK
    for i in range(n - 1):
        size = _link(chains, size, ranks, before, after, i, _rank(pairs, ids[i], ids[i + 1]))
    while size > 0:
        rank = chains[HEAP, 0]
        if chains[HEAD, rank] < 0:
            chains[STATE, rank] = 0
            size = _pop(chains[HEAP], size)
            continue
        if chains[STATE, rank] & UNSORTED:
            _sort_chain(chains, before, after, rank)
        i = chains[HEAD, rank]          # parts h, i, j, k become h, i, k
        h, j = left[i], right[i]
        k = right[j]
        _unlink(chains, ranks, before, after, i)
        _unlink(chains, ranks, before, after, j)
        ids[i], right[i], ranks[i] = rank, k, NO_RANK
        if k < n:
            left[k] = i
            size = _link(chains, size, ranks, before, after, i, _rank(pairs, rank, ids[k]))
        if h >= 0:
            _unlink(chains, ranks, before, after, h)
            size = _link(chains, size, ranks, before, after, h, _rank(pairs, ids[h], rank))
    count = i = 0
    while i < n:
        ids[count], i = ids[i], right[i]
        count += 1
    return ids[:count]


@jit
def _key(data, start, length):
    """The bytes of a piece of up to 15, and its length, in two words."""
    if start + 16 <= len(data):
        if length <= 8:
            return load(data, start) & (NO_PAIR >> np.uint64(64 - 8 * length)), np.uint64(length) << np.uint64(56)
        low = load(data, start)
        high = load(data, start + 8) & ((ONE << np.uint64(8 * (length - 8))) - ONE)
        return low, high | np.uint64(length) << np.uint64(56)
    low = high = np.uint64(0)
    for i in range(length):
        if i < 8:
            low |= np.uint64(data[start + i]) << np.uint64(8 * i)
        else:
            high |= np.uint64(data[start + i]) << np.uint64(8 * (i - 8))
    return low, high | np.uint64(length) << np.uint64(56)


@jit
def _encode_piece(out, count, data, start, stop, vocabulary, workspace):
    """Write the ids of one piece to out[count:]; the new count."""
    rank = _token(vocabulary, data, start, stop)
    if rank >= 0:
        out[count] = rank
        return count + 1
    if stop - start <= SCANNED:
        ids = workspace.scan[0]
        n = _merge_short(ids, workspace.scan[1], data, start, stop, vocabulary)
    else:
        ids = _merge_long(data, start, stop, vocabulary, workspace.chains)
        n = len(ids)
    for i in range(n):
        out[count + i] = ids[i]
    return count + n


@jit
def encode(out, data, pattern, classes, vocabulary, workspace):
    """Write the ids of a text to `out`, (n + 4,) uint32 for n bytes; their number.

    data, pattern, classes  as in pretokenize.py
    """
    words = workspace.words
    start, stop, count = 0, len(data), 0
    while start < stop:
        end = piece_end(data, start, stop, pattern, classes)
        if end - start > WORD_BYTES:
            count = _encode_piece(out, count, data, start, end, vocabulary, workspace)
            start = end
            continue
        low, high = _key(data, start, end - start)
        home = np.int64((low * MIX_1 + high * MIX_2) >> np.uint64(64 - WORD_BITS))
        slot = home
        while slot < home + PROBES and (words[slot, 0] != low or words[slot, 1] & KEY_OF_SLOT != high):
            slot += 1
        if slot < home + PROBES:
            entry = words[slot]
            out[count], out[count + 1] = entry[2], entry[2] >> np.uint64(32)
            out[count + 2], out[count + 3] = entry[3], entry[3] >> np.uint64(32)
            count += np.int64(entry[1] >> np.uint64(60))
        else:
            first = count
            count = _encode_piece(out, count, data, start, end, vocabulary, workspace)
            if count - first <= WORD_IDS:
                _remember(words, home, low, high, out, first, count)
        start = end
    return count


@jit
def _remember(words, home, low, high, out, first, count):
    """Enter a piece into the cache, if need be in place of another."""
    slot = home
    while slot < home + PROBES and words[slot, 1] != 0:
        slot += 1
    if slot == home + PROBES:
        slot = home + (np.int64(low ^ high) & (PROBES - 1))
    words[slot, 0] = low
    words[slot, 1] = high | np.uint64(count - first) << np.uint64(60)
    for half in range(2):
        i = first + 2 * half
        a = np.uint64(out[i]) if i < count else np.uint64(0)
        b = np.uint64(out[i + 1]) if i + 1 < count else np.uint64(0)
        words[slot, 2 + half] = a | b << np.uint64(32)
