"""Multi-head self-attention: every token gathers from those before it (Vaswani et al. 2017, section 3.2).

Its variants are choices: fewer heads of keys and values than of queries (Ainslie et al. 2023), normalised queries and keys (Henry et
al. 2020), positions by rotation (Su et al. 2021) or by a penalty on distance (Press et al. 2022), capped scores (Bello et al. 2016),
and which keys a query sees (ops/mask.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..ops import AttentionCache, LinearCache, alibi_slopes, causal_spans, rotary_angles
from ..workspace import empty
from .base import Layer
from .basic import Dropout, Linear, RMSNorm


@dataclass(frozen=True)
class Rotary:
    """How queries and keys are turned by their positions (ops/rotary.py)."""

    base: float = 10000.0
    scale: float = 1.0
    interleaved: bool = False
    trained: int = 0

    def angles(self, positions, head_size, dtype):
        return rotary_angles(positions, head_size, base=self.base, scale=self.scale, trained=self.trained, dtype=dtype)


class Packing(NamedTuple):
    """Where several examples lie in one row: none sees another, and each counts its positions from 0."""

    positions: np.ndarray   # (B, T)         of a token in its example
    spans: np.ndarray       # (B, T, M, 2)   the keys that it sees

    @classmethod
    def of(cls, starts, spans):
        """starts (B, T), for each token where its example begins in the row; spans: a pattern, (T, S) -> the keys that are seen."""
        T = starts.shape[1]
        positions = np.arange(T) - starts
        return cls(positions, _made_once(spans, T)[positions] + starts[..., None, None])


class SelfAttentionCache(NamedTuple):
    qkv: LinearCache
    norms: tuple            # of queries and keys, or None
    turns: tuple            # of queries and keys, or None
    attention: AttentionCache
    proj: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped


class CausalSelfAttention(Layer):
    """x (B, T, C) -> y (B, T, C). One projection makes queries, keys and values, side by side.

    n_kv_head   heads of keys and values, a divisor of n_head
    qk_norm     queries and keys are normalised to mean square one, with a gain
    rotary      Rotary, or None
    alibi       scores fall with distance
    softcap     c > 0 makes c tanh(score / c) of a score
    spans       (T, S) -> the keys that the last T of S positions see
    """

    def __init__(self, n_embd, n_head, *, n_kv_head=None, bias=True, dropout=0.0, proj_std=0.02, qk_norm=False, rotary=None,
                 alibi=False, softcap=0.0, spans: Callable = causal_spans, norm_eps=1e-5):
        self.n_head, self.n_kv_head, self.head_size = n_head, n_kv_head or n_head, n_embd // n_head
        self.rotary, self.alibi, self.softcap, self.spans = rotary, alibi, softcap, spans
        self.qkv = Linear(n_embd, (n_head + 2 * self.n_kv_head) * self.head_size, bias=bias)
        if qk_norm:
            self.q_norm, self.k_norm = RMSNorm(self.head_size, eps=norm_eps), RMSNorm(self.head_size, eps=norm_eps)
        self.qk_norm = qk_norm
        self.attn_dropout = Dropout(dropout)                    # on the probabilities
        self.proj = Linear(n_embd, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)                         # on what goes into the stream

    def forward(self, x, draws=None, packing=None):
        """x (B, T, C) -> y (B, T, C), cache; packing (Packing) where a row holds several examples."""
        B, T, C = x.shape
        positions, spans = (np.arange(T), _made_once(self.spans, T)) if packing is None else packing
        qkv, c_qkv = self.qkv.forward(x, draws)                                         # (1)  (B, T, (H + 2 G) D)
        q, k, v = self._split(qkv)                                                      # (2)  (B, T, H or G, D), views
        q, k, c_norms = self._normalise(q, k)                                           # (3)
        q, k, c_turns = self._turn(q, k, positions)                                     # (4)
        keep = self.attn_dropout.mask((B, self.n_head, T, T), draws)
        y, c_attention = self.ops.attention_forward(q, k, v, spans, keep=keep, p=self.attn_dropout.p, **self._scoring(x))  # (5)
        y, c_proj = self.proj.forward(y.reshape(B, T, C), draws)                        # (6)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (7)
        return y, SelfAttentionCache(c_qkv, c_norms, c_turns, c_attention, c_proj, c_dropout)

    def backward(self, dy, cache):
        dy = self.dropout.backward(dy, cache.dropout)                                   # (7)
        dy = self.proj.backward(dy, cache.proj)                                         # (6)
        dqkv = empty((*dy.shape[:2], self.qkv.n_out), dy.dtype)
        dq, dk, dv = self._split(dqkv)
        plain = cache.norms is None and cache.turns is None
        found = self.ops.attention_backward(dy.reshape(cache.attention.y.shape), cache.attention,
                                            out=(dq, dk, dv) if plain else (None, None, dv))    # (5)
        if not plain:
            for target, d, i in ((dq, found[0], 0), (dk, found[1], 1)):
                if cache.turns is not None:
                    d = self.ops.rotary_backward(d, cache.turns[i])                     # (4)
                if cache.norms is not None:
                    d = (self.q_norm, self.k_norm)[i].backward(d, cache.norms[i])       # (3)
                target[...] = d
        return self.qkv.backward(dqkv, cache.qkv)                                       # (2) (1)

    def step(self, x, past):
        """x (B, T, C), the next T positions -> y (B, T, C). `past` (KeyValues of this layer) takes in their keys and values."""
        B, T, C = x.shape
        q, k, v = self._split(self.qkv.step(x, past))
        q, k, _ = self._normalise(q, k)
        q, k, _ = self._turn(q, k, past.lengths[:, None] + np.arange(T))
        y = np.empty((B, T, self.n_head, self.head_size), x.dtype)
        for b in range(B):                                      # each sequence has a past of its own length
            keys, values = past.extend(b, k[b], v[b])           # (S, G, D): all positions up to these
            y[b] = self.ops.attention_forward(q[b:b + 1], keys[None], values[None], self.spans(T, len(keys)), **self._scoring(x))[0]
        return self.proj.step(y.reshape(B, T, C), past)

    def _split(self, qkv):
        parts = qkv.reshape(*qkv.shape[:2], -1, self.head_size)
        H, G = self.n_head, self.n_kv_head
        return parts[:, :, :H], parts[:, :, H:H + G], parts[:, :, H + G:]

    def _normalise(self, q, k):
        if not self.qk_norm:
            return q, k, None
        q, c_q = self.q_norm.forward(q)
        k, c_k = self.k_norm.forward(k)
        return q, k, (c_q, c_k)

    def _turn(self, q, k, positions):
        if self.rotary is None:
            return q, k, None
        cos, sin = self.rotary.angles(positions, self.head_size, q.real.dtype)
        q, c_q = self.ops.rotary_forward(q, cos, sin, interleaved=self.rotary.interleaved)
        k, c_k = self.ops.rotary_forward(k, cos, sin, interleaved=self.rotary.interleaved)
        return q, k, (c_q, c_k)

    def _scoring(self, x):
        slopes = alibi_slopes(self.n_head, dtype=x.real.dtype) if self.alibi else None
        return {"slopes": slopes, "softcap": self.softcap}


@lru_cache(maxsize=16)
def _made_once(spans, T):
    """The same array every time, and read-only, so that a backend need plan its work only once."""
    made = spans(T, T)
    made.flags.writeable = False
    return made
