"""Fused twin of numpyllm.ops.rmsnorm: one pass over each row, which stays in the cache between its sums."""

import numpy as np

from .. import ops as text
from ..ops import RMSNormCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, rows, target, writable_rows
from ._jit import jit


@jit
def _normalise(y, rstd, x, w, eps):
    N, C = x.shape
    real = x.dtype.type
    inverse = real(1) / real(C)
    for n in range(N):
        squares = real(0)
        for i in range(C):
            squares += x[n, i] * x[n, i]                        # (1)
        r = real(1) / np.sqrt(squares * inverse + eps)          # (2)
        for i in range(C):
            y[n, i] = x[n, i] * r * w[i]                        # (3)
        rstd[n, 0] = r


@jit
def _normalise_backward(dx, dw, ds, dy, x, w, rstd):
    """dx = ds + the gradient of x; ds may be dx itself, or zeros of shape (1, C) that stand for all rows."""
    N, C = x.shape
    real = x.dtype.type
    inverse = real(1) / real(C)
    dw[:] = real(0)
    step = 0 if ds.shape[0] == 1 else 1
    for n in range(N):
        r = rstd[n, 0]
        mean_dn_n = real(0)
        for i in range(C):
            normal = x[n, i] * r
            mean_dn_n += dy[n, i] * w[i] * normal
            dw[i] += dy[n, i] * normal                          # (3)
        mean_dn_n *= inverse
        for i in range(C):
            dx[n, i] = ds[n * step, i] + r * (dy[n, i] * w[i] - x[n, i] * r * mean_dn_n)        # (3) (2) (1)


def rmsnorm_forward(x, w, *, eps=1e-5):
    if any_complex(x, w):
        return text.rmsnorm_forward(x, w, eps=eps)
    x = np.ascontiguousarray(x)
    y, rstd = empty(x.shape, x.dtype), empty((*x.shape[:-1], 1), x.dtype)
    _normalise(writable_rows(y), writable_rows(rstd), rows(x), w, x.dtype.type(eps))
    return y, RMSNormCache(x, w, rstd)


def rmsnorm_backward(dy, cache, *, out=None):
    nothing = np.zeros((1, dy.shape[-1]), dy.dtype)
    return deliver(_backward(nothing, dy, cache, out), out)


def residual_rmsnorm_forward(x, r, w, *, eps=1e-5):
    if any_complex(x, r, w):
        return text.residual_rmsnorm_forward(x, r, w, eps=eps)
    s = np.add(x, r, out=empty(x.shape, x.dtype))
    y, cache = rmsnorm_forward(s, w, eps=eps)
    return s, y, cache


def residual_rmsnorm_backward(ds, dy, cache, *, out=None):
    dx, dw = _backward(rows(ds), dy, cache, out and (out[0], out[2]))
    return deliver((dx, dx, dw), out)


def _backward(ds, dy, cache, out):
    x, w, rstd = cache
    dx, dw = target(out, 0, like=dy), target(out, 1, like=w)
    _normalise_backward(writable_rows(dx), dw, ds, rows(dy), rows(x), w, rows(rstd))
    return dx, dw
