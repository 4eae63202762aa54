"""Twin of numpyllm.ops.attention: BLAS products over blocks of queries, and one pass over each block for the softmax.

Only the keys that some query of the block sees are multiplied: below the diagonal of a causal mask, within its spans in
general. A block's scores stay in the cache between the products. Dropout on the probabilities is left to the text.
"""

import math

import numpy as np

from .. import ops as text
from ..ops import AttentionCache
from ..workspace import empty, mark, release
from ._arrays import any_complex, target
from ._jit import jit
from ._math import exp

QUERIES = 64                # queries in a block
SCORES = 1 << 17            # scores that a block of queries and sequences may have, about: they should stay in the cache


@jit
def _hide_gaps(row, spans, low):
    """Put -inf between a query's intervals, so that exp makes 0 of it. row[0] is key `low`; spans (M, 2) ascend."""
    end = 0
    for m in range(spans.shape[0]):
        start, stop = max(spans[m, 0] - low, end), min(spans[m, 1] - low, row.size)
        if stop > start:
            row[end:start] = -np.inf
            end = stop
    row[end:] = -np.inf


@jit
def _softmax(s, lse, spans, first, low):
    """Scores (B, H, Q, K) to probabilities, in place, and their log-sum-exp. spans (1 or B, T, M, 2).

    Most loops run over whole rows, hidden keys and all: that is faster than to stop at each row's own length.
    """
    B, H, Q, K = s.shape
    M = spans.shape[2]
    real = s.dtype.type
    nothing = -real(np.inf)
    for b in range(B):
        of = b if spans.shape[0] > 1 else 0
        for h in range(H):
            for i in range(Q):
                row = s[b, h, i]
                start, stop = max(spans[of, first + i, 0, 0] - low, 0), min(spans[of, first + i, M - 1, 1] - low, K)
                if M > 1:
                    _hide_gaps(row, spans[of, first + i], low)
                    start, stop = 0, K
                top = nothing
                for j in range(start, stop):
                    top = max(top, row[j])
                if top == nothing:
                    row[:] = real(0)
                    lse[b, h, first + i] = nothing
                    continue
                total = real(0)
                for j in range(K):
                    e = exp(row[j] - top) if start <= j < stop else real(0)
                    row[j] = e
                    total += e
                share = real(1) / total
                for j in range(K):
                    row[j] *= share
                lse[b, h, first + i] = top + np.log(total)


@jit
def _softmax_backward(s, dP, dot, lse, spans, first, low, scale):
    """Products q k^T to probabilities again (in s), and dP to the gradient of q k^T (in dP)."""
    B, H, Q, K = s.shape
    M = spans.shape[2]
    real = s.dtype.type
    nothing = -real(np.inf)
    for b in range(B):
        of = b if spans.shape[0] > 1 else 0
        for h in range(H):
            for i in range(Q):
                row, drow = s[b, h, i], dP[b, h, i]
                start, stop = max(spans[of, first + i, 0, 0] - low, 0), min(spans[of, first + i, M - 1, 1] - low, K)
                if M > 1:
                    _hide_gaps(row, spans[of, first + i], low)
                    start, stop = 0, K
                norm, mean = lse[b, h, first + i], dot[b, h, i]
                if norm == nothing:
                    start, stop = 0, 0
                for j in range(K):
                    p = exp(row[j] * scale - norm) if start <= j < stop else real(0)
                    row[j] = p
                    drow[j] = p * (drow[j] - mean) * scale


def _ordered_spans(spans, T, S):
    """Spans as (1 or B, T, M, 2) within [0, S], each query's in ascending order; None: one interval of all keys."""
    if spans is None:
        return np.broadcast_to(np.array([0, S]), (1, T, 1, 2)).copy()
    spans = np.clip(spans, 0, S).astype(np.int64)
    spans = spans if spans.ndim == 4 else spans[None]
    if spans.shape[2] > 1:
        spans = np.take_along_axis(spans, np.argsort(spans[..., :1], axis=2), axis=2)
    return np.ascontiguousarray(spans)


def _plan(spans, B, T, S, H):
    """-> blocks of work that together cover everything.

    A block is three slices, of sequences, queries and keys, and the ordered spans of its sequences; the last queries come
    first. Spans that cannot change (not writeable), as those of the layers, are planned once.
    """
    key = (id(spans), B, T, S, H)
    known, blocks = _PLANS.get(key, (None, None))
    if blocks is not None and known is spans:
        return blocks
    blocks = list(_blocks(B, T, H, _ordered_spans(spans, T, S)))
    if spans is None or not spans.flags.writeable:
        if len(_PLANS) >= 64:
            _PLANS.clear()
        _PLANS[key] = spans, blocks     # spans are kept, so that their id stays theirs
    return blocks


