"""Twin of numpyllm.ops.linear: the products of matmul.py, and the bias added on the way out of the registers."""

import numpy as np

from .. import ops as text
from ..ops import LinearCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, rows, target, writable_rows
from .matmul import matmul


def linear_forward(x, w, b=None):
    if any_complex(x, w, b):
        return text.linear_forward(x, w, b)
    y = empty((*x.shape[:-1], w.shape[1]), x.dtype)
    matmul(rows(x), w, out=writable_rows(y), add=b)
    return y, LinearCache(x, w, b)


def linear_backward(dy, cache, *, out=None):
    x, w, b = cache
    dy, x_rows = rows(dy), rows(x)
    db = None
    if b is not None:
        db = target(out, 2, like=b)
        np.add.reduce(dy, axis=0, out=db)
    dw = matmul(x_rows.T, dy, out=target(out, 1, like=w, strided=True))
    dx = target(out, 0, like=x)
    matmul(dy, w.T, out=writable_rows(dx))
    return deliver((dx, dw, db), out)
