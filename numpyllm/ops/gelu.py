"""GELU (Hendrycks, Gimpel 2016): x times the probability that a standard normal number is below x.

The tanh form is the paper's approximation, which GPT-2 uses; the exact form has erf. The fused pair adds the bias of
the linear map before it. Shapes: x, y (..., F), b (F) or None. Derivation: docs/gelu.md.
"""

import math
from typing import NamedTuple

import numpy as np

from ._out import deliver
from .erf import erf

SLOPE = math.sqrt(2 / math.pi)
CUBIC = 0.044715


class GeluCache(NamedTuple):
    x: np.ndarray           # (..., F)  the input; tanh or erf is recomputed
    exact: bool


def gelu_forward(x, *, exact=False):
    """y = x Phi(x), Phi the normal distribution function: by erf if exact, else by tanh (off by up to 5e-4).

    x (..., F) -> y (..., F), GeluCache.
    """
    if exact:
        phi = 0.5 * (1 + erf(x * math.sqrt(0.5)))               # (1e)
    else:
        u = SLOPE * (x + CUBIC * x * x * x)                     # (1t)
        phi = 0.5 * (1 + np.tanh(u))                            # (2t)
    return x * phi, GeluCache(x, exact)                         # (3)


def gelu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dx (..., F).

    dy/dx = Phi + x Phi'. Exact: Phi' is the normal density. Tanh form: with t = tanh(u), Phi' = (1 - t^2) u' / 2 and
    u' = SLOPE (1 + 3 CUBIC x^2).
    """
    x, exact = cache
    if exact:
        phi = 0.5 * (1 + erf(x * math.sqrt(0.5)))
        slope = np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))             # (1e)
    else:
        t = np.tanh(SLOPE * (x + CUBIC * x * x * x))
        phi = 0.5 * (1 + t)
        slope = 0.5 * (1 - t * t) * (SLOPE * (1 + 3 * CUBIC * x * x))           # (2t) (1t)
    return deliver((dy * (phi + x * slope),), out)                              # (3)


class BiasGeluCache(NamedTuple):
    x: np.ndarray           # (..., F)  before the bias: their sum is cheaper made again than kept
    b: np.ndarray | None    # (F)
    exact: bool


def bias_gelu_forward(x, b=None, *, exact=False):
    """y = gelu(x + b). x (..., F), b (F) or None -> y (..., F), BiasGeluCache."""
    s = x if b is None else x + b                               # (1)
    y, _ = gelu_forward(s, exact=exact)                         # (2)
    return y, BiasGeluCache(x, b, exact)


def bias_gelu_backward(dy, cache, *, out=None):
    """dy (..., F) -> dx (..., F), db (F) or None: the bias was broadcast over the rows, so its gradient sums them."""
    x, b, exact = cache
    s = x if b is None else x + b
    dx = gelu_backward(dy, GeluCache(s, exact))                                 # (2)
    db = None if b is None else dx.reshape(-1, dx.shape[-1]).sum(axis=0)        # (1)
    return deliver((dx, db), out)
