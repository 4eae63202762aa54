"""Twin of numpyllm.tokenizer.bpe: from UTF-8 to ids in one function.

    pieces      windows.py, and where it sees too little pretokenize.py, cut the text
    words       a cache of pieces of up to 15 bytes with their ids: nearly every piece is answered here
    tokens      a piece that is itself a token is that token
    pairs       else its bytes are merged: rank of the token that two neighbours make, by their ids

A `Vocabulary` never changes and serves all threads; a `Workspace` serves one call at a time.

Merging looks at pairs of ids, the definition at joined bytes. That is the same once every pair that merging can meet is in
the table. Before the token of rank r can be made, its bytes merge by lower ranks alone, always in the same way; if that
leaves two parts, these are the only pair that ever makes it. If not, which no trained vocabulary has, all pairs of
tokens with these bytes go into the table.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit, jit_inlined
from ._words import load, pointer, prefetch, trailing_zeros
from .pretokenize import piece_end
from .windows import SIZE, begins_in_ascii, starts_in_window

ID_BITS = 21
MOST_IDS = 1 << ID_BITS         # two ids and the one they make fit into a word
NO_RANK = 0x7FFF_FFFF
NO_PAIR = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MIX_1, MIX_2 = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xC2B2_AE3D_27D4_EB4F)      # odd, with bits of all places

LINE_BITS = 17                  # the cache has 2^17 lines of 64 bytes, which are the processor's, of two slots each: 8 MB
LINE, SLOT = 8, 4               # their sizes in words of 64 bits
WORD_BYTES = 15                 # longest key
WORD_IDS = 4                    # most ids of an entry
AHEAD = 32                      # pieces that are cut before the first of them is looked up, so that its slot is there by then
NONE, ONE, ALL = np.uint64(0), np.uint64(1), ~np.uint64(0)
KEY_OF_SLOT = (ONE << np.uint64(60)) - ONE      # without the number of ids
PADDING = 16                    # bytes that must exist behind a text, since keys are read by eights
SCANNED = 96                    # ids up to which the next pair to merge is looked for from end to end


class Vocabulary(NamedTuple):
    """The tokens, laid out for the kernels; inside of them, pointers to the arrays."""
    text: np.ndarray            # uint8: the bytes of all tokens, by id
    offsets: np.ndarray         # (ids + 1,) int64: where each begins; special tokens and holes are empty
    tokens: np.ndarray          # (2^k,) int32: hash table of ids by bytes, -1 where empty
    pairs: np.ndarray           # (2^k,) uint64: hash table of left id, right id, id of both joined; NO_PAIR where empty
    byte_ids: np.ndarray        # (256,) int32
    last_token: int             # the last slot of either table
    last_pair: int


class Workspace(NamedTuple):
    """What one call at a time changes. All is left ready for the next."""
    words: np.ndarray           # (2^LINE_BITS * LINE,) uint64, two slots a line: 8 bytes; 7 bytes, length, number of ids; four ids
    ids: np.ndarray             # (SCANNED,) int32: the parts of a piece,
    ranks: np.ndarray           # (SCANNED,) int32: and what each makes with the next
    cut: np.ndarray             # (4, AHEAD + SIZE) uint64: begin, key and home line of pieces
    chains: np.ndarray          # (4, ids) int32, for long pieces: see _merge_long


def vocabulary(tokens):
    """The `Vocabulary` of a list of tokens by id, b"" for ids that no text leads to."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths)))
    text = np.frombuffer(b"".join(tokens) + bytes(8), dtype=np.uint8)
    size = 1 << (2 * len(tokens)).bit_length()
    slots, byte_ids, pair_slots = np.full(size, -1, np.int32), np.full(256, -1, np.int32), size
    while True:
        pairs = np.full(pair_slots, NO_PAIR, np.uint64)
        table = Vocabulary(text, offsets, slots, pairs, byte_ids, size - 1, pair_slots - 1)
        if _fill(table, np.empty((2, lengths.max()), np.int32)):
            return table
        pair_slots *= 2


