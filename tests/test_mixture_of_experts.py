"""A mixture of experts against its definition, against torch, and in the places where it differs from one MLP."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.inference import Decoder, StoredWeights, generate
from numpyllm.interop import load_decodable, save_pretrained, save_quantized
from numpyllm.layers import MLP, GatedMLP, MixtureOfExperts
from numpyllm.models import GPT, GPTConfig
from numpyllm.parameters import Parameters
from numpyllm.random import Draws
from numpyllm.tokenizer import CharacterTokenizer
from numpyllm.training.optimizer import AdamW
from numpyllm.training.replicas import Replicas

backends = pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "twin"])
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, vocab_size=11, n_hidden=5, n_expert=4, n_expert_used=2, balance=0.5)


def bound(layer, seed=0, backend=ops, dtype=np.float64):
    """The layer with random parameters of order one."""
    parameters = Parameters(layer.specs(), dtype=dtype)
    layer.bind(parameters, backend)
    rng = np.random.default_rng(seed)
    for name in parameters:
        parameters[name][...] = rng.standard_normal(parameters[name].shape)
    return layer, parameters


def model_of(config=CONFIG, backend=ops, seed=0, dtype=np.float64, **options):
    model = GPT(config, ops=backend, dtype=dtype, **options)
    rng = np.random.default_rng(seed)
    for name in model.parameters:
        model.parameters[name][...] = 0.5 * rng.standard_normal(model.parameters[name].shape)
    return model


def batch(config=CONFIG, B=3, seed=1):
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (2, B, config.block_size))
    return ids[0], ids[1]


def gradients_of(model, *batches, **options):
    model.parameters.clear_gradients()
    losses = [model.loss_and_gradients(*one, **options)[0] for one in batches]
    model.parameters.settle_gradients()
    return sum(losses), model.parameters.grad.copy()


# ---- routing -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype, size", [(np.float64, 1e-13), (np.float32, 1e-5)])
@given(seed=seeds, B=st.integers(1, 3), T=st.integers(1, 5), E=st.integers(1, 6), k=st.integers(1, 6), spread=st.sampled_from([1, 30]))
def test_gates_and_balance_are_those_of_the_definition(dtype, size, seed, B, T, E, k, spread):
    k = min(k, E)
    scores = (spread * np.random.default_rng(seed).standard_normal((B, T, E))).astype(dtype)
    gates, cache = ops.route_forward(scores, k)
    loss, _ = ops.balance_forward(scores, cache.chosen)
    assert gates.dtype == loss.dtype == dtype and (cache.chosen.sum(axis=-1) == k).all()
    np.testing.assert_allclose(gates, naive.route(scores.tolist(), k), rtol=size, atol=size)
    np.testing.assert_allclose(loss, naive.balance(scores.tolist(), k), rtol=size)


def test_of_equal_scores_the_first_are_chosen_and_never_more_than_k():
    scores = np.random.default_rng(0).integers(0, 3, (20, 100)).astype(np.float64)
    np.testing.assert_allclose(ops.route_forward(scores, 7)[0], naive.route(scores.tolist(), 7), rtol=1e-13)
    assert ops.route_forward(np.full((3, 4), np.nan), 2)[1].chosen.sum(axis=-1).tolist() == [2, 2, 2]     # a run that went wrong


def test_one_expert_has_its_probability_for_a_gate_several_share_one():
    scores = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(ops.route_forward(scores, 1)[0], [[0, 0, 5 / 8]])
    np.testing.assert_allclose(ops.route_forward(scores, 2)[0], [[0, 2 / 7, 5 / 7]])


def test_balance_is_one_a_token_at_best_and_the_number_of_experts_at_worst():
    even = 50 * np.eye(4)[np.arange(12) % 4]
    for scores, expected in ((even, 12), (50 * np.eye(4)[np.zeros(12, int)], 4 * 12)):
        _, cache = ops.route_forward(scores, 1)
        np.testing.assert_allclose(ops.balance_forward(scores, cache.chosen)[0], expected)


def test_following_the_balance_alone_evens_out_the_experts():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4, 50, 8)) + 2 * rng.standard_normal(8)
    before = None
    for _ in range(300):
        chosen = ops.route_forward(scores, 2)[1].chosen
        before = chosen.mean(axis=1).max() if before is None else before
        _, cache = ops.balance_forward(scores, chosen)
        scores = scores - ops.balance_backward(0.5, cache).mean(axis=1, keepdims=True) * 10
    assert before > 0.7 and chosen.mean(axis=1).max() < 0.4         # a quarter each would be even


# ---- the layer -----------------------------------------------------------------------------------------------------

def naive_expert(expert):
    w = {name: value.tolist() for name, value in (("up", expert.up.w), ("down", expert.down.w), ("b", expert.b), ("c", expert.down.b))}
    return lambda rows: naive.linear(naive.bias_gelu(naive.linear(rows, w["up"]), w["b"]), w["down"], w["c"])


@backends
@given(seed=seeds, k=st.integers(1, 4))
def test_a_mixture_is_the_loop_over_tokens_of_its_definition(backend, seed, k):
    layer, _ = bound(MixtureOfExperts(5, [MLP(5, n_hidden=3) for _ in range(4)], n_used=k, balance=0.3), seed, backend)
    x = np.random.default_rng([seed, 1]).standard_normal((2, 3, 5))
    y, cache = layer.forward(x)
    w = layer.router.w.tolist()
    expected = naive.mixture(x.tolist(), w, [naive_expert(expert) for expert in layer.experts], k)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(cache.loss, 0.3 * naive.balance(naive.linear(x.tolist(), w), k), rtol=1e-12)


@backends
def test_of_all_experts_it_is_the_dense_mixture_and_of_one_the_mlp(backend):
    layer, _ = bound(MixtureOfExperts(6, [GatedMLP(6, n_hidden=4) for _ in range(3)], n_used=3), backend=backend)
    x = np.random.default_rng(1).standard_normal((2, 5, 6))
    p, _ = ops.softmax_forward(x @ layer.router.w)
    dense = sum(p[..., e, None] * expert.forward(x)[0] for e, expert in enumerate(layer.experts))
    np.testing.assert_allclose(layer.forward(x)[0], dense, rtol=1e-12, atol=1e-13)
    alone, _ = bound(MixtureOfExperts(6, [MLP(6)], n_used=1), backend=backend)
    np.testing.assert_allclose(alone.forward(x)[0], alone.experts[0].forward(x)[0], rtol=1e-13)


@backends
def test_an_expert_without_tokens_has_gradients_of_zero(backend):
    layer, parameters = bound(MixtureOfExperts(6, [MLP(6, n_hidden=4) for _ in range(5)], n_used=2, balance=0.1), backend=backend)
    layer.router.w[...] = 0
    layer.router.w[0] = [3, 2, 1, -1, -2]                       # with x[..., 0] > 0: experts 0 and 1, always
    x = np.abs(np.random.default_rng(1).standard_normal((2, 3, 6)))
    parameters.grad[...] = np.nan
    y, cache = layer.forward(x)
    layer.backward(np.ones_like(y), cache, 1.0)
    for name in parameters:                                     # before anything is settled
        used = not name.startswith("experts") or name.startswith(("experts.0", "experts.1"))
        assert np.isfinite(parameters.gradient(name)).all() and parameters.gradient(name).any() == used, name


def test_the_names_say_which_expert():
    names = set(model_of().parameters)
    assert {"blocks.0.mlp.router.w", "blocks.1.mlp.experts.3.up.w", "blocks.1.mlp.experts.3.b", "blocks.0.mlp.experts.0.down.b"} <= names


# ---- the loss ------------------------------------------------------------------------------------------------------

@backends
def test_the_loss_that_is_told_is_without_balance(backend):
    model, (ids, targets) = model_of(backend=backend), batch()
    told, _ = model.loss(ids, targets)
    logits, cache = model.forward(ids)
    found, _ = gradients_of(model, (ids, targets))
    np.testing.assert_allclose([told, found], ops.cross_entropy_forward(logits, targets)[0], rtol=1e-13)
    added = model.added_loss(cache)
    assert added >= CONFIG.balance * ids.size * CONFIG.n_layer * 0.5            # about 1 a token and block, times balance
    np.testing.assert_allclose(model.objective(ids, targets), told + added, rtol=1e-13)


@backends
def test_gradients_do_not_depend_on_how_a_batch_is_divided(backend):
    """Each sequence has its own balance: slices and micro-batches add up to the whole."""
    model, (ids, targets) = model_of(backend=backend), batch(B=5)
    _, whole = gradients_of(model, (ids, targets), scale=0.1)
    _, parts = gradients_of(model, (ids[:1], targets[:1]), (ids[1:], targets[1:]), scale=0.1)
    assert np.linalg.norm(parts - whole) < 1e-13 * np.linalg.norm(whole)


@pytest.mark.parametrize("shared", [False, True])
def test_replicas_agree_though_an_expert_is_empty_in_one_of_them(shared, monkeypatch):
    """With one gradient for all, who has nothing to add must still take its turn, or the others would wait for ever."""
    if shared:
        monkeypatch.setattr("numpyllm.training.replicas.PRIVATE", 0)
    config = GPTConfig(**{**vars(CONFIG), "block_size": 2, "n_expert": 7, "n_expert_used": 1, "dropout": 0.2})
    found = []
    for n in (1, 2, 3):
        model, (ids, targets) = model_of(config, kernels), batch(config)
        unused = ~model.forward(ids)[1].blocks[0].mlp.route.chosen.any(axis=1)
        assert unused.any(axis=1).all() and not unused.all(axis=0).all()        # each sequence leaves some out
        optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.1)
        loss, norm, updated = Replicas(model, n).step([(ids, targets)], optimizer, lr=1e-2, grad_clip=1.0,
                                                      draws=lambda micro, row: Draws(0, first_row=row))
        assert updated
        found.append((loss, norm, model.parameters.data.copy()))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-13)


@backends
def test_recomputed_blocks_give_the_same_bits(backend):
    plain, recomputed = (gradients_of(model_of(backend=backend, recompute=recompute), batch()) for recompute in (False, True))
    assert plain[0] == recomputed[0] and plain[1].tobytes() == recomputed[1].tobytes()


# ---- decoding, files, sizes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_it_is_decoded_with_stored_weights_and_the_router_stays_as_it_is(kind):
    model = model_of(backend=kernels, dtype=np.float32)
    stored = StoredWeights(model, kind)
    assert not any("router" in name for name in stored.rows) and "blocks.mlp.experts.3.up.w" in stored.rows
    rounded = model.astype(np.float32)
    stored.write_into(rounded)
    ids, _ = batch()
    expected, _ = rounded.forward(ids)
    with Decoder(model, sequences=3, weights=stored) as decoder:
        found = [[decoder.start(row[:3], b) for b, row in enumerate(ids)], *(decoder.step(ids[:, t]) for t in (3, 4, 5))]
    assert np.abs(np.stack(found, axis=1) - expected[:, 2:]).max() < 1e-4
    assert len(list(generate(model, [1, 2], max_new_tokens=9))) == 9        # beyond block_size


def test_files_of_fewer_bytes_hold_it_and_other_layouts_say_that_they_cannot(tmp_path):
    model, tokenizer = model_of(dtype=np.float32), CharacterTokenizer("abcdefghijk")
    stored = StoredWeights(model, "int8")
    save_quantized(tmp_path / "q", model, stored, tokenizer)
    found, again, _ = load_decodable(tmp_path / "q", ops=ops)
    stored.write_into(model)
    assert found.config == CONFIG and np.array_equal(found.parameters.data, model.parameters.data)
    assert all(np.array_equal(again.rows[name], rows) for name, rows in stored.rows.items())
    with pytest.raises(InputError, match=r"gpt2 has no .*n_expert=4.*; llama has no .*n_expert=4"):
        save_pretrained(tmp_path / "hf", model)
    assert not (tmp_path / "hf").exists()


def test_estimates_count_all_weights_and_the_arithmetic_of_those_that_are_used():
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 64, "vocab_size": 65}
    dense, sparse = GPT(GPTConfig(**sizes)), GPT(GPTConfig(**sizes, n_hidden=128, n_expert=8, n_expert_used=2))
    router = 3 * 64 * 8
    assert sparse.n_params() - dense.n_params() == 3 * (2 * 64 * (8 * 128 - 256) + 8 * (128 + 64) - (256 + 64)) + router
    assert sparse.estimate(4).flops - dense.estimate(4).flops == 6 * 4 * 64 * router
