"""A case for every op."""

import numpy as np

from .. import ops as text
from .case import Case, lengths, some_targets, spread_rows


def _linear(rng, z, ops, bias=True):
    x, w, b = rng.standard_normal((z.B, z.T, z.C)), rng.standard_normal((z.C, z.F)), rng.standard_normal(z.F)
    return Case(ops.linear_forward, ops.linear_backward, {"x": x, "w": w} | ({"b": b} if bias else {}))


def _frozen_linear(rng, z, ops):
    w = rng.standard_normal((z.C, z.F))
    return Case(lambda x, b: ops.linear_forward(x, w.astype(x.dtype), b),
                lambda dy, cache, out=None: ops.linear_backward(dy, cache, out=out, frozen=True),
                {"x": rng.standard_normal((z.B, z.T, z.C)), "b": rng.standard_normal(z.F)})


def _lora(rng, z, ops):
    R = z.T
    inputs = {"x": rng.standard_normal((z.B, z.T, z.C)), "y": rng.standard_normal((z.B, z.T, z.F)),
              "a": rng.standard_normal((z.C, R)), "b": rng.standard_normal((R, z.F))}
    return Case(lambda x, y, a, b: ops.lora_forward(x, y, a, b, scale=0.7), ops.lora_backward, inputs)


def _embedding(rng, z, ops):
    ids = rng.integers(0, z.V, (z.B, z.T))
    return Case(lambda w: ops.embedding_forward(ids, w), ops.embedding_backward, {"w": rng.standard_normal((z.V, z.C))})


def _token_position(rng, z, ops, given=False):
    ids = rng.integers(0, z.V, (z.B, z.T))
    where = {"positions": rng.integers(0, z.S, (z.B, z.T))} if given else {"start": z.S - z.T}
    return Case(lambda wte, wpe: ops.token_position_forward(ids, wte, wpe, **where), ops.token_position_backward,
                {"wte": rng.standard_normal((z.V, z.C)), "wpe": rng.standard_normal((z.S, z.C))})


def _gain_and_shift(rng, z, bias):
    return {"w": rng.standard_normal(z.C)} | ({"b": rng.standard_normal(z.C)} if bias else {})


def _layernorm(rng, z, ops, bias=True):
    return Case(ops.layernorm_forward, ops.layernorm_backward,
                {"x": spread_rows(rng, z.B, z.T, z.C)} | _gain_and_shift(rng, z, bias))


def _residual_layernorm(rng, z, ops, bias=True):
    s, x = spread_rows(rng, z.B, z.T, z.C), rng.standard_normal((z.B, z.T, z.C))
    return Case(ops.residual_layernorm_forward, ops.residual_layernorm_backward,
                {"x": x, "r": s - x} | _gain_and_shift(rng, z, bias))


def _rmsnorm(rng, z, ops):
    return Case(ops.rmsnorm_forward, ops.rmsnorm_backward, {"x": spread_rows(rng, z.B, z.T, z.C), "w": rng.standard_normal(z.C)})


def _residual_rmsnorm(rng, z, ops):
    s, x = spread_rows(rng, z.B, z.T, z.C), rng.standard_normal((z.B, z.T, z.C))
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


def _scores_apart(rng, z):
    """Scores of which no two in a row come near each other: where they tie, the choice jumps."""
    order = rng.permuted(np.broadcast_to(np.arange(z.V), (z.B, z.T, z.V)), axis=-1)
    return 0.5 * (order + rng.uniform(-0.3, 0.3, order.shape) - z.V / 2)


def _route(rng, z, ops, k=2):
    return Case(lambda scores: ops.route_forward(scores, min(k, z.V)), ops.route_backward, {"scores": _scores_apart(rng, z)})


def _balance(rng, z, ops, k=2):
    def forward(scores):
        return ops.balance_forward(scores, ops.route_forward(scores, min(k, z.V))[1].chosen)
    return Case(forward, ops.balance_backward, {"scores": _scores_apart(rng, z)})


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


def _padding(rng, z):
    return text.padding_spans(lengths(rng, z, z.S), z.T)


def _lstm(rng, z, ops, bias=True, state=True):
    """x w_x and h w_h are of order one, so that no gate is saturated."""
    inputs = {"x": rng.standard_normal((z.B, z.T, z.C)), "w_x": rng.standard_normal((z.C, 4 * z.F)) / np.sqrt(z.C),
              "w_h": rng.standard_normal((z.F, 4 * z.F)) / np.sqrt(z.F)}
    inputs |= {"b": rng.standard_normal(4 * z.F)} if bias else {}
    inputs |= {"h0": rng.standard_normal((z.B, z.F)), "c0": rng.standard_normal((z.B, z.F))} if state else {}
    return Case(ops.lstm_forward, ops.lstm_backward, inputs)


