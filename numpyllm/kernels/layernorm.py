"""Fused twin of numpyllm.ops.layernorm: one pass over each row, which stays in the cache between its sums."""

import numpy as np

from .. import ops as text
from ..ops import LayerNormCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, rows, target, writable_rows
from ._jit import jit


@jit
def _normalise(y, mean, rstd, x, w, b, eps):
    N, C = x.shape
    real = x.dtype.type
    inverse = real(1) / real(C)
    for n in range(N):
        total = real(0)
        for i in range(C):
            total += x[n, i]
        mu = total * inverse                                # (1)
        squares = real(0)
        for i in range(C):
            centred = x[n, i] - mu                          # (2)
            squares += centred * centred                    # (3)
        r = real(1) / np.sqrt(squares * inverse + eps)      # (4)
        for i in range(C):
            y[n, i] = (x[n, i] - mu) * r * w[i] + b[i]      # (5) (6)
        mean[n, 0] = mu
        rstd[n, 0] = r


@jit
def _normalise_backward(dx, dw, db, ds, dy, x, w, mean, rstd):
    """dx = ds + the gradient of x; ds may be dx itself, or zeros of shape (1, C) that stand for all rows."""
    N, C = x.shape
    real = x.dtype.type
    inverse = real(1) / real(C)
    dw[:] = real(0)
    db[:] = real(0)
    step = 0 if ds.shape[0] == 1 else 1
    for n in range(N):
        mu, r = mean[n, 0], rstd[n, 0]
        mean_dn, mean_dn_n = real(0), real(0)
        for i in range(C):
            normal = (x[n, i] - mu) * r
            dn = dy[n, i] * w[i]                            # (6)
            mean_dn += dn
            mean_dn_n += dn * normal
            dw[i] += dy[n, i] * normal                      # (6)
            db[i] += dy[n, i]                               # (6)
        mean_dn *= inverse
        mean_dn_n *= inverse
        for i in range(C):
            normal = (x[n, i] - mu) * r
            dx[n, i] = ds[n * step, i] + r * (dy[n, i] * w[i] - mean_dn - normal * mean_dn_n)      # (5) (4) (3) (2) (1)


def _zeros_or(b, w):
    return np.zeros_like(w) if b is None else b


def layernorm_forward(x, w, b=None, *, eps=1e-5):
    if any_complex(x, w, b):
        return text.layernorm_forward(x, w, b, eps=eps)
    y = empty(x.shape, x.dtype)
    mean, rstd = empty((*x.shape[:-1], 1), x.dtype), empty((*x.shape[:-1], 1), x.dtype)
    _normalise(writable_rows(y), writable_rows(mean), writable_rows(rstd), rows(x), w, _zeros_or(b, w), x.dtype.type(eps))
    return y, LayerNormCache(x, w, b, mean, rstd)


def layernorm_backward(dy, cache, *, out=None):
    nothing = np.zeros((1, dy.shape[-1]), dy.dtype)
    return deliver(_backward(nothing, dy, cache, out), out)


def residual_layernorm_forward(x, r, w, b=None, *, eps=1e-5):
    if any_complex(x, r, w, b):
        return text.residual_layernorm_forward(x, r, w, b, eps=eps)
    s = np.add(x, r, out=empty(x.shape, x.dtype))
    y, cache = layernorm_forward(s, w, b, eps=eps)
    return s, y, cache


def residual_layernorm_backward(ds, dy, cache, *, out=None):
    dx, dw, db = _backward(rows(ds), dy, cache, out and (out[0], *out[2:]))
    return deliver((dx, dx, dw, db), out)


def _backward(ds, dy, cache, out):
    x, w, b, mean, rstd = cache
    dx, dw, db = target(out, 0, like=dy), target(out, 1, like=w), target(out, 2, like=w)
    _normalise_backward(writable_rows(dx), dw, db, ds, rows(dy), rows(x), w, writable_rows(mean), writable_rows(rstd))
    return dx, dw, None if b is None else db
