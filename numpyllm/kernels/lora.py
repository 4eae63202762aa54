"""Twin of numpyllm.ops.lora: sums are added up in the products' registers, where what they are added to lies already."""

import numpy as np

from .. import ops as text
from ..ops import LoRACache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, rows, target, writable_rows
from .matmul import matmul


def lora_forward(x, y, a, b, *, scale, out=None):
    if any_complex(x, y, a, b):
        return text.lora_forward(x, y, a, b, scale=scale, out=out)
    z, h = target(out, 0, like=y), empty((*x.shape[:-1], a.shape[1]), x.dtype)
    matmul(rows(x), a, out=writable_rows(h))
    np.multiply(h, h.dtype.type(scale), out=h)
    matmul(rows(h), b, out=writable_rows(z), add=rows(y))
    return deliver((z,), out), LoRACache(x, a, b, h, scale)


def lora_backward(dz, cache, *, out=None, add=False):
    x, a, b, h, scale = cache
    if add and not out[0].flags.c_contiguous:
        return text.lora_backward(dz, cache, out=out, add=add)
    dx, da, db = target(out, 0, like=x), target(out, 2, like=a, strided=True), target(out, 3, like=b, strided=True)
    height = mark()
    dz_rows, dx_rows, dh = rows(dz), writable_rows(dx), empty((h.size // h.shape[-1], h.shape[-1]), h.dtype)
    matmul(rows(h).T, dz_rows, out=db)
    matmul(dz_rows, b.T, out=dh)
    np.multiply(dh, dh.dtype.type(scale), out=dh)
    matmul(rows(x).T, dh, out=da)
    matmul(dh, a.T, out=dx_rows, add=dx_rows if add else None)
    release(height)
    return deliver((dx, dz, da, db), out)
