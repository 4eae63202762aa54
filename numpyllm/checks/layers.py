"""A case for every layer."""

import numpy as np

from .. import ops as text
from ..layers import (MLP, Block, CausalSelfAttention, CrossAttention, DecoderBlock, Dropout, EncoderBlock, GatedMLP, Head, LayerNorm, Linear,
                      LoRALinear, LSTMBlock, MixtureOfExperts, RMSNorm, Rotary, SelfAttention, SinusoidalEmbedding, TokenEmbedding,
                      TokenPositionEmbedding)
from ..random import Draws
from .case import bound_case, even, lengths, some_targets, spread_rows


def _layer(make, shape=lambda z: (z.B, z.T, z.H * z.D), call=lambda layer, x: layer.forward(x),
           back=lambda layer, dy, cache: layer.backward(dy, cache)):
    return lambda rng, z, ops: bound_case(rng, lambda: make(z), ops, call, back, spread_rows(rng, *shape(z)))


def _embedding_layer(rng, z, ops, make=lambda z: TokenPositionEmbedding(z.V, z.S, z.C)):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return bound_case(rng, lambda: make(z), ops, lambda layer: layer.forward(ids),
                       lambda layer, dy, cache: layer.backward(dy, cache))


def _sinusoidal_layer(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    make = lambda: TokenEmbedding(z.V, z.C, positions=text.sinusoidal_positions(z.S, z.C))
    return bound_case(rng, make, ops, lambda layer: layer.forward(ids), lambda layer, dy, cache: layer.backward(dy, cache))


def _block(z, *, pre_norm=True, bias=True, dropout=0.0):
    C = z.H * z.D
    return Block(CausalSelfAttention(C, z.H, bias=bias, dropout=dropout), MLP(C, bias=bias, dropout=dropout), LayerNorm(C, bias=bias),
                 LayerNorm(C, bias=bias), pre_norm=pre_norm)


def _mixture(z, k, make, **options):
    return MixtureOfExperts(z.H * z.D, [make(z) for _ in range(5)], n_used=k, **options)


def _with_loss(make):
    """A mixture of experts whose results are y and its loss."""
    return _layer(make, call=lambda layer, x: _and_its_loss(*layer.forward(x)),
                  back=lambda layer, dy, dloss, cache: layer.backward(dy, cache, dloss))


def _and_its_loss(y, cache):
    return y, cache.loss, cache


def _two_inputs(make, draws=None):
    """A layer that reads a memory of S positions beside a stream of T. The case has one x, first the one and then the other."""
    def case(rng, z, ops):
        spans = text.padding_spans(lengths(rng, z, z.S), z.T)

        def call(layer, x):
            stream, memory = x[:, :z.T], x[:, z.T:]
            if isinstance(layer, CrossAttention):
                return layer.forward(stream, memory, spans, draws)
            return layer.forward(stream, memory, text.causal_spans(z.T), spans, draws)

        return bound_case(rng, lambda: make(z), ops, call,
                           lambda layer, dy, cache: np.concatenate(layer.backward(dy, cache), axis=1),
                           spread_rows(rng, z.B, z.T + z.S, z.H * z.D))
    return case


def _padded(make):
    """A layer whose positions see those before the padding."""
    def case(rng, z, ops):
        spans = text.padding_spans(lengths(rng, z, z.T), z.T)
        return _layer(make, call=lambda layer, x: layer.forward(x, spans))(rng, z, ops)
    return case


def _sinusoidal_embedding(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return bound_case(rng, lambda: SinusoidalEmbedding(z.V, z.S, z.C), ops, lambda layer: layer.forward(ids),
                       lambda layer, dy, cache: layer.backward(dy, cache))


def _head_logprobs(rng, z, ops):
    targets = some_targets(rng, z)
    return bound_case(rng, lambda: Head(z.C, z.V), ops, lambda layer, h: layer.logprobs_forward(h, targets),
                      lambda layer, dlogprobs, cache: layer.logprobs_backward(dlogprobs, cache), spread_rows(rng, z.B, z.T, z.C))


DRAWS = Draws(0)
DROP = {"call": lambda layer, x: layer.forward(x, DRAWS)}

LAYERS = {
    "Linear": _layer(lambda z: Linear(z.C, z.F), lambda z: (z.B, z.T, z.C)),
    "LoRALinear": _layer(lambda z: LoRALinear(z.C, z.F, rank=z.D, scale=0.7), lambda z: (z.B, z.T, z.C)),
    "LoRALinear, no bias, dropout": _layer(lambda z: LoRALinear(z.C, z.F, rank=1, scale=0.7, dropout=0.3, bias=False),
                                           lambda z: (z.B, z.T, z.C), **DROP),
    "LayerNorm": _layer(lambda z: LayerNorm(z.C), lambda z: (z.B, z.T, z.C)),
    "LayerNorm, residual": _layer(lambda z: LayerNorm(z.C), lambda z: (z.B, z.T, z.C),
                                  call=lambda layer, x: layer.residual_forward(x, 2 * x),
                                  back=lambda layer, ds, dy, cache: 3 * layer.stream_backward(ds, dy, cache)),
    "Dropout": _layer(lambda z: Dropout(0.3), **DROP),
    "TokenPositionEmbedding": _embedding_layer,
    "TokenEmbedding": lambda *a: _embedding_layer(*a, make=lambda z: TokenEmbedding(z.V, z.C, std=1.0)),
    "CausalSelfAttention": _layer(lambda z: CausalSelfAttention(z.H * z.D, z.H)),
    "CausalSelfAttention, dropout": _layer(lambda z: CausalSelfAttention(z.H * z.D, z.H, dropout=0.3), **DROP),
    "MLP": _layer(lambda z: MLP(z.H * z.D)),
    "MLP, no bias, dropout": _layer(lambda z: MLP(z.H * z.D, bias=False, dropout=0.3), **DROP),
    "CausalSelfAttention, rotary, norms, shared keys": _layer(
        lambda z: CausalSelfAttention(2 * z.H * even(z.D), 2 * z.H, n_kv_head=z.H, qk_norm=True, rotary=Rotary(scale=8.0, trained=20)),
        shape=lambda z: (z.B, z.T, 2 * z.H * even(z.D))),
    "CausalSelfAttention, ALiBi, soft cap": _layer(lambda z: CausalSelfAttention(z.H * z.D, z.H, alibi=True, softcap=2.0)),
    "RMSNorm": _layer(lambda z: RMSNorm(z.C), lambda z: (z.B, z.T, z.C)),
    "MLP, squared ReLU": _layer(lambda z: MLP(z.H * z.D, activation="squared_relu")),
    "MLP, SiLU, no bias": _layer(lambda z: MLP(z.H * z.D, activation="silu", bias=False)),
    "GatedMLP": _layer(lambda z: GatedMLP(z.H * z.D, n_hidden=z.F)),
    "GatedMLP, bias, dropout": _layer(lambda z: GatedMLP(z.H * z.D, n_hidden=z.F, bias=True, dropout=0.3), **DROP),
    "MixtureOfExperts": _with_loss(lambda z: _mixture(z, 2, lambda z: MLP(z.H * z.D, n_hidden=z.F), balance=0.7)),
    "MixtureOfExperts, one, no bias": _with_loss(
        lambda z: _mixture(z, 1, lambda z: MLP(z.H * z.D, n_hidden=z.F, bias=False), balance=0.7)),
    "MixtureOfExperts, gated, dropout": _layer(
        lambda z: _mixture(z, 3, lambda z: GatedMLP(z.H * z.D, n_hidden=z.F), dropout=0.3), **DROP),
    "TokenEmbedding, sinusoidal": _sinusoidal_layer,
    "Block": _layer(lambda z: _block(z)),
    "Block, no bias, dropout": _layer(lambda z: _block(z, bias=False, dropout=0.3), **DROP),
    "Block, post-norm": _layer(lambda z: _block(z, pre_norm=False)),
    "SelfAttention, padding": _padded(lambda z: SelfAttention(z.H * z.D, z.H)),
    "CrossAttention": _two_inputs(lambda z: CrossAttention(z.H * z.D, z.H)),
    "CrossAttention, dropout": _two_inputs(lambda z: CrossAttention(z.H * z.D, z.H, bias=False, dropout=0.3), DRAWS),
    "EncoderBlock": _padded(lambda z: EncoderBlock(z.H * z.D, z.H, pre_norm=True)),
    "DecoderBlock, pre-norm": _two_inputs(lambda z: DecoderBlock(z.H * z.D, z.H, pre_norm=True)),
    "DecoderBlock, post-norm": _two_inputs(lambda z: DecoderBlock(z.H * z.D, z.H, pre_norm=False)),
    "SinusoidalEmbedding": _sinusoidal_embedding,
    "LSTMBlock": _layer(lambda z: LSTMBlock(z.C), lambda z: (z.B, z.T, z.C)),
    "LSTMBlock, dropout": _layer(lambda z: LSTMBlock(z.C, dropout=0.3), lambda z: (z.B, z.T, z.C), **DROP),
    "Head, log-probabilities": _head_logprobs,
    "Head": _layer(lambda z: Head(z.C, z.V), lambda z: (z.B, z.T, z.C)),
}
