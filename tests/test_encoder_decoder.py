"""The encoder-decoder: what padding, the future and the cache must not change, its search, its door."""

import math
import tracemalloc
from types import SimpleNamespace

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds, sizes

from numpyllm import kernels, ops
from numpyllm.checks import check_case
from numpyllm.errors import InputError
from numpyllm.inference import translate, translate_by_beams
from numpyllm.layers import CrossAttention, DecoderBlock, EncoderBlock
from numpyllm.models import EncoderDecoder, EncoderDecoderConfig
from numpyllm.parameters import Parameters
from numpyllm.random import Draws
from numpyllm.training import AdamW
from numpyllm.training.replicas import Replicas
from numpyllm.workspace import Workspace

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 7, "vocab_size": 11, "source_vocab_size": 13, "start_token": 1}
SOURCES = np.array([[3, 4, 5, 6, 7], [8, 9, -1, -1, -1], [10, 11, 12, 3, -1]])
TARGETS = np.array([[2, 3, 4], [5, -1, -1], [6, 7, -1]])
both_norms = pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
backends = pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "twins"])


def random_model(seed=0, dtype=np.float64, backend=ops, **choices):
    model = EncoderDecoder(EncoderDecoderConfig(**SIZES | choices), dtype=dtype, ops=backend)
    randomise(model.parameters, seed)
    return model


def randomise(parameters, seed=0):
    rng = np.random.default_rng(seed)
    for name in parameters:
        shape = parameters[name].shape
        parameters[name][...] = rng.standard_normal(shape) / (math.sqrt(shape[0]) if len(shape) == 2 else 1)


def bound(layer, backend=ops, seed=0):
    parameters = Parameters(layer.specs(), dtype=np.float64)
    layer.bind(parameters, backend)
    randomise(parameters, seed)
    return layer


def gradients_of(model, sources=SOURCES, targets=TARGETS, **settings):
    model.parameters.clear_gradients()
    loss, count = model.loss_and_gradients(sources, targets, **settings)
    model.parameters.settle_gradients()
    return loss, count, model.parameters.grad.copy()


# ---- ops and layers ------------------------------------------------------------------------------------------------

@given(st.integers(1, 9), st.integers(1, 9))
def test_sinusoids_are_the_papers(T, C):
    expected = [[(math.cos if c % 2 else math.sin)(t / 10000 ** ((c - c % 2) / C)) for c in range(C)] for t in range(T)]
    for dtype in (np.float32, np.float64):
        found = ops.sinusoidal_positions(T, C, dtype)
        assert found.shape == (T, C) and found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == np.float32 else 1e-14)


def test_moving_on_is_one_rotation_wherever_one_starts():
    positions = ops.sinusoidal_positions(60, 8, np.float64).reshape(60, 4, 2)
    moved_by = 7
    angles = moved_by * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    rotation = np.array([[np.cos(angles), np.sin(angles)], [-np.sin(angles), np.cos(angles)]]).transpose(2, 0, 1)
    assert np.abs(np.einsum("fij,tfj->tfi", rotation, positions[:-moved_by]) - positions[moved_by:]).max() < 1e-14


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 3))
def test_padding_spans_show_the_keys_before_the_padding(lengths, T):
    mask = ops.dense_mask(ops.padding_spans(lengths, T), 4)
    assert mask.tolist() == [[[s < length for s in range(4)]] * T for length in lengths]


@given(z=sizes(), seed=seeds)
def test_the_smoothed_loss_is_least_where_the_model_says_the_smoothed_target(z, seed):
    rng = np.random.default_rng(seed)
    targets, V = rng.integers(0, z.V + 1, (z.B, z.T)), z.V + 1
    smoothed = np.full((z.B, z.T, V), 0.2 / V)
    np.put_along_axis(smoothed, targets[..., None], 0.8 + 0.2 / V, axis=-1)
    loss, count, cache = ops.cross_entropy_forward(np.log(smoothed), targets, label_smoothing=0.2)
    assert np.abs(ops.cross_entropy_backward(1.0, cache)).max() < 1e-15
    assert loss == pytest.approx(-(smoothed * np.log(smoothed)).sum(), rel=1e-13)       # its own entropy, not 0


