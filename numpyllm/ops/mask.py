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
