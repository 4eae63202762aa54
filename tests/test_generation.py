"""Sampling and generation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from numpyllm.errors import InputError
from numpyllm.inference import (Continuation, Decoder, Sampling, TextStream, beam_search, candidates, choose, continue_text, generate,
                                generate_many, generate_text, log_softmax, stream_text, token_probabilities)
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=6, vocab_size=11)


@pytest.fixture(scope="module")
def model():
    made = GPT(CONFIG)
    made.parameters.data[...] = 0.3 * np.random.default_rng(0).standard_normal(made.parameters.data.size)
    return made


LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


@pytest.mark.parametrize("settings, expected", [
    ({}, [0.1, 0.4, 0.2, 0.3]),
    ({"temperature": 0}, [0, 1, 0, 0]),
    ({"temperature": 0.5}, np.array([1, 16, 4, 9]) / 30),
    ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
    ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
    ({"top_p": 0.3}, [0, 1, 0, 0]),
    ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
    ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
    ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
    ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]), ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
    ({"min_p": 1.0}, [0, 1, 0, 0]), ({"temperature": 0.5, "min_p": 0.5}, [0, 16 / 25, 0, 9 / 25])])
def test_token_probabilities(settings, expected):
    assert token_probabilities(LOGITS, Sampling(**settings)) == pytest.approx(np.array(expected))


def test_ties_keep_the_smaller_id():
    assert token_probabilities(np.zeros(4), Sampling(top_k=2)).tolist() == [0.5, 0.5, 0, 0]
    assert token_probabilities(np.zeros(4), Sampling(temperature=0)).tolist() == [1, 0, 0, 0]
    assert token_probabilities(np.array([0.0, 1, 1, 1]), Sampling(top_k=2, top_p=0.5)).tolist() == [0, 1, 0, 0]


def test_a_repetition_penalty_makes_what_was_seen_less_likely():
    logits = np.array([2.0, -1.0, 0.5])
    assert token_probabilities(logits, Sampling(repetition_penalty=2), seen=[0, 1, 1]) == pytest.approx(
        token_probabilities(np.array([1.0, -2.0, 0.5]), Sampling()))


def slow_nucleus(p, top_p):
    """By sorting all tokens and adding up one after another."""
    kept, total = set(), 0.0
    for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if total >= top_p:
            break
        kept.add(i)
        total += p[i]
    return kept


@given(seed=seeds, size=st.integers(1, 400), top_p=st.floats(0.01, 0.99), sharpness=st.floats(0.1, 20))
def test_the_nucleus_without_sorting_everything_is_the_nucleus(seed, size, top_p, sharpness):
    logits = sharpness * np.random.default_rng(seed).standard_normal(size)
    p = token_probabilities(logits, Sampling())
    ids, _ = candidates(logits, Sampling(top_p=top_p))
    running = np.cumsum(np.sort(p)[::-1])
    if np.abs(running - top_p).min() > 1e-9:        # else rounding decides
        assert set(ids.tolist()) == slow_nucleus(p, top_p)


@given(seed=seeds, u=st.floats(0, 1, exclude_max=True), zeros=st.integers(0, 6))
def test_a_token_of_probability_zero_is_never_chosen(seed, u, zeros):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(7)
    logits[rng.permutation(7)[:zeros]] = -np.inf
    assert np.isfinite(logits[choose(logits, Sampling(), u)])


def test_choose_follows_the_probabilities():
    logits = np.log(np.array([0.25, 1e-320, 0.5, 0.25]))
    chosen = [choose(logits, Sampling(), u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 1e-16)]
    assert chosen == [0, 0, 2, 2, 3, 3]


def test_a_model_that_says_nothing_is_refused():
    for bad in (np.array([0.0, np.nan]), np.array([np.inf, 0]), np.full(3, -np.inf)):
        with pytest.raises(InputError, match="largest of the model's logits must be a finite number"):
            choose(bad, Sampling(temperature=0), 0.5)
        with pytest.raises(InputError, match="largest of the model's logits must be a finite number"):
            log_softmax(bad)


def test_no_temperature_overflows():
    assert token_probabilities(np.array([0.0, 1, -1e4]), Sampling(temperature=5e-324)).tolist() == [0, 1, 0]
    assert token_probabilities(np.array([0.0, 1, -1e4]), Sampling(temperature=1e308)) == pytest.approx(np.full(3, 1 / 3))


def test_greedy_generation_is_the_argmax_of_the_full_forward(model):
    context, expected = [1, 2], []
    for _ in range(10):
        token = int(model.forward(np.array([context]))[0][0, -1].argmax())
        expected.append(token)
        if len(context) == 6:
            context = context[-3:]          # at the limit the last half is kept
        context.append(token)
    assert list(generate(model, [1, 2], 10, temperature=0)) == expected


def test_same_seed_same_text(model):
    a, b, c = (list(generate(model, [1], 20, seed=seed)) for seed in (5, 5, 6))
    assert a == b != c and len(a) == 20 and all(0 <= i < 11 for i in a)


def test_a_long_prompt_is_cut_and_a_stop_token_ends(model):
    assert list(generate(model, list(range(11)), 1, temperature=0)) == list(generate(model, range(5, 11), 1, temperature=0))
    tokens = list(generate(model, [1], 50, seed=5))
    stop = tokens[7]
    assert list(generate(model, [1], 50, seed=5, stop_token=stop)) == tokens[:tokens.index(stop)]


def test_a_context_of_one_token(model):
    small = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=1, vocab_size=5))
    assert len(list(generate(small, [1], 4))) == 4


@pytest.mark.parametrize("ids, settings, words", [
    ([], {}, "at least one token"), ([11], {}, "ids must lie in"), ([1], {"temperature": -1}, "temperature must be"),
    ([1], {"top_k": 0}, "top_k must be"), ([1], {"top_p": 0.0}, "top_p must"), ([1], {"top_p": 1.5}, "top_p must"),
    ([1], {"min_p": 0}, "min_p must"), ([1], {"repetition_penalty": 0}, "repetition_penalty must"), ([1], {"top_k": 1.5}, "top_k must")])
def test_bad_requests_are_refused(model, ids, settings, words):
    with pytest.raises(InputError, match=words):
        list(generate(model, ids, 1, **settings))


def test_generate_text_ends_at_the_end_of_text_token():
    tokenizer = BytePairTokenizer.train("ab", 258, special_tokens=("<|endoftext|>",))
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=4, vocab_size=tokenizer.n_vocab))
    model.embedding.wte[...] = 0
    model.embedding.wpe[...] = 1
    model.norm.b[...] = 1
    model.embedding.wte[tokenizer.eot_token] = 100         # always the likeliest
    assert generate_text(model, tokenizer, "ab", 5, temperature=0) == ""
    model.embedding.wte[tokenizer.eot_token] = 0
    model.embedding.wte[tokenizer.encode("a")[0]] = 100
    assert generate_text(model, tokenizer, "b", 3, temperature=0) == "aaa"


def greedy_without_a_cache(model, ids, n):
    """The whole context through the model for every token."""
    T = model.config.block_size
    context, chosen = list(ids)[-T:], []
    for _ in range(n):
        chosen.append(int(model.forward(np.array([context]))[0][0, -1].argmax()))
        if len(context) == T:
            context = context[T - T // 2:]
        context.append(chosen[-1])
    return chosen


@pytest.mark.parametrize("lookup", [1, 3, 8])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_guessing_ahead_does_not_change_the_text(model, lookup, temperature):
    settings = {"temperature": temperature, "seed": 3}
    for prompt in ([1], [1, 2, 3, 1, 2], [4] * 9):
        assert list(generate(model, prompt, 40, lookup=lookup, **settings)) == list(generate(model, prompt, 40, **settings))


def test_guessing_ahead_saves_passes(model, monkeypatch):
    calls, extend = [], Decoder.extend
    monkeypatch.setattr(Decoder, "extend", lambda self, tokens, sequence=0: calls.append(len(tokens)) or extend(self, tokens, sequence))
    tokens = list(generate(model, [1], 60, temperature=0, lookup=4))
    assert len(calls) < 50 and max(calls) > 1 and len(tokens) == 60       # a small model repeats itself


def test_guesses_are_counted(model):
    text = Continuation([1], 60, sampling=Sampling(temperature=0))
    with Decoder(model) as decoder:
        tokens = list(continue_text(decoder, text, lookup=4))
    assert 0 < text.right <= text.guessed and len(tokens) == 60
    plain = Continuation([1], 60, sampling=Sampling(temperature=0))
    with Decoder(model) as decoder:
        assert list(continue_text(decoder, plain)) == tokens and plain.guessed == plain.right == 0


def test_several_prompts_side_by_side_are_what_they_are_alone(model):
    prompts = [[1], [2, 3, 4], [5] * 9, [6, 7]]
    assert generate_many(model, prompts, 20, temperature=0) == [greedy_without_a_cache(model, p, 20) for p in prompts]
    drawn = generate_many(model, prompts, 20, seed=4)
    assert drawn[0] == list(generate(model, prompts[0], 20, seed=4)) and len({tuple(t) for t in drawn}) == 4


def test_log_probabilities_are_the_models_own(model):
    text = Continuation([1, 2], 3, sampling=Sampling(temperature=0), logprobs=2)
    with Decoder(model) as decoder:
        logits = decoder.start([1, 2])
        token = text.take(logits)
    expected = log_softmax(model.forward(np.array([[1, 2]]))[0][0, -1])
    noted = text.logprobs[0]
    assert noted.chosen == pytest.approx(expected.max()) and list(noted.top)[0] == token and len(noted.top) == 2
    assert np.exp(expected).sum() == pytest.approx(1)


def every_text(model, ids, n, tokens):
    """All continuations of n of these tokens and their log-probabilities."""
    if n == 0:
        return [((), 0.0)]
    logs = log_softmax(model.forward(np.array([ids]))[0][0, -1])
    return [((i, *rest), logs[i] + log) for i in tokens for rest, log in every_text(model, [*ids, i], n - 1, tokens)]


def test_a_wide_beam_finds_the_likeliest_text(model):
    best = max(every_text(model, [1, 2], 3, range(11)), key=lambda found: found[1])
    found = beam_search(model, [1, 2], 3, beams=121)[0]
    assert tuple(found.tokens) == best[0] and found.log_probability == pytest.approx(best[1], rel=1e-6)
    assert beam_search(model, [1, 2], 10, beams=1)[0].tokens == greedy_without_a_cache(model, [1, 2], 10)


def test_a_beam_ends_at_the_stop_token(model):
    stop = greedy_without_a_cache(model, [1, 2], 1)[0]
    best = beam_search(model, [1, 2], 5, beams=2, stop_token=stop, length_penalty=0)[0]
    assert best.tokens == [] and best.finished


class Letters:
    """A tokenizer whose tokens are bytes."""

    def stream_decoder(self):
        from numpyllm.tokenizer.base import StreamDecoder
        return StreamDecoder(self)

    def decode_bytes(self, ids):
        return bytes(ids)


@given(text=st.text("abü", max_size=12), stops=st.lists(st.text("abü", min_size=1, max_size=3), max_size=2))
def test_streamed_text_ends_before_the_first_stop_string(text, stops):
    stream = TextStream(Letters(), stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.feed(byte))
        assert not any(stop in "".join(pieces) for stop in stops)
        if stream.stopped:
            break
    pieces.append(stream.flush())
    ends = [text.find(stop) for stop in stops if stop in text]
    earliest = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    shown = "".join(pieces)
    if earliest is None:
        assert shown == text
    else:
        assert stream.stopped and text.startswith(shown) and shown == text[:min(text[:earliest].find(s) for s in stops if s in text[:earliest])]
        assert ends


def test_an_empty_stop_string_is_refused():
    with pytest.raises(InputError, match="stop string must not be empty"):
        TextStream(Letters(), [""])


def test_streamed_pieces_are_the_text():
    tokenizer = BytePairTokenizer.train("aé ", 258)
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=4, vocab_size=tokenizer.n_vocab))
    assert "".join(stream_text(model, tokenizer, "é", 30, seed=2)) == generate_text(model, tokenizer, "é", 30, seed=2)
