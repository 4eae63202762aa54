"""Dropout (Srivastava et al. 2014), inverted: what is kept is scaled up, so that evaluation needs no change.

The mask is given, never drawn here: numpyllm.random makes it from (seed, name, step). Derivation: docs/dropout.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class DropoutCache(NamedTuple):
    keep: np.ndarray        # like x, boolean: True where the entry was kept
    scale: float            # 1 / (1 - p)


def dropout_forward(x, keep, *, p):
    """y = x / (1 - p) where `keep`, 0 elsewhere: the expectation of y is x.

    x any shape, keep boolean and like x, p in [0, 1) the probability of dropping -> y like x, DropoutCache.
    """
    scale = 1 / (1 - float(p))
    return x * keep * scale, DropoutCache(keep, scale)          # (1)


def dropout_backward(dy, cache, *, out=None):
    """dy like x -> dx like x: the same mask and the same scale, for y is linear in x."""
    keep, scale = cache
    return deliver((dy * keep * scale,), out)                   # (1)
