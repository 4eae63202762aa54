"""Fused twin of numpyllm.ops.gelu: bias and GELU in one pass, and in the backward the sum for the bias as well."""

import math

import numpy as np

from .. import ops as text
from ..ops import BiasGeluCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, rows, target, writable_rows
from ._jit import jit
from ._math import erfc, exp, sigmoid

SLOPE = math.sqrt(2 / math.pi)
CUBIC = 0.044715
ROOT_HALF = math.sqrt(0.5)
DENSITY = 1 / math.sqrt(2 * math.pi)


@jit
def _bias_gelu(y, x, b, exact):
    N, F = x.shape
    real = x.dtype.type
    linear, cubic = real(2 * SLOPE), real(2 * SLOPE * CUBIC)
    half, root_half = real(0.5), real(ROOT_HALF)
    for n in range(N):
        if exact:
            for i in range(F):
                s = x[n, i] + b[i]
                y[n, i] = s * half * erfc(-s * root_half)                               # (1e) (3)
        else:
            for i in range(F):
                s = x[n, i] + b[i]
                y[n, i] = s * sigmoid(s * (linear + cubic * s * s))                     # (1t) (2t) (3)


@jit
def _bias_gelu_backward(dx, db, dy, x, b, exact):
    N, F = x.shape
    real = x.dtype.type
    linear, cubic, three_cubic = real(2 * SLOPE), real(2 * SLOPE * CUBIC), real(6 * SLOPE * CUBIC)
    half, one, root_half, density = real(0.5), real(1), real(ROOT_HALF), real(DENSITY)
    db[:] = real(0)
    for n in range(N):
        if exact:
            for i in range(F):
                s = x[n, i] + b[i]
                d = dy[n, i] * (half * erfc(-s * root_half) + s * density * exp(-half * s * s))     # (3) (1e)
                dx[n, i] = d
                db[i] += d
        else:
            for i in range(F):
                s = x[n, i] + b[i]
                phi = sigmoid(s * (linear + cubic * s * s))
                rise = phi * (one - phi) * (linear + three_cubic * s * s)               # (2t) (1t)
                d = dy[n, i] * (phi + s * rise)                                         # (3)
                dx[n, i] = d
                db[i] += d


def bias_gelu_forward(x, b=None, *, exact=False):
    if any_complex(x, b):
        return text.bias_gelu_forward(x, b, exact=exact)
    y = empty(x.shape, x.dtype)
    bias = np.zeros(x.shape[-1], x.dtype) if b is None else b
    _bias_gelu(writable_rows(y), rows(x), bias, exact)
    return y, BiasGeluCache(x, b, exact)


def bias_gelu_backward(dy, cache, *, out=None):
    x, b, exact = cache
    dx = target(out, 0, like=x)
    bias = np.zeros(x.shape[-1], x.dtype) if b is None else b
    db = target(out, 1, like=bias)
    _bias_gelu_backward(writable_rows(dx), db, rows(dy), rows(x), bias, exact)
    return deliver((dx, None if b is None else db), out)
