"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1), for several heads at once.

Shapes: q (B, T, H, D), k and v (B, S, G, D), y (B, T, H, D): heads stay beside their channels, as the projection
before them writes them. G is H, or divides it: then H / G heads of queries share one of keys and values (Ainslie et al. 2023; G = 1:
Shazeer 2019). spans say which keys a query sees (mask.py); None: all of them. Derivation: docs/attention.md.

The probabilities (B, H, T, S) are the large thing here. They are not kept: one log-sum-exp a query is enough to make
them again (Dao et al. 2022, algorithm 4).
"""

import math
from typing import NamedTuple

import numpy as np

from ._out import deliver
from .mask import dense_mask


class AttentionCache(NamedTuple):
    q: np.ndarray               # (B, T, H, D)
    k: np.ndarray               # (B, S, G, D)
    v: np.ndarray               # (B, S, G, D)
    y: np.ndarray               # (B, T, H, D)  the backward needs sum_d dy y: cheaper than a pass over (T, S)
    lse: np.ndarray             # (B, H, T)     log sum exp of a query's scores; -inf where it sees no key
    spans: np.ndarray | None    # (T, M, 2) or (B, T, M, 2)
    keep: np.ndarray | None     # (B, H, T, S)  boolean, dropout's mask for the probabilities
    p: float                    # dropout's probability
    slopes: np.ndarray | None = None        # (H)  of ALiBi
    softcap: float = 0.0


def attention_forward(q, k, v, spans=None, *, keep=None, p=0.0, slopes=None, softcap=0.0):
    """y_t = sum_s P_ts v_s with P_t = softmax over the visible s of q_t . k_s / sqrt(D).

    q (B, T, H, D), k, v (B, S, G, D), spans (T, M, 2), (B, T, M, 2) or None -> y (B, T, H, D), AttentionCache.
    keep (B, H, T, S) boolean drops probabilities with probability p. A query that sees no key gets y = 0. softcap c > 0 makes
    c tanh(score / c) of a score (Bello et al. 2016); slopes (H) then take slope times the distance from it, the queries being
    the last T of S positions (Press et al. 2022).
    """
    k_, v_ = (_for_each_query_head(a, q.shape[2]) for a in (k, v))
    s = _scores(q, k_, spans, slopes, softcap)                  # (1)  (B, H, T, S), -inf where hidden
    lse = _log_sum_exp(s)                                       # (2)  (B, H, T)
    P = _probabilities(s, lse)                                  # (3)  (B, H, T, S)
    if keep is not None:
        P = P * (keep * q.dtype.type(1 / (1 - p)))              # (4)
    y = _heads_last(P @ _heads_first(v_))                       # (5)  (B, T, H, D)
    return y, AttentionCache(q, k, v, y, lse, spans, keep, p, slopes, softcap)


def attention_backward(dy, cache, *, out=None):
    """dy (B, T, H, D) -> dq (B, T, H, D), dk, dv (B, S, G, D).

    Through the softmax, ds_ts = P_ts (dP_ts - sum_r P_tr dP_tr). The sum is dy_t . y_t, since y_t = sum_r P_tr v_r and
    dP_tr = dy_t . v_r: no second pass over the keys. With dropout (4) the same holds, its mask being in both factors.
    """
    q, k, v, y, lse, spans, keep, p, slopes, softcap = cache
    scale = 1 / math.sqrt(q.shape[-1])
    k_, v_ = (_for_each_query_head(a, q.shape[2]) for a in (k, v))
    P = _probabilities(_scores(q, k_, spans, slopes, softcap), lse)         # recomputed: (1) and (3)
    dy_, q_, k_, v_ = (_heads_first(a) for a in (dy, q, k_, v_))            # (B, H, T or S, D)
    dot = _heads_first((dy * y).sum(axis=-1, keepdims=True))    # (B, H, T, 1)

    dP = dy_ @ _transpose(v_)                                   # (5)
    if keep is None:
        dv = _transpose(P) @ dy_                                # (5)
    else:
        m = keep * q.dtype.type(1 / (1 - p))
        dv = _transpose(P * m) @ dy_                            # (5)
        dP = dP * m                                             # (4)
    ds = P * (dP - dot)                                         # (3) (2)
    if softcap:
        t = np.tanh((q_ * (scale / softcap)) @ _transpose(k_))
        ds = ds * (1 - t * t)                                   # (1)
    dq = (ds @ k_) * scale                                      # (1)
    dk = _transpose(ds) @ (q_ * scale)                          # (1)
    dk, dv = (_sum_over_query_heads(_heads_last(a), k.shape[2]) for a in (dk, dv))
    return deliver((_heads_last(dq), dk, dv), out)


def _scores(q, k, spans, slopes, softcap):
    """q k^T / sqrt(D), capped, lowered by distance, -inf where hidden. q is scaled, never a masked score: complex -inf * 0.5 is
    NaN. Hidden scores are replaced rather than added to, so that not even an overflowed one leaks (inf - inf is NaN)."""
    s = _heads_first(q * (1 / math.sqrt(q.shape[-1]))) @ _transpose(_heads_first(k))
    T, S = s.shape[-2:]
    if softcap:
        s = softcap * np.tanh(s / softcap)
    if slopes is not None:
        distance = np.arange(S - T, S)[:, None] - np.arange(S)  # (T, S)
        s = s - (slopes[:, None, None] * distance).astype(s.real.dtype)
    if spans is None:
        return s
    visible = dense_mask(spans, S)                              # (T, S) or (B, T, S)
    return np.where(visible if visible.ndim == 2 else visible[:, None], s, s.dtype.type(-np.inf))


def _for_each_query_head(a, H):
    return a if a.shape[2] == H else np.repeat(a, H // a.shape[2], axis=2)          # (B, S, G, D) -> (B, S, H, D)


def _sum_over_query_heads(d, G):
    B, S, H, D = d.shape
    return d if G == H else d.reshape(B, S, G, H // G, D).sum(axis=3)               # what was repeated is summed


def _log_sum_exp(s):
    top = s.real.max(axis=-1, keepdims=True)
    top = np.where(np.isinf(top), 0, top)                       # a query without keys: exp(-inf - 0) = 0
    total = np.exp(s - top).sum(axis=-1)
    blind = total.real == 0
    return np.where(blind, -np.inf, top[..., 0] + np.log(np.where(blind, 1, total)))


def _probabilities(s, lse):
    return np.exp(s - np.where(np.isinf(lse.real), 0, lse)[..., None])


def _heads_first(a):
    return a.transpose(0, 2, 1, 3)                              # (B, T, H, D) -> (B, H, T, D)


def _heads_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 1, 3))        # (B, H, T, D) -> (B, T, H, D)


def _transpose(a):
    return a.swapaxes(-1, -2)
