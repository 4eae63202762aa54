"""The tokenizer whose tokens are characters."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer, load

EOT = "<|endoftext|>"


@pytest.fixture
def tokenizer():
    return CharacterTokenizer.train(["hello", "wörld\n"], special_tokens=(EOT,))


def test_ids_are_places_among_the_sorted_characters(tokenizer):
    assert tokenizer.characters == "\ndehlorwö"
    assert tokenizer.special_tokens == {EOT: 9}
    assert tokenizer.n_vocab == 10
    assert tokenizer.eot_token == 9
    assert tokenizer.encode("hello\n") == [3, 2, 4, 4, 5, 0]
    assert tokenizer.decode([3, 2, 4, 4, 5, 0, 8, 9]) == "hello\nö" + EOT
    assert tokenizer.token_byte_lengths.tolist() == [1] * 8 + [2, 0]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_round_trip(text):
    tokenizer = CharacterTokenizer.train(text)
    assert tokenizer.characters == "".join(sorted(set(text)))
    assert tokenizer.special_tokens == {}
    ids = tokenizer.encode_to_numpy(text)
    assert ids.dtype == np.uint16
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text


def test_shakespeare_has_65_characters(data_dir):
    text = (data_dir / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = CharacterTokenizer.train(text)
    assert tokenizer.n_vocab == 65
    assert tokenizer.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_order_of_texts_is_of_no_account():
    assert CharacterTokenizer.train(["ab", "ca"]) == CharacterTokenizer.train(["ca", "ab"]) != \
        CharacterTokenizer.train("ab")


def test_unknown_character(tokenizer):
    message = ("every character must be in the vocabulary of 9, got 'x' (U+0078) at position 3; "
               "remove it, or train on a text that has it")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        tokenizer.encode("helx")
    with pytest.raises(InputError, match=re.escape("'\\u2028' (U+2028) at position 0;")):
        tokenizer.encode_ordinary("\u2028")
    with pytest.raises(InputError, match=f"at position {len(EOT) + 2};"):
        tokenizer.encode(f"h{EOT}hx", allowed_special="all")


def test_special_tokens(tokenizer):
    with pytest.raises(InputError, match="must not contain the special token"):
        tokenizer.encode("he" + EOT)
    assert tokenizer.encode("he" + EOT, allowed_special="all") == [3, 2, 9]
    assert "<" not in CharacterTokenizer.train(f"a{EOT}b", special_tokens=[EOT]).characters


def test_training_on_files(tmp_path):
    (tmp_path / "a.txt").write_text(f"b a{EOT}c" * 9, encoding="utf-8")
    (tmp_path / "b.txt").write_text("é\n", encoding="utf-8")
    assert CharacterTokenizer.train(tmp_path / "a.txt", special_tokens=[EOT]).characters == " abc"
    assert CharacterTokenizer.train([tmp_path, "z"], special_tokens=[EOT]).characters == "\n abczé"
    with pytest.raises(InputError, match="nowhere.txt: cannot be read"):
        CharacterTokenizer.train(tmp_path / "nowhere.txt")


def test_ids_that_are_none(tokenizer):
    with pytest.raises(InputError, match="ids must be from 0 to 9, got 10 at position 1"):
        tokenizer.decode([0, 10])
    with pytest.raises(InputError, match="got -1"):
        tokenizer.decode([-1])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CharacterTokenizer("aba"), "characters must be a string of distinct characters, not empty, no "
                                        "surrogates, got 'aba'"),
    (lambda: CharacterTokenizer(""), "got ''"),
    (lambda: CharacterTokenizer("a\ud800"), "got 'a\\ud800'"),
    (lambda: CharacterTokenizer("ab", "cd"), "must be a sequence of names, got the string 'cd'"),
    (lambda: CharacterTokenizer("ab", ["b"]), "must not be spelt like an ordinary one, got 'b'"),
    (lambda: CharacterTokenizer.train(""), "training needs at least one character, got none"),
    (lambda: CharacterTokenizer.train(b"ab"), "training needs a string, a path or an iterable of them, got bytes"),
])
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert json.loads(path.read_text("utf-8")) == {
        "type": "character", "characters": "\ndehlorwö", "special_tokens": [EOT]}
    assert load(path) == CharacterTokenizer.load(path) == tokenizer
    assert tokenizer != CharacterTokenizer(tokenizer.characters)
    assert tokenizer != "tokenizer"
    assert repr(tokenizer) == "CharacterTokenizer(n_vocab=10, special_tokens={'<|endoftext|>': 9})"


@pytest.mark.parametrize(("content", "message"), [
    ('{"type": "word"}', 'must hold "type": "character", "characters" and "special_tokens", got [\'type\']'),
    ('{"type": "character", "characters": "ab"}', "got ['characters', 'type']"),
    ('{"type": "character", "characters": "aa", "special_tokens": []}', "distinct characters"),
    ('{"type": "character", "characters": ["a"], "special_tokens": []}', "distinct characters"),
    ('{"type": "character", "characters": "ab", "special_tokens": "x"}', "an array of strings, got 'x'"),
    ('{"type": "character", "characters": "ab", "special_tokens": [1]}', "an array of strings, got [1]"),
    ('{"type": "character", "characters": "ab", "special_tokens": ["x", "x"]}', "distinct, got 'x' twice"),
    ("[]", "must hold a JSON object, got []"),
    ("{", "must be JSON: "),
])
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}") as caught:
        CharacterTokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_other_class(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "characters.json")
    with pytest.raises(InputError, match="characters.json: there must be a \"model\""):
        BytePairTokenizer.load(tmp_path / "characters.json")
    BytePairTokenizer.train("abc", 257).save(tmp_path / "pairs.json")
    with pytest.raises(InputError, match="pairs.json: must hold \"type\": \"character\""):
        CharacterTokenizer.load(tmp_path / "pairs.json")
