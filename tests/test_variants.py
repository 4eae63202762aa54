"""What later models do otherwise: laws of rotation, norms and masks, and any combination of choices in a whole model."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SOME, fewer, seeds

from numpyllm import kernels, ops
from numpyllm.checks import check_model
from numpyllm.errors import InputError
from numpyllm.gradcheck import assert_ok, check_gradients
from numpyllm.inference import Decoder
from numpyllm.models import GPT, GPTConfig
from numpyllm.models.estimate import parameter_count
from numpyllm.models.gpt import ACTIVATIONS, NORMS, PATTERNS, POSITIONS

backends = pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "twin"])


# ---- laws ----------------------------------------------------------------------------------------------------------

def turned(x, position, **options):
    """x (D) at a position."""
    cos, sin = ops.rotary_angles(np.array([position]), x.size, **{k: v for k, v in options.items() if k != "interleaved"})
    return ops.rotary_forward(x.reshape(1, 1, 1, -1), cos, sin, interleaved=options.get("interleaved", False))[0].ravel()


@given(seeds, st.integers(1, 6), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_turned_queries_and_keys_meet_by_their_distance_alone(seed, half, m, n, shift, interleaved):
    q, k = np.random.default_rng(seed).standard_normal((2, 2 * half))
    meet = lambda m, n: turned(q, m, interleaved=interleaved) @ turned(k, n, interleaved=interleaved)
    size = np.linalg.norm(q) * np.linalg.norm(k)
    assert abs(meet(m, n) - meet(m + shift, n + shift)) < 1e-12 * size
    assert abs(np.linalg.norm(turned(q, m, interleaved=interleaved)) - np.linalg.norm(q)) < 1e-13 * np.linalg.norm(q)
    assert abs(meet(m, m) - q @ k) < 1e-12 * size


@given(seeds, st.integers(1, 6), st.integers(0, 500))
def test_both_pairings_are_one_function_up_to_the_order_of_channels(seed, half, position):
    x = np.random.default_rng(seed).standard_normal(2 * half)
    order = np.arange(2 * half).reshape(2, half).T.ravel()             # 0, half, 1, half + 1, ...
    assert np.array_equal(turned(x[order], position, interleaved=True), turned(x, position)[order])


def test_positions_are_squeezed_by_the_scale():
    assert np.allclose(ops.rotary_angles(np.array([12]), 8, scale=4.0), ops.rotary_angles(np.array([3]), 8), rtol=1e-14)
    slowest = 10000.0 ** -(6 / 8)
    assert np.allclose(ops.rotary_angles(np.array([3]), 8)[1][0, -1], np.sin(3 * slowest), rtol=1e-14)


def test_quick_pairs_keep_their_frequency_where_the_trained_length_is_known():
    """Llama 3.1 at head size 128: wavelengths below 8192 / 4 are kept, above 8192 divided by 8, and between nothing jumps."""
    def frequencies(**options):
        return np.arctan2(*ops.rotary_angles(np.array(1), 128, base=5e5, **options)[::-1])

    plain, ours = frequencies(), frequencies(scale=8.0, trained=8192)
    assert np.allclose(ours[:29], plain[:29], rtol=1e-12) and np.allclose(ours[35:], plain[35:] / 8, rtol=1e-12)
    between = (plain / ours)[28:36]
    assert 2 * np.pi / plain[28] < 2048 < 2 * np.pi / plain[29] and 2 * np.pi / plain[34] < 8192 < 2 * np.pi / plain[35]
    assert (np.diff(between) > 0.01).all() and abs(between[0] - 1) < 1e-12 and abs(between[-1] - 8) < 1e-11


@backends
@given(seed=seeds, C=st.integers(2, 9))
def test_rmsnorm_dx_is_orthogonal_to_n(backend, seed, C):
    rng = np.random.default_rng(seed)
    x, w, dy = rng.standard_normal((3, C)) + 3, rng.standard_normal(C), rng.standard_normal((3, C))
    _, cache = backend.rmsnorm_forward(x, w, eps=0.0)
    dx, _ = backend.rmsnorm_backward(dy, cache)
    assert np.abs((dx * x).sum(axis=-1)).max() < 1e-13 * max(1, np.abs(x).max())
    assert np.abs(dx.sum(axis=-1)).max() > 1e-9                         # unlike layer normalisation's, it has a mean


PATTERN_CASES = {"causal": ops.causal_spans(9), "window": ops.window_spans(9, window=3), "strided": ops.strided_spans(9, stride=3),
                 "fixed": ops.fixed_spans(9, stride=3), "prefix": ops.prefix_spans(9, prefix=4)}


@backends
@pytest.mark.parametrize("choices", [{}, {"slopes": ops.alibi_slopes(4, dtype=np.float32)}, {"softcap": 3.0}], ids=["plain", "ALiBi", "cap"])
@pytest.mark.parametrize("pattern", PATTERN_CASES)
def test_what_a_query_does_not_see_changes_nothing(pattern, choices, backend):
    """Not even keys of 1e30, forward and backward, in float32."""
    rng, spans = np.random.default_rng(0), PATTERN_CASES[pattern]
    q, dy = rng.standard_normal((2, 1, 9, 4, 6)).astype(np.float32)
    k, v = rng.standard_normal((2, 1, 9, 2, 6)).astype(np.float32)
    seen = ops.dense_mask(spans, 9)
    y, cache = backend.attention_forward(q, k, v, spans, **choices)
    dq, _, _ = backend.attention_backward(dy, cache)
    for t in range(9):
        hidden = ~seen[t]
        k_, v_ = k.copy(), v.copy()
        k_[:, hidden], v_[:, hidden] = 1e30, 1e30
        with np.errstate(over="ignore", invalid="ignore"):
            found, cache = backend.attention_forward(q, k_, v_, spans, **choices)
            other = dy.copy()
            other[:, np.arange(9) != t] = 0                             # of query t alone
            found_dq, dk, dv = backend.attention_backward(other, cache)
        np.testing.assert_allclose(found[:, t], y[:, t], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found_dq[:, t], dq[:, t], rtol=1e-4, atol=1e-5)
        if pattern in ("causal", "window"):
            assert not dv[:, hidden].any()


@given(seed=seeds, share=st.integers(1, 3), dtype=st.sampled_from([np.float32, np.float64]),
       pattern=st.sampled_from(sorted(PATTERN_CASES)), more=st.integers(0, 3))
def test_the_twin_of_attention_sees_what_the_text_sees(seed, share, dtype, pattern, more):
    """Several blocks of queries, the last T of S positions, shared heads, every pattern."""
    rng, T, S, G = np.random.default_rng(seed), 70, 70 + 9 * more, 2
    make = {"causal": ops.causal_spans, "window": lambda T, S: ops.window_spans(T, S, window=11),
            "strided": lambda T, S: ops.strided_spans(T, S, stride=7), "fixed": lambda T, S: ops.fixed_spans(T, S, stride=7),
            "prefix": lambda T, S: ops.prefix_spans(T, S, prefix=40)}[pattern]
    q, dy = rng.standard_normal((2, 1, T, share * G, 5)).astype(dtype)
    k, v = rng.standard_normal((2, 1, S, G, 5)).astype(dtype)
    y, cache = ops.attention_forward(q, k, v, make(T, S))
    found, twin_cache = kernels.attention_forward(q, k, v, make(T, S))
    bound = 1e-12 if dtype == np.float64 else 1e-5
    for a, b in zip((found, *kernels.attention_backward(dy, twin_cache)), (y, *ops.attention_backward(dy, cache)), strict=True):
        assert a.dtype == dtype and np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


# ---- any combination of choices ------------------------------------------------------------------------------------

@st.composite
def configs(draw):
    """Small models with all options drawn; heads of two channels and more, norms of eight and more."""
    n_head = draw(st.sampled_from([1, 2, 4]))
    head_size = draw(st.sampled_from([8, 10] if n_head == 1 else [4, 6] if n_head == 2 else [2, 4]))
    mlp = draw(st.sampled_from(ACTIVATIONS))
    attention = draw(st.sampled_from(sorted(PATTERNS)))
    n_expert = draw(st.sampled_from([0, 0, 1, 2, 5]))
    return GPTConfig(
        n_layer=draw(st.integers(1, 2)), n_head=n_head, n_embd=n_head * head_size, block_size=7, vocab_size=draw(st.integers(2, 9)),
        bias=draw(st.booleans()), tied=draw(st.booleans()), exact_gelu=mlp == "gelu" and draw(st.booleans()),
        norm_eps=draw(st.sampled_from([1e-5, 1e-3])), position=draw(st.sampled_from(POSITIONS)),
        rotary_base=draw(st.sampled_from([10000.0, 100.0])), rotary_scale=draw(st.sampled_from([1.0, 2.0])),
        rotary_trained=draw(st.sampled_from([0, 10])),
        rotary_interleaved=draw(st.booleans()), norm=draw(st.sampled_from(NORMS)), pre_norm=draw(st.booleans()), mlp=mlp,
        n_hidden=draw(st.sampled_from([5, 11])), n_kv_head=draw(st.sampled_from([0, *(g for g in (1, 2, 4) if n_head % g == 0)])),
        qk_norm=draw(st.booleans()), softcap=draw(st.sampled_from([0.0, 1.5])), attention=attention,
        window=0 if attention == "causal" else draw(st.integers(1, 9)),
        n_expert=n_expert, n_expert_used=draw(st.integers(1, n_expert or 3)), balance=draw(st.sampled_from([0.0, 0.5])))


def model_of(config, seed, backend=ops, dtype=np.float64):
    model = GPT(config, ops=backend, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name in model.parameters:                               # 0.5: softmax and activations out of saturation
        model.parameters[name][...] = 0.5 * rng.standard_normal(model.parameters[name].shape) + name.endswith(("norm.w", "norm1.w", "norm2.w"))
    return model, rng


def batch(config, rng, B=2):
    targets = rng.integers(-1, config.vocab_size, (B, config.block_size))
    targets[0, 0] = 1
    return rng.integers(0, config.vocab_size, (B, config.block_size)), targets


@backends
@given(config=configs(), seed=seeds)
def test_gradients_of_any_combination_along_a_direction_in_each_tensor(backend, config, seed):
    model, rng = model_of(config, seed, backend)
    assert_ok(check_model(model, *batch(config, rng), seed=seed))


@fewer(0.3)
@given(config=configs(), seed=seeds)
def test_single_entries_of_the_gradients_of_any_combination(config, seed):
    """As a second opinion beside the test above, which sees all entries; small sizes."""
    config = replace(config, block_size=4, n_hidden=3)
    model, rng = model_of(config, seed)
    ids, targets = batch(config, rng)
    model.parameters.clear_gradients()
    model.loss_and_gradients(ids, targets, scale=1.0)
    model.parameters.settle_gradients()
    shadow = model.astype(np.complex128)

    def loss(**changed):
        for name, value in changed.items():
            shadow.parameters[name][...] = value
        found = shadow.objective(ids, targets)
        for name in changed:
            shadow.parameters[name][...] = model.parameters[name]
        return found

    assert_ok(check_gradients("GPT", loss, {name: model.parameters[name] for name in model.parameters},
                              {name: model.parameters.gradient(name) for name in model.parameters},
                              methods=("complex", "adjoint"), seed=seed, entries=SOME))


def least_margin(cache):
    """By how much a router's last chosen score beats the first that is not."""
    margins = [np.inf]
    for block in cache.blocks:
        if hasattr(block.mlp, "route"):
            scores, chosen = block.mlp.router.x @ block.mlp.router.w, block.mlp.route.chosen
            margins.append((np.where(chosen, scores, np.inf).min(axis=-1) - np.where(chosen, -np.inf, scores).max(axis=-1)).min())
    return min(margins)


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-12), (np.float32, 1e-4)])
@given(config=configs(), seed=seeds)
def test_twins_equal_the_text_in_any_combination(dtype, bound, config, seed):
    found = []
    for backend, kind in ((ops, np.float64), (kernels, dtype)):
        model, rng = model_of(config, seed, backend, kind)
        ids, targets = batch(config, rng)
        model.parameters.clear_gradients()
        logits, cache = model.forward(ids)
        assume(dtype == np.float64 or least_margin(cache) > 1e-4)       # nearer, rounding decides which expert is asked
        loss, _ = model.loss_and_gradients(ids, targets, scale=1.0)
        model.parameters.settle_gradients()
        found.append((logits, np.array(loss), model.parameters.grad))
    for true, twin in zip(*found, strict=True):
        assert twin.dtype == dtype or twin.ndim == 0
        assert np.linalg.norm(twin - true) <= bound * max(1, np.linalg.norm(true))


