"""Twin of numpyllm.ops.embedding: rows are gathered and scattered in one pass, positions added on the way."""

import numpy as np

from .. import ops as text
from ..ops import EmbeddingCache, TokenPositionCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, target
from ._jit import jit


@jit
def _gather(y, ids, wte, wpe, start):
    B, T, C = y.shape
    for b in range(B):
        for t in range(T):
            i = ids[b, t]
            for c in range(C):
                y[b, t, c] = wte[i, c] + wpe[start + t, c]


@jit
def _scatter(dwte, dwpe, dy, ids, start):
    B, T, C = dy.shape
    real = dy.dtype.type
    dwpe[:] = real(0)
    for b in range(B):
        for t in range(T):
            i = ids[b, t]
            for c in range(C):
                dwte[i, c] += dy[b, t, c]
                dwpe[start + t, c] += dy[b, t, c]


@jit
def _scatter_rows(dw, dy, ids):
    B, T, C = dy.shape
    for b in range(B):
        for t in range(T):
            i = ids[b, t]
            for c in range(C):
                dw[i, c] += dy[b, t, c]


def embedding_backward(dy, cache, *, out=None, add=False):
    ids, n_rows = cache
    if ids.ndim != 2:
        return text.embedding_backward(dy, cache, out=out, add=add)
    dw = target(out, 0, like=dy, shape=(n_rows, dy.shape[-1]), strided=True)
    if not add:
        dw[...] = 0
    _scatter_rows(dw, np.ascontiguousarray(dy), ids)
    return deliver((dw,), out)


def token_position_forward(ids, wte, wpe, *, start=0, positions=None):
    if any_complex(wte, wpe) or positions is not None:
        return text.token_position_forward(ids, wte, wpe, start=start, positions=positions)
    y = empty((*ids.shape, wte.shape[1]), wte.dtype)
    _gather(y, ids, wte, wpe, start)
    return y, TokenPositionCache(EmbeddingCache(ids, wte.shape[0]), start, None, wpe.shape[0])


def token_position_backward(dy, cache, *, out=None, add=False):
    (ids, n_rows), start, positions, n_positions = cache
    C = dy.shape[-1]
    if positions is not None:
        dwte = embedding_backward(dy, cache.token, out=out and out[:1], add=add)
        return dwte, embedding_backward(dy, EmbeddingCache(positions, n_positions), out=out and out[1:])
    dwte = target(out, 0, like=dy, shape=(n_rows, C), strided=True)
    dwpe = target(out, 1, like=dy, shape=(n_positions, C))
    if not add:
        dwte[...] = 0
    _scatter(dwte, dwpe, np.ascontiguousarray(dy), ids, start)
    return deliver((dwte, dwpe), out)
