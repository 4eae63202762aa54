"""One transformer block: attention, then an MLP, each beside a residual stream."""

from typing import NamedTuple

from .attention import SelfAttentionCache
from .base import Layer
from .moe import MixtureOfExperts


class BlockCache(NamedTuple):
    norm1: object
    attn: SelfAttentionCache
    norm2: object
    mlp: object


class Block(Layer):
    """x (B, T, C) -> y (B, T, C): x + attn(norm1(x)), and to that + mlp(norm2(.)), as in GPT-2: each half reads the normalised
    stream and adds to the stream.

    pre_norm=False puts the norms where the first Transformer had them, on the stream itself: norm1(x + attn(x)), and of that
    norm2(. + mlp(.)). It is composed of an attention, an MLP and two norms.

    A mixture of experts adds to the model's loss (cache.mlp.loss): backward's dloss is the gradient of that, and without experts
    counts for nothing.
    """

    def __init__(self, attn, mlp, norm1, norm2, *, pre_norm=True):
        self.norm1, self.attn, self.norm2, self.mlp, self.pre_norm = norm1, attn, norm2, mlp, pre_norm

    def forward(self, x, draws=None, packing=None):
        if not self.pre_norm:
            return self._post_norm_forward(x, draws, packing)
        h, c_norm1 = self.norm1.forward(x)                                              # (1)
        h, c_attn = self.attn.forward(h, draws, packing)                                # (2)
        s, h, c_norm2 = self.norm2.residual_forward(x, h)                               # (3)
        h, c_mlp = self.mlp.forward(h, draws)                                           # (4)
        y, _ = self.ops.residual_forward(s, h)                                          # (5)
        return y, BlockCache(c_norm1, c_attn, c_norm2, c_mlp)

    def backward(self, dy, cache, dloss=0.0):
        if not self.pre_norm:
            return self._post_norm_backward(dy, cache, dloss)
        ds, dh = self.ops.residual_backward(dy, None)                                   # (5)
        dh = self._mlp_backward(dh, cache.mlp, dloss)                                   # (4)
        dx = self.norm2.stream_backward(ds, dh, cache.norm2)                            # (3)  also the gradient of h
        dh = self.attn.backward(dx, cache.attn)                                         # (2)
        return self.norm1.stream_backward(dx, dh, cache.norm1)                          # (1)  x was read twice

    def step(self, x, past):
        if not self.pre_norm:
            x = self.norm1.step(x + self.attn.step(x, past), past)
            return self.norm2.step(x + self.mlp.step(x, past), past)
        s, h, _ = self.norm2.residual_forward(x, self.attn.step(self.norm1.step(x, past), past))
        return s + self.mlp.step(h, past)

    def _post_norm_forward(self, x, draws, packing):
        h, c_attn = self.attn.forward(x, draws, packing)                                # (1)
        _, n, c_norm1 = self.norm1.residual_forward(x, h)                               # (2)
        h, c_mlp = self.mlp.forward(n, draws)                                           # (3)
        _, y, c_norm2 = self.norm2.residual_forward(n, h)                               # (4)
        return y, BlockCache(c_norm1, c_attn, c_norm2, c_mlp)

    def _post_norm_backward(self, dy, cache, dloss):
        dn = self.norm2.backward(dy, cache.norm2)                                       # (4)  also the gradient of h
        dn, _ = self.ops.residual_forward(dn, self._mlp_backward(dn, cache.mlp, dloss)) # (3)  n was read twice
        dx = self.norm1.backward(dn, cache.norm1)                                       # (2)
        dx, _ = self.ops.residual_forward(dx, self.attn.backward(dx, cache.attn))       # (1)
        return dx

    def _mlp_backward(self, dy, cache, dloss):
        return self.mlp.backward(dy, cache, dloss) if isinstance(self.mlp, MixtureOfExperts) else self.mlp.backward(dy, cache)
