"""One transformer block, pre-norm as in GPT-2: each half reads the normalised stream and adds to the stream."""

from typing import NamedTuple

from ..ops import LayerNormCache
from .attention import CausalSelfAttention, SelfAttentionCache
from .base import Layer
from .basic import LayerNorm
from .mlp import MLP, MLPCache


class BlockCache(NamedTuple):
    norm1: LayerNormCache
    attn: SelfAttentionCache
    norm2: LayerNormCache
    mlp: MLPCache


class Block(Layer):
    """x (B, T, C) -> y (B, T, C): x + attn(norm1(x)), and to that + mlp(norm2(.))."""

    def __init__(self, n_embd, n_head, *, bias=True, dropout=0.0, proj_std=0.02, exact_gelu=False, norm_eps=1e-5):
        self.norm1 = LayerNorm(n_embd, bias=bias, eps=norm_eps)
        self.attn = CausalSelfAttention(n_embd, n_head, bias=bias, dropout=dropout, proj_std=proj_std)
        self.norm2 = LayerNorm(n_embd, bias=bias, eps=norm_eps)
        self.mlp = MLP(n_embd, bias=bias, dropout=dropout, proj_std=proj_std, exact_gelu=exact_gelu)

    def forward(self, x, draws=None):
        h, c_norm1 = self.norm1.forward(x)                                              # (1)
        h, c_attn = self.attn.forward(h, draws)                                         # (2)
        s, h, c_norm2 = self.norm2.residual_forward(x, h)                               # (3)
        h, c_mlp = self.mlp.forward(h, draws)                                           # (4)
        y, _ = self.ops.residual_forward(s, h)                                          # (5)
        return y, BlockCache(c_norm1, c_attn, c_norm2, c_mlp)

    def step(self, x, past):
        s, h, _ = self.norm2.residual_forward(x, self.attn.step(self.norm1.step(x, past), past))
        return s + self.mlp.step(h, past)

    def backward(self, dy, cache):
        ds, dh = self.ops.residual_backward(dy, None)                                   # (5)
        dh = self.mlp.backward(dh, cache.mlp)                                           # (4)
        dx = self.norm2.stream_backward(ds, dh, cache.norm2)                            # (3)  also the gradient of h
        dh = self.attn.backward(dx, cache.attn)                                         # (2)
        return self.norm1.stream_backward(dx, dh, cache.norm1)                          # (1)  x was read twice
