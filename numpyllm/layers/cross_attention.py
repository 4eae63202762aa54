"""Attention from one sequence to another: queries from the stream, keys and values from a memory (Vaswani et al. 2017,
section 3.2.3). In a decoder the memory is the encoder's output; where it is the stream itself this is self-attention.

Shapes: x (B, T, C) makes the queries, memory (B, S, C) the keys and values, spans (mask.py) say who sees what.
"""

from typing import NamedTuple

import numpy as np

from ..ops import AttentionCache, LinearCache
from ..workspace import empty
from .base import Layer
from .basic import Dropout, Linear


class CrossAttentionCache(NamedTuple):
    q: LinearCache
    kv: LinearCache
    attention: AttentionCache
    proj: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped


class CrossAttention(Layer):
    """x (B, T, C), memory (B, S, C) -> y (B, T, C). One projection makes keys and values, side by side."""

    def __init__(self, n_embd, n_head, *, bias=True, dropout=0.0, proj_std=0.02):
        self.n_head = n_head
        self.q = Linear(n_embd, n_embd, bias=bias)
        self.kv = Linear(n_embd, 2 * n_embd, bias=bias)
        self.attn_dropout = Dropout(dropout)                    # on the probabilities
        self.proj = Linear(n_embd, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)                         # on what goes into the stream

    def forward(self, x, memory, spans=None, draws=None):
        (B, T, C), S = x.shape, memory.shape[1]
        q, c_q = self.q.forward(x, draws)                                               # (1)  (B, T, C)
        kv, c_kv = self.kv.forward(memory, draws)                                       # (2)  (B, S, 2C)
        k, v = self._split(kv)                                                          # (3)  (B, S, H, D), views
        keep = self.attn_dropout.mask((B, self.n_head, T, S), draws)
        y, c_attention = self.ops.attention_forward(self._heads(q), k, v, spans, keep=keep, p=self.attn_dropout.p)  # (4)
        y, c_proj = self.proj.forward(y.reshape(B, T, C), draws)                        # (5)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (6)
        return y, CrossAttentionCache(c_q, c_kv, c_attention, c_proj, c_dropout)

    def backward(self, dy, cache):
        """dy (B, T, C) -> dx (B, T, C), dmemory (B, S, C)."""
        dy = self.dropout.backward(dy, cache.dropout)                                   # (6)
        dy = self.proj.backward(dy, cache.proj)                                         # (5)
        dq, dkv = empty(dy.shape, dy.dtype), empty((*cache.kv.x.shape[:2], 2 * dy.shape[2]), dy.dtype)
        self.ops.attention_backward(self._heads(dy), cache.attention,
                                    out=(self._heads(dq), *self._split(dkv)))           # (4) (3)
        dmemory = self.kv.backward(dkv, cache.kv)                                       # (2)
        return self.q.backward(dq, cache.q), dmemory                                    # (1)

    def keys_values(self, memory):
        """For decoding: memory (B, S, C) -> k, v (B, S, H, D). They are the same for every query that will come."""
        return self._split(self.kv.forward(memory)[0])

    def attend(self, x, k, v, spans=None):
        """For decoding: forward, with keys and values (B, S, H, D) made before. x (B, T, C) -> y (B, T, C)."""
        q, _ = self.q.forward(x)
        y, _ = self.ops.attention_forward(self._heads(q), k, v, spans)
        return self.proj.forward(y.reshape(x.shape))[0]

    def _heads(self, x):
        B, T, _ = x.shape
        return x.reshape(B, T, self.n_head, -1)

    def _split(self, kv):
        B, S, _ = kv.shape
        parts = kv.reshape(B, S, 2, self.n_head, -1)
        return parts[:, :, 0], parts[:, :, 1]


class SelfAttention(CrossAttention):
    """The stream is its own memory. x (B, T, C) -> y (B, T, C); which positions see which is up to the spans."""

    def forward(self, x, spans=None, draws=None):
        return super().forward(x, x, spans, draws)

    def backward(self, dy, cache):
        """dy (B, T, C) -> dx (B, T, C): x made the queries, and the keys and values as well, so it has both gradients."""
        dx, dmemory = super().backward(dy, cache)
        return np.add(dx, dmemory, out=dx)
