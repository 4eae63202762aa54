"""RMS normalisation (Zhang, Sennrich 2019, eq. 4): layer normalisation without subtracting the mean, and without a shift.

Shapes: x (..., C), w (C) the gain, y (..., C). Derivation: docs/rmsnorm.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver
from .residual import residual_backward, residual_forward


class RMSNormCache(NamedTuple):
    x: np.ndarray           # (..., C)  the input, which somebody keeps anyway
    w: np.ndarray           # (C)       the parameter itself
    rstd: np.ndarray        # (..., 1)  a number a row spares the backward a pass


def rmsnorm_forward(x, w, *, eps=1e-5):
    """y = n w, where n is x with mean square 1 along the last axis. x (..., C), w (C) -> y (..., C), RMSNormCache."""
    mean_square = (x * x).mean(axis=-1, keepdims=True)          # (1)  (..., 1)
    rstd = 1 / np.sqrt(mean_square + float(eps))                # (2)
    y = x * rstd * w                                            # (3)
    return y, RMSNormCache(x, w, rstd)


def rmsnorm_backward(dy, cache, *, out=None):
    """dy (..., C) -> dx (..., C), dw (C).

    With n = x rstd, dn = dy w and a bar for the mean over the C entries of a row: dx = rstd (dn - n bar(dn n)). So dx is
    orthogonal to n, for making x longer changes nothing that comes out; unlike layer normalisation's it has a mean.
    """
    x, w, rstd = cache
    n = x * rstd                                                # recomputed
    dw = (dy * n).reshape(-1, w.shape[0]).sum(axis=0)           # (3)
    dn = dy * w                                                 # (3)
    dx = (dn - n * (dn * n).mean(axis=-1, keepdims=True)) * rstd    # (3) (2) (1)
    return deliver((dx, dw), out)


def residual_rmsnorm_forward(x, r, w, *, eps=1e-5):
    """s = x + r and y = rmsnorm(s). x, r (..., C), w (C) -> s, y (..., C), RMSNormCache (of s)."""
    s, _ = residual_forward(x, r)                               # (1)
    y, cache = rmsnorm_forward(s, w, eps=eps)                   # (2)
    return s, y, cache


def residual_rmsnorm_backward(ds, dy, cache, *, out=None):
    """ds, dy (..., C) -> dx, dr (..., C), dw (C). dx and dr are equal, and may be the same array."""
    ds_norm, dw = rmsnorm_backward(dy, cache)                   # (2)
    dx, dr = residual_backward(ds + ds_norm, None)              # (1)
    return deliver((dx, dr, dw), out)
