"""exp, tanh and erf for kernels, as polynomials that the compiler turns into vector instructions.

float32: exp after Cephes (range reduction by ln 2 in two parts, polynomial of degree 5, exponent by bit shift), relative error
below 4e-7; tanh by exp, absolute error below 3e-7; erf after Abramowitz and Stegun 7.1.26, absolute error below 4e-7.
float64: exp by its Taylor series to degree 13, relative error below 1e-13 over the whole range; tanh by exp, absolute error below
1e-15; erf by the C library. A test measures each of these.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from ._jit import jit

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.121944400546905827679e-4


@jit
def _exp32(x):
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))            # below: 0 to float32's precision; above: inf anyway
    n = np.floor(x * np.float32(LOG2_E) + np.float32(0.5))
    r = x - n * np.float32(LN2_HIGH) - n * np.float32(LN2_LOW)      # |r| <= ln 2 / 2
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@jit
def _exp64(x):
    x = min(max(x, -708.0), 709.0)
    n = np.floor(x * LOG2_E + 0.5)
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = 1.0
    for k in (13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0):
        p = 1.0 + p * r / k
    return p * np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)


@jit
def _erf32(x):
    z = abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    p = np.float32(1.061405429)
    p = p * t + np.float32(-1.453152027)
    p = p * t + np.float32(1.421413741)
    p = p * t + np.float32(-0.284496736)
    p = p * t + np.float32(0.254829592)
    y = np.float32(1) - p * t * _exp32(-z * z)
    return y if x >= np.float32(0) else -y


@jit
def _erf64(x):
    return math.erf(x)


def exp(x):
    """e^x in the type of x. exp(-inf) is exactly the smallest power taken, about 1e-38 (float32): mask with zero."""


def tanh(x):
    """tanh(x) in the type of x."""


def erf(x):
    """erf(x) in the type of x."""


@overload(exp, inline="always")
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: _exp64(x))


@overload(tanh, inline="always")
def _tanh(x):
    if x == types.float32:
        return lambda x: np.float32(1) - np.float32(2) / (_exp32(np.float32(2) * x) + np.float32(1))
    return lambda x: 1.0 - 2.0 / (_exp64(2.0 * x) + 1.0)


@overload(erf, inline="always")
def _erf(x):
    return (lambda x: _erf32(x)) if x == types.float32 else (lambda x: _erf64(x))
