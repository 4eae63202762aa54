"""Every op's forward against the scalar loops of naive.py, and facts about the ops that need no oracle."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm import ops

TOLERANCE = {np.dtype(np.float64): 1e-13, np.dtype(np.float32): 1e-5}
VISIBILITY = ("all", "causal", "random", "random for each sequence")

both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
sizes = st.permutations((1, 2, 3, 5, 7))                        # pairwise different: no two axes can be mistaken
seeds = st.integers(0, 2 ** 32 - 1)
flags = st.booleans()


class Draw:
    """Independent random arrays from one seed; those of normal numbers are read-only and of any memory layout."""

    def __init__(self, seed, dtype=np.float64):
        self.rng, self.dtype = np.random.default_rng(seed), dtype

    def normal(self, *shape):
        strided = self.rng.standard_normal((*shape, 2)).astype(self.dtype)[..., 0]
        a = (strided, strided.copy(order="C"), strided.copy(order="F"))[self.rng.integers(3)]
        a.flags.writeable = False
        return a

    def spread_out(self, *shape):
        """Rows whose spread is not small against their mean: else conditioning sets layernorm's error, not the op."""
        return self.normal(*shape) + np.where(np.arange(shape[-1]) % 2, 3, -3).astype(self.dtype)

    def integers(self, stop, *shape):
        return self.rng.integers(stop, size=shape)

    def coins(self, *shape):
        return self.integers(2, *shape) == 1


def oracle(f, *arrays, **options):
    """f of naive.py, called with arrays."""
    return f(*(a.tolist() if isinstance(a, np.ndarray) else a for a in arrays), **options)


def agree(actual, expected, dtype):
    """Same shape, same dtype, and the same numbers to the dtype's tolerance, each for itself."""
    expected = np.array(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, dtype)
    tolerance = TOLERANCE[np.dtype(dtype)]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def make_spans(kind, B, T, S, draw):
    """Spans of one of the kinds of VISIBILITY; the random ones overlap, are often empty, and leave query 0 no key."""
    if kind == "all":
        return None
    if kind == "causal":
        return ops.causal_spans(T, S)
    spans = draw.integers(S + 1, B, T, 3, 2)
    spans[:, 0, :, 1] = spans[:, 0, :, 0]
    return spans[0] if kind == "random" else spans


@both_dtypes
@given(sizes, flags, seeds)
def test_linear(dtype, sizes, bias, seed):
    (B, T, n_in, n_out, _), draw = sizes, Draw(seed, dtype)
    w, b = draw.normal(n_in, n_out), draw.normal(n_out) if bias else None
    for x in (draw.normal(n_in), draw.normal(T, n_in), draw.normal(B, T, n_in)):
        agree(ops.linear_forward(x, w, b)[0], oracle(naive.linear, x, w, b), dtype)


@both_dtypes
@given(sizes, seeds)
def test_embedding(dtype, sizes, seed):
    (B, T, V, C, start), draw = sizes, Draw(seed, dtype)
    ids, wte, wpe = draw.integers(V, B, T), draw.normal(V, C), draw.normal(start + T + 2, C)
    agree(ops.embedding_forward(ids, wte)[0], oracle(naive.embedding, ids, wte), dtype)
    agree(ops.token_position_forward(ids, wte, wpe)[0], oracle(naive.token_position, ids, wte, wpe), dtype)
    y, _ = ops.token_position_forward(ids, wte, wpe, start=start)
    agree(y, oracle(naive.token_position, ids, wte, wpe, start=start), dtype)


@both_dtypes
@given(sizes, flags, st.sampled_from((1e-5, 0.1)), seeds)
def test_layernorm(dtype, sizes, bias, eps, seed):
    (B, T, C, _, _), draw = sizes, Draw(seed, dtype)
    x, r, w, b = draw.spread_out(B, T, C), draw.normal(B, T, C), draw.normal(C), draw.normal(C) if bias else None
    for x in (x[0, 0], x[0], x):
        agree(ops.layernorm_forward(x, w, b, eps=eps)[0], oracle(naive.layernorm, x, w, b, eps=eps), dtype)
    x = x - r
    agree(ops.residual_forward(x, r)[0], oracle(naive.residual, x, r), dtype)
    s, y, _ = ops.residual_layernorm_forward(x, r, w, b, eps=eps)
    for actual, expected in zip((s, y), oracle(naive.residual_layernorm, x, r, w, b, eps=eps), strict=True):
        agree(actual, expected, dtype)


