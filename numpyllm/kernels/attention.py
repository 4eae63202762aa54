"""Twin of numpyllm.ops.attention: one block of queries of one head at a time, whose scores never leave the cache.

Only the keys that some query of the block sees are multiplied: below the diagonal of a causal mask, within its spans in
general. Dropout on the probabilities, ALiBi and caps are left to the text.
"""

import math

import numpy as np

from .. import ops as text
from ..ops import AttentionCache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, target
from ._jit import jit
from ._math import exp, maximum
from .matmul import WIDTH, address, product, scratch_for

QUERIES = 32                # queries in a block


@jit
def _seen(spans, first, stop, S):
    """The keys, low to high, that queries first to stop look at, at most. spans (T, M, 2)."""
    low, high = S, 0
    for t in range(first, stop):
        for m in range(spans.shape[1]):
            start, end = max(spans[t, m, 0], 0), min(spans[t, m, 1], S)
            if start < end:
                low, high = min(low, start), max(high, end)
    return min(low, high), high


@jit
def _hide(row, spans, low):
    """Put -inf where none of a query's intervals is, so that exp makes 0 of it. row[0] is key `low`; spans (M, 2)."""
    for j in range(row.size):
        seen = False
        for m in range(spans.shape[0]):
            seen = seen or spans[m, 0] <= low + j < spans[m, 1]
        if not seen:
            row[j] = -np.inf


@jit
def _interval(row, spans, low):
    """The entries of a row, start to stop, outside of which all are hidden. Several intervals hide their gaps themselves."""
    if spans.shape[0] > 1:
        _hide(row, spans, low)
        return 0, row.size
    return min(max(spans[0, 0] - low, 0), row.size), min(spans[0, 1] - low, row.size)


@jit
def _corner(x, b, t, h):
    """The address of entry (b, t, h, 0)."""
    return address(x) + b * x.strides[0] + t * x.strides[1] + h * x.strides[2]


