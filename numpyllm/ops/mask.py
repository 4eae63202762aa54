"""Which keys a query may see, as spans: for each query a few half-open intervals [start, stop) of keys.

Shapes: spans (T, M, 2) integers, M intervals a query, or (B, T, M, 2) where sequences differ. An interval with
start >= stop is empty; where intervals overlap, a key counts once. Spans cost O(T) where a dense mask
costs O(T S), and say how much work there is to do.
"""

import numpy as np


def causal_spans(T, S=None):
    """Query t of T, the last T of S positions (default S = T), sees keys 0 .. S - T + t -> spans (T, 1, 2)."""
    S = T if S is None else S
    spans = np.zeros((T, 1, 2), np.int64)
    spans[:, 0, 1] = np.arange(S - T + 1, S + 1)
    return spans


def window_spans(T, S=None, *, window):
    """As causal_spans, but a query sees no more than the last `window` keys, its own among them (Beltagy et al. 2020)."""
    spans = causal_spans(T, S)
    spans[:, 0, 0] = np.maximum(spans[:, 0, 1] - window, 0)
    return spans


def strided_spans(T, S=None, *, stride):
    """The strided pattern of Child et al. 2019, section 4.2: the last `stride` keys, and before them every stride-th one.

    -> spans (T, 1 + number of the latter, 2). Both heads of the paper's factorisation at once.
    """
    near = window_spans(T, S, window=stride)
    last = near[:, 0, 1, None] - 1                                          # the query's own position, (T, 1)
    single = last - stride * np.arange(1, (int(last.max()) // stride if T else 0) + 1)
    return _with_single_keys(near, single, single >= 0)


def fixed_spans(T, S=None, *, stride):
    """The fixed pattern of the same paper, with c = 1: the query's own block of `stride` keys up to itself, and the last key of
    every block before -> spans (T, 1 + blocks, 2)."""
    near = causal_spans(T, S)
    last = near[:, 0, 1, None] - 1
    near[:, 0, 0] = (last // stride * stride)[:, 0]
    ends = stride * np.arange(1, (int(last.max()) // stride if T else 0) + 1) - 1
    return _with_single_keys(near, np.broadcast_to(ends, (T, len(ends))), ends < near[:, :1, 0])


def prefix_spans(T, S=None, *, prefix):
    """As causal_spans, but all see the first `prefix` keys, which so see each other (Raffel et al. 2020, section 3.2.1)."""
    spans = causal_spans(T, S)
    spans[:, 0, 1] = np.maximum(spans[:, 0, 1], min(prefix, T if S is None else S))
    return spans


def _with_single_keys(spans, keys, valid):
    """spans (T, 1, 2), keys (T, n) of which some are valid -> spans (T, 1 + n, 2)."""
    single = np.where(valid[..., None], np.stack([keys, keys + 1], axis=-1), 0)
    return np.concatenate([spans, single], axis=1)


def padding_spans(lengths, T):
    """Each of T queries sees the keys before its sequence's padding: lengths (B), the keys that are none -> (B, T, 1, 2)."""
    spans = np.zeros((len(lengths), T, 1, 2), np.int64)
    spans[..., 1] = np.asarray(lengths)[:, None, None]
    return spans


def dense_mask(spans, S):
    """spans (..., T, M, 2) -> boolean (..., T, S): True where key s lies in one of the query's intervals."""
    keys = np.arange(S)
    start, stop = spans[..., 0, None], spans[..., 1, None]      # (..., T, M, 1)
    return ((start <= keys) & (keys < stop)).any(axis=-2)
