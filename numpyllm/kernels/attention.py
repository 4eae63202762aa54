"""Twin of numpyllm.ops.attention: one block of queries of one head at a time, whose scores never leave the cache.

Only keys that some query of the block sees are multiplied. With one interval a query they lie side by side: all keys and values
of a head are copied once into panels (matmul.py), of which a block takes its part, and each tile of its rows what these see.
With several intervals they are gathered for each block. Dropout on the probabilities, ALiBi and caps are left to the text.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..ops import AttentionCache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, target
from ._jit import jit, jit_any_layout
from ._math import exp, maximum
from ._seen import ROUND, bounds_of, gather, hide, hull, key_parts, whole_vectors
from .matmul import ROWS, WIDTH, address, copy_panel, pack, panel_bytes, panels_at, panels_for, times_panel

QUERIES = 32                # queries in a block
TILES = -(-QUERIES // ROWS)


@jit
def _corner(x, b, t, h):
    """The address of entry (b, t, h, 0)."""
    return address(x) + b * x.strides[0] + t * x.strides[1] + h * x.strides[2]


@jit
def _times_keys(real, size, scores, pitch, a, a_row, panels, tiles, Q, K, D):
    """scores (Q, K) = a (Q, D) keys^T, in panels that are seen; in others they stay as they are."""
    wide = 2 * WIDTH // size
    for j in range(0, K, wide):
        for n in range(-(-Q // ROWS)):
            if tiles[n, 0] < j + wide and tiles[n, 1] > j:
                i = n * ROWS
                times_panel(real, size, scores + size * (i * pitch + j), pitch, 0, 0, a + size * i * a_row, a_row, 1,
                            panels, min(ROWS, Q - i), min(wide, K - j), D)
        panels += panel_bytes(D, size)


@jit
def _over_keys(real, size, c, c_row, P, pitch, panels, apart, tiles, Q, D):
    """c (Q, D) = P (Q, K) b over the keys that are seen. panels: of b (K, D), from its first row on, so many bytes apart."""
    wide = 2 * WIDTH // size
    for j in range(0, D, wide):
        for n in range(-(-Q // ROWS)):
            i, low = n * ROWS, tiles[n, 0]
            times_panel(real, size, c + size * (i * c_row + j), c_row, 0, 0, P + size * (i * pitch + low), pitch, 1,
                        panels + low * 2 * WIDTH, min(ROWS, Q - i), min(wide, D - j), tiles[n, 1] - low)
        panels += apart


@jit
def _over_queries(real, size, c, c_row, P, pitch, a, a_row, panel, parts, n, Q, D):
    """c (K, D) = P^T (K, Q) a (Q, D), or added to it, part by part."""
    wide = 2 * WIDTH // size
    for j in range(0, D, wide):
        copy_panel(real, size, panel, a + size * j, a_row, 1, min(wide, D - j), Q)
        for m in range(n):
            key, stop, i, end, add = parts[m, 0], parts[m, 1], parts[m, 2], parts[m, 3], parts[m, 4]
            to = c + size * (key * c_row + j)
            times_panel(real, size, to, c_row, to if add else 0, c_row, P + size * (key + i * pitch), 1, pitch,
                        panel + i * 2 * WIDTH, stop - key, min(wide, D - j), end - i)


class Scratch(NamedTuple):
    """Memory of one call, for blocks of Q queries, S keys at most."""

    scores: np.ndarray          # of a block, then their probabilities: rows as far apart as the block needs, and a line of memory
    dP: np.ndarray              # the same, backward only
    k_columns: np.ndarray       # panels of k^T of one head, or of the keys that are gathered for a block
    v_columns: np.ndarray       # panels of v^T, backward only
    rows: np.ndarray            # panels of v (forward) or k (backward)
    panel: np.ndarray           # one over Q, backward only
    bounds: np.ndarray          # (Q, 2)
    tiles: np.ndarray           # (TILES, 2)
    parts: np.ndarray           # (n, 5)
    gathered: np.ndarray        # (4, S, D) k, v, dk, dv; of several intervals only, as what follows
    keys: np.ndarray            # (S)
    place: np.ndarray           # (S)
    seen: np.ndarray            # (S)


@jit
def _look(scratch, k, v, b, g, of, first, Q, origin, backward):
    """Which keys a block sees, its bounds and tiles; of several intervals a query, gather and pack them -> low, K."""
    S, size = k.shape[1], k.itemsize
    bounds, tiles = scratch.bounds, scratch.tiles
    if of.shape[1] == 1:
        low, high = hull(of, first, first + Q, S)
        if low == high:
            return low, 0
        low -= (low - origin) % (2 * WIDTH // size)     # where a panel begins
        bounds_of(bounds, tiles, of, first, Q, low, high - low)
        return low, high - low
    K = gather(scratch.keys, scratch.place, of, first, first + Q, S)
    bounds[:, 0], bounds[:, 1], tiles[:, 0], tiles[:, 1] = 0, K, 0, K
    near = scratch.gathered
    for n in range(K):
        near[0, n], near[1, n] = k[b, scratch.keys[n], g], v[b, scratch.keys[n], g]
    if K > 0:
        _pack(scratch, near[0, :K], near[1, :K], backward)
    return origin, K


@jit
def _pack(scratch, k, v, backward):
    """Panels of k and v (K, D)."""
    pack(scratch.k_columns, k.T)
    if backward:
        pack(scratch.v_columns, v.T)
        pack(scratch.rows, k)
    else:
        pack(scratch.rows, v)


@jit_any_layout(strided="q k v spans", written="y lse")
def _forward(scratch, y, lse, q, k, v, spans, scale):
    """spans (1 or B, T, M, 2)."""
    scores, bounds, tiles = scratch.scores, scratch.bounds, scratch.tiles
    B, T, H, D = q.shape
    S, size, group = k.shape[1], q.itemsize, H // k.shape[2]
    q_row, y_row = q.strides[1] // size, y.strides[1] // size
    real = q.dtype.type
    number, nothing = real(0), -real(np.inf)
    P_ = address(scores)
    for b in range(B):
        of = spans[b if spans.shape[0] > 1 else 0]
        several = of.shape[1] > 1
        origin, last = hull(of, 0, T, S)
        for h in range(H):
            g = h // group
            if h % group == 0 and not several and last > origin:
                _pack(scratch, k[b, origin:last, g], v[b, origin:last, g], False)
            for first in range(0, T, QUERIES):
                Q = min(T - first, QUERIES)
                low, K = _look(scratch, k, v, b, g, of, first, Q, origin, False)
                if K == 0:
                    y[b, first:first + Q, h] = number
                    lse[b, h, first:first + Q] = nothing
                    continue
                W = -(-K // ROUND) * ROUND
                pitch = W + WIDTH // size
                columns = panels_at(scratch.k_columns) + (low - origin) * size // (2 * WIDTH) * panel_bytes(D, size)
                _times_keys(number, size, P_, pitch, _corner(q, b, first, h), q_row, columns, tiles, Q, K, D)       # (1)
                for i in range(Q):                                                                  # (2) (3)
                    row = scores[i * pitch:i * pitch + W]
                    start, end = bounds[i, 0], bounds[i, 1]
                    if several:
                        hide(row[:K], scratch.seen, scratch.place, of[first + i], S)
                    top = nothing
                    for j in range(start, end):
                        top = maximum(top, row[j])
                    if top == nothing:
                        row[:] = number
                        lse[b, h, first + i] = nothing
                        continue
                    at, stop = whole_vectors(row, start, end)
                    row, start, end = row[at:stop], start - at, end - at
                    total = number
                    for j in range(row.size):
                        e = exp((row[j] - top) * scale) if start <= j < end else number
                        row[j] = e
                        total += e
                    share = real(1) / total
                    for j in range(row.size):
                        row[j] *= share
                    lse[b, h, first + i] = top * scale + np.log(total)
                _over_keys(number, size, _corner(y, b, first, h), y_row, P_, pitch, panels_at(scratch.rows) + (low - origin) * 2 * WIDTH,
                           panel_bytes(K if several else last - origin, size), tiles, Q, D)         # (5)


@jit_any_layout(strided="q k v spans dq dk dv", written="dq dk dv")
def _backward(scratch, dq, dk, dv, dy, q, k, v, y, lse, spans, scale):
    """Probabilities are recomputed from the scores and each row's log-sum-exp."""
    scores, dP, bounds, tiles, near = scratch.scores, scratch.dP, scratch.bounds, scratch.tiles, scratch.gathered
    B, T, H, D = q.shape
    S, size, group = k.shape[1], q.itemsize, H // k.shape[2]
    q_row, dy_row, dq_row = q.strides[1] // size, dy.strides[1] // size, dq.strides[1] // size
    real = q.dtype.type
    number, nothing = real(0), -real(np.inf)
    P_, dP_ = address(scores), address(dP)
    panel = panels_at(scratch.panel)
    known_low, known_high = 0, 0                        # keys of this head that have got a gradient, to which others add
    for b in range(B):
        of = spans[b if spans.shape[0] > 1 else 0]
        several = of.shape[1] > 1
        origin, last = hull(of, 0, T, S)
        for h in range(H):
            g = h // group
            if h % group == 0:
                known_low, known_high = 0, 0
                if several:
                    dk[b, :, g] = number
                    dv[b, :, g] = number
                elif last > origin:
                    _pack(scratch, k[b, origin:last, g], v[b, origin:last, g], True)
            for first in range((T - 1) // QUERIES * QUERIES, -1, -QUERIES):     # the last see most keys: others then add to theirs
                Q = min(T - first, QUERIES)
                low, K = _look(scratch, k, v, b, g, of, first, Q, origin, True)
                if K == 0:
                    dq[b, first:first + Q, h] = number
                    continue
                q_, dy_ = _corner(q, b, first, h), _corner(dy, b, first, h)
                W = -(-K // ROUND) * ROUND
                pitch = W + WIDTH // size
                columns = (low - origin) * size // (2 * WIDTH) * panel_bytes(D, size)
                _times_keys(number, size, P_, pitch, q_, q_row, panels_at(scratch.k_columns) + columns, tiles, Q, K, D)     # (1) again
                _times_keys(number, size, dP_, pitch, dy_, dy_row, panels_at(scratch.v_columns) + columns, tiles, Q, K, D)  # (5)
                for i in range(Q):                                                                                  # (3) (2)
                    row, drow = scores[i * pitch:i * pitch + W], dP[i * pitch:i * pitch + W]
                    start, end = bounds[i, 0], bounds[i, 1]
                    if several:
                        hide(row[:K], scratch.seen, scratch.place, of[first + i], S)
                    norm = lse[b, h, first + i]
                    if norm == nothing:
                        start, end = 0, 0
                    mean = number
                    for c in range(D):
                        mean += dy[b, first + i, h, c] * y[b, first + i, h, c]
                    at, stop = whole_vectors(row, start, end)
                    whole_vectors(drow, start, end)
                    row, drow, start, end = row[at:stop], drow[at:stop], start - at, end - at
                    for j in range(row.size):
                        seen = start <= j < end
                        p = exp(row[j] * scale - norm) if seen else number
                        row[j] = p
                        drow[j] = p * (drow[j] - mean) * scale if seen else number
                _over_keys(number, size, _corner(dq, b, first, h), dq_row, dP_, pitch, panels_at(scratch.rows) + (low - origin) * 2 * WIDTH,
                           panel_bytes(K if several else last - origin, size), tiles, Q, D)                         # (1)
                if several:
                    n = key_parts(scratch.parts, bounds, Q, K, 0, 0)
                    _over_queries(number, size, address(near[3]), D, P_, pitch, dy_, dy_row, panel, scratch.parts, n, Q, D)     # (5)
                    _over_queries(number, size, address(near[2]), D, dP_, pitch, q_, q_row, panel, scratch.parts, n, Q, D)      # (1)
                    for n in range(K):
                        s = scratch.keys[n]
                        for c in range(D):
                            dk[b, s, g, c] += near[2, n, c]
                            dv[b, s, g, c] += near[3, n, c]
                    continue
                if known_low == known_high:
                    known_low, known_high = low, low
                for s in range(known_high, low):                                # keys between that nobody sees
                    dk[b, s, g], dv[b, s, g] = number, number
                for s in range(low + K, known_low):
                    dk[b, s, g], dv[b, s, g] = number, number
                n = key_parts(scratch.parts, bounds, Q, K, known_low - low, known_high - low)
                _over_queries(number, size, _corner(dv, b, low, g), dv.strides[1] // size, P_, pitch, dy_, dy_row, panel, scratch.parts,
                              n, Q, D)                                                                              # (5)
                _over_queries(number, size, _corner(dk, b, low, g), dk.strides[1] // size, dP_, pitch, q_, q_row, panel, scratch.parts,
                              n, Q, D)                                                                              # (1)
                known_low, known_high = min(low, known_low), max(low + K, known_high)
            if h % group == group - 1 and not several:
                dk[b, :known_low, g] = number
                dv[b, :known_low, g] = number
                dk[b, known_high:, g] = number
                dv[b, known_high:, g] = number


def _as_array(spans, T, S):
    """Spans as (1 or B, T, M, 2); None: one interval of all keys."""
    return np.tile(np.array([0, S]), (1, T, 1, 1)) if spans is None else spans if spans.ndim == 4 else spans[None]


def _scratch(spans, T, S, D, dtype, backward):
    rows, pitch, several = min(T, QUERIES), -(-S // ROUND) * ROUND + WIDTH // dtype.itemsize, spans.shape[2] > 1
    nothing = empty((0,), dtype)
    whole = lambda *shape: empty(shape, np.dtype(np.int64))
    return Scratch(empty((rows * pitch,), dtype), empty((rows * pitch if backward else 0,), dtype), panels_for(D, S, dtype),
                   panels_for(D, S, dtype) if backward else nothing, panels_for(S, D, dtype),
                   panels_for(rows, WIDTH // dtype.itemsize, dtype) if backward else nothing,
                   whole(rows, 2), whole(TILES, 2), whole(-(-S // 4) + 8 if backward else 0, 5),
                   empty((4 if backward else 2, S, D) if several else (0, 0, 0), dtype), *(whole(S if several else 0) for _ in range(2)),
                   empty((S if several else 0,), np.dtype(np.uint8)))


def _rowwise(x):
    """x with the entries of its last axis next to each other."""
    return x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)


def attention_forward(q, k, v, spans=None, *, keep=None, p=0.0, slopes=None, softcap=0.0):
    if keep is not None or slopes is not None or softcap or any_complex(q, k, v):
        return text.attention_forward(q, k, v, spans, keep=keep, p=p, slopes=slopes, softcap=softcap)
    B, T, H, D = q.shape
    S = k.shape[1]
    y, lse = empty((B, T, H, D), q.dtype), empty((B, H, T), q.dtype)
    intervals = _as_array(spans, T, S)
    height = mark()
    _forward(_scratch(intervals, T, S, D, q.dtype, False), y, lse, _rowwise(q), _rowwise(k), _rowwise(v), intervals,
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
    intervals = _as_array(spans, T, S)
    height = mark()
    _backward(_scratch(intervals, T, S, D, q.dtype, True), dq, dk, dv, np.ascontiguousarray(dy), _rowwise(q), _rowwise(k), _rowwise(v), y, lse,
              intervals, q.dtype.type(1 / math.sqrt(D)))
    release(height)
    return deliver((dq, dk, dv), out)
