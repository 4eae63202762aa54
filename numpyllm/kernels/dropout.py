"""Twin of numpyllm.ops.dropout: one pass."""

import numpy as np

from .. import ops as text
from ..ops import DropoutCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, target
from ._jit import jit


@jit
def _masked(y, x, keep, scale):
    real = x.dtype.type
    for i in range(x.size):
        y[i] = x[i] * scale if keep[i] else real(0)


def dropout_forward(x, keep, *, p):
    if any_complex(x):
        return text.dropout_forward(x, keep, p=p)
    scale = 1 / (1 - float(p))
    y = empty(x.shape, x.dtype)
    _masked(y.reshape(-1), np.ascontiguousarray(x).reshape(-1), keep.reshape(-1), x.dtype.type(scale))
    return y, DropoutCache(keep, scale)


def dropout_backward(dy, cache, *, out=None):
    keep, scale = cache
    dx = target(out, 0, like=dy)
    _masked(dx.reshape(-1), np.ascontiguousarray(dy).reshape(-1), keep.reshape(-1), dy.dtype.type(scale))
    return deliver((dx,), out)
