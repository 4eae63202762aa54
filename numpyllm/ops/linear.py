"""Linear map y = x w + b: every row of x times the same matrix.

Shapes: x (..., n_in), w (n_in, n_out), b (n_out) or None, y (..., n_out); N rows when the leading axes are flattened.
Derivation: docs/linear.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class LinearCache(NamedTuple):
    x: np.ndarray           # (..., n_in)     the input: dw is made of it
    w: np.ndarray           # (n_in, n_out)   the parameter itself, not a copy: dx is made of it
    b: np.ndarray | None    # (n_out)         only to know whether there is a bias


def linear_forward(x, w, b=None):
    """y = x w + b.

    x (..., n_in), w (n_in, n_out), b (n_out) or None -> y (..., n_out), LinearCache.
    """
    n_in, n_out = w.shape
    y = x.reshape(-1, n_in) @ w                                 # (1)  (N, n_out): one product for all rows
    if b is not None:
        y = y + b                                               # (2)
    return y.reshape(*x.shape[:-1], n_out), LinearCache(x, w, b)


def linear_backward(dy, cache, *, out=None, frozen=False):
    """dy (..., n_out) -> dx (..., n_in), dw (n_in, n_out) or None if w is frozen, db (n_out) or None.

    y_nj = sum_i x_ni w_ij + b_j, so  dL/dx_ni = sum_j dy_nj w_ij,  dL/dw_ij = sum_n x_ni dy_nj,  dL/db_j = sum_n dy_nj:
    each gradient is the one product of the other two whose shapes fit, and what was broadcast is summed.
    """
    x, w, b = cache
    n_in, n_out = w.shape
    dy = dy.reshape(-1, n_out)                                  # (N, n_out)
    db = None if b is None else dy.sum(axis=0)                  # (2)
    dw = None if frozen else x.reshape(-1, n_in).T @ dy         # (1)
    dx = (dy @ w.T).reshape(x.shape)                            # (1)
    return deliver((dx, dw, db), out)