def workspace(ids):
    """A new `Workspace` for a vocabulary of so many ids."""
    chains = np.full((4, ids), -1, np.int32)
    chains[STATE] = 0
    room = np.zeros((LINE << LINE_BITS) + LINE, np.uint64)
    first = -(room.ctypes.data // 8) % LINE             # where a line begins
    return Workspace(room[first:first + (LINE << LINE_BITS)], np.empty(SCANNED, np.int32),
                     np.empty(SCANNED, np.int32), np.empty((4, AHEAD + SIZE), np.uint64), chains)


@jit
def _pointers(vocabulary):
    return Vocabulary(pointer(vocabulary.text), pointer(vocabulary.offsets), pointer(vocabulary.tokens),
                      pointer(vocabulary.pairs), pointer(vocabulary.byte_ids), vocabulary.last_token, vocabulary.last_pair)


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
    text, offsets, tokens, last = vocabulary.text, vocabulary.offsets, vocabulary.tokens, vocabulary.last_token
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
def _slot_of_pair(key, last):
    return np.int64((key * MIX_1) >> np.uint64(32)) & last


@jit
def _rank(vocabulary, left, right):
    """The id that two ids make, NO_RANK if none."""
    pairs, last = vocabulary.pairs, vocabulary.last_pair
    key = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    slot = _slot_of_pair(key, last)
    while True:
        entry = pairs[slot]
        if entry >> np.uint64(ID_BITS) == key:
            return np.int32(entry & np.uint64(MOST_IDS - 1))
        if entry == NO_PAIR:
            return np.int32(NO_RANK)
        slot = (slot + 1) & last


@jit
def _add_pair(vocabulary, left, right, made):
    pairs, last = vocabulary.pairs, vocabulary.last_pair
    key = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    slot = _slot_of_pair(key, last)
    while pairs[slot] != NO_PAIR:
        slot = (slot + 1) & last
    pairs[slot] = key << np.uint64(ID_BITS) | np.uint64(made)


@jit
def _fill(arrays, memory):
    """Fill the empty tables. False if the pairs would take more than half of theirs. memory: (2, longest token) int32."""
    vocabulary = _pointers(arrays)
    text, offsets, tokens = vocabulary.text, vocabulary.offsets, vocabulary.tokens
    number = len(arrays.offsets) - 1
    for i in range(number):
        start, stop = offsets[i], offsets[i + 1]
        if stop == start or _token(vocabulary, text, start, stop) >= 0:
            continue
        slot = np.int64(_hash_of(text, start, stop)) & vocabulary.last_token
        while tokens[slot] >= 0:
            slot = (slot + 1) & vocabulary.last_token
        tokens[slot] = i
        if stop - start == 1:
            vocabulary.byte_ids[text[start]] = i
    ids, ranks = pointer(memory[0]), pointer(memory[1])
    entries, longest = 0, memory.shape[1]
    for i in range(number):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 2:
            continue
        if entries + longest > len(arrays.pairs) // 2:
            return False
        if _merge_short(ids, ranks, text, start, stop, vocabulary) == 2:
            _add_pair(vocabulary, ids[0], ids[1], i)
            entries += 1
        else:
            for middle in range(start + 1, stop):
                left, right = _token(vocabulary, text, start, middle), _token(vocabulary, text, middle, stop)
                if left >= 0 and right >= 0:
                    _add_pair(vocabulary, left, right, i)
                    entries += 1
    return True


@jit
def _merge_short(ids, ranks, data, start, stop, vocabulary):
    """Merge data[start:stop] into ids[:n]; returns n. `ranks` is scratch. n squared steps."""
    n = stop - start
    for i in range(n):
        ids[i] = vocabulary.byte_ids[data[start + i]]
    for i in range(n - 1):
        ranks[i] = _rank(vocabulary, ids[i], ids[i + 1])
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
            ranks[place] = _rank(vocabulary, least, ids[place + 1])
        if place > 0:
            ranks[place - 1] = _rank(vocabulary, ids[place - 1], least)
    return n


# Long pieces. The pairs of one rank form a chain, by place in the piece (a place is where a part begins), and a heap holds the
# ranks that have one: so ten million equal characters are a few chains, not ten million entries of a heap. The four rows of
# `chains`: first and last place of the chain of each rank, -1 if empty; its state; the heap, in its first elements.
STATE = 2
IDLE, SORTED, UNSORTED = range(3)       # IDLE: not in the heap


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
    head, tail, state, heap = chains
    ranks[place] = rank
    if rank == NO_RANK:
        return size
    if head[rank] < 0:
        head[rank] = tail[rank] = place
        before[place] = after[place] = -1
        if state[rank] == IDLE:
            size = _push(heap, size, rank)
        state[rank] = SORTED
    elif place < head[rank]:
        before[place], after[place] = -1, head[rank]
        before[head[rank]] = place
        head[rank] = place
    else:
        if place < tail[rank]:
            state[rank] = UNSORTED
        before[place], after[place] = tail[rank], -1
        after[tail[rank]] = place
        tail[rank] = place
    return size


@jit
def _unlink(chains, ranks, before, after, place):
    head, tail, _, _ = chains
    rank = ranks[place]
    if rank == NO_RANK:
        return
    if before[place] < 0:
        head[rank] = after[place]
    else:
        after[before[place]] = after[place]
    if after[place] < 0:
        tail[rank] = before[place]
    else:
        before[after[place]] = before[place]


@jit
def _sort_chain(chains, before, after, rank):
    head, tail, state, _ = chains
    count, place = 0, head[rank]
    while place >= 0:
        count, place = count + 1, after[place]
    places, place = np.empty(count, np.int32), head[rank]
    for i in range(count):
        places[i], place = place, after[place]
    places.sort()
    for i in range(count):
        before[places[i]] = places[i - 1] if i > 0 else -1
        after[places[i]] = places[i + 1] if i + 1 < count else -1
    head[rank], tail[rank], state[rank] = places[0], places[count - 1], SORTED


@jit
def _merge_long(memory, data, start, stop, vocabulary, chains):
    """As _merge_short, in n log n steps: the ids are in memory[0, :count]; returns count. memory: (6, n) int32."""
    n = stop - start
    ids, left, right = pointer(memory[0]), pointer(memory[1]), pointer(memory[2])
    ranks, before, after = pointer(memory[3]), pointer(memory[4]), pointer(memory[5])
    head, _, state, heap = chains
    size = 0
    for i in range(n):
        ids[i], left[i], right[i] = vocabulary.byte_ids[data[start + i]], i - 1, i + 1
    ranks[n - 1] = NO_RANK
    for i in range(n - 1):
        size = _link(chains, size, ranks, before, after, i, _rank(vocabulary, ids[i], ids[i + 1]))
    while size > 0:
        rank = heap[0]
        if head[rank] < 0:
            state[rank] = IDLE
            size = _pop(heap, size)
            continue
        if state[rank] == UNSORTED:
            _sort_chain(chains, before, after, rank)
        i = head[rank]                  # the parts h, i, j, k become h, i, k
        h, j = left[i], right[i]
        k = right[j]
        _unlink(chains, ranks, before, after, i)
        _unlink(chains, ranks, before, after, j)
        ids[i], right[i], ranks[i] = rank, k, NO_RANK
        if k < n:
            left[k] = i
            size = _link(chains, size, ranks, before, after, i, _rank(vocabulary, rank, ids[k]))
        if h >= 0:
            _unlink(chains, ranks, before, after, h)
            size = _link(chains, size, ranks, before, after, h, _rank(vocabulary, ids[h], rank))
    count = i = 0
    while i < n:
        ids[count], i = ids[i], right[i]
        count += 1
    return count


@jit
def home_line(low, high):
    """The line in which a piece of this key should be; it may also be in the line beside it, whose number is ^ 1."""
    return np.int64((low * MIX_1 + high * MIX_2) >> np.uint64(64 - LINE_BITS))


@jit_inlined
def _cut(cut, pieces, data, start, end, words):
    """Note the piece data[start:end], its key and the place of its slot, and ask for that."""
    begins, lows, highs, homes = cut
    length = end - start
    low = high = NONE
    if length <= WORD_BYTES:
        low = load(data, start) & (ALL >> np.uint64(max(64 - 8 * length, 0)))
        high = load(data, start + 8) & ((ONE << np.uint64(max(8 * length - 64, 0))) - ONE)
        high |= np.uint64(length) << np.uint64(56)
    home = home_line(low, high)
    prefetch(words, LINE * home)
    begins[pieces], lows[pieces], highs[pieces], homes[pieces] = start, low, high, home


@jit
def _encode_piece(out, count, data, start, stop, vocabulary, workspace):
    """Write the ids of one piece to out[count:]; the new count."""
    rank = _token(vocabulary, data, start, stop)
    if rank >= 0:
        out[count] = rank
        return count + 1
    n = stop - start
    if n <= SCANNED:
        n = _merge_short(workspace.ids, workspace.ranks, data, start, stop, vocabulary)
        for i in range(n):
            out[count + i] = workspace.ids[i]
    else:
        memory = np.empty((6, n), np.int32)
        n = _merge_long(memory, data, start, stop, vocabulary, workspace.chains)
        for i in range(n):
            out[count + i] = memory[0, i]
    return count + n


@jit
def _slot_of_word(words, home, low, high):
    """Where in `words` the slot with this key begins, -1 if there is none."""
    for line in (LINE * home, LINE * (home ^ 1)):
        for slot in (line, line + SLOT):
            if words[slot] == low and words[slot + 1] & KEY_OF_SLOT == high:
                return slot
    return -1


@jit
def _remember(words, home, low, high, out, first, count):
    """Enter a piece into the cache, if need be in place of another."""
    slot = _slot_of_word(words, home, NONE, NONE)           # an empty one
    if slot < 0:
        slot = LINE * home + SLOT * np.int64(low & ONE)
    words[slot] = low
    words[slot + 1] = high | np.uint64(count - first) << np.uint64(60)
    for half in range(2):
        i = first + 2 * half
        left = np.uint64(out[i]) if i < count else NONE
        right = np.uint64(out[i + 1]) if i + 1 < count else NONE
        words[slot + 2 + half] = left | right << np.uint64(32)


@jit
def encode(ids, text, stops, special_ids, pattern, classes, vocabulary, workspace):
    """Write the ids of a text to `ids`, (n + 4,) uint32 for n bytes; their number.

    stops                   (S,) int64: where each stretch of the text ends; no piece reaches across
    special_ids             (S,) int64: the id of a stretch that is a special token, -1 for text
    text, pattern, classes  data, pattern and classes of pretokenize.py; behind the text PADDING bytes more can be read
    """
    out, data, kinds, known = pointer(ids), pointer(text), pointer(classes), _pointers(vocabulary)
    words, chains = pointer(workspace.words), workspace.chains
    scratch = Workspace(words, pointer(workspace.ids), pointer(workspace.ranks), words,
                        (pointer(chains[0]), pointer(chains[1]), pointer(chains[2]), pointer(chains[3])))
    cut = workspace.cut
    cut = pointer(cut[0]), pointer(cut[1]), pointer(cut[2]), pointer(cut[3])
    begins, lows, highs, homes = cut
    start = count = 0
    for stretch in range(len(stops)):
        stop = stops[stretch]
        if special_ids[stretch] >= 0:
            out[count] = special_ids[stretch]
            start, count = stop, count + 1
        while start < stop:
            pieces = 0
            while start < stop and pieces < AHEAD:
                base, starts = start, NONE
                if begins_in_ascii(data, start, stop):
                    starts = starts_in_window(data, base, stop, pattern)
                if starts == 0:
                    end = piece_end(data, start, stop, pattern, kinds)
                    _cut(cut, pieces, data, start, end, words)
                    start, pieces = end, pieces + 1
                while starts:
                    end = base + trailing_zeros(starts)
                    starts &= starts - ONE
                    _cut(cut, pieces, data, start, end, words)
                    start, pieces = end, pieces + 1
            begins[pieces] = start
            for i in range(pieces):
                low, high, home = lows[i], highs[i], np.int64(homes[i])
                slot = _slot_of_word(words, home, low, high)
                if slot >= 0 and high > 0:
                    first, second = words[slot + 2], words[slot + 3]
                    out[count], out[count + 1] = first, first >> np.uint64(32)
                    out[count + 2], out[count + 3] = second, second >> np.uint64(32)
                    count += np.int64(words[slot + 1] >> np.uint64(60))
                else:
                    before = count
                    count = _encode_piece(out, count, data, np.int64(begins[i]), np.int64(begins[i + 1]), known, scratch)
                    if count - before <= WORD_IDS and high > 0:
                        _remember(words, home, low, high, out, before, count)
    return count
