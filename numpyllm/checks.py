"""What `numpyllm gradcheck` checks: a case for every op, every layer and whole models.

A case is made from a random generator, sizes and a backend; the tests draw sizes and seeds for the same cases. Values are of
order one, gains and biases are not at their defaults, so that no gradient is zero by accident.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import ops as text
from .gradcheck import check_gradients, check_op
from .layers import (MLP, Block, CausalSelfAttention, CrossAttention, DecoderBlock, Dropout, EncoderBlock, GatedMLP, Head, LayerNorm, Linear,
                     LSTMBlock, RMSNorm, Rotary, SelfAttention, SinusoidalEmbedding, TokenEmbedding, TokenPositionEmbedding)
from .models import GPT, LSTMLM, EncoderDecoder, EncoderDecoderConfig, GPTConfig, LSTMConfig
from .parameters import Parameters
from .random import Draws


class Sizes(NamedTuple):
    """Prime and pairwise different, so that a swapped axis cannot hide; models, which cost more, take SMALL."""

    B: int = 2      # batch
    T: int = 5      # queries
    S: int = 7      # keys, at least T
    H: int = 3      # heads
    D: int = 11     # channels a head
    C: int = 13     # channels
    F: int = 17     # hidden width
    V: int = 19     # vocabulary


SMALL = Sizes(B=2, T=3, S=5, H=2, D=3, C=7, F=11, V=13)


class Case(NamedTuple):
    forward: Callable       # (**inputs) -> y, ..., cache
    backward: Callable      # (dy, ..., cache) -> gradients of the floating-point inputs in their order
    inputs: dict


# ---- ops -----------------------------------------------------------------------------------------------------------

def _linear(rng, z, ops, bias=True):
    x, w, b = rng.standard_normal((z.B, z.T, z.C)), rng.standard_normal((z.C, z.F)), rng.standard_normal(z.F)
    return Case(ops.linear_forward, ops.linear_backward, {"x": x, "w": w} | ({"b": b} if bias else {}))


def _embedding(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return Case(lambda w: ops.embedding_forward(ids, w), ops.embedding_backward, {"w": rng.standard_normal((z.V, z.C))})


def _token_position(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return Case(lambda wte, wpe: ops.token_position_forward(ids, wte, wpe, start=z.S - z.T), ops.token_position_backward,
                {"wte": rng.standard_normal((z.V, z.C)), "wpe": rng.standard_normal((z.S, z.C))})


def _spread_rows(rng, *shape):
    """Rows with |mean| below their standard deviation: a constant row, normalised, amplifies rounding without limit."""
    base = rng.permuted(np.broadcast_to(np.linspace(-1, 1, shape[-1]), shape), axis=-1)
    return base + rng.uniform(-0.3, 0.3, shape) / shape[-1] + rng.uniform(-0.3, 0.3, (*shape[:-1], 1))


def _gain_and_shift(rng, z, bias):
    return {"w": rng.standard_normal(z.C)} | ({"b": rng.standard_normal(z.C)} if bias else {})


def _layernorm(rng, z, ops, bias=True):
    return Case(ops.layernorm_forward, ops.layernorm_backward,
                {"x": _spread_rows(rng, z.B, z.T, z.C)} | _gain_and_shift(rng, z, bias))


def _residual_layernorm(rng, z, ops, bias=True):
    s, x = _spread_rows(rng, z.B, z.T, z.C), rng.standard_normal((z.B, z.T, z.C))
    return Case(ops.residual_layernorm_forward, ops.residual_layernorm_backward,
                {"x": x, "r": s - x} | _gain_and_shift(rng, z, bias))


def _rmsnorm(rng, z, ops):
    return Case(ops.rmsnorm_forward, ops.rmsnorm_backward, {"x": _spread_rows(rng, z.B, z.T, z.C), "w": rng.standard_normal(z.C)})


def _residual_rmsnorm(rng, z, ops):
    s, x = _spread_rows(rng, z.B, z.T, z.C), rng.standard_normal((z.B, z.T, z.C))
    return Case(ops.residual_rmsnorm_forward, ops.residual_rmsnorm_backward, {"x": x, "r": s - x, "w": rng.standard_normal(z.C)})


def _rotary(rng, z, ops, interleaved=False):
    positions = rng.integers(0, 100, (z.B, z.T))
    return Case(lambda x: ops.rotary_forward(x, *text.rotary_angles(positions, 2 * z.D, dtype=x.real.dtype), interleaved=interleaved),
                ops.rotary_backward,
                {"x": rng.standard_normal((z.B, z.T, z.H, 2 * z.D))})


def _activation(rng, z, ops, name):
    return Case(getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward"), {"x": 2 * rng.standard_normal((z.B, z.T, z.F))})


def _swiglu(rng, z, ops):
    return Case(ops.swiglu_forward, ops.swiglu_backward,
                {"gate": 2 * rng.standard_normal((z.B, z.T, z.F)), "x": rng.standard_normal((z.B, z.T, z.F))})


def _residual(rng, z, ops):
    return Case(ops.residual_forward, ops.residual_backward,
                {"x": rng.standard_normal((z.T, z.C)), "r": rng.standard_normal((z.T, z.C))})


def _gelu(rng, z, ops, exact=False):
    return Case(lambda x: ops.gelu_forward(x, exact=exact), ops.gelu_backward, {"x": 2 * rng.standard_normal((z.B, z.T, z.F))})


def _bias_gelu(rng, z, ops, exact=False, bias=True):
    inputs = {"x": 2 * rng.standard_normal((z.B, z.T, z.F))} | ({"b": rng.standard_normal(z.F)} if bias else {})
    return Case(lambda x, b=None: ops.bias_gelu_forward(x, b, exact=exact), ops.bias_gelu_backward, inputs)


def _dropout(rng, z, ops):
    keep = rng.random((z.B, z.T, z.C)) >= 0.3
    return Case(lambda x: ops.dropout_forward(x, keep, p=0.3), ops.dropout_backward, {"x": rng.standard_normal((z.B, z.T, z.C))})


def _softmax(rng, z, ops):
    return Case(ops.softmax_forward, ops.softmax_backward, {"x": 2 * rng.standard_normal((z.B, z.T, z.V))})


def _attention(rng, z, ops, spans=None, drop=False, shared=False, slopes=False, softcap=0.0):
    G, H = z.H, z.H * (2 if shared else 1)                                  # shared: two heads of queries for one of keys
    keep = rng.random((z.B, H, z.T, z.S)) >= 0.3 if drop else None
    spans = spans(rng, z) if spans else None
    inputs = {"q": rng.standard_normal((z.B, z.T, H, z.D)), "k": rng.standard_normal((z.B, z.S, G, z.D)),
              "v": rng.standard_normal((z.B, z.S, G, z.D))}
    choices = lambda q: {"keep": keep, "p": 0.3 if drop else 0.0, "softcap": softcap,
                         "slopes": text.alibi_slopes(H, dtype=q.real.dtype) if slopes else None}
    return Case(lambda q, k, v: ops.attention_forward(q, k, v, spans, **choices(q)),
                ops.attention_backward, inputs)


def _causal(rng, z):
    return text.causal_spans(z.T, z.S)


def _two_spans(rng, z):
    """Two intervals a query, different in each sequence, some of them empty."""
    return rng.integers(0, z.S + 1, (z.B, z.T, 2, 2))


def _lengths(rng, z, most):
    """How many of `most` places each sequence fills, at least one."""
    return rng.integers(1, most + 1, z.B)


def _padding(rng, z):
    return text.padding_spans(_lengths(rng, z, z.S), z.T)


def _lstm(rng, z, ops, bias=True, state=True):
    """x w_x and h w_h are of order one, so that no gate is saturated."""
    inputs = {"x": rng.standard_normal((z.B, z.T, z.C)), "w_x": rng.standard_normal((z.C, 4 * z.F)) / np.sqrt(z.C),
              "w_h": rng.standard_normal((z.F, 4 * z.F)) / np.sqrt(z.F)}
    inputs |= {"b": rng.standard_normal(4 * z.F)} if bias else {}
    inputs |= {"h0": rng.standard_normal((z.B, z.F)), "c0": rng.standard_normal((z.B, z.F))} if state else {}
    return Case(ops.lstm_forward, ops.lstm_backward, inputs)


def _targets(rng, z):
    return rng.integers(-1, z.V, (z.B, z.T))       # -1: nothing is asked


def _cross_entropy(rng, z, ops, **smooth):
    targets = _targets(rng, z)
    return Case(lambda logits: ops.cross_entropy_forward(logits, targets, **smooth)[::2], ops.cross_entropy_backward,
                {"logits": 2 * rng.standard_normal((z.B, z.T, z.V))})


def _head_loss(rng, z, ops, at_once=False, **smooth):
    targets = _targets(rng, z)
    inputs = {"h": rng.standard_normal((z.B, z.T, z.C)), "w": rng.standard_normal((z.V, z.C))}
    if not at_once:
        return Case(lambda h, w: ops.head_loss_forward(h, w, targets, **smooth)[::2], ops.head_loss_backward, inputs)
    return Case(lambda h, w: (ops.head_loss_forward(h, w, targets, **smooth)[0], (h, w, targets)),
                lambda dloss, cache, out=None: ops.head_loss_forward_backward(*cache, dloss, out=out, **smooth)[2:], inputs)


OPS = {
    "linear": _linear,
    "linear, no bias": lambda *a: _linear(*a, bias=False),
    "embedding": _embedding,
    "token_position": _token_position,
    "layernorm": _layernorm,
    "layernorm, no shift": lambda *a: _layernorm(*a, bias=False),
    "residual": _residual,
    "residual_layernorm": _residual_layernorm,
    "residual_layernorm, no shift": lambda *a: _residual_layernorm(*a, bias=False),
    "gelu": _gelu,
    "gelu, exact": lambda *a: _gelu(*a, exact=True),
    "bias_gelu": _bias_gelu,
    "bias_gelu, exact": lambda *a: _bias_gelu(*a, exact=True),
    "bias_gelu, no bias": lambda *a: _bias_gelu(*a, bias=False),
    "dropout": _dropout,
    "softmax": _softmax,
    "attention": _attention,
    "attention, causal": lambda *a: _attention(*a, spans=_causal),
    "attention, spans": lambda *a: _attention(*a, spans=_two_spans),
    "attention, dropout": lambda *a: _attention(*a, spans=_causal, drop=True),
    "attention, shared keys": lambda *a: _attention(*a, spans=_causal, shared=True),
    "attention, window": lambda *a: _attention(*a, spans=lambda rng, z: text.window_spans(z.T, z.S, window=3)),
    "attention, strided": lambda *a: _attention(*a, spans=lambda rng, z: text.strided_spans(z.T, z.S, stride=2)),
    "attention, ALiBi": lambda *a: _attention(*a, spans=_causal, slopes=True),
    "attention, soft cap": lambda *a: _attention(*a, spans=_causal, shared=True, softcap=0.7),
    "rmsnorm": _rmsnorm,
    "residual_rmsnorm": _residual_rmsnorm,
    "rotary": _rotary,
    "rotary, interleaved": lambda *a: _rotary(*a, interleaved=True),
    "relu": lambda *a: _activation(*a, name="relu"),
    "squared_relu": lambda *a: _activation(*a, name="squared_relu"),
    "silu": lambda *a: _activation(*a, name="silu"),
    "swiglu": _swiglu,
    "attention, padding": lambda *a: _attention(*a, spans=_padding),
    "lstm": _lstm,
    "lstm, no bias, no state": lambda *a: _lstm(*a, bias=False, state=False),
    "cross_entropy": _cross_entropy,
    "cross_entropy, smoothed": lambda *a: _cross_entropy(*a, label_smoothing=0.2),
    "head_loss": _head_loss,
    "head_loss, smoothed": lambda *a: _head_loss(*a, label_smoothing=0.2),
    "head_loss, at once": lambda *a: _head_loss(*a, at_once=True),
    "head_loss, at once, smoothed": lambda *a: _head_loss(*a, at_once=True, label_smoothing=0.2),
}


# ---- layers and models ---------------------------------------------------------------------------------------------

def _bound_case(rng, make, ops, call, back, x=None):
    """A case whose inputs are x, if given, and all parameters of what make() makes.

    A complex step needs the forward of a complex copy: one layer is bound to float64 parameters, another to complex128.
    """
    bound = {}
    for dtype in (np.float64, np.complex128):
        layer = make()
        parameters = Parameters(layer.specs(), dtype=dtype)
        layer.bind(parameters, ops)
        bound[dtype] = layer, parameters
    layer, parameters = bound[np.float64]
    for name in parameters:
        shape = parameters[name].shape
        fan_in = shape[0] if len(shape) == 2 and not name.endswith(("wte", "wpe")) else 1
        parameters[name][...] = rng.standard_normal(shape) / np.sqrt(fan_in)    # keeps softmax and GELU out of saturation
    values = {name: parameters[name].copy() for name in parameters}

    def forward(**inputs):
        dtype = np.complex128 if any(map(np.iscomplexobj, inputs.values())) else np.float64
        layer, parameters = bound[dtype]
        for name in values:
            parameters[name][...] = inputs[name]
        return call(layer, *([inputs["x"]] if "x" in inputs else []))

    def backward(*dys_and_cache):
        parameters.clear_gradients()
        dx = back(layer, *dys_and_cache)
        parameters.settle_gradients()
        gradients = tuple(parameters.gradient(name).copy() for name in values)
        return gradients if x is None else (dx, *gradients)

    return Case(forward, backward, ({} if x is None else {"x": x}) | values)


def _layer(make, shape=lambda z: (z.B, z.T, z.H * z.D), call=lambda layer, x: layer.forward(x),
           back=lambda layer, dy, cache: layer.backward(dy, cache)):
    return lambda rng, z, ops: _bound_case(rng, lambda: make(z), ops, call, back, _spread_rows(rng, *shape(z)))


def _even(D):
    return D + D % 2


def _embedding_layer(rng, z, ops, make=lambda z: TokenPositionEmbedding(z.V, z.S, z.C)):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return _bound_case(rng, lambda: make(z), ops, lambda layer: layer.forward(ids),
                       lambda layer, dy, cache: layer.backward(dy, cache))


def _sinusoidal_layer(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    make = lambda: TokenEmbedding(z.V, z.C, positions=text.sinusoidal_positions(z.S, z.C))
    return _bound_case(rng, make, ops, lambda layer: layer.forward(ids), lambda layer, dy, cache: layer.backward(dy, cache))


def _block(z, *, pre_norm=True, bias=True, dropout=0.0):
    C = z.H * z.D
    return Block(CausalSelfAttention(C, z.H, bias=bias, dropout=dropout), MLP(C, bias=bias, dropout=dropout), LayerNorm(C, bias=bias),
                 LayerNorm(C, bias=bias), pre_norm=pre_norm)


def _two_inputs(make, draws=None):
    """A layer that reads a memory of S positions beside a stream of T. The case has one x, first the one and then the other."""
    def case(rng, z, ops):
        spans = text.padding_spans(_lengths(rng, z, z.S), z.T)

        def call(layer, x):
            stream, memory = x[:, :z.T], x[:, z.T:]
            if isinstance(layer, CrossAttention):
                return layer.forward(stream, memory, spans, draws)
            return layer.forward(stream, memory, text.causal_spans(z.T), spans, draws)

        return _bound_case(rng, lambda: make(z), ops, call,
                           lambda layer, dy, cache: np.concatenate(layer.backward(dy, cache), axis=1),
                           _spread_rows(rng, z.B, z.T + z.S, z.H * z.D))
    return case


def _padded(make):
    """A layer whose positions see those before the padding."""
    def case(rng, z, ops):
        spans = text.padding_spans(_lengths(rng, z, z.T), z.T)
        return _layer(make, call=lambda layer, x: layer.forward(x, spans))(rng, z, ops)
    return case


def _sinusoidal_embedding(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return _bound_case(rng, lambda: SinusoidalEmbedding(z.V, z.S, z.C), ops, lambda layer: layer.forward(ids),
                       lambda layer, dy, cache: layer.backward(dy, cache))


DRAWS = Draws(0)
DROP = {"call": lambda layer, x: layer.forward(x, DRAWS)}

LAYERS = {
    "Linear": _layer(lambda z: Linear(z.C, z.F), lambda z: (z.B, z.T, z.C)),
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
        lambda z: CausalSelfAttention(2 * z.H * _even(z.D), 2 * z.H, n_kv_head=z.H, qk_norm=True, rotary=Rotary()),
        shape=lambda z: (z.B, z.T, 2 * z.H * _even(z.D))),
    "CausalSelfAttention, ALiBi, soft cap": _layer(lambda z: CausalSelfAttention(z.H * z.D, z.H, alibi=True, softcap=2.0)),
    "RMSNorm": _layer(lambda z: RMSNorm(z.C), lambda z: (z.B, z.T, z.C)),
    "MLP, squared ReLU": _layer(lambda z: MLP(z.H * z.D, activation="squared_relu")),
    "MLP, SiLU, no bias": _layer(lambda z: MLP(z.H * z.D, activation="silu", bias=False)),
    "GatedMLP": _layer(lambda z: GatedMLP(z.H * z.D, n_hidden=z.F)),
    "GatedMLP, bias, dropout": _layer(lambda z: GatedMLP(z.H * z.D, n_hidden=z.F, bias=True, dropout=0.3), **DROP),
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
    "Head": _layer(lambda z: Head(z.C, z.V), lambda z: (z.B, z.T, z.C)),
}


def _gpt(rng, z, ops, **choices):
    size = _even(z.D) if choices.get("position") == "rotary" else z.D
    heads = 2 * z.H if "n_kv_head" in choices else z.H
    return _model(rng, z, ops, GPT, GPTConfig, n_head=heads, n_embd=heads * size, **choices)


def _lstm_lm(rng, z, ops, **choices):
    return _model(rng, z, ops, LSTMLM, LSTMConfig, n_embd=z.C, **choices)


def _model(rng, z, ops, model_class, config_class, logits=False, recompute=False, **choices):
    config = config_class(n_layer=2, block_size=z.S, vocab_size=z.V, **choices)
    ids, targets = rng.integers(0, z.V, (z.B, z.T)), _targets(rng, z)
    draws = Draws(0) if config.dropout else None

    def loss(model):
        scores, _ = model.forward(ids, draws)
        return text.cross_entropy_forward(scores, targets)[::2]

    def loss_back(model, dloss, cache):
        model.loss_and_gradients(ids, targets, scale=dloss, draws=draws)

    if logits:
        call, back = lambda model: model.forward(ids, draws), lambda model, dy, cache: model.backward(dy, cache)
    else:
        call, back = loss, loss_back
    return _bound_case(rng, lambda: model_class(config, ops=ops, recompute=recompute), ops, call, back)


def _encoder_decoder(rng, z, ops, logits=False, n_layer=2, **choices):
    """Sources and targets of several lengths; label smoothing in the loss."""
    config = EncoderDecoderConfig(n_layer=n_layer, n_head=z.H, n_embd=z.H * z.D, block_size=z.S, vocab_size=z.V, label_smoothing=0.1,
                                  **choices)
    sources, targets = rng.integers(0, config.source_vocab_size, (z.B, z.S)), rng.integers(0, z.V, (z.B, z.T))
    for ids in (sources, targets):
        ids[np.arange(ids.shape[1]) >= _lengths(rng, z, ids.shape[1])[:, None]] = -1
    draws = Draws(0) if config.dropout else None

    def loss(model):
        scores, _ = model.forward(sources, model.shifted(targets), draws)
        return text.cross_entropy_forward(scores, targets, label_smoothing=0.1)[::2]

    def loss_back(model, dloss, cache):
        model.loss_and_gradients(sources, targets, scale=dloss, draws=draws)

    if logits:
        call = lambda model: model.forward(sources, model.shifted(targets), draws)
        back = lambda model, dy, cache: model.backward(dy, cache)
    else:
        call, back = loss, loss_back
    return _bound_case(rng, lambda: EncoderDecoder(config, ops=ops), ops, call, back)


MODELS = {
    "GPT, tied": _gpt,
    "GPT, tied, from logits": lambda *a: _gpt(*a, logits=True),
    "GPT, tied, no bias": lambda *a: _gpt(*a, bias=False),
    "GPT, untied": lambda *a: _gpt(*a, tied=False),
    "GPT, untied, no bias": lambda *a: _gpt(*a, tied=False, bias=False),
    "GPT, tied, dropout": lambda *a: _gpt(*a, dropout=0.3),
    "GPT, tied, dropout, recomputed": lambda *a: _gpt(*a, dropout=0.3, recompute=True),
    "GPT, as Llama": lambda *a: _gpt(*a, position="rotary", norm="rmsnorm", mlp="swiglu", n_hidden=11, n_kv_head=1, bias=False,
                                  tied=False),
    "GPT, ALiBi, window, squared ReLU": lambda *a: _gpt(*a, position="alibi", attention="window", window=2, mlp="squared_relu"),
    "GPT, post-norm, sinusoidal, fixed": lambda *a: _gpt(*a, position="sinusoidal", pre_norm=False, attention="fixed", window=2, mlp="relu"),
    "EncoderDecoder, pre, tied": _encoder_decoder,
    "EncoderDecoder, pre, untied": lambda *a: _encoder_decoder(*a, logits=True, n_layer=1, tied=False,
                                                               source_vocab_size=a[1].V + 2),
    "EncoderDecoder, post, shared": lambda *a: _encoder_decoder(*a, n_layer=1, pre_norm=False, shared=True),
    "EncoderDecoder, post, untied": lambda *a: _encoder_decoder(*a, n_layer=1, pre_norm=False, tied=False, bias=False,
                                                                dropout=0.3),
    "LSTM, tied": _lstm_lm,
    "LSTM, tied, from logits": lambda *a: _lstm_lm(*a, logits=True),
    "LSTM, untied, dropout": lambda *a: _lstm_lm(*a, tied=False, dropout=0.3),
    "LSTM, tied, dropout, recomputed": lambda *a: _lstm_lm(*a, dropout=0.3, recompute=True),
}

CASES = OPS | LAYERS | MODELS


def check_case(name, *, methods=("complex",), sizes=None, seed=0, ops=text):
    """Rows of numpyllm.gradcheck for one case; sizes None: Sizes() for ops, SMALL for layers and models."""
    sizes = sizes or (Sizes() if name in OPS else SMALL)
    case = CASES[name](np.random.default_rng(seed), sizes, ops)
    return check_op(name, case.forward, case.backward, case.inputs, methods=methods, seed=seed)


def check_model(model, ids, targets, *, seed=0):
    """Rows for a model as it is: on float64 copies, the mean loss along one random direction in each tensor.

    One complex forward a tensor, so it is quick for models of any size. ids, targets (B, T).
    """
    exact, shadow = model.astype(np.float64), model.astype(np.complex128)
    exact.parameters.clear_gradients()
    _, count = exact.loss_and_gradients(ids, targets)
    exact.parameters.settle_gradients()

    def mean_loss(**changed):
        for name, value in changed.items():
            shadow.parameters[name][...] = value
        loss, _ = shadow.loss(ids, targets)
        for name in changed:
            shadow.parameters[name][...] = exact.parameters[name]
        return loss / max(1, count)

    trainable = [name for name in exact.parameters if exact.parameters.gradient(name) is not None]
    return check_gradients(type(model).__name__, mean_loss, {name: exact.parameters[name] for name in trainable},
                           {name: exact.parameters.gradient(name) for name in trainable}, methods=("adjoint",), seed=seed)