_PLANS = {}


def _blocks(B, T, H, spans):
    group = max(1, SCORES // (H * min(T, QUERIES) * max(1, int(spans[..., 1].max()))))
    for b in range(0, B, group):
        of = spans if spans.shape[0] == 1 else spans[b:b + group]
        for first in reversed(range(0, T, QUERIES)):
            block = of[:, first:first + QUERIES]
            some = block[..., 1] > block[..., 0]
            low, high = (int(block[..., 0][some].min()), int(block[..., 1][some].max())) if some.any() else (0, 0)
            yield slice(b, min(B, b + group)), slice(first, min(T, first + QUERIES)), slice(low, high), of


def _heads_first(a):
    return a.transpose(0, 2, 1, 3)


def _transposed(a):
    """(B, S, H, D) -> (B, H, D, S), copied: small products with a transposed right factor are a third slower than the copy."""
    B, S, H, D = a.shape
    turned = empty((B, H, D, S), a.dtype)
    np.copyto(turned, a.transpose(0, 2, 3, 1))
    return turned


def attention_forward(q, k, v, spans=None, *, keep=None, p=0.0):
    if keep is not None or any_complex(q, k, v):
        return text.attention_forward(q, k, v, spans, keep=keep, p=p)
    B, T, H, D = q.shape
    y, lse = empty((B, T, H, D), q.dtype), empty((B, H, T), q.dtype)
    blocks = _plan(spans, B, T, k.shape[1], H)
    v_, y_ = _heads_first(v), _heads_first(y)
    before = mark()
    scaled = np.multiply(q, 1 / math.sqrt(D), out=empty(q.shape, q.dtype))
    scaled, k_ = _heads_first(scaled), _transposed(k)
    for b, t, s, of in blocks:
        height = mark()
        scores = empty((b.stop - b.start, H, t.stop - t.start, s.stop - s.start), q.dtype)
        np.matmul(scaled[b, :, t], k_[b, :, :, s], out=scores)                          # (1)
        _softmax(scores, lse[b], of, t.start, s.start)                                  # (2) (3)
        np.matmul(scores, v_[b, :, s], out=y_[b, :, t])                                 # (5)
        release(height)
    release(before)
    return y, AttentionCache(q, k, v, y, lse, spans, None, 0.0)


def attention_backward(dy, cache, *, out=None):
    q, k, v, y, lse, spans, keep, p = cache
    if keep is not None:
        return text.attention_backward(dy, cache, out=out)
    B, T, H, D = q.shape
    S = k.shape[1]
    scale = 1 / math.sqrt(D)
    dq, dk, dv = (target(out, i, like=a, strided=True) for i, a in enumerate((q, k, v)))
    blocks = _plan(spans, B, T, S, H)
    q_, k_, y_, dy_, dq_, dk_, dv_ = (_heads_first(a) for a in (q, k, y, dy, dq, dk, dv))
    before = mark()
    k_turned, v_turned = _transposed(k), _transposed(v)
    for b, t, s, of in blocks:
        height = mark()
        shape = (b.stop - b.start, H, t.stop - t.start, s.stop - s.start)
        scores, dP = empty(shape, q.dtype), empty(shape, q.dtype)
        dot = np.einsum("bhqd,bhqd->bhq", dy_[b, :, t], y_[b, :, t])
        np.matmul(q_[b, :, t], k_turned[b, :, :, s], out=scores)                        # recomputed: (1) (3)
        np.matmul(dy_[b, :, t], v_turned[b, :, :, s], out=dP)                           # (5)
        _softmax_backward(scores, dP, dot, lse[b], of, t.start, s.start, q.dtype.type(scale))   # (3) (2)
        np.matmul(dP, k_[b, :, s], out=dq_[b, :, t])                                    # (1)
        if t.stop == T and (s.start, s.stop) == (0, S):     # the first block of these sequences, and it sees all keys
            np.matmul(scores.swapaxes(-1, -2), dy_[b, :, t], out=dv_[b])                # (5)
            np.matmul(dP.swapaxes(-1, -2), q_[b, :, t], out=dk_[b])                     # (1)
        else:
            if t.stop == T:
                dk[b], dv[b] = 0, 0
            part = empty((b.stop - b.start, H, s.stop - s.start, D), q.dtype)
            dv_[b, :, s] += np.matmul(scores.swapaxes(-1, -2), dy_[b, :, t], out=part)  # (5)
            dk_[b, :, s] += np.matmul(dP.swapaxes(-1, -2), q_[b, :, t], out=part)       # (1)
        release(height)
    release(before)
    return dq, dk, dv