@given(z=sizes(most=4), seed=seeds)
def test_cross_attention_is_the_plain_formula(z, seed):
    layer = bound(CrossAttention(z.H * z.D, z.H), seed=seed)
    rng = np.random.default_rng([seed, 1])
    x, memory = rng.standard_normal((z.B, z.T, z.H * z.D)), rng.standard_normal((z.B, z.S, z.H * z.D))
    lengths = rng.integers(1, z.S + 1, z.B)
    y, _ = layer.forward(x, memory, ops.padding_spans(lengths, z.T))

    linear = lambda x, layer: np.array(naive.linear(x.tolist(), layer.w.tolist(), layer.b.tolist()))
    heads = lambda x: x.reshape(*x.shape[:2], z.H, z.D).tolist()
    q, (k, v) = linear(x, layer.q), np.split(linear(memory, layer.kv), 2, axis=-1)
    spans = [[[[0, int(length)]]] * z.T for length in lengths]
    expected, _ = naive.attention(heads(q), heads(k), heads(v), spans)
    np.testing.assert_allclose(y, linear(np.array(expected).reshape(x.shape), layer.proj), rtol=1e-12, atol=1e-12)


@backends
@both_norms
def test_what_stands_in_the_padding_is_never_read(pre_norm, backend):
    """Numbers of 1e30 there change no bit elsewhere, and have no gradient."""
    rng, lengths = np.random.default_rng(0), [5, 2]
    spans, there = ops.padding_spans(lengths, 5), np.arange(5) < np.array(lengths)[:, None]
    huge = lambda a: np.where(there[..., None], a, 1e30 * rng.standard_normal(a.shape))
    source, stream = rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 3, 8))
    encoder, decoder = bound(EncoderBlock(8, 2, pre_norm=pre_norm), backend), bound(DecoderBlock(8, 2, pre_norm=pre_norm), backend)

    found = []
    for x in (source, huge(source)):
        y, cache = encoder.forward(x, spans)
        dx = encoder.backward(np.where(there[..., None], y, 0), cache)
        memory = huge(y) if x is not source else y
        z, cache = decoder.forward(stream, memory, ops.causal_spans(3), ops.padding_spans(lengths, 3))
        dstream, dmemory = decoder.backward(z, cache)
        assert not dx[~there].any() and not dmemory[~there].any() and dmemory[there].any(axis=-1).all()
        found.append([y[there], dx[there], z, dstream, dmemory[there]])
    for plain, beside_huge in zip(*found, strict=True):
        assert np.array_equal(plain, beside_huge)


# ---- the whole model -----------------------------------------------------------------------------------------------

def test_parameters_of_each_choice():
    names = lambda **choices: set(EncoderDecoder(EncoderDecoderConfig(**SIZES | choices)).parameters)
    plain = names()
    assert {"source_embedding.wte", "embedding.wte", "encoder.1.attn.f.kv.w", "decoder.1.cross.norm.w", "encoder_norm.w",
            "norm.b"} <= plain and "head.w" not in plain
    assert names(tied=False) - plain == {"head.w"}
    assert plain - names(source_vocab_size=11, shared=True) == {"source_embedding.wte"}
    assert plain - names(pre_norm=False) == {"encoder_norm.w", "encoder_norm.b", "norm.w", "norm.b"}
    assert not any(name.endswith(".b") for name in names(bias=False))


def test_loss_at_initialisation_is_about_ln_v():
    """A tied head begins with logits of order one, and with a token's own the largest; another one knows nothing."""
    model = EncoderDecoder(EncoderDecoderConfig(**SIZES | {"n_embd": 64, "vocab_size": 300, "tied": False}))
    loss, count = model.loss(SOURCES, TARGETS)
    assert count == 6 and loss / count == pytest.approx(math.log(300), rel=0.02)


@both_norms
def test_a_sequence_in_a_padded_batch_is_as_alone(pre_norm):
    model = random_model(pre_norm=pre_norm)
    loss, count, grad = gradients_of(model, scale=1.0)
    alone = [gradients_of(model, SOURCES[i:i + 1, :S], TARGETS[i:i + 1, :T], scale=1.0)
             for i, (S, T) in enumerate([(5, 3), (2, 1), (4, 2)])]
    assert count == sum(c for _, c, _ in alone) == 6
    assert loss == pytest.approx(sum(part for part, _, _ in alone), rel=1e-13)
    assert np.linalg.norm(grad - sum(g for _, _, g in alone)) <= 1e-13 * np.linalg.norm(grad)


@both_norms
def test_logits_see_the_source_and_the_past_but_not_the_future(pre_norm):
    model = random_model(pre_norm=pre_norm)
    ids = np.array([[1, 2, 3, 4, 5]])
    before, _ = model.forward(SOURCES[:1], ids)
    after, _ = model.forward(SOURCES[:1], np.array([[1, 2, 3, 9, 10]]))
    assert np.array_equal(before[:, :3], after[:, :3]) and not (before[:, 3:] == after[:, 3:]).any()
    for i in range(5):                                          # every place of the source matters to every place of the target
        changed = SOURCES[:1].copy()
        changed[0, i] = 2
        assert not (model.forward(changed, ids)[0] == before).any()


