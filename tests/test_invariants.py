"""What must hold exactly, whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, sizes

from numpyllm import ops
from numpyllm.gradcheck import assert_ok, check_op
from numpyllm.models import GPT, GPTConfig
from numpyllm.random import Draws

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, vocab_size=11)


def random_model(seed=0, dtype=np.float64, **choices):
    config = GPTConfig(**({name: getattr(CONFIG, name) for name in vars(CONFIG)} | choices))
    model = GPT(config, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name in model.parameters:
        model.parameters[name][...] = rng.standard_normal(model.parameters[name].shape)
    return model


def gradients_of(model, ids, targets, **settings):
    model.parameters.clear_gradients()
    loss, count = model.loss_and_gradients(ids, targets, **settings)
    model.parameters.settle_gradients()
    return loss, count, model.parameters.grad.copy()


@given(z=sizes(), seed=seeds)
def test_rows_of_dlogits_sum_to_zero_and_ignored_rows_are_zero(z, seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(-1, z.V, (z.B, z.T))
    _, count, cache = ops.cross_entropy_forward(10 * rng.standard_normal((z.B, z.T, z.V)), targets)
    dlogits = ops.cross_entropy_backward(1.0, cache)
    assert count == (targets != -1).sum()
    assert np.abs(dlogits.sum(axis=-1)).max() < 1e-14
    assert not dlogits[targets == -1].any()


@given(z=sizes(), seed=seeds)
def test_layernorm_dx_is_orthogonal_to_one_and_to_n(z, seed):
    rng = np.random.default_rng(seed)
    x = rng.permuted(np.broadcast_to(np.linspace(-1, 1, z.C + 3), (z.B, z.C + 3)), axis=-1)
    _, cache = ops.layernorm_forward(x, np.ones(z.C + 3), eps=0.0)
    dx, _, _ = ops.layernorm_backward(rng.standard_normal(x.shape), cache)
    n = (x - cache.mean) * cache.rstd
    assert np.abs(dx.sum(axis=-1)).max() < 1e-13
    assert np.abs((dx * n).sum(axis=-1)).max() < 1e-13


@pytest.mark.parametrize("future", ["other tokens", "huge embeddings"])
def test_logits_do_not_depend_on_the_future(future):
    model = random_model(dtype=np.float32)
    ids = np.array([[1, 2, 3, 4, 5, 6]])
    before, _ = model.forward(ids)
    if future == "other tokens":
        ids = np.array([[1, 2, 3, 7, 8, 9]])
    else:
        model.embedding.wpe[3:] = 1e30
    with np.errstate(over="ignore", invalid="ignore"):
        after, _ = model.forward(ids)
    assert np.array_equal(before[:, :3], after[:, :3])
    assert not np.array_equal(before[:, 3:], after[:, 3:])


def test_attention_output_does_not_depend_on_the_future_even_if_scores_overflow():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 4, 1, 2)).astype(np.float32) for _ in range(3))
    before, _ = ops.attention_forward(q, k, v, ops.causal_spans(4))
    q[:, 2:], k[:, 2:], v[:, 2:] = 1e30, 1e30, 1e30
    with np.errstate(over="ignore", invalid="ignore"):
        after, _ = ops.attention_forward(q, k, v, ops.causal_spans(4))
    assert np.array_equal(before[:, :2], after[:, :2])


def test_a_query_that_sees_no_key_gives_zero_and_gets_zero():
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.standard_normal((2, 3, 2, 5)) for _ in range(4))
    spans = ops.causal_spans(3)
    spans[1] = 0
    y, cache = ops.attention_forward(q, k, v, spans)
    dq, dk, dv = ops.attention_backward(dy, cache)
    assert not y[:, 1].any() and not dq[:, 1].any()
    assert np.all(cache.lse[:, :, 1] == -np.inf)
    assert all(np.isfinite(a).all() and a.any() for a in (dq, dk, dv))
    y, cache = ops.attention_forward(q, k, v, np.zeros((3, 1, 2), int))
    assert not y.any() and not any(g.any() for g in ops.attention_backward(dy, cache))


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_logits_neither_overflow_nor_lose_the_loss(scale):
    logits = np.array([[scale, 0.0, 0.0], [0.0, 0.0, scale]])
    loss, _, cache = ops.cross_entropy_forward(logits, np.array([1, 1]))
    assert loss == pytest.approx(2e4 if scale > 0 else 2 * np.log(2))
    assert np.isfinite(ops.cross_entropy_backward(1.0, cache)).all()
    y, _ = ops.softmax_forward(logits)
    assert np.isfinite(y).all() and np.allclose(y.sum(axis=-1), 1)


def test_all_targets_ignored_is_loss_zero_and_gradient_zero():
    model = random_model()
    ids = np.array([[1, 2, 3]])
    loss, count, grad = gradients_of(model, ids, np.full((1, 3), -1))
    assert (loss, count) == (0, 0) and not grad.any()


def test_embedding_gradient_of_absent_tokens_is_exactly_zero_with_an_untied_head():
    model = random_model(tied=False)
    ids = np.array([[1, 2, 2, 5]])
    gradients_of(model, ids, ids)
    gradient = model.parameters.gradient("embedding.wte")
    absent = [i for i in range(11) if i not in (1, 2, 5)]
    assert not gradient[absent].any() and gradient[[1, 2, 5]].any(axis=1).all()
    assert not model.parameters.gradient("embedding.wpe")[4:].any()


def test_the_key_bias_has_no_gradient():
    """Adding a constant to all keys adds one number to all scores of a query: softmax does not see it."""
    model = random_model()
    ids = np.random.default_rng(1).integers(0, 11, (2, 6))
    gradients_of(model, ids, ids)
    dq, dk, dv = np.split(model.parameters.gradient("blocks.0.attn.qkv.b"), 3)
    assert np.abs(dk).max() < 1e-13 * max(np.abs(dq).max(), np.abs(dv).max())


@given(k=st.integers(1, 4), seed=seeds)
def test_micro_batches_accumulate_to_one_batch(k, seed):
    """With sums and a global count, even when the counts of the micro-batches differ."""
    rng = np.random.default_rng(seed)
    model = random_model(seed % 7)
    ids, targets = rng.integers(0, 11, (4, 5)), rng.integers(-1, 11, (4, 5))
    targets[0, 0] = 1
    count = (targets != -1).sum()
    loss, _, whole = gradients_of(model, ids, targets)
    model.parameters.clear_gradients()
    parts = [model.loss_and_gradients(i, t, scale=1 / count)[0]
             for i, t in zip(np.array_split(ids, k), np.array_split(targets, k), strict=True)]
    model.parameters.settle_gradients()
    assert sum(parts) == pytest.approx(loss, rel=1e-13)
    assert np.linalg.norm(model.parameters.grad - whole) <= 1e-13 * np.linalg.norm(whole)


def test_dropout_masks_do_not_depend_on_how_the_batch_is_divided():
    whole = Draws(3, step=5, micro=1).keep("a", (6, 5, 7), 0.4)
    parts = [Draws(3, step=5, micro=1, first_row=first).keep("a", (2, 5, 7), 0.4) for first in (0, 2, 4)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, Draws(3, step=6, micro=1).keep("a", (6, 5, 7), 0.4))
    assert not np.array_equal(whole, Draws(3, step=5, micro=1).keep("b", (6, 5, 7), 0.4))


def test_dropout_keeps_the_stated_share():
    keep = Draws(0).keep("a", (1000, 1000), 0.3)
    assert keep.mean() == pytest.approx(0.7, abs=0.002)
    assert Draws(0).keep("a", (100, 100), 0.0).all()


def test_a_layer_used_twice_has_two_caches():
    """Two forwards, then two backwards in the other order: nothing is kept on the layers."""
    model = random_model()
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 11, (2, 5)), rng.integers(0, 11, (1, 3))
    model.parameters.clear_gradients()
    (ya, ca), (yb, cb) = model.forward(a), model.forward(b)
    model.backward(np.ones_like(ya) * ya, ca)
    model.backward(np.ones_like(yb) * yb, cb)
    model.parameters.settle_gradients()
    both = model.parameters.grad.copy()
    alone = 0
    for ids in (a, b):
        model.parameters.clear_gradients()
        y, c = model.forward(ids)
        model.backward(y, c)
        model.parameters.settle_gradients()
        alone = alone + model.parameters.grad
    assert np.linalg.norm(both - alone) <= 1e-13 * np.linalg.norm(both)


def test_the_tanh_form_of_gelu_is_off_by_less_than_its_docstring_says():
    x = np.linspace(-8, 8, 100_001)
    off = np.abs(ops.gelu_forward(x)[0] - ops.gelu_forward(x, exact=True)[0]).max()
    assert 4e-4 < off < 5e-4


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_gradient_of_the_loss_at_huge_logits(scale):
    """The complex step is exact there, too; a central difference is not to be had."""
    rng = np.random.default_rng(0)
    logits, targets = scale * rng.standard_normal((4, 7)), rng.integers(0, 7, 4)
    logits[0, 3] = logits[0, 5] = logits[0].max() + 1       # two equal and largest
    assert_ok(check_op("cross_entropy", lambda logits: ops.cross_entropy_forward(logits, targets)[::2],
                       ops.cross_entropy_backward, {"logits": logits}, methods=("complex", "adjoint")))
