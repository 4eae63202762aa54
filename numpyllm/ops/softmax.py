"""Softmax along the last axis: positive numbers that sum to one.

Shapes: x, y (..., V). Derivation: docs/softmax.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class SoftmaxCache(NamedTuple):
    y: np.ndarray           # (..., V)  the result is all that the backward needs


def softmax_forward(x):
    """y_i = exp(x_i) / sum_j exp(x_j). x (..., V) -> y (..., V), SoftmaxCache.

    The largest entry is subtracted first, which changes nothing but keeps exp from overflowing.
    """
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))          # (1)
    y = e / e.sum(axis=-1, keepdims=True)                       # (2)
    return y, SoftmaxCache(y)


def softmax_backward(dy, cache, *, out=None):
    """dy (..., V) -> dx (..., V).

    The Jacobian is dy_i/dx_j = y_i ([i = j] - y_j), so dx_j = y_j (dy_j - sum_i dy_i y_i). Rows of dx sum to zero:
    adding a constant to x changes nothing.
    """
    (y,) = cache
    dx = y * (dy - (dy * y).sum(axis=-1, keepdims=True))        # (2) (1)
    return deliver((dx,), out)
