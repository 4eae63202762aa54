"""The cache of keys and values, and the compiled way of a token, against the whole context at every position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from numpyllm import kernels, ops
from numpyllm.errors import InputError
from numpyllm.inference import KINDS, Decoder, StoredWeights
from numpyllm.inference.compiled import decode
from numpyllm.inference.weights import from_bfloat16, to_bfloat16, to_int8
from numpyllm.models import GPT, LSTMLM, GPTConfig, LSTMConfig

TOLERANCE = {np.float64: 1e-12, np.float32: 1e-4}


def make(dtype=np.float64, ops=kernels, seed=0, **sizes):
    config = GPTConfig(**({"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 31} | sizes))
    model = GPT(config, ops=ops, dtype=dtype)
    model.parameters.data[...] = 0.3 * np.random.default_rng(seed).standard_normal(model.parameters.data.size)
    return model


def ids_of(model, *shape, seed=1):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sizes", [{}, {"tied": False, "bias": False}, {"n_embd": 70, "n_head": 5},
                                   {"exact_gelu": True, "norm_eps": 1e-3},
                                   {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 1, "bias": False, "qk_norm": True},
                                   {"position": "rotary", "rotary_interleaved": True, "rotary_base": 50.0, "rotary_scale": 4.0, "rotary_trained": 9,
                                    "attention": "strided", "window": 3, "mlp": "swiglu"},
                                   {"position": "alibi", "attention": "window", "window": 4, "mlp": "squared_relu", "softcap": 2.0},
                                   {"position": "sinusoidal", "attention": "fixed", "window": 5, "mlp": "relu", "pre_norm": False},
                                   {"position": "none", "mlp": "silu", "n_embd": 24, "n_head": 4, "n_kv_head": 2, "norm": "rmsnorm"}],
                         ids=["tied", "untied", "odd", "exact", "llama", "strided", "alibi", "post-norm", "none"])
def test_cached_equals_uncached_at_every_position(sizes, dtype, backend, threads):
    model = make(dtype, backend, **sizes)
    ids = ids_of(model, 3, 12)
    whole, _ = model.forward(ids)
    with Decoder(model, sequences=3, threads=threads) as decoder:
        lengths = (1, 4, 7)                                     # of prompts side by side
        for b, length in enumerate(lengths):
            assert np.abs(decoder.start(ids[b, :length], b) - whole[b, length - 1]).max() < TOLERANCE[dtype]
        for t in range(1, 12):
            active = [b for b in range(3) if lengths[b] <= t]
            logits = decoder.step(ids[active, t], active)
            assert np.abs(logits - whole[active, t]).max() < TOLERANCE[dtype]
        assert [decoder.length(b) for b in range(3)] == [12, 12, 12]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_stored_weights_equal_the_model_that_has_them(kind, dtype):
    model = make(dtype, n_embd=48)
    ids = ids_of(model, 12)
    with Decoder(model, weights=kind) as decoder:
        rounded = decoder.model
        logits = [decoder.start(ids[:3]), *(decoder.step([token])[0] for token in ids[3:])]
    whole, _ = rounded.forward(ids[None])
    tolerance = 1e-6 if kind == "int8" and dtype == np.float64 else TOLERANCE[dtype]        # its scales are float32
    assert np.abs(np.array(logits) - whole[0, 2:]).max() < tolerance
    assert (kind == "float32") == (np.abs(whole - model.forward(ids[None])[0]).max() == 0)


def test_tokens_of_any_strides_are_taken_by_what_is_compiled_already():
    model = make(np.float32)
    ids = ids_of(model, 3, 12)
    whole, _ = model.forward(ids)
    with Decoder(model, sequences=3) as decoder:
        decoder.step(ids[:, 0].copy())
        compiled = len(decode.signatures)
        for t in range(1, 12):
            assert np.abs(decoder.step(ids[:, t]) - whole[:, t]).max() < TOLERANCE[np.float32]
        decoder.start(ids[0, ::2], 0)
    assert len(decode.signatures) == compiled


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_long_prompt_is_divided_among_threads(dtype, threads):
    model = make(dtype, block_size=40)
    ids = ids_of(model, 40)
    whole, _ = model.forward(ids[None])
    with Decoder(model, threads=threads) as decoder:
        for length in (16, 17, 18, 39):
            assert np.abs(decoder.start(ids[:length]) - whole[0, length - 1]).max() < TOLERANCE[dtype]
            assert np.abs(decoder.step(ids[length:length + 1])[0] - whole[0, length]).max() < TOLERANCE[dtype]


@given(seed=seeds, block_size=st.integers(1, 9), prompt=st.integers(1, 14), backend=st.sampled_from([ops, kernels]))
def test_at_the_limit_the_last_half_is_seen_anew(seed, block_size, prompt, backend):
    model = make(ops=backend, seed=seed, block_size=block_size)
    tokens = ids_of(model, prompt + 20, seed=seed).tolist()
    context = tokens[:prompt][-block_size:]
    with Decoder(model) as decoder:
        decoder.start(tokens[:prompt])
        for token in tokens[prompt:]:
            if len(context) == block_size:
                context = context[block_size - block_size // 2:]
            context.append(token)
            logits = decoder.step([token])[0]
            assert np.abs(logits - model.forward(np.array([context]))[0][0, -1]).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_several_positions_at_once_have_the_bits_of_one_after_another(dtype, kind):
    model = make(dtype, block_size=40, n_embd=80, n_head=5)
    tokens = ids_of(model, 30)
    with Decoder(model, weights=kind, threads=2) as decoder:
        decoder.start(tokens[:3])
        one = np.concatenate([decoder.step([token]) for token in tokens[3:]])
        decoder.cut(3)
        assert np.array_equal(decoder.extend(tokens[3:]), one)
        decoder.cut(10)
        assert np.array_equal(decoder.extend(tokens[10:15]), one[7:12])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_token_has_the_same_bits_with_any_number_of_threads(dtype):
    model = make(dtype, n_embd=80, n_head=5)
    found = []
    for threads in (1, 2, 4):
        with Decoder(model, threads=threads) as decoder:
            decoder.start([1])
            found.append(np.concatenate([decoder.step([token]) for token in range(2, 10)]))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_copies_and_cuts():
    model = make()
    with Decoder(model, sequences=2) as decoder:
        decoder.start([1, 2, 3])
        decoder.copy(0, 1)
        a = decoder.step([4], [0])
        assert np.array_equal(decoder.step([4], [1]), a)
        decoder.cut(2, 0)
        decoder.extend([3, 4], 0)
        assert decoder.length(0) == decoder.length(1) == 4
        whole, _ = model.forward(np.array([[1, 2, 3, 4, 5]]))
        assert np.abs(decoder.step([5, 5]) - whole[:, -1]).max() < 1e-12            # of the one cut and lengthened, and of the copy


@pytest.mark.parametrize("backend", [ops, kernels])
@pytest.mark.parametrize("position", ["learned", "rotary", "alibi"])
def test_a_window_keeps_its_keys_and_few_others(position, backend):
    model = make(ops=backend, block_size=400, attention="window", window=5, position=position)
    ids = ids_of(model, 2, 400)
    whole, _ = model.forward(ids)
    same = lambda logits, expected: np.abs(logits - expected).max() < 1e-12
    with Decoder(model, sequences=3, threads=2) as decoder:
        causal = make(ops=backend, block_size=400).past(3)
        assert decoder.past.keys.shape[3] == 4 + 64 and decoder.past.keys.nbytes < 0.2 * causal.keys.nbytes
        assert same(decoder.start(ids[0, :150], 0), whole[0, 149])              # a prompt longer than the memory
        assert same(decoder.start(ids[1, :3], 1), whole[1, 2])
        for t in range(3, 300):
            assert same(decoder.step([ids[1, t]], [1]), whole[1, t])            # over several removals
        assert same(decoder.extend(ids[0, 150:250], 0), whole[0, 150:250])      # more than fit in at once
        decoder.copy(0, 2)
        for length in (250, 248, 120, 1, 0):                                    # near, further back than what is kept, to nothing
            decoder.cut(length, 0)
            assert decoder.length(0) == length
            assert same(decoder.extend(ids[0, length:length + 70], 0), whole[0, length:length + 70])
        assert same(decoder.step([ids[0, 250]], [2]), whole[0, 250])
    past = model.past(2)
    assert same(np.concatenate([model.step(ids[:, :201], past), model.step(ids[:, 201:], past)], axis=1), whole)


def test_more_sequences_than_go_at_once():
    model = make()
    with Decoder(model, sequences=40) as decoder:
        for b in range(40):
            decoder.start([b % 31], b)
        logits = decoder.step([(b + 1) % 31 for b in range(40)])
    for b in (0, 15, 16, 39):
        assert np.abs(logits[b] - model.forward(np.array([[b % 31, (b + 1) % 31]]))[0][0, -1]).max() < 1e-12


@pytest.mark.parametrize("call, words", [
    (lambda d: d.start([]), "at least one token"), (lambda d: d.start([31]), "ids must lie in"), (lambda d: d.step([-1]), "ids must lie in"),
    (lambda d: d.extend(range(13)), "do not fit"), (lambda d: Decoder(d.model, weights="int4"), "must be stored as one of"),
    (lambda d: Decoder(d.model, weights=["int8"]), "must be stored as one of")])
def test_bad_input_is_refused_and_changes_nothing(call, words):
    with Decoder(make()) as decoder:
        decoder.start([1])
        with pytest.raises(InputError, match=words):
            call(decoder)
        assert decoder.length(0) == 1


@pytest.mark.parametrize("model", [make(), make(attention="window", window=2, block_size=80, position="alibi"),
                                   LSTMLM(LSTMConfig(n_layer=2, n_embd=16, vocab_size=31), dtype=np.float64)], ids=["GPT", "window", "LSTM"])
def test_below_the_head_a_step_takes_the_tokens_in_whatever_the_model(model):
    """The window's memory takes in 64 at once."""
    ids = ids_of(model, 2, model.config.block_size)
    past = model.past(2)
    h = np.concatenate([model.trunk_step(ids[:, :3], past), model.trunk_step(ids[:, 3:], past)], axis=1)
    assert past.lengths.tolist() == [ids.shape[1]] * 2
    assert np.abs(model.head.step(h, None) - model.forward(ids)[0]).max() < 1e-12


