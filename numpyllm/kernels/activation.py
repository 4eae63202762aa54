"""Fused twin of the gated activation in numpyllm.ops.activation: sigmoid, product and in the backward both gradients in one pass.

The others are a NumPy operation or two, and are left to the text.
"""

from .. import ops as text
from ..ops import SwigluCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, rows, target, writable_rows
from ._jit import jit
from ._math import sigmoid


@jit
def _swiglu(y, gate, x):
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[n, i] = gate[n, i] * sigmoid(gate[n, i]) * x[n, i]                    # (1) (2)


@jit
def _swiglu_backward(dgate, dx, dy, gate, x):
    one = x.dtype.type(1)
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            g, d = gate[n, i], dy[n, i]
            p = sigmoid(g)
            dgate[n, i] = d * x[n, i] * p * (one + g * (one - p))                   # (2) (1)
            dx[n, i] = d * g * p                                                    # (2)


def swiglu_forward(gate, x):
    if any_complex(gate, x):
        return text.swiglu_forward(gate, x)
    y = empty(x.shape, x.dtype)
    _swiglu(writable_rows(y), rows(gate), rows(x))
    return y, SwigluCache(gate, x)


def swiglu_backward(dy, cache, *, out=None):
    gate, x = cache
    dgate, dx = target(out, 0, like=dy), target(out, 1, like=dy)
    _swiglu_backward(writable_rows(dgate), writable_rows(dx), rows(dy), rows(gate), rows(x))
    return deliver((dgate, dx), out)
