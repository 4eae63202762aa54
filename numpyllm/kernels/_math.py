"""The transcendental functions of kernels, as polynomials that the compiler turns into vector instructions.

GELU needs 1 + tanh(u) and 1 + erf(z). Far to the left both cancel to nothing, so they are computed as what they are equal
to, 2 sigmoid(2u) and erfc(-z), which keep their relative precision. Largest relative errors, each measured by a test:

           float32                                                              float64
exp        4e-7: range reduction by ln 2 in two parts, polynomial of degree 5   1e-13: Taylor series to degree 13
           (Cephes), exponent by bit shift
sigmoid    1e-6: by exp                                                         1e-13: by exp
tanh       4e-7: odd polynomial of degree 11 up to 0.625 (Cephes), where        1e-13: the C library's
           1 - 2 / (e^2x + 1) would cancel; that formula beyond
erfc       1e-5 up to x = 6: Chebyshev fit of Press et al., Numerical Recipes,  1e-13: the C library's
           section 6.2 (its own error is 1.2e-7)
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ._jit import jit

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.121944400546905827679e-4


@jit
def _exp32(x):
    x = min(max(x, np.float32(-88.0)), np.float32(88.0))            # at -88 the exponent's bits are 0, and so is the result
    n = np.floor(x * np.float32(LOG2_E) + np.float32(0.5))
    r = x - n * np.float32(LN2_HIGH) - n * np.float32(LN2_LOW)      # |r| <= ln 2 / 2
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r + np.float32(1)
    p = p * r + np.float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@jit
def _exp64(x):
    x = min(max(x, -709.0), 709.0)
    n = np.floor(x * LOG2_E + 0.5)
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = 1.0
    for k in (13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0):
        p = 1.0 + p * r / k
    return p * np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)


@jit
def _tanh32(x):
    size = abs(x)
    z = x * x
    p = np.float32(-5.70498872745e-3)
    p = p * z + np.float32(2.06390887954e-2)
    p = p * z + np.float32(-5.37397155531e-2)
    p = p * z + np.float32(1.33314422036e-1)
    p = p * z + np.float32(-3.33332819422e-1)
    small = x + x * z * p
    large = np.float32(1) - np.float32(2) / (_exp32(size + size) + np.float32(1))
    large = -large if x < np.float32(0) else large
    return small if size < np.float32(0.625) else large


@jit
def _tanh64(x):
    return math.tanh(x)


@jit
def _erfc32(x):
    z = abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.5) * z)
    p = np.float32(0.17087277)
    p = p * t + np.float32(-0.82215223)
    p = p * t + np.float32(1.48851587)
    p = p * t + np.float32(-1.13520398)
    p = p * t + np.float32(0.27886807)
    p = p * t + np.float32(-0.18628806)
    p = p * t + np.float32(0.09678418)
    p = p * t + np.float32(0.37409196)
    p = p * t + np.float32(1.00002368)
    p = p * t + np.float32(-1.26551223)
    y = t * _exp32(p - z * z)
    return y if x >= np.float32(0) else np.float32(2) - y


@jit
def _erfc64(x):
    return math.erfc(x)


@intrinsic
def maximum(typing, x, y):
    """The larger of two numbers of one type, NaN if one is NaN. LLVM makes vectors of a loop of these, of Python's max it does not."""
    def generate(context, builder, signature, arguments):
        number = arguments[0].type
        kind = ir.FunctionType(number, [number, number])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.maximum.f{x.bitwidth}"), arguments)

    return x(x, y), generate


def exp(x):
    """e^x in the type of x; exactly 0 from -88 down (float32) or -709 (float64), so also for -inf."""


def sigmoid(x):
    """1 / (1 + e^-x) in the type of x."""


def tanh(x):
    """(e^x - e^-x) / (e^x + e^-x) in the type of x."""


def erfc(x):
    """1 - erf(x) in the type of x."""


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: _exp64(x))


@overload(sigmoid)
def _sigmoid(x):
    if x == types.float32:
        return lambda x: np.float32(1) / (np.float32(1) + _exp32(-x))
    return lambda x: 1.0 / (1.0 + _exp64(-x))


@overload(tanh)
def _tanh(x):
    return (lambda x: _tanh32(x)) if x == types.float32 else (lambda x: _tanh64(x))


@overload(erfc)
def _erfc(x):
    return (lambda x: _erfc32(x)) if x == types.float32 else (lambda x: _erfc64(x))