def _cross_entropy(rng, z, ops, **how):
    targets = some_targets(rng, z)
    return Case(lambda logits: ops.cross_entropy_forward(logits, targets, **how)[::2], ops.cross_entropy_backward,
                {"logits": 2 * rng.standard_normal((z.B, z.T, z.V))})


def _head_loss(rng, z, ops, at_once=False, **smooth):
    targets = some_targets(rng, z)
    inputs = {"h": rng.standard_normal((z.B, z.T, z.C)), "w": rng.standard_normal((z.V, z.C))}
    if not at_once:
        return Case(lambda h, w: ops.head_loss_forward(h, w, targets, **smooth)[::2], ops.head_loss_backward, inputs)
    return Case(lambda h, w: (ops.head_loss_forward(h, w, targets, **smooth)[0], (h, w, targets)),
                lambda dloss, cache, out=None: ops.head_loss_forward_backward(*cache, dloss, out=out, **smooth)[2:], inputs)


def _frozen_head_loss(rng, z, ops):
    targets, w = some_targets(rng, z), rng.standard_normal((z.V, z.C))
    return Case(lambda h: (ops.head_loss_forward(h, w.astype(h.dtype), targets)[0], h),
                lambda dloss, h, out=None: ops.head_loss_forward_backward(h, w.astype(h.dtype), targets, dloss, out=out, frozen=True)[2:],
                {"h": rng.standard_normal((z.B, z.T, z.C))})


def _bradley_terry(rng, z, ops, **how):
    return Case(lambda chosen, rejected: ops.bradley_terry_forward(chosen, rejected, **how), ops.bradley_terry_backward,
                {"chosen": 2 * rng.standard_normal(z.B), "rejected": 2 * rng.standard_normal(z.B)})


def _dpo(rng, z, ops, **how):
    """Log-probabilities of answers are sums of many, the reference's are near them."""
    values = {name: -20 * rng.random(z.B) for name in ("chosen", "rejected")}
    reference = [value + rng.standard_normal(z.B) for value in values.values()]
    return Case(lambda chosen, rejected: ops.dpo_forward(chosen, rejected, *(value.astype(chosen.real.dtype) for value in reference), **how),
                ops.dpo_backward, values)


def _policy_gradient(rng, z, ops, **how):
    logprobs, counted = -3 * rng.random((z.B, z.T)), rng.random((z.B, z.T)) < 0.7
    constants = logprobs + rng.standard_normal((z.B, z.T)), rng.standard_normal(z.B)

    def forward(logprobs):
        return ops.policy_gradient_forward(logprobs, *(value.astype(logprobs.real.dtype) for value in constants), counted, **how)

    return Case(forward, ops.policy_gradient_backward, {"logprobs": logprobs})


OPS = {
    "linear": _linear,
    "linear, frozen": _frozen_linear,
    "lora": _lora,
    "linear, no bias": lambda *a: _linear(*a, bias=False),
    "embedding": _embedding,
    "token_position": _token_position,
    "token_position, given": lambda *a: _token_position(*a, given=True),
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
    "route": _route,
    "route, one": lambda *a: _route(*a, k=1),
    "route, all": lambda *a: _route(*a, k=a[1].V),
    "balance": _balance,
    "balance, one": lambda *a: _balance(*a, k=1),
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
    "cross_entropy, per row": lambda *a: _cross_entropy(*a, per_row=True),
    "cross_entropy, per row, smoothed": lambda *a: _cross_entropy(*a, per_row=True, label_smoothing=0.2),
    "head_loss": _head_loss,
    "head_loss, smoothed": lambda *a: _head_loss(*a, label_smoothing=0.2),
    "head_loss, at once": lambda *a: _head_loss(*a, at_once=True),
    "head_loss, at once, frozen": _frozen_head_loss,
    "head_loss, at once, smoothed": lambda *a: _head_loss(*a, at_once=True, label_smoothing=0.2),
    "bradley_terry": _bradley_terry,
    "bradley_terry, smoothed": lambda *a: _bradley_terry(*a, label_smoothing=0.2),
    "dpo": lambda *a: _dpo(*a, beta=0.7),
    "dpo, smoothed": lambda *a: _dpo(*a, beta=0.7, label_smoothing=0.2),
    "policy_gradient": _policy_gradient,
    "policy_gradient, KL": lambda *a: _policy_gradient(*a, kl=0.7),
}
