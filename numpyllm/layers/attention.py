"""Causal multi-head self-attention: every token gathers from those before it (Vaswani et al. 2017, section 3.2)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..ops import AttentionCache, LinearCache, causal_spans
from ..workspace import empty
from .base import Layer
from .basic import Dropout, Linear


class SelfAttentionCache(NamedTuple):
    qkv: LinearCache
    attention: AttentionCache
    proj: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped


class CausalSelfAttention(Layer):
    """x (B, T, C) -> y (B, T, C). One projection makes queries, keys and values, side by side."""

    def __init__(self, n_embd, n_head, *, bias=True, dropout=0.0, proj_std=0.02):
        self.n_head = n_head
        self.qkv = Linear(n_embd, 3 * n_embd, bias=bias)
        self.attn_dropout = Dropout(dropout)                    # on the probabilities
        self.proj = Linear(n_embd, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)                         # on what goes into the stream

    def forward(self, x, draws=None):
        B, T, C = x.shape
        qkv, c_qkv = self.qkv.forward(x)                                                # (1)  (B, T, 3C)
        q, k, v = self._split(qkv)                                                      # (2)  (B, T, H, D), views
        keep = self.attn_dropout.mask((B, self.n_head, T, T), draws)
        y, c_attention = self.ops.attention_forward(q, k, v, _causal(T), keep=keep, p=self.attn_dropout.p)  # (3)
        y, c_proj = self.proj.forward(y.reshape(B, T, C))                               # (4)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (5)
        return y, SelfAttentionCache(c_qkv, c_attention, c_proj, c_dropout)

    def step(self, x, past):
        """x (B, T, C), the next T positions -> y (B, T, C). `past` (KeyValues of this layer) takes in their keys and values."""
        B, T, C = x.shape
        q, k, v = self._split(self.qkv.step(x, past))
        y = np.empty((B, T, self.n_head, C // self.n_head), x.dtype)
        for b in range(B):                                      # each sequence has a past of its own length
            keys, values = past.extend(b, k[b], v[b])           # (S, H, D): all positions up to these
            y[b] = self.ops.attention_forward(q[b:b + 1], keys[None], values[None], causal_spans(T, len(keys)))[0]
        return self.proj.step(y.reshape(B, T, C), past)

    def backward(self, dy, cache):
        B, T, C = dy.shape
        dy = self.dropout.backward(dy, cache.dropout)                                   # (5)
        dy = self.proj.backward(dy, cache.proj)                                         # (4)
        dqkv = empty((B, T, 3 * C), dy.dtype)
        self.ops.attention_backward(dy.reshape(cache.attention.y.shape), cache.attention,
                                    out=self._split(dqkv))                              # (3) (2)
        return self.qkv.backward(dqkv, cache.qkv)                                       # (1)

    def _split(self, qkv):
        B, T, _ = qkv.shape
        parts = qkv.reshape(B, T, 3, self.n_head, -1)
        return parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]


@lru_cache(maxsize=16)
def _causal(T):
    """The same array every time, and read-only, so that a backend need plan its work only once."""
    spans = causal_spans(T)
    spans.flags.writeable = False
    return spans
