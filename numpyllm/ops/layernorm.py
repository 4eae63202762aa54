"""Layer normalisation (Ba, Kiros, Hinton 2016, eq. 4), and the residual addition that comes before it in a GPT.

Shapes: x (..., C), w (C) the gain, b (C) the shift or None, y (..., C). Derivation: docs/layernorm.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver
from .residual import residual_backward, residual_forward


class LayerNormCache(NamedTuple):
    x: np.ndarray           # (..., C)  the input, which somebody keeps anyway; n is recomputed from it
    w: np.ndarray           # (C)       the parameter itself
    b: np.ndarray | None    # (C)       only to know whether there is a shift
    mean: np.ndarray        # (..., 1)  two numbers a row spare the backward two passes
    rstd: np.ndarray        # (..., 1)


def layernorm_forward(x, w, b=None, *, eps=1e-5):
    """y = n w + b, where n is x with mean 0 and variance 1 along the last axis.

    x (..., C), w (C), b (C) or None -> y (..., C), LayerNormCache. The variance divides by C, not C - 1.
    """
    mean = x.mean(axis=-1, keepdims=True)                       # (1)  (..., 1)
    centred = x - mean                                          # (2)
    var = (centred * centred).mean(axis=-1, keepdims=True)      # (3)
    rstd = 1 / np.sqrt(var + float(eps))                        # (4)
    n = centred * rstd                                          # (5)
    y = n * w if b is None else n * w + b                       # (6)
    return y, LayerNormCache(x, w, b, mean, rstd)


def layernorm_backward(dy, cache, *, out=None):
    """dy (..., C) -> dx (..., C), dw (C), db (C) or None.

    With dn = dy w the gradient of n, and bars for means over the C entries of a row,
        dx = rstd (dn - bar(dn) - n bar(dn n)):
    the first mean undoes (1) and (2), the second (3) and (4). So dx is orthogonal to 1 and to n: moving x along
    either changes nothing that comes out.
    """
    x, w, b, mean, rstd = cache
    C = w.shape[0]
    n = (x - mean) * rstd                                       # recomputed
    db = None if b is None else dy.reshape(-1, C).sum(axis=0)   # (6)
    dw = (dy * n).reshape(-1, C).sum(axis=0)                    # (6)
    dn = dy * w                                                 # (6)
    dx = dn - n * (dn * n).mean(axis=-1, keepdims=True)         # (5) (4) (3)
    dx = (dx - dn.mean(axis=-1, keepdims=True)) * rstd          # (2) (1)
    return deliver((dx, dw, db), out)


def residual_layernorm_forward(x, r, w, b=None, *, eps=1e-5):
    """s = x + r and y = layernorm(s): the residual stream takes in a sub-layer's output and is read by the next.

    x, r (..., C), w (C), b (C) or None -> s, y (..., C), LayerNormCache (of s).
    """
    s, _ = residual_forward(x, r)                               # (1)
    y, cache = layernorm_forward(s, w, b, eps=eps)              # (2)
    return s, y, cache


def residual_layernorm_backward(ds, dy, cache, *, out=None):
    """ds, dy (..., C) -> dx, dr (..., C), dw (C), db (C) or None.

    s goes on along the stream (ds) and into the norm (dy), so its gradient is the sum of both; the stream's part does
    not pass through the norm. dx and dr are equal, and may be the same array.
    """
    ds_norm, dw, db = layernorm_backward(dy, cache)             # (2)
    dx, dr = residual_backward(ds + ds_norm, None)              # (1)
    return deliver((dx, dr, dw, db), out)
