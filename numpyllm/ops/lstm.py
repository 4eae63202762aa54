"""One LSTM layer over a whole sequence (Hochreiter, Schmidhuber 1997; forget gate: Gers et al. 2000).

Shapes: x (B, T, I), w_x (I, 4H), w_h (H, 4H), b (4H) or None, h0 and c0 (B, H) or None, y and c (B, T, H). The four gates lie
side by side in the order i, f, g, o, as in torch: input, forget, candidate, output. Derivation: docs/lstm.md.

What a step reads from the one before is y and c; everything that x contributes is one product for all steps at once.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class LSTMCache(NamedTuple):
    x: np.ndarray           # (B, T, I)     dw_x is made of it
    w_x: np.ndarray         # (I, 4H)       the parameters themselves
    w_h: np.ndarray         # (H, 4H)
    b: np.ndarray | None    # (4H)          only to know whether there is a bias
    h0: np.ndarray | None   # (B, H)        None: zeros, and no gradient
    c0: np.ndarray | None   # (B, H)
    gates: np.ndarray       # (B, T, 4H)    i, f, g, o after their nonlinearities: to make them again is all the work
    y: np.ndarray           # (B, T, H)     what steps 1 to T - 1 read
    c: np.ndarray           # (B, T, H)     tanh(c) is recomputed


def lstm_forward(x, w_x, w_h, b=None, h0=None, c0=None):
    """For t = 0 .. T - 1, with y_-1 = h0 and c_-1 = c0 (None: zeros), sigma the logistic function and * entry by entry:
        i, f, o = sigma(x_t w_x + y_{t-1} w_h + b), g = tanh(likewise), c_t = f * c_{t-1} + i * g, y_t = o * tanh(c_t).

    x (B, T, I), w_x (I, 4H), w_h (H, 4H), b (4H) or None, h0, c0 (B, H) or None -> y (B, T, H), c (B, H), LSTMCache. T >= 1.
    The state to go on from is y[:, -1] and c, the last step's.
    """
    B, T, _ = x.shape
    H = w_h.shape[0]
    from_x = x @ w_x if b is None else x @ w_x + b                  # (1)  (B, T, 4H): one product for all steps
    h = np.zeros((B, H), from_x.dtype) if h0 is None else h0
    c = np.zeros((B, H), from_x.dtype) if c0 is None else c0
    steps = []
    for t in range(T):
        a = from_x[:, t] + h @ w_h                                  # (2)  (B, 4H)
        i, f, o = (_sigmoid(_gate(a, k)) for k in (0, 1, 3))        # (3)  (B, H) each
        g = np.tanh(_gate(a, 2))                                    # (3)
        c = f * c + i * g                                           # (4)
        h = o * np.tanh(c)                                          # (5)
        steps.append((np.concatenate((i, f, g, o), axis=-1), h, c))
    gates, y, cells = (np.stack(each, axis=1) for each in zip(*steps, strict=True))
    return y, c, LSTMCache(x, w_x, w_h, b, h0, c0, gates, y, cells)


def lstm_backward(dy, dc, cache, *, out=None, frozen=False):
    """dy (B, T, H), dc (B, H) or None -> dx (B, T, I), dw_x (I, 4H), dw_h (H, 4H), db (4H), dh0, dc0 (B, H).

    None where the forward had None, and for dw_x and dw_h if those are frozen. dc is the gradient of the last c; that of the last y
    is in dy. Backwards through time, h and c each have two readers: h_t the loss (dy_t) and step t + 1, c_t its own output (5) and
    step t + 1. The parameters were used in each step, so their gradients are sums over all of them: products of da, once it is
    there for all steps.
    """
    x, w_x, w_h, b, h0, c0, gates, y, cells = cache
    B, T, H = y.shape
    da = np.empty_like(gates)                                       # (B, T, 4H)
    dh, dc = np.zeros((B, H), y.dtype), np.zeros((B, H), y.dtype) if dc is None else dc
    zeros = np.zeros((B, H), y.dtype)
    for t in reversed(range(T)):
        i, f, g, o = (_gate(gates[:, t], k) for k in range(4))
        c_before = cells[:, t - 1] if t > 0 else zeros if c0 is None else c0
        q = np.tanh(cells[:, t])                                    # recomputed
        dh = dy[:, t] + dh
        dc = dc + dh * o * (1 - q * q)                              # (5)
        _gate(da[:, t], 3)[...] = dh * q * o * (1 - o)              # (5) (3)
        _gate(da[:, t], 0)[...] = dc * g * i * (1 - i)              # (4) (3)
        _gate(da[:, t], 1)[...] = dc * c_before * f * (1 - f)       # (4) (3)
        _gate(da[:, t], 2)[...] = dc * i * (1 - g * g)              # (4) (3)
        dc = dc * f                                                 # (4)
        dh = da[:, t] @ w_h.T                                       # (2)
    h_before = np.concatenate((zeros[:, None] if h0 is None else h0[:, None], y[:, :-1]), axis=1)
    rows = da.reshape(B * T, 4 * H)
    dw_h = None if frozen else h_before.reshape(B * T, H).T @ rows  # (2)
    db = None if b is None else rows.sum(axis=0)                    # (1)
    dw_x = None if frozen else x.reshape(B * T, -1).T @ rows        # (1)
    dx = da @ w_x.T                                                 # (1)
    return deliver((dx, dw_x, dw_h, db, None if h0 is None else dh, None if c0 is None else dc), out)


def _gate(a, k):
    """Gate number k of a (..., 4H): a view (..., H)."""
    H = a.shape[-1] // 4
    return a[..., k * H:(k + 1) * H]


def _sigmoid(a):
    return 0.5 + 0.5 * np.tanh(0.5 * a)                             # the same function, and no overflow on either side
