"""The compiled twin of BytePairTokenizer's encoding: texts divided into parts, parts handed to the kernel.

Only the named patterns have one. See kernels/bpe_encode.py for what it does and kernels/pretokenize.py for the patterns.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np

from .unicode import class_table

MOST_IDS = 1 << 21      # of a vocabulary that the kernel takes
PART = 1 << 18          # characters that the kernel gets at once, about: they and their ids stay in the processor's cache

# Where a text may be cut without changing its pieces, in all named patterns: before a space that does not follow white space,
# and before a newline or such a sign that follows a letter or digit. (Of the letters, those which have always been some.)
DIVIDE = re.compile(r"\S(?= )|[0-9A-Za-zЀ-ҁ一-龥ぁ-ゔァ-ヺ](?=[\n,.!?;:，。])")

loading = threading.Lock()     # threads that compile the same function at once have crashed


class Twin:
    """The kernels with the tables of one vocabulary. Calls may come from several threads. ImportError without Numba.

    tokens          the bytes of each id, b"" where no text leads to it
    special_tokens  {text: id}
    pattern         one of patterns.NAMED
    """

    def __init__(self, tokens, special_tokens, pattern):
        self._special_tokens = special_tokens
        with loading:
            from ..kernels import bpe_encode, pretokenize
            self._kernels, self._pattern, self._ids = bpe_encode, pretokenize.PATTERNS[pattern], len(tokens)
            self._vocabulary = bpe_encode.vocabulary(tokens)
            self._idle = []         # pairs of a workspace and an array for ids, for one call at a time
            self.encode([(0, "", False)], np.uint32)

    def encode(self, stretches, dtype, threads=1):
        """The ids of stretches (offset, text, whether it is a special token): array (T,). UnicodeEncodeError for a surrogate."""
        parts = enumerate(divided(stretches, PART))
        joined = _Joined(sum(len(text) for _, text, _ in stretches) // 2, dtype)
        taking, adding = threading.Lock(), threading.Lock()

        def work():
            while True:
                with taking:
                    number, part = next(parts, (None, None))
                if part is None:
                    return
                ids, memory = self._encode_part(part)
                with adding:
                    joined.add(number, ids)
                self._idle.append(memory)

        if threads == 1:
            work()
        else:
            with ThreadPoolExecutor(threads - 1) as pool:
                others = [pool.submit(work) for _ in range(threads - 1)]
                work()
                for other in others:
                    other.result()
        return joined.ids()

    def _encode_part(self, part):
        """-> the ids, (T,) uint32, and the memory they are in: for another call, once they have been copied."""
        texts = [text.encode("utf-8") for text, _ in part]
        stops = np.array([*accumulate(map(len, texts))])
        special_ids = np.array([self._special_tokens[text] if special else -1 for text, special in part])
        data = np.frombuffer(b"".join([*texts, bytes(self._kernels.PADDING)]), dtype=np.uint8)
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = self._kernels.workspace(self._ids), np.empty(PART + 4, np.uint32)
        workspace, ids = memory
        if len(ids) < stops[-1] + 4:
            ids = np.empty(stops[-1] + 4, np.uint32)
            if len(ids) <= 4 * PART + 4:
                memory = workspace, ids
        count = self._kernels.encode(ids, data, stops, special_ids, self._pattern, class_table(), self._vocabulary, workspace)
        return ids[:count], memory


class _Joined:
    """The ids of all parts in one array; the parts come in any order."""

    def __init__(self, room, dtype):
        self._array, self._count = np.empty(room, dtype), 0         # memory that is never written to costs nothing
        self._number, self._early = 0, {}

    def add(self, number, ids):
        if number > self._number:
            self._early[number] = ids.astype(self._array.dtype)
            return
        while ids is not None:
            count = self._count + len(ids)
            if count > len(self._array):
                larger = np.empty(2 * count, self._array.dtype)
                larger[:self._count] = self._array[:self._count]
                self._array = larger
            self._array[self._count:count] = ids
            self._count, self._number = count, self._number + 1
            ids = self._early.pop(self._number, None)

    def ids(self):
        self._array.resize(self._count, refcheck=False)
        return self._array


def divided(stretches, size):
    """Lists of (text, whether it is a special token) of about `size` characters together, in order."""
    part, room = [], size
    for _, text, special in stretches:
        start = 0
        while not special and len(text) - start > room:
            found = DIVIDE.search(text, start + room)
            end = found.end() if found else len(text)
            part.append((text[start:end], False))
            yield part
            part, room, start = [], size, end
        part.append((text[start:], special))
        room -= len(text) - start
        if room <= 0:
            yield part
            part, room = [], size
    if part:
        yield part
