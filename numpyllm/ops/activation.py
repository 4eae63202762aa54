"""Activations beside GELU (gelu.py): ReLU, its square, SiLU, and SwiGLU, a SiLU that opens and shuts another map's channels.

Shapes: x, y (..., F). Derivation: docs/activations.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class ReluCache(NamedTuple):
    x: np.ndarray           # (..., F)


def relu_forward(x):
    """y = max(x, 0) (Nair, Hinton 2010). x (..., F) -> y (..., F), ReluCache."""
    return np.where(x.real > 0, x, x.dtype.type(0)), ReluCache(x)               # (1)


def relu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dx (..., F): passed on where x is positive. At 0, where there is no derivative, 0."""
    return deliver((np.where(cache.x.real > 0, dy, dy.dtype.type(0)),), out)    # (1)


def squared_relu_forward(x):
    """y = max(x, 0)^2 (So et al. 2021). x (..., F) -> y (..., F), ReluCache."""
    y, cache = relu_forward(x)                                                  # (1)
    return y * y, cache                                                         # (2)


def squared_relu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dx (..., F) = 2 max(x, 0) dy."""
    y, _ = relu_forward(cache.x)
    return deliver((2 * y * dy,), out)                                          # (2) (1)


class SiluCache(NamedTuple):
    x: np.ndarray           # (..., F)  the sigmoid is recomputed


def silu_forward(x):
    """y = x sigmoid(x) (Elfwing et al. 2018; "swish" in Ramachandran et al. 2017). x (..., F) -> y (..., F), SiluCache."""
    return x * sigmoid(x), SiluCache(x)                                        # (1) (2)


def silu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dx (..., F). With p = sigmoid(x), p' = p (1 - p): dy/dx = p + x p (1 - p)."""
    p = sigmoid(cache.x)
    return deliver((dy * p * (1 + cache.x * (1 - p)),), out)                    # (2) (1)


class SwigluCache(NamedTuple):
    gate: np.ndarray        # (..., F)
    x: np.ndarray           # (..., F)


def swiglu_forward(gate, x):
    """y = silu(gate) x (Shazeer 2020, eq. 6). gate, x (..., F) -> y (..., F), SwigluCache."""
    opened, _ = silu_forward(gate)                                              # (1)
    return opened * x, SwigluCache(gate, x)                                     # (2)


def swiglu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dgate, dx (..., F): each factor's gradient is dy times the other factor."""
    gate, x = cache
    opened, c_silu = silu_forward(gate)
    return deliver((silu_backward(dy * x, c_silu), dy * opened), out)           # (2) (1)


def sigmoid(x):
    """1 / (1 + e^-x). Of e^-|x| only, which cannot overflow."""
    e = np.exp(np.where(x.real > 0, -x, x))
    return np.where(x.real > 0, 1, e) / (1 + e)