def test_tokens_that_do_not_fit_are_refused_before_any_is_taken_in():
    model = make(attention="window", window=2, block_size=80)
    past = model.past()
    model.trunk_step(ids_of(model, 1, 3), past)
    for step in (model.step, model.trunk_step):
        with pytest.raises(InputError, match="3 \\+ 78 positions do not fit into block_size=80"):
            step(ids_of(model, 1, 78), past)
    assert past.lengths.tolist() == [3]


def test_an_error_in_one_thread_ends_them_all(monkeypatch):
    model = make(block_size=40)
    with Decoder(model, threads=3) as decoder:
        real = type(model).trunk_step

        def failing(self, ids, past):
            if past.lengths[0] == 0:
                raise ZeroDivisionError("on purpose")
            return real(self, ids, past)

        monkeypatch.setattr(type(model), "trunk_step", failing)
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            decoder.start(range(30))
        monkeypatch.undo()
        assert decoder.start([1, 2, 3]).shape == (31,)


@pytest.mark.parametrize("call", [lambda decoder: decoder.step([3]), lambda decoder: decoder.start(range(9))])
def test_ctrl_c_between_the_beginnings_of_two_threads_leaves_nobody_waiting(call, monkeypatch):
    model = make(n_embd=64)
    with Decoder(model, threads=3) as decoder:
        expected = decoder.start([1, 2, 3]), decoder.step([4])
        submit, begun = decoder._pool.submit, []

        def interrupted(*arguments):
            if begun:
                raise KeyboardInterrupt
            begun.append(submit(*arguments))
            return begun[0]

        monkeypatch.setattr(decoder._pool, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(decoder)
        assert begun[0].done()
        monkeypatch.undo()
        assert np.array_equal(decoder.start([1, 2, 3]), expected[0]) and np.array_equal(decoder.step([4]), expected[1])


@given(seed=seeds)
def test_bfloat16_is_the_nearest_ties_to_even(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) < 3e38)]
    found = from_bfloat16(to_bfloat16(x))
    low = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    high = (low.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    exact, low64, high64 = x.astype(np.float64), low.astype(np.float64), high.astype(np.float64)
    nearest = np.where(np.abs(exact - low64) < np.abs(high64 - exact), low, high)
    tie = np.abs(exact - low64) == np.abs(high64 - exact)
    even = np.where((low.view(np.uint32) >> 16) & 1 == 0, low, high)
    assert np.array_equal(found, np.where(tie, even, nearest))


def test_bfloat16_keeps_nan_and_infinities():
    found = from_bfloat16(to_bfloat16(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], np.float32)))
    assert np.isnan(found[0]) and found[1:].tolist() == [np.inf, -np.inf, 0, 0, 1] and np.signbit(found[4])


@given(seed=seeds, rows=st.integers(1, 5), n=st.integers(1, 50), scale=st.floats(1e-30, 1e30))
def test_int8_is_off_by_half_a_step_at_most(seed, rows, n, scale):
    w = (scale * np.random.default_rng(seed).standard_normal((rows, n))).astype(np.float32)
    w[0] = 0
    q, steps = to_int8(w)
    assert np.all(np.abs(w - q * steps[:, None].astype(np.float64)) <= steps[:, None] * 0.5001) and np.abs(q).max() <= 127


def test_weights_that_are_not_finite_are_refused():
    model = make()
    model.parameters["blocks.1.mlp.up.w"][0, 0] = np.inf
    with pytest.raises(InputError, match="blocks.1.mlp.up.w has weights that are not finite"):
        StoredWeights(model, "int8")