@jit
def _forward(panel, scores, y, lse, q, k, v, spans, scale):
    """spans (1 or B, T, M, 2). Most loops run over whole rows, hidden keys and all: faster than to stop at each row's length."""
    B, T, H, D = q.shape
    S, size, group = k.shape[1], q.itemsize, H // k.shape[2]
    q_row, k_row, v_row, y_row = q.strides[1] // size, k.strides[1] // size, v.strides[1] // size, y.strides[1] // size
    real = q.dtype.type
    nothing = -real(np.inf)
    pitch = scores.shape[1]
    for b in range(B):
        of = spans[b if spans.shape[0] > 1 else 0]
        for h in range(H):
            for first in range(0, T, QUERIES):
                stop = min(T, first + QUERIES)
                low, high = _seen(of, first, stop, S)
                K = high - low
                if K > 0:
                    product(panel, address(scores), pitch, 0, 0, _corner(q, b, first, h), q_row, 1,
                            _corner(k, b, low, h // group), 1, k_row, stop - first, K, D)                    # (1)
                for i in range(stop - first):                                                       # (2) (3)
                    row = scores[i, :K]
                    start, end = _interval(row, of[first + i], low)
                    top = nothing
                    for j in range(start, end):
                        top = maximum(top, row[j])
                    if top == nothing:
                        row[:] = real(0)
                        lse[b, h, first + i] = nothing
                        continue
                    total = real(0)
                    for j in range(K):
                        e = exp((row[j] - top) * scale) if start <= j < end else real(0)
                        row[j] = e
                        total += e
                    share = real(1) / total
                    for j in range(K):
                        row[j] *= share
                    lse[b, h, first + i] = top * scale + np.log(total)
                if K > 0:
                    product(panel, _corner(y, b, first, h), y_row, 0, 0, address(scores), pitch, 1,
                            _corner(v, b, low, h // group), v_row, 1, stop - first, D, K)                    # (5)
                else:
                    y[b, first:stop, h] = real(0)


@jit
def _backward(panel, scores, dP, dq, dk, dv, dy, q, k, v, y, lse, spans, scale):
    """Probabilities are recomputed from the scores and each row's log-sum-exp."""
    B, T, H, D = q.shape
    S, size, group = k.shape[1], q.itemsize, H // k.shape[2]
    q_row, k_row, v_row, dy_row = q.strides[1] // size, k.strides[1] // size, v.strides[1] // size, dy.strides[1] // size
    dq_row, dk_row, dv_row = dq.strides[1] // size, dk.strides[1] // size, dv.strides[1] // size
    real = q.dtype.type
    nothing = -real(np.inf)
    pitch = scores.shape[1]
    for b in range(B):
        of = spans[b if spans.shape[0] > 1 else 0]
        for h in range(H):
            first = (T - 1) // QUERIES * QUERIES                            # the last block sees most keys: it writes dk
            low, high = _seen(of, first, T, S)                              # and dv, the others add
            g = h // group
            begun = h % group > 0 or not (low == 0 and high == S)           # something is there to add to
            if begun and h % group == 0:
                dk[b, :, g] = real(0)
                dv[b, :, g] = real(0)
            for first in range(first, -1, -QUERIES):
                stop = min(T, first + QUERIES)
                low, high = _seen(of, first, stop, S)
                K, Q = high - low, stop - first
                if K == 0:
                    dq[b, first:stop, h] = real(0)
                    continue
                q_, dy_ = _corner(q, b, first, h), _corner(dy, b, first, h)
                k_, dk_, dv_ = _corner(k, b, low, g), _corner(dk, b, low, g), _corner(dv, b, low, g)
                P_, dP_ = address(scores), address(dP)
                product(panel, P_, pitch, 0, 0, q_, q_row, 1, k_, 1, k_row, Q, K, D)                        # (1) again
                product(panel, dP_, pitch, 0, 0, dy_, dy_row, 1, _corner(v, b, low, g), 1, v_row, Q, K, D)  # (5)
                for i in range(Q):                                                                          # (3) (2)
                    row, drow = scores[i, :K], dP[i, :K]
                    start, end = _interval(row, of[first + i], low)
                    norm = lse[b, h, first + i]
                    if norm == nothing:
                        start, end = 0, 0
                    mean = real(0)
                    for c in range(D):
                        mean += dy[b, first + i, h, c] * y[b, first + i, h, c]
                    for j in range(K):
                        p = exp(row[j] * scale - norm) if start <= j < end else real(0)
                        row[j] = p
                        drow[j] = p * (drow[j] - mean) * scale
                add = stop < T or begun
                product(panel, dv_, dv_row, dv_ if add else 0, dv_row, P_, 1, pitch, dy_, dy_row, 1, K, D, Q)   # (5)
                product(panel, _corner(dq, b, first, h), dq_row, 0, 0, dP_, pitch, 1, k_, k_row, 1, Q, D, K)    # (1)
                product(panel, dk_, dk_row, dk_ if add else 0, dk_row, dP_, 1, pitch, q_, q_row, 1, K, D, Q)    # (1)


def _as_array(spans, T, S):
    """Spans as (1 or B, T, M, 2); None: one interval of all keys."""
    if spans is None:
        return np.broadcast_to(np.array([0, S]), (1, T, 1, 2))
    return spans if spans.ndim == 4 else spans[None]


def _scratch(n, T, S, D, dtype):
    """Room for the panel of a product, and for n blocks of scores."""
    pitch = -(-S * dtype.itemsize // WIDTH) * WIDTH // dtype.itemsize
    rows = min(T, QUERIES)
    return scratch_for(max(S, D, rows), dtype), *(empty((rows, pitch), dtype) for _ in range(n))


def _rowwise(x):
    """x with the entries of its last axis next to each other."""
    return x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)


def attention_forward(q, k, v, spans=None, *, keep=None, p=0.0, slopes=None, softcap=0.0):
    if keep is not None or slopes is not None or softcap or any_complex(q, k, v):
        return text.attention_forward(q, k, v, spans, keep=keep, p=p, slopes=slopes, softcap=softcap)
    B, T, H, D = q.shape
    S = k.shape[1]
    y, lse = empty((B, T, H, D), q.dtype), empty((B, H, T), q.dtype)
    height = mark()
    _forward(*_scratch(1, T, S, D, q.dtype), y, lse, _rowwise(q), _rowwise(k), _rowwise(v), _as_array(spans, T, S),
             q.dtype.type(1 / math.sqrt(D)))
    release(height)
    return y, AttentionCache(q, k, v, y, lse, spans, None, 0.0)


def attention_backward(dy, cache, *, out=None):
    q, k, v, y, lse, spans, keep, _, slopes, softcap = cache
    if keep is not None or slopes is not None or softcap:
        return text.attention_backward(dy, cache, out=out)
    B, T, H, D = q.shape
    S = k.shape[1]
    places = out and tuple(g if g is not None and g.strides[-1] == g.itemsize else None for g in out)
    dq, dk, dv = (target(places, i, like=a, strided=True) for i, a in enumerate((q, k, v)))
    height = mark()
    _backward(*_scratch(2, T, S, D, q.dtype), dq, dk, dv, _rowwise(dy), _rowwise(q), _rowwise(k), _rowwise(v), y, lse,
              _as_array(spans, T, S), q.dtype.type(1 / math.sqrt(D)))
    release(height)
    return deliver((dq, dk, dv), out)
