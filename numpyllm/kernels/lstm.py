"""Twin of numpyllm.ops.lstm: one product for what x contributes, then all steps in one compiled loop, gates fused.

Memory is time first, (T, B, ...), so that what a step needs lies together and all steps are rows of one product. The results
are views of it with the axes in the usual order.
"""

import numpy as np

from .. import ops as text
from ..ops import LSTMCache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, target
from ._jit import jit
from ._math import sigmoid, tanh
from .matmul import matmul, multiply_packed, pack, panels_for

CACHE_LINE = 64             # bytes


@jit
def _steps(panels, y, c, gates, w_h, h0, c0):
    """gates (T, B, 4H): x w_x + b, replaced by the gates. y, c (T, B, H) are written; w_h (H, 4H), h0, c0 (B, H)."""
    T, B, H = y.shape
    pack(panels, w_h)
    for t in range(T):
        h, before = (y[t - 1], c[t - 1]) if t > 0 else (h0, c0)
        multiply_packed(gates[t], h, panels, True)                                      # (2)
        for n in range(B):
            a, y_n, c_n, before_n = gates[t, n], y[t, n], c[t, n], before[n]
            for j in range(2 * H):
                a[j] = sigmoid(a[j])                                                    # (3)  i, f
            for j in range(2 * H, 3 * H):
                a[j] = tanh(a[j])                                                       # (3)  g
            for j in range(3 * H, 4 * H):
                a[j] = sigmoid(a[j])                                                    # (3)  o
            for j in range(H):
                c_n[j] = a[H + j] * before_n[j] + a[j] * a[2 * H + j]                   # (4)
            for j in range(H):
                y_n[j] = a[3 * H + j] * tanh(c_n[j])                                    # (5)


@jit
def _steps_back(panels, da, dh, dc, dy, gates, c, w_h, c0):
    """da (T, B, 4H) is written. dh, dc (B, H): the gradient of the state after the last step, replaced by that before the first;
    dy, c (T, B, H), gates (T, B, 4H), w_h (H, 4H), c0 (B, H)."""
    T, B, H = dy.shape
    pack(panels, w_h.T)
    one = dy.dtype.type(1)
    for t in range(T - 1, -1, -1):
        before = c[t - 1] if t > 0 else c0
        for n in range(B):
            a, d, dy_n, c_n, before_n, dh_n, dc_n = gates[t, n], da[t, n], dy[t, n], c[t, n], before[n], dh[n], dc[n]
            for j in range(H):
                i, f, g, o = a[j], a[H + j], a[2 * H + j], a[3 * H + j]
                q = tanh(c_n[j])
                dh_j = dy_n[j] + dh_n[j]
                dc_j = dc_n[j] + dh_j * o * (one - q * q)                               # (5)
                d[j] = dc_j * g * i * (one - i)                                         # (4) (3)
                d[H + j] = dc_j * before_n[j] * f * (one - f)                           # (4) (3)
                d[2 * H + j] = dc_j * i * (one - g * g)                                 # (4) (3)
                d[3 * H + j] = dh_j * q * o * (one - o)                                 # (5) (3)
                dc_n[j] = dc_j * f                                                      # (4)
        multiply_packed(dh, da[t], panels, False)                                       # (2)


def lstm_forward(x, w_x, w_h, b=None, h0=None, c0=None):
    if any_complex(x, w_x, w_h, b, h0, c0):
        return text.lstm_forward(x, w_x, w_h, b, h0, c0)
    (B, T, _), H = x.shape, w_h.shape[0]
    gates, y, c = (empty((T, B, n), x.dtype) for n in (4 * H, H, H))
    height = mark()
    matmul(_rows(_time_first(x)), w_x, out=_rows(gates), add=b)                         # (1)
    _steps(panels_for(H, 4 * H, x.dtype), y, c, gates, np.ascontiguousarray(w_h), _state(h0, y), _state(c0, y))
    release(height)
    y, c, gates = (a.swapaxes(0, 1) for a in (y, c, gates))
    return y, c[:, -1], LSTMCache(x, w_x, w_h, b, h0, c0, gates, y, c)


def lstm_backward(dy, dc, cache, *, out=None, frozen=False):
    x, w_x, w_h, b, h0, c0, gates, y, c = cache
    (B, T, I), H = x.shape, w_h.shape[0]
    dx, dh, dc = empty((T, B, I), x.dtype), _state(None, y.swapaxes(0, 1)), _state(dc, y.swapaxes(0, 1))
    dw_x, dw_h = (None, None) if frozen else (target(out, 1, like=w_x, strided=True), target(out, 2, like=w_h, strided=True))
    db = None if b is None else target(out, 3, like=b)
    height = mark()
    da, before = _padded((T, B, 4 * H), x.dtype), empty((T, B, H), x.dtype)
    _steps_back(panels_for(4 * H, H, x.dtype), da, dh, dc, _time_first(dy), _time_first(gates), _time_first(c),
                np.ascontiguousarray(w_h), _state(c0, y.swapaxes(0, 1)))
    before[0] = 0 if h0 is None else h0
    before[1:] = y.swapaxes(0, 1)[:-1]
    if b is not None:
        np.add.reduce(_rows(da), axis=0, out=db)                                        # (1)
    if not frozen:
        matmul(_rows(before).T, _rows(da), out=dw_h)                                    # (2)
        matmul(_rows(_time_first(x)).T, _rows(da), out=dw_x)                            # (1)
    matmul(_rows(da), w_x.T, out=_rows(dx))                                             # (1)
    release(height)
    return deliver((dx.swapaxes(0, 1), dw_x, dw_h, db, None if h0 is None else dh, None if c0 is None else dc), out)


def _time_first(a):
    """(B, T, n) -> (T, B, n), contiguous: as it is where it was made here, else a copy."""
    a = a.swapaxes(0, 1)
    if a.flags.c_contiguous:
        return a
    copy = empty(a.shape, a.dtype)
    copy[...] = a
    return copy


def _padded(shape, dtype):
    """Rows a cache line further apart than they are long. With rows of 4096 bytes, entries below each other would share their
    place in the cache, and products take a third longer (docs/measurements.md)."""
    *rows, n = shape
    return empty((*rows, n + CACHE_LINE // dtype.itemsize), dtype)[..., :n]


def _rows(a):
    return a.reshape(-1, a.shape[-1])


def _state(state, like):
    """A state (B, H) in memory of its own; zeros for None. like (T, B, H)."""
    made = empty(like.shape[1:], like.dtype)
    made[...] = 0 if state is None else state
    return made
