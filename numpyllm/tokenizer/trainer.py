"""From texts to merges: pieces are counted as the texts come in, then merges are learned from the counts.

Both stand in training.py, in plain Python. For long texts compiled twins do the same (kernels/bpe_count.py, for the named
patterns, and kernels/bpe_train.py). In memory are, besides what sources.py says, a few parts of the texts for each thread,
and the distinct pieces with their counts.
"""

import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from ..errors import InputError
from . import training
from .patterns import compile_pattern
from .twin import divided, loading
from .unicode import class_table

TWIN_FROM = 1 << 19     # characters from which on the compiled twins repay their loading
PART = 1 << 18          # characters that are counted in one call, about


def train_merges(texts, limit, pattern, *, backend, threads=None, counting=None, **how):
    """The merges, as training.learn_merges gives them; None if there is no text.

    texts       an iterator of strings, none of them empty
    pattern     as for BytePairTokenizer
    threads     for counting; None: as many as there are processors for this process
    counting    called now and then with the number of UTF-8 bytes counted so far, or None
    how         further arguments of learn_merges
    """
    compiled = compile_pattern(pattern)
    texts, long = _peek(texts, TWIN_FROM)
    kernels = _kernels() if long and backend == "numba" else None
    if kernels is None:
        counted = training.count_pieces(_reported(texts, counting), compiled)
        return training.learn_merges(counted, limit, **how) if counted else None
    bpe_count, bpe_train = kernels
    if compiled.named:
        pieces = _count_in_threads(texts, lambda: bpe_count.PieceCounter(pattern, class_table()), threads, counting)
    else:
        pieces = bpe_count.pieces_of(training.count_pieces(_reported(texts, counting), compiled))
    if len(pieces.data) + len(pieces.bounds) > bpe_train.MOST_BYTES:
        raise InputError(f"the distinct pieces together must be shorter than 2 GB, got {len(pieces.data):,} bytes of them: "
                         "train on a part of the texts, or with a pattern that cuts them into shorter pieces")
    return bpe_train.learn_merges(pieces, limit, **how)


def _peek(texts, n):
    """All these texts, as an iterator, and whether they have n characters or more."""
    taken, size = [], 0
    for text in texts:
        taken.append(text)
        size += len(text)
        if size >= n:
            break
    return chain(taken, texts), size >= n


def _kernels():
    """The modules of the twins, None without Numba."""
    try:
        with loading:
            from ..kernels import bpe_count, bpe_train
            bpe_train.learn_merges(bpe_count.pieces_of({b"ab": 1}), 1)      # compiles it
        return bpe_count, bpe_train
    except ImportError:
        warnings.warn("Numba is not installed, so training runs in plain Python, many times slower: pip install numba",
                      stacklevel=4)
        return None


def _count_in_threads(texts, new_counter, threads, counting):
    """The Pieces of all texts. Each thread counts parts of them in a counter of its own."""
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with loading:
        counters = [new_counter() for _ in range(threads)]
    idle, waiting, done = list(counters), deque(), 0

    def count(part):
        counter = idle.pop()
        counter.count(part)
        idle.append(counter)
        return sum(map(len, part))

    with ThreadPoolExecutor(threads) as pool:
        for part in divided(((0, text, False) for text in texts), PART):
            waiting.append(pool.submit(count, [text.encode("utf-8") for text, _ in part]))
            if len(waiting) > 2 * threads:      # enough to do: no further texts are read until something is done
                done += waiting.popleft().result()
                if counting:
                    counting(done)
        for future in waiting:
            done += future.result()
    if counting:
        counting(done)
    for counter in counters[1:]:
        counters[0].absorb(counter)
    return counters[0].pieces()


def _reported(texts, counting):
    done = 0
    for text in texts:
        yield text
        if counting:
            done += len(text) if text.isascii() else len(text.encode("utf-8"))
            counting(done)
