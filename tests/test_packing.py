"""Several examples in a row: each is read as if it stood alone; and log-probabilities of single targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 12, "vocab_size": 11}
VARIANTS = ({}, {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 1}, {"position": "alibi"},
            {"position": "sinusoidal", "attention": "window", "window": 2}, {"position": "none", "attention": "strided", "window": 2},
            {"attention": "fixed", "window": 3, "pre_norm": False, "tied": False})


def gradients(model, *batches):
    model.parameters.clear_gradients()
    losses = [model.loss_and_gradients(*batch, scale=1.0)[0] for batch in batches]
    model.parameters.settle_gradients()
    return sum(losses), model.parameters.grad.copy()


def examples_and_row(rng, lengths):
    """Some examples, and all of them in one row with its starts."""
    ids = [rng.integers(0, 11, (1, n)) for n in lengths]
    targets = [rng.integers(-1, 11, (1, n)) for n in lengths]
    begins = np.cumsum([0, *lengths[:-1]])
    row = np.concatenate(ids, axis=1), np.concatenate(targets, axis=1), np.repeat(begins, lengths)[None]
    return list(zip(ids, targets)), row


@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_packed_examples_give_the_loss_and_gradients_of_separate_ones(variant, backend):
    model = GPT(GPTConfig(**SIZES | variant), ops=backend, dtype=np.float64, seed=3)
    separate, packed = examples_and_row(np.random.default_rng(0), [3, 1, 5, 2])
    loss, grad = gradients(model, *separate)
    packed_loss, packed_grad = gradients(model, packed)
    assert abs(packed_loss - loss) < 1e-12 * abs(loss)
    assert np.abs(packed_grad - grad).max() < 1e-12 * np.abs(grad).max()
    assert abs(model.loss(*packed)[0] - loss) < 1e-12 * abs(loss)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from(VARIANTS), st.integers(0, 99))
def test_in_any_division_of_a_row(lengths, variant, seed):
    if sum(lengths) > 12:
        lengths = lengths[:3]
    model = GPT(GPTConfig(**SIZES | variant), dtype=np.float64, seed=seed)
    separate, packed = examples_and_row(np.random.default_rng(seed), lengths)
    alone = np.concatenate([model.logprobs(*batch) for batch in separate], axis=1)
    assert np.allclose(model.logprobs(*packed), alone, rtol=0, atol=1e-12)


def test_an_example_neither_sees_nor_moves_another():
    """What stands before it in the row, or how far from its beginning it stands, changes nothing of it."""
    model = GPT(GPTConfig(**SIZES), dtype=np.float64)
    starts = np.array([[0, 0, 0, 3, 3, 3, 3]])
    ids = np.array([[1, 2, 3, 4, 5, 6, 7]])
    found = model.forward(ids, None, starts)[0]
    ids[0, :3] = [9, 9, 9]
    assert np.array_equal(model.forward(ids, None, starts)[0][0, 3:], found[0, 3:])
    assert not np.allclose(model.forward(ids)[0][0, 3:], found[0, 3:])


@pytest.mark.parametrize("starts, message", [
    ([[0, 0, 3, 3]], "starts must say"), ([[0, -1, 0, 0]], "starts must say"), ([[0, 0, 0]], "shaped like ids"),
    ([[0.0, 0, 0, 0]], "must be integers")])
def test_starts_that_mean_nothing_are_refused(starts, message):
    with pytest.raises(InputError, match=message):
        GPT(GPTConfig(**SIZES)).loss(np.ones((1, 4), int), np.ones((1, 4), int), np.array(starts))


def test_an_lstm_refuses_packed_rows():
    model = LSTMLM(LSTMConfig(n_layer=1, n_embd=8, block_size=8, vocab_size=11))
    ids = np.ones((1, 4), int)
    with pytest.raises(InputError, match="a row of its own"):
        model.loss(ids, ids, np.zeros((1, 4), int))


@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_log_probabilities_are_those_of_the_logits(backend, dtype, tolerance, monkeypatch):
    rng = np.random.default_rng(1)
    model = GPT(GPTConfig(**SIZES), ops=backend, dtype=dtype)
    ids, targets = rng.integers(0, 11, (3, 7)), rng.integers(-1, 11, (3, 7))
    logits = model.forward(ids)[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = np.where(targets == -1, 0, np.take_along_axis(expected, np.maximum(targets, 0)[..., None], axis=-1)[..., 0])
    assert np.allclose(model.logprobs(ids, targets), expected, rtol=0, atol=tolerance)
    assert np.allclose(model.logprobs_forward(ids, targets)[0], expected, rtol=0, atol=tolerance)
    monkeypatch.setattr("numpyllm.layers.head.LOGITS", 25)             # two rows at a time
    assert np.allclose(model.logprobs(ids, targets), expected, rtol=0, atol=tolerance)
    assert model.logprobs(ids, targets).dtype == dtype
    assert abs(model.loss(ids, targets)[0] + expected.sum()) < 50 * tolerance


def test_nothing_asked_is_nothing_learnt():
    model = GPT(GPTConfig(**SIZES), ops=kernels)
    ids, nothing = np.ones((2, 4), int), np.full((2, 4), -1)
    assert not model.logprobs(ids, nothing).any()
    logprobs, cache = model.logprobs_forward(ids, nothing)
    model.parameters.clear_gradients()
    model.logprobs_backward(np.ones_like(logprobs), cache)
    model.parameters.settle_gradients()
    assert not model.parameters.grad.any()
