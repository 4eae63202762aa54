"""Sampling and generation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from numpyllm.errors import InputError
from numpyllm.inference import choose, generate, generate_text, token_probabilities
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=6, vocab_size=11)


@pytest.fixture(scope="module")
def model():
    made = GPT(CONFIG)
    made.parameters.data[...] = 0.3 * np.random.default_rng(0).standard_normal(made.parameters.data.size)
    return made


LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.3]]))


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
    ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7])])
def test_token_probabilities(settings, expected):
    assert token_probabilities(LOGITS, **settings)[0] == pytest.approx(np.array(expected))


def test_ties_keep_the_smaller_id():
    assert token_probabilities(np.zeros((1, 4)), top_k=2)[0].tolist() == [0.5, 0.5, 0, 0]
    assert token_probabilities(np.zeros((1, 4)), temperature=0)[0].tolist() == [1, 0, 0, 0]


@given(seed=seeds, u=st.floats(0, 1, exclude_max=True), zeros=st.integers(0, 6))
def test_a_token_of_probability_zero_is_never_chosen(seed, u, zeros):
    rng = np.random.default_rng(seed)
    p = rng.random((1, 7))
    p[0, rng.permutation(7)[:zeros]] = 0
    p /= p.sum()
    assert p[0, choose(p, np.array([u]))[0]] > 0


def test_choose_follows_the_probabilities():
    p = np.array([[0.25, 0.0, 0.5, 0.25]])
    assert [int(choose(p, np.array([u]))[0]) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 1e-16)] == [0, 0, 2, 2, 3, 3]


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
    ([1], {"top_k": 0}, "top_k must be"), ([1], {"top_p": 0.0}, "top_p must"), ([1], {"top_p": 1.5}, "top_p must")])
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