@both_dtypes
@given(sizes, st.sampled_from((1e-5, 0.1)), seeds)
def test_rmsnorm(dtype, sizes, eps, seed):
    (B, T, C, _, _), draw = sizes, Draw(seed, dtype)
    x, r, w = draw.spread_out(B, T, C), draw.normal(B, T, C), draw.normal(C)
    for rows in (x[0, 0], x[0], x):
        agree(ops.rmsnorm_forward(rows, w, eps=eps)[0], oracle(naive.rmsnorm, rows, w, eps=eps), dtype)
    x = x - r
    s, y, _ = ops.residual_rmsnorm_forward(x, r, w, eps=eps)
    agree(s, oracle(naive.residual, x, r), dtype)
    agree(y, oracle(naive.rmsnorm, s, w, eps=eps), dtype)


@both_dtypes
@given(sizes, seeds)
def test_activations(dtype, sizes, seed):
    draw = Draw(seed, dtype)
    x, gate = 3 * draw.normal(*sizes[:3]), 3 * draw.normal(*sizes[:3])
    for name in ("relu", "squared_relu", "silu"):
        agree(getattr(ops, f"{name}_forward")(x)[0], oracle(getattr(naive, name), x), dtype)
    agree(ops.swiglu_forward(gate, x)[0], oracle(naive.swiglu, gate, x), dtype)


@both_dtypes
@given(sizes, flags, flags, st.sampled_from((10000.0, 50.0)), st.sampled_from((1.0, 2.5)), st.sampled_from((0, 20, 3000)), seeds)
def test_rotary(dtype, sizes, interleaved, each, base, scale, trained, seed):
    (B, T, H, half, _), draw = sizes, Draw(seed, dtype)
    x, positions = draw.normal(B, T, H, 2 * half), draw.integers(60, B, T)
    if not each:
        positions = positions[0]                                # the same for all sequences
    cos, sin = ops.rotary_angles(positions, 2 * half, base=base, scale=scale, trained=trained, dtype=dtype)
    y, _ = ops.rotary_forward(x, cos, sin, interleaved=interleaved)
    positions = np.broadcast_to(positions, (B, T)).tolist()
    expected = [[[naive.rotary(x[b, t, h].tolist(), positions[b][t], base, scale, interleaved, trained) for h in range(H)]
                 for t in range(T)] for b in range(B)]
    agree(y, expected, dtype)


@both_dtypes
@pytest.mark.parametrize("T, C", [(1, 1), (7, 6), (40, 5)])
def test_sinusoidal_positions(dtype, T, C):
    agree(ops.sinusoidal_positions(T, C, dtype=dtype), naive.sinusoidal_positions(T, C), dtype)


def test_alibi_slopes_are_the_papers():
    assert ops.alibi_slopes(8).tolist() == [2.0 ** -h for h in range(1, 9)]
    np.testing.assert_allclose(ops.alibi_slopes(16)[:2], [2 ** -0.5, 0.5], rtol=1e-15)


@both_dtypes
@given(sizes, flags, flags, seeds)
def test_gelu(dtype, sizes, bias, exact, seed):
    (B, T, F, _, _), draw = sizes, Draw(seed, dtype)
    x, b = 2 * draw.normal(B, T, F), draw.normal(F) if bias else None
    agree(ops.gelu_forward(x, exact=exact)[0], oracle(naive.gelu, x, exact=exact), dtype)
    agree(ops.bias_gelu_forward(x, b, exact=exact)[0], oracle(naive.bias_gelu, x, b, exact=exact), dtype)


@both_dtypes
@given(sizes, st.sampled_from((0.0, 0.1, 0.5)), seeds)
def test_dropout(dtype, sizes, p, seed):
    draw = Draw(seed, dtype)
    x, keep = draw.normal(*sizes[:3]), draw.coins(*sizes[:3])
    agree(ops.dropout_forward(x, keep, p=p)[0], oracle(naive.dropout, x, keep, p=p), dtype)


@both_dtypes
@given(sizes, st.sampled_from((1, 1e4)), seeds)
def test_softmax(dtype, sizes, size, seed):
    x = size * Draw(seed, dtype).normal(*sizes[:3])
    agree(ops.softmax_forward(x)[0], oracle(naive.softmax, x), dtype)


@given(sizes, st.sampled_from(VISIBILITY), seeds)
def test_mask(sizes, kind, seed):
    B, T, S, _, _ = sizes
    assert ops.causal_spans(T).tolist() == naive.causal_spans(T)
    assert ops.causal_spans(T, T + S).tolist() == naive.causal_spans(T, T + S)
    spans = make_spans(kind, B, T, T + S, Draw(seed))
    if spans is not None:
        mask = ops.dense_mask(spans, T + S)
        assert mask.dtype == bool and mask.tolist() == oracle(naive.dense_mask, spans, T + S)


