"""The same ids as tiktoken, for the three vocabularies whose patterns have names: text and twin."""

import sysconfig
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_strings import NASTY

from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.tokenizer.patterns import NAMED
from numpyllm.tokenizer.unicode import class_table

pytestmark = pytest.mark.oracle
FILES = {"gpt2": "gpt2/gpt2.tiktoken", "cl100k": "cl100k_base.tiktoken", "o200k": "o200k_base.tiktoken"}
CONTEXTS = ("{0}'s", " {0}", "{0}{0}a", "a{0}", "1{0}A", ".{0}\n", "\n{0} x", "A{0}a'{0}")
NASTY_ALPHABET = "a'S \n0.\u0301"
MIXTURE = "aAsStTdDmMlLvVeErR'' \t\r\n\x0b\x1c\x8509²٣.?/é\u0301\u017fÉǅʰ汉\u00a0\u3000😀\ud83d\udc4d"
LETTERS = 1_000_000


class Trio:
    """Reference, twin and peer of one vocabulary."""

    def __init__(self, folder, pattern):
        tiktoken = pytest.importorskip("tiktoken")
        self.twin = BytePairTokenizer.load(folder / FILES[pattern])
        self.twin.load_twin()
        self.reference = BytePairTokenizer(self.twin.ranks, self.twin.pattern, self.twin.special_tokens, backend="numpy")
        assert self.twin.pattern == pattern
        self.peer = tiktoken.Encoding(pattern, pat_str=NAMED[pattern], mergeable_ranks=self.twin.ranks,
                                      special_tokens=self.twin.special_tokens)

    def check(self, text, reference=True):
        expected = self.peer.encode_ordinary(text)
        ids = self.twin.encode_to_numpy(text, disallowed_special=())
        assert ids.tolist() == expected, ascii(text[:100])
        if reference:
            assert self.reference.encode_ordinary(text) == expected, ascii(text[:100])
        return ids


@pytest.fixture(scope="module", params=list(FILES))
def trio(request, data_dir):
    return Trio(data_dir, request.param)


@pytest.fixture(scope="module")
def all_three(data_dir):
    return [Trio(data_dir, pattern) for pattern in FILES]


def test_nasty_strings(trio):
    for text in NASTY:
        trio.check(text)


def test_all_strings_of_up_to_five_nasty_characters(trio):
    for length in range(6):
        for characters in product(NASTY_ALPHABET, repeat=length):
            trio.check("".join(characters))


def every_character(trio, context, reference):
    """Many in one text, with a letter, a sign and a space after each context; on their own they stand in the next test."""
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    for first in range(0, len(codes), 1 << 16):
        text = "".join([context.format(chr(code)) + "x! " for code in codes[first:first + (1 << 16)]])
        trio.check(text, reference)


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_character(trio, context):
    every_character(trio, context, False)


@pytest.mark.thorough
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_character_by_the_reference(trio, context):
    every_character(trio, context, True)


@pytest.mark.parametrize("context", CONTEXTS)
def test_characters_alone_where_classes_begin_and_end(trio, context):
    edges = np.flatnonzero(np.diff(class_table()))
    for code in {*edges.tolist(), *(edges + 1).tolist()}:
        if not 0xD800 <= code < 0xE000:
            trio.check(context.format(chr(code)))


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "wikitext2-valid.txt"])
def test_corpora(trio, data_dir, name):
    text = (data_dir / name).read_text(encoding="utf-8")
    ids = trio.check(text)
    assert trio.twin.decode(ids) == text
    assert np.array_equal(trio.twin.encode_to_numpy(text, threads=3), ids)


def test_source_of_the_standard_library(trio):
    folder, size = Path(sysconfig.get_paths()["stdlib"]), 0
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" not in path.parts:
            text = path.read_bytes().decode("utf-8", errors="replace")
            trio.check(text, reference=size < LETTERS)
            size += len(text)
    assert size > 10 * LETTERS


def test_all_bytes_come_back(trio):
    data = bytes(range(256)) * 2 + bytes(range(255, -1, -1))
    ids = [trio.twin.ranks[data[i:i + 1]] for i in range(len(data))]
    assert trio.twin.decode_bytes(ids) == data == trio.peer.decode_bytes(ids)


def test_long_pieces(trio):
    rng = np.random.default_rng(0)
    for n in (95, 96, 97, 200, 5000):
        for letters in ("ab", "etaoinshr", "-=", "汉字和標點", "\u0ba4\u0bae\u0bbf"):
            trio.check("".join(rng.choice(list(letters), n)))
    for sign in "^0a' \n":
        trio.check(sign * 10_000)


def test_special_tokens(trio):
    names = list(trio.twin.special_tokens)
    text = " a".join(names) + names[0] * 2 + "<|"
    assert trio.twin.encode(text, allowed_special="all") == trio.peer.encode(text, allowed_special="all")
    assert trio.twin.encode(text, allowed_special={names[0]}, disallowed_special=()) == trio.peer.encode(
        text, allowed_special={names[0]}, disallowed_special=())


@given(text=st.one_of(st.text(st.sampled_from(MIXTURE), max_size=40), st.text(st.characters(), max_size=30)))
def test_any_text(all_three, text):
    for trio in all_three:
        ids = trio.peer.encode_ordinary(text)
        assert trio.twin.encode_ordinary(text) == ids == trio.reference.encode_ordinary(text)


@pytest.mark.thorough
@settings(max_examples=100_000)
@given(text=st.one_of(st.text(st.sampled_from(MIXTURE), max_size=40), st.text(st.characters(), max_size=30)))
def test_a_hundred_thousand_texts(all_three, text):
    for trio in all_three:
        ids = trio.peer.encode_ordinary(text)
        assert trio.twin.encode_ordinary(text) == ids == trio.reference.encode_ordinary(text)


@pytest.mark.thorough
@pytest.mark.parametrize("sign", "a^0' \nx-汉")
def test_ten_megabytes_of_one_character(trio, sign):
    import time
    start = time.perf_counter()
    trio.twin.encode_to_numpy(sign * (10_000_000 // len(sign.encode("utf-8"))))
    assert time.perf_counter() - start < 2              # measured: 0.1 to 0.7 s