def test_label_smoothing_is_in_what_is_minimised_and_not_in_the_evaluation():
    model, plain = random_model(label_smoothing=0.3), random_model()
    assert model.loss(SOURCES, TARGETS) == plain.loss(SOURCES, TARGETS)
    assert gradients_of(plain)[0] == pytest.approx(plain.loss(SOURCES, TARGETS)[0], rel=1e-14)
    smoothed, _ = model.loss(SOURCES, TARGETS, label_smoothing=0.3)
    assert gradients_of(model)[0] == pytest.approx(smoothed, rel=1e-14) and smoothed != model.loss(SOURCES, TARGETS)[0]


@both_norms
def test_on_the_twins_in_a_poisoned_workspace_it_is_the_same(pre_norm):
    choices = {"pre_norm": pre_norm, "label_smoothing": 0.1, "dropout": 0.2}
    expected = gradients_of(random_model(**choices), draws=Draws(0))
    model = random_model(backend=kernels, **choices)
    with Workspace(poison=True).activate():
        for _ in range(2):                                      # the second in one block
            loss, count, grad = gradients_of(model, draws=Draws(0))
            assert loss == pytest.approx(expected[0], rel=1e-12) and count == 6
            assert np.linalg.norm(grad - expected[2]) <= 1e-12 * np.linalg.norm(grad)


def test_a_step_on_the_twins_lives_in_its_workspace():
    """After the first, no array of the size of an activation (131 kB) comes from the system."""
    model = EncoderDecoder(EncoderDecoderConfig(n_embd=64, block_size=64, vocab_size=11), ops=kernels)
    ids, workspace = np.random.default_rng(0).integers(0, 11, (8, 64)), Workspace()
    for again in (False, False, True):
        if again:
            tracemalloc.start()
        with workspace.activate():
            model.parameters.clear_gradients()
            model.loss_and_gradients(ids, ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 131_000 and workspace.high_water > 2_000_000


def test_replicas_make_the_step_of_one():
    models = []
    for n in (1, 2):
        model = random_model(label_smoothing=0.1, backend=kernels, dropout=0.1)
        optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.1)
        loss, norm, updated = Replicas(model, n).step([(SOURCES, TARGETS)], optimizer, lr=1e-3, grad_clip=1.0,
                                                      draws=lambda micro, row: Draws(0, micro=micro, first_row=row))
        models.append((loss, norm, model.parameters.data))
        assert updated
    assert models[0][0] == pytest.approx(models[1][0], rel=1e-12) and models[0][1] == pytest.approx(models[1][1], rel=1e-12)
    assert np.abs(models[0][2] - models[1][2]).max() < 1e-8


@both_norms
def test_one_batch_can_be_learnt_by_heart_and_read_out(pre_norm):
    """Targets of three lengths, each ended by a stop token, 0: so sequences also leave a batch one by one."""
    model = EncoderDecoder(EncoderDecoderConfig(**SIZES | {"n_embd": 32, "pre_norm": pre_norm}))
    optimizer = AdamW(model.parameters, model.ops, beta1=0.9, beta2=0.99, weight_decay=0.0)
    targets = np.array([[2, 3, 4, 0], [5, 0, -1, -1], [6, 7, 0, -1]])
    for _ in range(150):
        loss, count, _ = gradients_of(model, targets=targets)
        optimizer.update(1e-2)
    assert loss / count < 0.05
    known = [[2, 3, 4], [5], [6, 7]]
    assert translate(model, SOURCES, stop_token=0) == known and translate(model, SOURCES, max_new_tokens=2) == [[2, 3], [5, 0], [6, 7]]
    assert [translate_by_beams(model, source[source >= 0], stop_token=0)[0].tokens for source in SOURCES] == known


def test_a_gradient_of_the_memory_from_one_block_only_is_rejected():
    """The check of the whole model notices if one of two readers of the memory is left out."""
    case, seen = "EncoderDecoder, pre, tied", []

    def attention_backward(dy, cache, *, out=None):
        result = ops.attention_backward(dy, cache, out=out)
        if cache.spans.ndim == 4 and cache.k.shape[1] != cache.q.shape[1]:          # cross-attention
            seen.append(1)
            if len(seen) % 2:                                                       # the upper block's
                result[1][...] = 0
        return result

    broken = SimpleNamespace(**vars(ops) | {"attention_backward": attention_backward})
    assert {row.tensor for row in check_case(case, ops=broken, methods=("adjoint",)) if not row.ok} > {"encoder.0.mlp.f.up.w"}


# ---- decoding ------------------------------------------------------------------------------------------------------