@both_dtypes
@given(sizes, st.sampled_from(VISIBILITY), st.sampled_from((0.0, 0.1, 0.5)), seeds)
def test_attention(dtype, sizes, kind, p, seed):
    (B, T, H, D, more), draw = sizes, Draw(seed, dtype)
    S = T + more - 1                                            # S = T among them
    q, k, v = draw.normal(B, T, H, D), draw.normal(B, S, H, D), draw.normal(B, S, H, D)
    spans, keep = make_spans(kind, B, T, S, draw), draw.coins(B, H, T, S) if p else None
    y, cache = ops.attention_forward(q, k, v, spans, keep=keep, p=p)
    for actual, expected in zip((y, cache.lse), oracle(naive.attention, q, k, v, spans, keep, p), strict=True):
        agree(actual, expected, dtype)


@both_dtypes
@given(sizes, st.sampled_from(VISIBILITY), st.sampled_from((1, 2, 3)), st.sampled_from((0.0, 0.7)), flags, seeds)
def test_attention_with_shared_keys_caps_and_slopes(dtype, sizes, kind, share, softcap, alibi, seed):
    (B, T, G, D, more), draw = sizes, Draw(seed, dtype)
    S, H = T + more - 1, share * G
    q, k, v = draw.normal(B, T, H, D), draw.normal(B, S, G, D), draw.normal(B, S, G, D)
    spans, slopes = make_spans(kind, B, T, S, draw), ops.alibi_slopes(H, dtype=dtype) if alibi else None
    y, cache = ops.attention_forward(q, k, v, spans, slopes=slopes, softcap=softcap)
    expected = oracle(naive.attention, q, k, v, spans, None, 0.0, slopes, softcap)
    for actual, each in zip((y, cache.lse), expected, strict=True):
        agree(actual, each, dtype)


PATTERNS = {"causal": (ops.causal_spans, None), "window": (ops.window_spans, "window"), "strided": (ops.strided_spans, "stride"),
            "fixed": (ops.fixed_spans, "stride"), "prefix": (ops.prefix_spans, "prefix")}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_their_definitions(pattern):
    """Every T up to 9, as the last of S positions, every window, stride and prefix up to beyond S."""
    make, option = PATTERNS[pattern]
    for S in range(1, 10):
        for T in range(1, S + 1):
            for n in range(1, S + 3 if option else 2):
                spans = make(T, S, **({option: n} if option else {}))
                expected = [[naive.sees(pattern, t, s, n) for s in range(S)] for t in range(S - T, S)]
                assert ops.dense_mask(spans, S).tolist() == expected, (T, S, n)
                if T == S:
                    assert np.array_equal(make(T, **({option: n} if option else {})), spans)


@both_dtypes
@given(sizes, st.sampled_from((1, 2)), st.sampled_from((-1, -100, 0)), st.sampled_from((0.0, 0.2)), seeds)
def test_losses(dtype, sizes, n_axes, ignore_index, label_smoothing, seed):
    (*rows, C, V), draw = sizes[:n_axes + 2], Draw(seed, dtype)
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    h, w, logits, targets = draw.normal(*rows, C), draw.normal(V, C), 3 * draw.normal(*rows, V), draw.integers(V, *rows)
    targets[draw.coins(*rows)] = ignore_index
    expected = oracle(naive.cross_entropy, logits, targets, **options)
    agree_on_loss(ops.cross_entropy_forward(logits, targets, **options), expected, dtype)
    expected = oracle(naive.head_loss, h, w, targets, **options)
    agree_on_loss(ops.head_loss_forward(h, w, targets, **options), expected, dtype)
    agree_on_loss(ops.head_loss_forward_backward(h, w, targets, 0.7, **options), expected, dtype)


def agree_on_loss(actual, expected, dtype):
    agree(actual[0], expected[0], dtype)
    assert actual[1] == expected[1]


@both_dtypes
@given(st.sampled_from((0.0, 0.1)), st.sampled_from((1.0, 0.25)), seeds)
def test_adamw(dtype, weight_decay, scale, seed):
    draw = Draw(seed, dtype)
    options = dict(lr=0.03, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=weight_decay, scale=scale)
    p, m, v = draw.normal(7).copy(), np.zeros(7, dtype), np.zeros(7, dtype)
    state = [(p_i, 0, 0) for p_i in p.tolist()]
    for step in range(1, 6):
        g = draw.normal(7)
        ops.adamw_update(p, g, m, v, step=step, **options)
        state = [naive.adamw(p_i, g_i, m_i, v_i, step, **options) for (p_i, m_i, v_i), g_i in zip(state, g.tolist())]
    for actual, expected in zip((p, m, v), zip(*state), strict=True):
        agree(actual, expected, dtype)


