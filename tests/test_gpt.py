"""The model: initialisation, tied weights, counts, estimates, and its door."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from numpyllm.checks import check_model
from numpyllm.errors import InputError
from numpyllm.models import GPT, LSTMLM, GPTClassifier, GPTClassifierConfig, GPTConfig, LoRA, LSTMConfig
from numpyllm.models.estimate import parameter_count
from numpyllm.training import AdamW

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, vocab_size=11)


def test_parameter_names_and_shapes():
    parameters = GPT(TINY).parameters
    assert {name: spec.shape for name, spec in parameters.specs.items() if not name.startswith("blocks.1")} == {
        "embedding.wte": (11, 8), "embedding.wpe": (6, 8),
        "blocks.0.norm1.w": (8,), "blocks.0.norm1.b": (8,), "blocks.0.attn.qkv.w": (8, 24), "blocks.0.attn.qkv.b": (24,),
        "blocks.0.attn.proj.w": (8, 8), "blocks.0.attn.proj.b": (8,), "blocks.0.norm2.w": (8,), "blocks.0.norm2.b": (8,),
        "blocks.0.mlp.b": (32,), "blocks.0.mlp.up.w": (8, 32), "blocks.0.mlp.down.w": (32, 8), "blocks.0.mlp.down.b": (8,),
        "norm.w": (8,), "norm.b": (8,)}


def test_only_matrices_decay():
    specs = GPT(TINY).parameters.specs
    assert {name for name, spec in specs.items() if spec.decay} == {name for name, spec in specs.items() if len(spec.shape) == 2}


def test_gpt2_has_as_many_parameters_as_published():
    assert parameter_count(GPTConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50257)) == 124_439_808


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_counts_what_the_model_has(bias, tied):
    config = replace(TINY, bias=bias, tied=tied)
    model = GPT(config)
    assert parameter_count(config) == model.n_params() == sum(model.parameters[name].size for name in model.parameters)
    assert model.n_params(embedding=False) == model.n_params() - 17 * 8


def test_initialisation_is_gpt2s():
    model = GPT(GPTConfig(n_layer=3, n_head=2, n_embd=64, block_size=64, vocab_size=500), seed=5)
    for name in model.parameters:
        value = model.parameters[name]
        if name.endswith(".b"):
            assert not value.any()
        elif value.ndim == 1:
            assert (value == 1).all()
        else:
            std = 0.02 / math.sqrt(2 * 3) if name.endswith(("proj.w", "down.w")) else 0.02
            assert value.std() == pytest.approx(std, rel=0.05), name


def test_loss_at_initialisation_is_about_ln_v():
    model = GPT(GPTConfig(vocab_size=300))
    ids = np.random.default_rng(0).integers(0, 300, (4, 64))
    loss, count = model.loss(ids, ids[:, ::-1])
    assert loss / count == pytest.approx(math.log(300), rel=0.02)


def test_tied_weights_are_one_array_and_stay_one_after_an_update():
    model = GPT(TINY, seed=1)
    assert model.head.weight is model.embedding.wte
    untied = GPT(GPTConfig(**(vars(TINY) | {"tied": False})))
    assert untied.n_params() - model.n_params() == 11 * 8
    ids = np.array([[1, 2, 3]])
    model.loss_and_gradients(ids, ids)
    model.parameters.settle_gradients()
    AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.1).update(0.01)
    logits, _ = model.forward(ids)
    h, _ = model._trunk(ids, None)
    assert np.allclose(logits, h @ model.parameters["embedding.wte"].T)


def test_one_batch_can_be_learnt_by_heart():
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=8, vocab_size=20), seed=1)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 20, (4, 8)), rng.integers(0, 20, (4, 8))
    optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.0)
    for _ in range(200):
        model.parameters.clear_gradients()
        loss, count = model.loss_and_gradients(ids, targets)
        optimizer.update(1e-2)
    assert loss / count < 0.02


def test_loss_equals_the_loss_of_the_training_pass_and_of_the_logits():
    model = GPT(TINY, seed=1, dtype=np.float64)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 11, (2, 6)), rng.integers(-1, 11, (2, 6))
    logits, _ = model.forward(ids)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -sum(log_p[b, t, targets[b, t]] for b in range(2) for t in range(6) if targets[b, t] >= 0)
    assert model.loss(ids, targets)[0] == pytest.approx(expected, rel=1e-12)
    assert model.loss_and_gradients(ids, targets)[0] == pytest.approx(expected, rel=1e-12)


def test_dropout_acts_only_with_draws_and_repeats():
    from numpyllm.random import Draws
    model = GPT(GPTConfig(**(vars(TINY) | {"dropout": 0.5})))
    ids = np.array([[1, 2, 3, 4]])
    plain, once, again, other = (model.forward(ids, draws)[0] for draws in (None, Draws(0), Draws(0), Draws(0, step=1)))
    assert np.array_equal(once, again) and not np.array_equal(once, plain) and not np.array_equal(once, other)
    assert np.array_equal(plain, model.forward(ids)[0])


def test_check_model_accepts_the_model_and_rejects_a_broken_backward():
    model = GPT(TINY, seed=1)
    ids = np.random.default_rng(0).integers(0, 11, (2, 6))
    assert all(row.ok for row in check_model(model, ids, ids))
    model.astype = lambda dtype: _with_norm(GPT.astype(model, dtype))
    assert not all(row.ok for row in check_model(model, ids, ids))


def _with_norm(model):
    norm = model.norm
    norm.backward = lambda dy, cache: 1.001 * type(norm).backward(norm, dy, cache)
    return model


LONG = GPTConfig(n_layer=2, n_head=8, n_embd=64, block_size=512, vocab_size=65)         # attention's scores are the largest


EXPERTS = {"n_expert": 8, "n_hidden": 256}


@pytest.mark.parametrize("V, B, L, choices", [(1000, 8, 4, {}), (65, 12, 4, {}), (5000, 4, 2, {}), (65, 8, 6, {}), (65, 2, 0, {}),
                                              (65, 12, 4, EXPERTS), (65, 12, 4, EXPERTS | {"mlp": "swiglu", "n_expert_used": 3})])
def test_estimate_of_memory_is_near_what_a_step_takes(V, B, L, choices):
    config = GPTConfig(n_layer=L, n_head=4, n_embd=128, block_size=64, vocab_size=V, **choices) if L else LONG
    model = GPT(config)
    ids = np.zeros((B, config.block_size), np.int64)
    model.loss_and_gradients(ids, ids)
    tracemalloc.start()
    model.parameters.clear_gradients()
    model.loss_and_gradients(ids, ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.estimate(B).activation_bytes == pytest.approx(peak, rel=0.1)


def test_estimate_of_flops_is_six_a_weight_and_token_plus_attention():
    model = GPT(GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=65))
    found = model.estimate(12)
    matrices = 12 * 4 * 128 * 128 + 65 * 128
    assert found.flops == 6 * 12 * 64 * matrices + 7 * 2 * 12 * 64 * 64 * 128 * 4
    assert found.parameter_bytes == 4 * model.n_params() and found.moment_bytes == 8 * model.n_params()


@pytest.mark.parametrize("model, trained", [
    (GPT(TINY, trainable=lambda name: name.startswith("norm.")), 16), (GPT(TINY, lora=LoRA(rank=2)), 2 * 2 * (8 + 24 + 8 + 8)),
    (GPTClassifier(GPTClassifierConfig(**vars(TINY), n_classes=3), dtype=np.float64, trainable=lambda name: name == "classifier.w"), 24),
    (LSTMLM(LSTMConfig(n_layer=1, n_embd=8, vocab_size=11), trainable=lambda name: name.endswith("w_x")), 256)])
def test_of_frozen_parameters_there_are_neither_gradients_nor_moments(model, trained):
    found, itemsize = model.estimate(3), model.parameters.dtype.itemsize
    assert found.parameter_bytes == itemsize * model.n_params() and found.gradient_bytes == itemsize * trained
    assert found.moment_bytes == 2 * itemsize * trained
    assert found.total_bytes == itemsize * (model.n_params() + 3 * trained) + found.activation_bytes
    assert 0 <= model.parameters.n_trainable - trained < 16 * len(model.parameters.specs)      # gaps


@pytest.mark.parametrize("changes, words", [
    ({"n_embd": 10, "n_head": 4}, "n_embd must be divisible by n_head, got n_embd=10 and n_head=4"),
    ({"n_layer": 0}, "n_layer must be a whole number of at least 1, got 0"),
    ({"vocab_size": 2.5}, "vocab_size must be a whole number"),
    ({"block_size": True}, "block_size must be a whole number"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ({"dropout": float("nan")}, "dropout must be")])
def test_bad_configurations_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        GPTConfig(**(vars(TINY) | changes))


@pytest.mark.parametrize("ids, words", [
    (np.array([[0, 11]]), r"ids must lie in \[0, 11\), got 0 to 11"),
    (np.array([[-1, 2]]), r"ids must lie in"),
    (np.array([1, 2]), r"ids must be integers of shape \(batch, time\)"),
    (np.array([[0.5]]), "ids must be integers"),
    (np.zeros((1, 7), int), "1 to block_size=6 tokens, got 7"),
    (np.zeros((1, 0), int), "1 to block_size=6 tokens, got 0")])
def test_bad_ids_are_refused_at_the_door(ids, words):
    with pytest.raises(InputError, match=words):
        GPT(TINY).forward(ids)


def test_bad_targets_are_refused_at_the_door():
    model, ids = GPT(TINY), np.array([[1, 2]])
    for targets in (np.array([[1, 11]]), np.array([[1, -2]]), np.array([[1, 2, 3]]), np.array([[1.0, 2.0]])):
        with pytest.raises(InputError, match="targets must"):
            model.loss(ids, targets)
