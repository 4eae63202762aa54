"""Low-rank addition z = y + s (x a) b: what LoRA puts beside a linear map y = x w (Hu et al. 2021, eq. 3).

Shapes: x (..., n_in), y and z (..., n_out), a (n_in, R), b (R, n_out), R much smaller than either; N rows when the leading axes
are flattened. Derivation: docs/lora.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class LoRACache(NamedTuple):
    x: np.ndarray           # (..., n_in)   the input: da is made of it
    a: np.ndarray           # (n_in, R)     the parameters themselves
    b: np.ndarray           # (R, n_out)
    h: np.ndarray           # (..., R)      s x a, small: db is made of it
    scale: float


def lora_forward(x, y, a, b, *, scale, out=None):
    """z = y + scale (x a) b -> z (..., n_out), LoRACache. With out=(y,) the sum replaces y."""
    h = x.reshape(-1, x.shape[-1]) @ a * float(scale)           # (1)  (N, R)
    z = y + (h @ b).reshape(y.shape)                            # (2)
    return deliver((z,), out), LoRACache(x, a, b, h.reshape(*x.shape[:-1], -1), scale)


def lora_backward(dz, cache, *, out=None, add=False):
    """dz (..., n_out) -> dx (..., n_in), dy (..., n_out), da (n_in, R), db (R, n_out); with `add`, dx is added to what out holds.

    (2) is a sum, of which y gets dz as it is, and a product, as is (1): db = h^T dz and dh = dz b^T; then da = x^T (s dh) and
    dx = (s dh) a^T. Nothing here is larger than N x max(n_in, n_out), and no product costs more than R / n_in of that with w.
    """
    x, a, b, h, scale = cache
    R = a.shape[1]
    rows = dz.reshape(-1, dz.shape[-1])
    db = h.reshape(-1, R).T @ rows                              # (2)
    dh = rows @ b.T * float(scale)                              # (2)
    da = x.reshape(-1, x.shape[-1]).T @ dh                      # (1)
    dx = (dh @ a.T).reshape(x.shape)                            # (1)
    if add:
        dx = np.add(dx, out[0], out=out[0])
    return deliver((dx, dz, da, db), out)