@both_dtypes
@given(st.sampled_from((0.0, 0.1)), st.sampled_from((0.0, 0.9)), st.sampled_from((1.0, 0.25)), seeds)
def test_sgd(dtype, weight_decay, momentum, scale, seed):
    draw = Draw(seed, dtype)
    options = dict(lr=0.3, momentum=momentum, weight_decay=weight_decay, scale=scale)
    p, u = draw.normal(7).copy(), np.zeros(7, dtype)
    state = [(p_i, 0) for p_i in p.tolist()]
    for _ in range(5):
        g = draw.normal(7)
        ops.sgd_update(p, g, u, **options)
        state = [naive.sgd(p_i, g_i, u_i, **options) for (p_i, u_i), g_i in zip(state, g.tolist())]
    for actual, expected in zip((p, u), zip(*state), strict=True):
        agree(actual, expected, dtype)


@pytest.mark.parametrize("dtype, error", [(np.float64, 1e-14), (np.float32, 2e-6)])
def test_erf_has_the_stated_relative_error(dtype, error):
    grid = np.concatenate([np.linspace(-7, 7, 20_001), [1e-300, 1e-30, 1e-10, 20, 1e30]]).astype(dtype)
    y = ops.erf(grid)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, [math.erf(x) for x in grid.tolist()], rtol=error, atol=0)


@both_dtypes
@pytest.mark.parametrize("V", [1, 2, 3, 97])
def test_uniform_logits_cost_log_V_a_target(dtype, V):
    for level in (0, -5):
        loss, count, _ = ops.cross_entropy_forward(np.full((5, V), level, dtype), np.arange(5) % V)
        assert count == 5
        agree(loss, 5 * math.log(V), dtype)


def test_float32_logits_may_share_a_large_shift():
    logits = np.full((5, 3), 1e4, np.float32)
    loss, _, cache = ops.cross_entropy_forward(logits, np.arange(5) % 3)
    agree(loss, 5 * math.log(3), np.float32)
    agree(ops.cross_entropy_backward(1.0, cache).sum(axis=-1), np.zeros(5), np.float32)


def test_cross_entropy_of_logits_too_far_apart_for_exp():
    logits = np.array([[1e4, 0, -1e4], [0, 800, 0]])
    assert ops.cross_entropy_forward(logits, np.array([1, 0]))[0] == 1e4 + 800
    assert ops.cross_entropy_forward(logits, np.array([0, 1]))[0] == 0


@both_dtypes
def test_softmax_of_logits_too_large_for_exp(dtype):
    x = np.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [1e4, 0, 0]], dtype)
    np.testing.assert_allclose(ops.softmax_forward(x)[0], [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]], rtol=1e-7)


def test_ignored_rows_do_not_count_whatever_their_logits():
    logits, targets = Draw(0).normal(5, 3).copy(), np.array([2, -1, 0, -1, 1])
    expected = ops.cross_entropy_forward(logits[::2], targets[::2])[:2]
    logits[1::2] = 1e30
    assert ops.cross_entropy_forward(logits, targets)[:2] == expected


@both_dtypes
def test_all_targets_ignored_cost_nothing(dtype):
    draw, targets = Draw(0, dtype), np.full((2, 3), -1)
    assert ops.cross_entropy_forward(draw.normal(2, 3, 5), targets)[:2] == (0, 0)
    assert ops.head_loss_forward(draw.normal(2, 3, 7), draw.normal(5, 7), targets)[:2] == (0, 0)


def test_a_query_without_keys_gets_zero():
    draw = Draw(0)
    y, cache = ops.attention_forward(draw.normal(1, 2, 3, 5), draw.normal(1, 7, 3, 5), draw.normal(1, 7, 3, 5),
                                     np.array([[[4, 4], [5, 2]], [[0, 3], [2, 7]]]))
    assert (y[:, 0] == 0).all() and (cache.lse[..., 0] == -np.inf).all()
    assert (y[:, 1] != 0).all() and np.isfinite(cache.lse[..., 1]).all()


def test_one_key_gives_its_value():
    draw = Draw(0)
    q, k, v = draw.normal(2, 3, 5, 7), draw.normal(2, 1, 5, 7), draw.normal(2, 1, 5, 7)
    np.testing.assert_allclose(ops.attention_forward(q, k, v)[0], np.broadcast_to(v, q.shape), rtol=1e-15)


@both_dtypes
@given(sizes, flags, flags, seeds)
def test_lstm(dtype, sizes, bias, state, seed):
    (B, T, n_in, H, _), draw = sizes, Draw(seed, dtype)
    b, h0, c0 = draw.normal(4 * H) if bias else None, *((draw.normal(B, H), draw.normal(B, H)) if state else (None, None))
    x, w_x, w_h = draw.normal(B, T, n_in), draw.normal(n_in, 4 * H), draw.normal(H, 4 * H)
    y, c, _ = ops.lstm_forward(x, w_x, w_h, b, h0, c0)
    true_y, true_c = oracle(naive.lstm, x, w_x, w_h, b, h0, c0)
    agree(y, true_y, dtype)
    agree(c, true_c, dtype)
