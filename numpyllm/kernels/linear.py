"""Twin of numpyllm.ops.linear: the products of matmul.py, and the bias added on the way out of the registers."""

import numpy as np

from .. import ops as text
from ..ops import LinearCache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, rows, target, writable_rows
from ._jit import jit_any_layout
from .matmul import beats_blas, matmul, multiply, scratch_for


@jit_any_layout(strided="", written="scratch dx dw db")
def _backward(scratch, dx, dw, db, dy, x, w):
    """All three in one call, while dy is in the cache. db may be empty."""
    if db.size > 0:
        db[:] = db.dtype.type(0)
        for n in range(dy.shape[0]):
            for j in range(dy.shape[1]):
                db[j] += dy[n, j]
    multiply(scratch, dw, scratch, -1, x.T, dy)
    multiply(scratch, dx, scratch, -1, dy, w.T)


def linear_forward(x, w, b=None):
    if any_complex(x, w, b):
        return text.linear_forward(x, w, b)
    y = empty((*x.shape[:-1], w.shape[1]), x.dtype)
    matmul(rows(x), w, out=writable_rows(y), add=b)
    return y, LinearCache(x, w, b)


def linear_backward(dy, cache, *, out=None, frozen=False):
    x, w, b = cache
    dx, dw = target(out, 0, like=x), None if frozen else target(out, 1, like=w, strided=True)
    db = None if b is None else target(out, 2, like=b)
    dy, x, dx_rows = rows(dy), rows(x), writable_rows(dx)
    if not frozen and beats_blas() and dy.size and w.flags.c_contiguous and dw.flags.c_contiguous:
        height = mark()
        scratch = scratch_for(max(dy.shape), dy.dtype)
        _backward(scratch, dx_rows, dw, scratch[:0] if b is None else db, dy, x, w)
        release(height)
    else:
        if b is not None:
            np.add.reduce(dy, axis=0, out=db)
        if not frozen:
            matmul(x.T, dy, out=dw)
        matmul(dy, w.T, out=dx_rows)
    return deliver((dx, dw, db), out)