@fewer(0.5)
@given(config=configs(), seed=seeds, prompt=st.integers(1, 6), backend=st.sampled_from([ops, kernels]))
def test_cached_equals_uncached_in_any_combination(config, seed, prompt, backend):
    model, rng = model_of(config, seed, backend)
    ids, _ = batch(config, rng)
    whole, _ = model.forward(ids)
    size = 1e-12 * max(1, np.abs(whole).max())
    past = model.past(2)
    parts = [model.step(part, past) for part in np.split(ids, [prompt], axis=1)]
    assert np.abs(np.concatenate(parts, axis=1) - whole).max() < size
    with Decoder(model, sequences=2) as decoder:
        for b in range(2):
            assert np.abs(decoder.start(ids[b, :prompt], b) - whole[b, prompt - 1]).max() < size
        for t in range(prompt, 7):
            assert np.abs(decoder.step(ids[:, t]) - whole[:, t]).max() < size


@given(config=configs(), n_hidden=st.sampled_from([0, 5]))
def test_the_formula_counts_any_combination(config, n_hidden):
    config = replace(config, n_hidden=n_hidden)
    model = GPT(config)
    assert parameter_count(config) == model.n_params() == sum(model.parameters[name].size for name in model.parameters)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_a_model_sees_through_its_pattern(pattern):
    """One layer without positions: logits at t change with token s exactly where the pattern says so."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=9, vocab_size=11, position="none", attention=pattern,
                       window=0 if pattern == "causal" else 3)
    model, rng = model_of(config, 0)
    ids = rng.integers(0, 11, (1, 9))
    before, _ = model.forward(ids)
    for s in range(9):
        other = ids.copy()
        other[0, s] = (ids[0, s] + 1) % 11
        changed = (model.forward(other)[0] != before).any(axis=-1)[0]
        assert changed.tolist() == [naive.sees(pattern, t, s, 3) for t in range(9)]


# ---- the door ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, words", [
    ({"position": "rotray"}, "position must be one of learned, sinusoidal, rotary, alibi, none, got 'rotray': did you mean rotary?"),
    ({"norm": "batchnorm"}, "norm must be one of layernorm, rmsnorm"),
    ({"mlp": "swish"}, "mlp must be one of gelu, relu, squared_relu, silu, swiglu"),
    ({"attention": "sparse"}, "attention must be one of causal, window, strided, fixed"),
    ({"n_kv_head": 3}, "n_kv_head must divide n_head=4, got 3"),
    ({"n_kv_head": 8}, "n_kv_head must divide n_head=4, got 8"),
    ({"n_kv_head": -1}, "n_kv_head must be a whole number of at least 0"),
    ({"position": "rotary", "n_embd": 12}, "n_embd / n_head must be even, got 3"),
    ({"attention": "window"}, "window, strided and fixed attention need a window of at least 1"),
    ({"attention": "strided", "window": 0}, "attention strided and window 0 do not fit together"),
    ({"window": 4}, "attention causal and window 4 do not fit together"),
    ({"attention": "window", "window": -1}, "window must be a whole number of at least 0"),
    ({"attention": "window", "window": 1 << 63}, "window must be at least 0 and below"),
    ({"exact_gelu": True, "mlp": "relu"}, "exact_gelu is about GELU, got mlp=relu"),
    ({"softcap": -1.0}, "softcap must be at least 0"),
    ({"softcap": float("nan")}, "softcap must be at least 0"),
    ({"rotary_base": 0.0}, "rotary_base must be at least 1e-06"),
    ({"rotary_scale": float("inf")}, "rotary_scale must be at least 1e-06 and below inf"),
    ({"rotary_trained": -1}, "rotary_trained must be a whole number of at least 0"),
    ({"n_hidden": -5}, "n_hidden must be a whole number of at least 0"),
    ({"n_expert": -1}, "n_expert must be a whole number of at least 0, got -1"),
    ({"n_expert": 4, "n_expert_used": 0}, "n_expert_used must be a whole number of at least 1, got 0"),
    ({"n_expert": 4, "n_expert_used": 5}, "n_expert_used must be at most n_expert=4, got 5"),
    ({"n_expert": 1}, "n_expert_used must be at most n_expert=1, got 2"),
    ({"balance": -0.1}, "balance must be at least 0"),
    ({"balance": float("nan")}, "balance must be at least 0")])
def test_choices_that_do_not_fit_are_refused_with_the_reason(changes, words):
    config = GPTConfig(n_layer=1, n_head=4, n_embd=16, block_size=8, vocab_size=11)
    with pytest.raises(InputError) as caught:
        replace(config, **changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["pre_norm", "qk_norm", "bias", "tied", "rotary_interleaved", "exact_gelu"])
def test_switches_are_true_or_false(name):
    with pytest.raises(InputError, match=f"{name} must be true or false, got 'no'"):
        GPTConfig(**{name: "no"})
