"""Every op, both optimisers and the whole GPT against torch in float64: results and all gradients.

Only another implementation finds an error that forward and backward share: a wrong constant, a wrong eps, a wrong axis.
"""

import math

import naive
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_ops_naive import PATTERNS, VISIBILITY, Draw, flags, make_spans, seeds, sizes

from numpyllm import ops
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig
from numpyllm.random import Draws

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.oracle


def agree(actual, expected, largest=1.0):
    """Relative error of the norm below 1e-12; where the truth is zero, what rounding leaves of the largest gradient."""
    actual, expected = np.asarray(actual), expected.detach().numpy()
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= 1e-12 * np.linalg.norm(expected) + 1e-14 * max(1, largest)


def agree_on_gradients(actual, tensors):
    """actual are arrays, or None where there is no tensor."""
    largest = max(t.grad.norm().item() for t in tensors if t is not None)
    for gradient, t in zip(actual, tensors, strict=True):
        assert (gradient is None) == (t is None)
        if t is not None:
            agree(gradient, t.grad, largest)


def parity(name, reference, *arrays, **options):
    """The op of this name, called with arrays and options, against reference, called with the arrays as tensors."""
    *ys, cache = getattr(ops, f"{name}_forward")(*arrays, **options)
    ys = [y for y in ys if not isinstance(y, int)]                          # all but the count that comes with a loss
    dys = [Draw(len(arrays)).normal(*y.shape) for y in ys]
    gradients = getattr(ops, f"{name}_backward")(*dys, cache)

    tensors = [None if a is None else torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    expected = reference(*tensors)
    expected = expected if isinstance(expected, tuple) else (expected,)
    torch.autograd.backward(expected, [torch.tensor(dy) for dy in dys])

    for actual, each in zip(ys, expected, strict=True):
        agree(actual, each)
    agree_on_gradients(gradients if isinstance(gradients, tuple) else (gradients,),
                       [t for t in tensors if t is None or t.requires_grad])


@given(sizes, flags, seeds)
def test_linear(sizes, bias, seed):
    (B, T, n_in, n_out, _), draw = sizes, Draw(seed)
    x, w, b = draw.normal(B, T, n_in), draw.normal(n_in, n_out), draw.normal(n_out) if bias else None
    parity("linear", lambda x, w, b: F.linear(x, w.T, b), x, w, b)


@given(sizes, seeds)
def test_embedding(sizes, seed):
    (B, T, V, C, start), draw = sizes, Draw(seed)
    ids, wte, wpe = draw.integers(V, B, T), draw.normal(V, C), draw.normal(start + T + 2, C)
    parity("embedding", F.embedding, ids, wte)
    parity("token_position", lambda ids, wte, wpe: F.embedding(ids, wte) + wpe[start:start + T], ids, wte, wpe,
           start=start)


@given(sizes, flags, st.sampled_from((1e-5, 0.1)), seeds)
def test_layernorm(sizes, bias, eps, seed):
    (B, T, C, _, _), draw = sizes, Draw(seed)
    assume(C > 1)                                               # one channel: dx is 0, torch's rounding / sqrt(eps)
    x, r, w, b = draw.spread_out(B, T, C), draw.normal(B, T, C), draw.normal(C), draw.normal(C) if bias else None

    def norm(x, w, b):
        return F.layer_norm(x, (C,), w, b, eps)

    parity("layernorm", norm, x, w, b, eps=eps)
    parity("residual", torch.add, x, r)
    parity("residual_layernorm", lambda x, r, w, b: (x + r, norm(x + r, w, b)), x - r, r, w, b, eps=eps)


@given(sizes, flags, flags, seeds)
def test_gelu(sizes, bias, exact, seed):
    (B, T, n, _, _), draw, form = sizes, Draw(seed), "none" if exact else "tanh"
    x, b = 2 * draw.normal(B, T, n), draw.normal(n) if bias else None
    parity("gelu", lambda x: F.gelu(x, approximate=form), x, exact=exact)
    parity("bias_gelu", lambda x, b: F.gelu(x if b is None else x + b, approximate=form), x, b, exact=exact)


@given(sizes, seeds)
def test_dropout_and_softmax(sizes, seed):
    draw = Draw(seed)
    x, keep = draw.normal(*sizes[:3]), draw.coins(*sizes[:3])
    parity("dropout", lambda x, keep: x * keep / (1 - 0.3), x, keep, p=0.3)
    for scale in (1, 1e4):
        parity("softmax", lambda x: F.softmax(x, dim=-1), scale * x)


@given(sizes, st.sampled_from((*VISIBILITY, "square causal")), flags, seeds)
def test_attention(sizes, kind, dropout, seed):
    (B, T, H, D, more), draw, square = sizes, Draw(seed), kind == "square causal"
    S = T if square else T + more
    q, k, v = draw.normal(B, T, H, D), draw.normal(B, S, H, D), draw.normal(B, S, H, D)
    spans = make_spans("causal" if square else kind, B, T, S, draw)
    keep, p = (draw.coins(B, H, T, S), 0.3) if dropout else (None, 0.0)
    mask = torch.ones(T, S, dtype=torch.bool)
    if kind == "causal":
        mask = mask.tril(S - T)
    elif spans is not None and not square:
        mask = torch.tensor(naive.dense_mask(spans.tolist(), S)).reshape(-1, 1, T, S)

    def reference(q, k, v):
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        if not dropout:
            seen = {"is_causal": True} if square else {"attn_mask": mask}
            return F.scaled_dot_product_attention(q, k, v, **seen).transpose(1, 2)
        return (probabilities(q, k, mask.tril() if square else mask) * torch.tensor(keep) / (1 - p) @ v).transpose(1, 2)

    parity("attention", reference, q, k, v, spans=spans, keep=keep, p=p)


def probabilities(q, k, mask):
    """q (B, H, T, D), k (B, H, S, D) -> (B, H, T, S); a query without keys has none of its probability anywhere."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return F.softmax(scores.masked_fill(~mask, -1e300), dim=-1) * mask


@given(sizes, st.sampled_from((1e-5, 0.1)), seeds)
def test_rmsnorm(sizes, eps, seed):
    (B, T, C, _, _), draw = sizes, Draw(seed)
    assume(C > 1)
    x, r, w = draw.spread_out(B, T, C), draw.normal(B, T, C), draw.normal(C)
    parity("rmsnorm", lambda x, w: F.rms_norm(x, (C,), w, eps), x, w, eps=eps)
    parity("residual_rmsnorm", lambda x, r, w: (x + r, F.rms_norm(x + r, (C,), w, eps)), x - r, r, w, eps=eps)


@given(sizes, seeds)
def test_activations(sizes, seed):
    draw = Draw(seed)
    x, gate = 2 * draw.normal(*sizes[:3]), 2 * draw.normal(*sizes[:3])
    parity("relu", F.relu, x)
    parity("squared_relu", lambda x: F.relu(x) ** 2, x)
    parity("silu", F.silu, x)
    parity("swiglu", lambda gate, x: F.silu(gate) * x, gate, x)


@given(sizes, flags, seeds)
def test_rotary(sizes, interleaved, seed):
    (B, T, H, half, _), draw = sizes, Draw(seed)
    x, angles = draw.normal(B, T, H, 2 * half), ops.rotary_angles(draw.integers(100, B, T), 2 * half)

    def turn(x, cos, sin):
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
        z = torch.complex(a, b) * torch.complex(cos, sin)[:, :, None]
        return torch.view_as_real(z).flatten(-2) if interleaved else torch.cat((z.real, z.imag), dim=-1)

    *ys, cache = ops.rotary_forward(x, *angles, interleaved=interleaved)
    dy, t = draw.normal(*x.shape), torch.tensor(x, requires_grad=True)
    expected = turn(t, *map(torch.tensor, angles))
    expected.backward(torch.tensor(dy))
    agree(ys[0], expected)
    agree_on_gradients([ops.rotary_backward(dy, cache)], [t])


@given(sizes, st.sampled_from((1, 2, 3)), st.sampled_from(sorted(PATTERNS)), flags, seeds)
def test_attention_with_shared_keys_patterns_and_slopes(sizes, share, pattern, alibi, seed):
    (B, T, G, D, more), draw, H = sizes, Draw(seed), share * sizes[2]
    S, (make, option) = T + more, PATTERNS[pattern]
    q, k, v = draw.normal(B, T, H, D), draw.normal(B, S, G, D), draw.normal(B, S, G, D)
    visible = torch.tensor([[naive.sees(pattern, t, s, 3) for s in range(S)] for t in range(S - T, S)])
    slopes = ops.alibi_slopes(H) if alibi else None
    distance = torch.arange(S - T, S)[:, None] - torch.arange(S)
    bias = -torch.tensor(slopes)[:, None, None] * distance if alibi else torch.zeros(H, T, S, dtype=torch.float64)
    mask = bias.masked_fill(~visible, -math.inf)

    def reference(q, k, v):
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

    parity("attention", reference, q, k, v, spans=make(T, S, **({option: 3} if option else {})), slopes=slopes)


@given(sizes, st.sampled_from((0.7, 5.0)), seeds)
def test_attention_with_a_soft_cap(sizes, softcap, seed):
    (B, T, H, D, more), draw = sizes, Draw(seed)
    q, k, v = draw.normal(B, T, H, D), draw.normal(B, T + more, H, D), draw.normal(B, T + more, H, D)
    hidden = ~torch.ones(T, T + more, dtype=torch.bool).tril(more)

    def reference(q, k, v):
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        scores = softcap * torch.tanh(q @ k.transpose(-1, -2) / math.sqrt(D) / softcap)
        return (F.softmax(scores.masked_fill(hidden, -math.inf), dim=-1) @ v).transpose(1, 2)

    parity("attention", reference, q, k, v, spans=ops.causal_spans(T, T + more), softcap=softcap)


@given(sizes, st.sampled_from((-1, -100, 0)), st.sampled_from((0.0, 0.1, 0.7)), seeds)
def test_losses(sizes, ignore_index, label_smoothing, seed):
    (B, T, C, V, _), draw = sizes, Draw(seed)
    h, w, logits, targets = draw.normal(B, T, C), draw.normal(V, C), 3 * draw.normal(B, T, V), draw.integers(V, B, T)
    targets[draw.coins(B, T)] = ignore_index

    def loss(logits, targets):
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index, reduction="sum",
                               label_smoothing=label_smoothing)

    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    parity("cross_entropy", loss, logits, targets, **options)
    parity("head_loss", lambda h, w, targets: loss(h @ w.T, targets), h, w, targets, **options)


@given(sizes, seeds)
def test_tied_head(sizes, seed):
    (B, T, V, C, _), draw = sizes, Draw(seed)
    ids, w, targets = draw.integers(V, B, T), draw.normal(V, C), draw.integers(V + 1, B, T) - 1
    h, cache = ops.embedding_forward(ids, w)
    loss, _, dh, dw = ops.head_loss_forward_backward(h, w, targets, -0.7)
    dw = ops.embedding_backward(dh, cache, out=(dw,), add=True)

    w = torch.tensor(w, requires_grad=True)
    logits = F.embedding(torch.tensor(ids), w) @ w.T
    expected = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=-1, reduction="sum")
    (-0.7 * expected).backward()
    agree(loss, expected)
    agree_on_gradients([dw], [w])


@given(st.sampled_from((0.0, 0.1)), seeds)
def test_adamw(weight_decay, seed):
    draw, options = Draw(seed), {"lr": 0.03, "eps": 1e-6, "weight_decay": weight_decay}
    p, m, v = draw.normal(11).copy(), np.zeros(11), np.zeros(11)
    expected = torch.tensor(p, requires_grad=True)
    optimizer = torch.optim.AdamW([expected], betas=(0.8, 0.95), **options)
    for step in range(1, 8):
        g = draw.normal(11)
        ops.adamw_update(p, g, m, v, step=step, beta1=0.8, beta2=0.95, scale=0.25, **options)
        expected.grad = torch.tensor(0.25 * g)
        optimizer.step()
        agree(p, expected)


@given(st.sampled_from((0.0, 0.9)), seeds)
def test_sgd(momentum, seed):
    draw = Draw(seed)
    p, u = draw.normal(11).copy(), np.zeros(11)
    expected = torch.tensor(p, requires_grad=True)
    optimizer = torch.optim.SGD([expected], lr=0.3, momentum=momentum)
    for _ in range(7):
        g = draw.normal(11)
        ops.sgd_update(p, g, u, lr=0.3, momentum=momentum, scale=0.25)
        expected.grad = torch.tensor(0.25 * g)
        optimizer.step()
        agree(p, expected)


def torch_gpt(parameters, config, ids, draws):
    """The GPT once more: parameters {name: tensor}, ids (B, T) -> logits (B, T, V)."""
    B, T = ids.shape

    def linear(x, name):
        return F.linear(x, parameters[f"{name}.w"].T, parameters.get(f"{name}.b"))

    def norm(x, name):
        return F.layer_norm(x, (config.n_embd,), parameters[f"{name}.w"], parameters.get(f"{name}.b"))

    def drop(x, name):
        keep = torch.tensor(draws.keep(name, tuple(x.shape), config.dropout))
        return x * keep / (1 - config.dropout)

    def attention(x, name):
        q, k, v = linear(x, f"{name}.qkv").view(B, T, 3, config.n_head, -1).permute(2, 0, 3, 1, 4)
        P = drop(probabilities(q, k, torch.ones(T, T, dtype=torch.bool).tril()), f"{name}.attn_dropout")
        return drop(linear((P @ v).transpose(1, 2).flatten(2), f"{name}.proj"), f"{name}.dropout")

    def mlp(x, name):
        h = linear(x, f"{name}.up")
        h = h + parameters[f"{name}.b"] if config.bias else h
        return drop(linear(F.gelu(h, approximate="tanh"), f"{name}.down"), f"{name}.dropout")

    x = drop(parameters["embedding.wte"][ids] + parameters["embedding.wpe"][:T], "dropout")
    for block in (f"blocks.{i}" for i in range(config.n_layer)):
        x = x + attention(norm(x, f"{block}.norm1"), f"{block}.attn")
        x = x + mlp(norm(x, f"{block}.norm2"), f"{block}.mlp")
    return norm(x, "norm") @ parameters["embedding.wte" if config.tied else "head.w"].T


@pytest.fixture(params=[(tied, bias, p) for tied in (True, False) for bias in (True, False) for p in (0.0, 0.2)],
                ids="tied={0[0]} bias={0[1]} dropout={0[2]}".format)
def twins(request):
    """A GPT of order-one parameters, ids, draws, and the tensors and the logits of its twin in torch."""
    tied, bias, dropout = request.param
    config = GPTConfig(n_layer=2, n_head=3, n_embd=15, block_size=11, vocab_size=13,
                       dropout=dropout, tied=tied, bias=bias)
    model, rng = GPT(config, seed=0, dtype=np.float64), np.random.default_rng(0)
    model.parameters.data[...] = 0.5 * rng.standard_normal(model.parameters.data.shape)
    ids, draws = rng.integers(13, size=(2, 7)), Draws(5, step=3)
    tensors = {name: torch.tensor(model.parameters[name], requires_grad=True) for name in model.parameters}
    return model, ids, draws, tensors, torch_gpt(tensors, config, torch.tensor(ids), draws)


def agree_on_parameters(model, tensors):
    model.parameters.settle_gradients()
    agree_on_gradients([model.parameters.gradient(name) for name in tensors], list(tensors.values()))


def test_logits_and_the_gradient_of_any_function_of_them(twins):
    model, ids, draws, tensors, expected = twins
    logits, cache = model.forward(ids, draws)
    dlogits = Draw(1).normal(*logits.shape)
    model.backward(dlogits, cache)
    expected.backward(torch.tensor(dlogits))
    agree(logits, expected)
    agree_on_parameters(model, tensors)


def test_loss_and_gradients(twins):
    model, ids, draws, tensors, logits = twins
    targets = np.random.default_rng(1).integers(13, size=ids.shape)
    targets[0, :3] = targets[1, 5] = -1
    loss, count = model.loss_and_gradients(ids, targets, draws=draws)
    expected = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=-1)
    expected.backward()
    assert count == 10
    agree(loss / count, expected)
    agree_on_parameters(model, tensors)


def torch_lstm(layers, H, bias):
    """torch's nn.LSTM in float64 with these matrices [(w_x, w_h, b), ...]: its two biases are one here."""
    lstm = torch.nn.LSTM(layers[0][0].shape[0], H, len(layers), bias=bias, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for k, (w_x, w_h, b) in enumerate(layers):
            getattr(lstm, f"weight_ih_l{k}").copy_(torch.tensor(np.array(w_x.T)))
            getattr(lstm, f"weight_hh_l{k}").copy_(torch.tensor(np.array(w_h.T)))
            if bias:
                getattr(lstm, f"bias_ih_l{k}").copy_(torch.tensor(b))
                getattr(lstm, f"bias_hh_l{k}").zero_()
    return lstm


@given(sizes, flags, seeds)
def test_lstm(sizes, bias, seed):
    (B, T, n_in, H, _), draw = sizes, Draw(seed)
    x, w_x, w_h, h0, c0 = draw.normal(B, T, n_in), draw.normal(n_in, 4 * H), draw.normal(H, 4 * H), draw.normal(B, H), draw.normal(B, H)
    b, dy, dc = draw.normal(4 * H) if bias else None, draw.normal(B, T, H), draw.normal(B, H)
    y, c, cache = ops.lstm_forward(x, w_x, w_h, b, h0, c0)
    dx, dw_x, dw_h, db, dh0, dc0 = ops.lstm_backward(dy, dc, cache)
    lstm = torch_lstm([(w_x, w_h, b)], H, bias)
    tx, th, tc = (torch.tensor(np.array(a), requires_grad=True) for a in (x, h0[None], c0[None]))
    expected, (_, expected_c) = lstm(tx, (th, tc))
    torch.autograd.backward([expected, expected_c], [torch.tensor(dy), torch.tensor(dc)[None]])
    agree(y, expected)
    agree(c, expected_c[0])
    largest = max(p.grad.norm().item() for p in [*lstm.parameters(), tx, th, tc])
    agree(dw_x.T, lstm.weight_ih_l0.grad, largest)
    agree(dw_h.T, lstm.weight_hh_l0.grad, largest)
    if bias:
        agree(db, lstm.bias_ih_l0.grad, largest)
    for found, tensor in ((dx, tx.grad), (dh0, th.grad[0]), (dc0, tc.grad[0])):
        agree(found, tensor, largest)


@given(sizes, flags, seeds)
def test_lstm_language_model(sizes, tied, seed):
    """Logits and all gradients of two layers and a head."""
    (B, T, V, C, _), rng = sizes, np.random.default_rng(seed)
    model = LSTMLM(LSTMConfig(n_layer=2, n_embd=C, block_size=T, vocab_size=V, tied=tied), dtype=np.float64)
    parameters = model.parameters
    for name in parameters:
        parameters[name][...] = rng.standard_normal(parameters[name].shape)
    ids, targets = rng.integers(V, size=(B, T)), rng.integers(-1, V, size=(B, T))
    targets[0, 0] = 0
    logits, _ = model.forward(ids)
    loss, count = model.loss_and_gradients(ids, targets)
    parameters.settle_gradients()

    lstm = torch_lstm([tuple(parameters[f"blocks.{k}.{name}"] for name in ("w_x", "w_h", "b")) for k in range(2)], C, True)
    wte = torch.tensor(parameters["embedding.wte"].copy(), requires_grad=True)
    w = wte if tied else torch.tensor(parameters["head.w"].copy(), requires_grad=True)
    expected = F.linear(lstm(F.embedding(torch.tensor(ids), wte))[0], w)
    mean = F.cross_entropy(expected.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=-1)
    mean.backward()
    agree(logits, expected)
    agree(loss / count, mean)
    truth = {"embedding.wte": wte.grad} | ({} if tied else {"head.w": w.grad})
    for k in range(2):
        truth |= {f"blocks.{k}.w_x": getattr(lstm, f"weight_ih_l{k}").grad.T, f"blocks.{k}.w_h": getattr(lstm, f"weight_hh_l{k}").grad.T,
                  f"blocks.{k}.b": getattr(lstm, f"bias_ih_l{k}").grad}
    assert set(truth) == set(parameters)
    for name, gradient in truth.items():
        agree(parameters.gradient(name), gradient, max(g.norm().item() for g in truth.values()))