@backends
@both_norms
def test_cached_equals_uncached(pre_norm, backend):
    model = random_model(pre_norm=pre_norm, backend=backend)
    ids = np.array([[1, 2, 3, 4, 5, 6, 7], [1, 7, 6, 5, 4, 3, 2], [1, 8, 8, 2, 9, 9, 10]])
    whole, _ = model.forward(SOURCES, ids)
    past = model.begin(SOURCES)
    for t in range(7):
        np.testing.assert_allclose(model.step(ids[:, t], past), whole[:, t], rtol=1e-12, atol=1e-12)
        if t == 3:                                              # others go on, in another order, one of them twice
            rows = [2, 0, 2]
            past.select(rows)
            ids, whole = ids[rows], whole[rows]
    with pytest.raises(InputError, match="at most block_size=7"):
        model.step(ids[:, 0], past)


def greedy(model, source, most, stop_token):
    """Without a cache, alone, one forward a token."""
    ids = [model.config.start_token]
    while len(ids) <= most:
        token = int(model.forward(source[None], np.array([ids]))[0][0, -1].argmax())
        if token == stop_token:
            break
        ids.append(token)
    return ids[1:]


@given(seed=st.integers(0, 1000), pre_norm=st.booleans(), stop_token=st.integers(0, 10))
def test_translate_is_greedy_search_and_so_is_one_beam(seed, pre_norm, stop_token):
    model = random_model(seed, pre_norm=pre_norm)
    found = translate(model, SOURCES, stop_token=stop_token)
    expected = [greedy(model, source[source >= 0], 7, stop_token) for source in SOURCES]
    assert found == expected
    for source, tokens in zip(SOURCES, expected, strict=True):
        [beam] = translate_by_beams(model, source, beams=1, stop_token=stop_token)
        assert beam.tokens == tokens and beam.finished == (len(tokens) < 7)


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_a_beam_as_wide_as_all_there_is_finds_the_best(seed):
    model = random_model(seed, vocab_size=4, source_vocab_size=13)
    [source] = SOURCES[:1]
    best = {}
    for tokens in np.ndindex(4, 4, 4):
        logits, _ = model.forward(source[None], np.array([[1, *tokens[:2]]]))
        logs = logits[0] - np.log(np.exp(logits[0]).sum(axis=-1, keepdims=True))
        for n in range(3):
            if n == 2 or tokens[n] == 0:                        # 0 stops
                best[tokens[:n + 1]] = sum(logs[t, tokens[t]] for t in range(n + 1))
                break
    first, total = max(best.items(), key=lambda item: item[1] / len(item[0]))
    found = translate_by_beams(model, source, beams=64, max_new_tokens=3, stop_token=0)[0]
    assert tuple(found.tokens) == tuple(t for t in first if t != 0) and found.log_probability == pytest.approx(total, rel=1e-9)


# ---- the door ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("choices, words", [
    ({"n_embd": 9}, "n_embd must be divisible by n_head"), ({"shared": True}, "one vocabulary, got source_vocab_size=13"),
    ({"start_token": 11}, "start_token must be below vocab_size=11"), ({"label_smoothing": 1.0}, "label_smoothing must be"),
    ({"n_layer": 0}, "n_layer must be"), ({"source_vocab_size": 0}, "source_vocab_size must be"), ({"dropout": -0.1}, "dropout must be")])
def test_bad_configurations_are_refused(choices, words):
    with pytest.raises(InputError, match=words):
        EncoderDecoderConfig(**SIZES | choices)


@pytest.mark.parametrize("sources, targets, words", [
    (SOURCES.astype(float), TARGETS, "sources must be integers of shape"), (SOURCES[0], TARGETS, "sources must be integers of shape"),
    (SOURCES, TARGETS[:2], "one target a source, got 2 for 3"), (SOURCES + 2, TARGETS, r"sources must lie in \[0, 13\)"),
    (SOURCES, TARGETS - 1, r"targets must lie in \[0, 11\), or be -1 for padding, got -2 to 6"),
    (SOURCES[:, ::-1], TARGETS, "padding .-1. at the end, number 1 has tokens behind it"),
    (SOURCES, TARGETS[:, ::-1], "targets must have their padding"), (np.full((3, 2), -1), TARGETS, "number 0 has none"),
    (np.zeros((3, 8), int), TARGETS, "sources must have 1 to block_size=7 tokens, got 8"), (SOURCES[:, :0], TARGETS, "got 0")])
def test_bad_batches_are_refused(sources, targets, words):
    model = random_model()
    for call in (model.loss, model.loss_and_gradients, model.forward):
        with pytest.raises(InputError, match=words):
            call(sources, targets)


def test_bad_searches_are_refused():
    model = random_model()
    with pytest.raises(InputError, match="beams must be at least 1"):
        translate_by_beams(model, SOURCES[0], beams=0)
    for most in (0, 8):
        with pytest.raises(InputError, match=f"max_new_tokens must be 1 to block_size=7, got {most}"):
            translate(model, SOURCES, max_new_tokens=most)
