"""The blocks of an encoder and of a decoder, pre-norm or post-norm, and the embedding below them (Vaswani et al. 2017,
section 3).

Shapes: x (B, T, C) the stream; memory (B, S, C) the encoder's output, which every decoder block reads.
"""

import math
from typing import NamedTuple

import numpy as np

from ..ops import LayerNormCache, sinusoidal_positions
from ..parameters import ParamSpec, normal
from ..workspace import empty
from .base import Layer
from .basic import LayerNorm
from .cross_attention import CrossAttention, SelfAttention
from .mlp import MLP


class SublayerCache(NamedTuple):
    norm: LayerNormCache
    f: object               # the cache of what is wrapped


class Sublayer(Layer):
    """A layer f beside the residual stream. Pre-norm: y = x + f(norm(x)); post-norm, as in the paper: y = norm(x + f(x)).

    f may take more than the stream. Its forward is given the rest of the arguments, its backward's further gradients
    are passed on.
    """

    def __init__(self, f, n_embd, *, pre_norm, bias=True, norm_eps=1e-5):
        self.f, self.pre_norm = f, pre_norm
        self.norm = LayerNorm(n_embd, bias=bias, eps=norm_eps)

    def forward(self, x, *others):
        if self.pre_norm:
            h, c_norm = self.norm.forward(x)                                            # (1)
            h, c_f = self.f.forward(h, *others)                                         # (2)
            y, _ = self.ops.residual_forward(x, h)                                      # (3)
        else:
            h, c_f = self.f.forward(x, *others)                                         # (4)
            _, y, c_norm = self.norm.residual_forward(x, h)                             # (5)
        return y, SublayerCache(c_norm, c_f)

    def backward(self, dy, cache):
        """dy (B, T, C) -> dx (B, T, C), and f's other gradients if it has any."""
        if self.pre_norm:
            ds, dh = self.ops.residual_backward(dy, None)                               # (3)
            dh, *others = _as_tuple(self.f.backward(dh, cache.f))                       # (2)
            dx = self.norm.stream_backward(ds, dh, cache.norm)                          # (1)  x was read twice
        else:
            ds = self.norm.backward(dy, cache.norm)                                     # (5)
            dh, *others = _as_tuple(self.f.backward(ds, cache.f))                       # (4)
            dx, _ = self.ops.residual_forward(ds, dh)                                   # (4)  x was read twice
        return (dx, *others) if others else dx

    def apply(self, x, f):
        """For decoding: as forward, with this function in place of f.forward, and nothing kept."""
        if self.pre_norm:
            return x + f(self.norm.step(x, None))
        return self.norm.step(x + f(x), None)


class EncoderBlock(Layer):
    """x (B, S, C) -> y (B, S, C): self-attention within spans, MLP."""

    def __init__(self, n_embd, n_head, *, pre_norm, bias=True, dropout=0.0, proj_std=0.02, exact_gelu=False, norm_eps=1e-5):
        around = {"pre_norm": pre_norm, "bias": bias, "norm_eps": norm_eps}
        inside = {"bias": bias, "dropout": dropout, "proj_std": proj_std}
        self.attn = Sublayer(SelfAttention(n_embd, n_head, **inside), n_embd, **around)
        self.mlp = Sublayer(MLP(n_embd, exact_gelu=exact_gelu, **inside), n_embd, **around)

    def forward(self, x, spans=None, draws=None):
        h, c_attn = self.attn.forward(x, spans, draws)                                  # (1)
        y, c_mlp = self.mlp.forward(h, draws)                                           # (2)
        return y, (c_attn, c_mlp)

    def backward(self, dy, cache):
        c_attn, c_mlp = cache
        dh = self.mlp.backward(dy, c_mlp)                                               # (2)
        return self.attn.backward(dh, c_attn)                                           # (1)


class DecoderBlock(Layer):
    """x (B, T, C), memory (B, S, C) -> y (B, T, C): causal self-attention, attention to the memory, MLP."""

    def __init__(self, n_embd, n_head, *, pre_norm, bias=True, dropout=0.0, proj_std=0.02, exact_gelu=False, norm_eps=1e-5):
        around = {"pre_norm": pre_norm, "bias": bias, "norm_eps": norm_eps}
        inside = {"bias": bias, "dropout": dropout, "proj_std": proj_std}
        self.attn = Sublayer(SelfAttention(n_embd, n_head, **inside), n_embd, **around)
        self.cross = Sublayer(CrossAttention(n_embd, n_head, **inside), n_embd, **around)
        self.mlp = Sublayer(MLP(n_embd, exact_gelu=exact_gelu, **inside), n_embd, **around)

    def forward(self, x, memory, spans=None, memory_spans=None, draws=None):
        h, c_attn = self.attn.forward(x, spans, draws)                                  # (1)
        h, c_cross = self.cross.forward(h, memory, memory_spans, draws)                 # (2)
        y, c_mlp = self.mlp.forward(h, draws)                                           # (3)
        return y, (c_attn, c_cross, c_mlp)

    def backward(self, dy, cache):
        """dy (B, T, C) -> dx (B, T, C), dmemory (B, S, C)."""
        c_attn, c_cross, c_mlp = cache
        dh = self.mlp.backward(dy, c_mlp)                                               # (3)
        dh, dmemory = self.cross.backward(dh, c_cross)                                  # (2)
        return self.attn.backward(dh, c_attn), dmemory                                  # (1)

    def step(self, x, past):
        """x (B, 1, C), the next position -> y (B, 1, C). past is this layer's part of a DecoderPast (models/encoder_decoder.py)."""
        x = self.attn.apply(x, lambda h: self.attn.f.attend(h, *past.extend(*self.attn.f.keys_values(h))))
        x = self.cross.apply(x, lambda h: self.cross.f.attend(h, *past.memory))
        return self.mlp.apply(x, lambda h: self.mlp.f.step(h, None))


class SinusoidalEmbedding(Layer):
    """y = sqrt(C) wte[ids] + sinusoids (section 3.4 and 3.5 of the paper). Entries of wte begin with the standard deviation
    1 / sqrt(C): a token then weighs as much as its position, and a tied head gives logits of order one."""

    def __init__(self, vocab_size, block_size, n_embd):
        self.vocab_size, self.block_size, self.n_embd = vocab_size, block_size, n_embd
        self.scale = math.sqrt(n_embd)

    def own_specs(self):
        return {"wte": ParamSpec((self.vocab_size, self.n_embd), normal(1 / self.scale))}

    def bind(self, parameters, ops, prefix=""):
        super().bind(parameters, ops, prefix)
        self._positions = sinusoidal_positions(self.block_size, self.n_embd, parameters.dtype) / self.scale

    def forward(self, ids, start=0):
        """ids (B, T), which stand at positions start, start + 1, ... -> y (B, T, C), cache."""
        positions = self._positions[start:start + ids.shape[1]]
        y, cache = self.ops.token_position_forward(ids, self.wte, positions)            # (1)
        y *= self.scale                                                                 # (2)
        return y, cache

    def backward(self, dy, cache):
        """Returns nothing: ids have no gradient. What a tied head, or another use, has written before is added to."""
        if self.frozen("wte"):
            return
        dy = np.multiply(dy, self.scale, out=empty(dy.shape, dy.dtype))                 # (2)
        with self._parameters.contribution(self._names["wte"]) as (target, add):
            self.ops.token_position_backward(dy, cache, out=(target, None), add=add)    # (1)  positions have no parameters


def _as_tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)
