"""Twin of numpyllm.ops.rotary: each pair is read once and written once, from whatever strides the projection left."""

import numpy as np

from .. import ops as text
from ..ops import RotaryCache
from ..ops._out import deliver
from ..workspace import empty
from ._arrays import any_complex, target
from ._jit import jit


@jit
def _turn(y, x, cos, sin, way, first, apart):
    """way is 1 or -1. Channel i of the pairs is at first * i, its partner `apart` further. cos, sin (1 or B, T, D / 2)."""
    B, T, H, _ = x.shape
    for b in range(B):
        of = b if cos.shape[0] > 1 else 0
        for t in range(T):
            for h in range(H):
                for i in range(cos.shape[2]):
                    c, s = cos[of, t, i], sin[of, t, i] * way
                    a, z = x[b, t, h, first * i], x[b, t, h, first * i + apart]
                    y[b, t, h, first * i] = a * c - z * s
                    y[b, t, h, first * i + apart] = a * s + z * c


def _turned(y, x, cos, sin, way, interleaved):
    cos, sin = (np.ascontiguousarray(a if a.ndim == 3 else a[None]) for a in (cos, sin))
    _turn(y, x, cos, sin, x.dtype.type(way), 2 if interleaved else 1, 1 if interleaved else x.shape[-1] // 2)
    return y


def rotary_forward(x, cos, sin, *, interleaved=False):
    if any_complex(x):
        return text.rotary_forward(x, cos, sin, interleaved=interleaved)
    return _turned(empty(x.shape, x.dtype), x, cos, sin, 1, interleaved), RotaryCache(cos, sin, interleaved)


def rotary_backward(dy, cache, *, out=None):
    dx = target(out, 0, like=dy, strided=True)
    return deliver((_turned(dx, dy, cache.cos, cache.sin, -1, cache.interleaved),), out)
