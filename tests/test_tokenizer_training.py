"""Training byte-pair encoding: against a trainer that counts everything anew at each merge."""

import re
import time
import warnings
from collections import Counter
from itertools import pairwise
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer
from numpyllm.tokenizer.training import learn_merges

EOT = "<|endoftext|>"
ENGLISH = "\n".join(topics.values())                            # the Python manual: 465 kB in Python 3.11

words = st.text("abc", min_size=1, max_size=12).map(str.encode)
counted_words = st.dictionaries(words, st.integers(1, 5), max_size=6)
documents = st.lists(st.text("ab \n", max_size=20), max_size=6)


def naive_learn(counted, limit, min_frequency=1):
    """The definition: count all pairs, merge the most frequent and of these the smallest, begin again."""
    rows = [(list(piece), number) for piece, number in counted.items()]
    merges = []
    for new in range(256, 256 + limit):
        counts = Counter()
        for ids, number in rows:
            for pair in pairwise(ids):
                counts[pair] += number
        if not counts or max(counts.values()) < min_frequency:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for ids, _ in rows:
            for i in range(len(ids)):
                if tuple(ids[i:i + 2]) == best:
                    ids[i:i + 2] = [new]
    return merges


def train(texts, vocab_size, **options):
    """Training without the word about a vocabulary that is smaller than asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return BytePairTokenizer.train(texts, vocab_size, **options)


def test_wikipedia_example():
    tokenizer = BytePairTokenizer.train("aaabdaaabac", 259, special_tokens=())
    assert tokenizer.merges() == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    assert tokenizer.encode("aaabdaaabac") == [258, ord("d"), 258, ord("a"), ord("c")]
    assert tokenizer.decode([258, ord("d"), 258, ord("a"), ord("c")]) == "aaabdaaabac"


@given(counted_words, st.integers(0, 25), st.integers(1, 4))
def test_merges_are_those_of_the_definition(counted, limit, min_frequency):
    assert (learn_merges(counted, limit, min_frequency=min_frequency)
            == naive_learn(counted, limit, min_frequency))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 31])
def test_runs_of_one_byte_overlap(n):
    assert learn_merges({b"a" * n: 3}, 9) == naive_learn({b"a" * n: 3}, 9)


def test_english_as_the_definition_has_it():
    counted = Counter(word.encode() for word in ENGLISH[:20_000].split(" "))
    assert learn_merges(counted, 60) == naive_learn(counted, 60)


@pytest.mark.parametrize(("counted", "first"), [
    ({b"ba": 1, b"ab": 1}, b"ab"),                  # the smallest left id
    ({b"ac": 2, b"ab": 2}, b"ab"),                  # then the smallest right id
    ({b"ab": 1, b"ba": 2}, b"ba"),                  # but first of all the count
    ({b"b\xff": 1, b"a\xff": 1}, b"a\xff"),
])
def test_ties(counted, first):
    assert learn_merges(counted, 1) == [tuple(first)]


def test_ties_go_by_id_not_by_bytes():
    # With ab = 256, the pairs ab + d and b + d tie at 5. By bytes the first is smaller, by id the second.
    assert learn_merges({b"ab": 10, b"abd": 5, b"bd": 5}, 3) == [(97, 98), (98, 100), (256, 100)]


@given(documents, st.randoms())
def test_the_order_of_documents_is_of_no_account(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert train(texts, 280) == train(shuffled, 280) == train(iter(texts), 280)


@given(documents, st.integers(257, 270), st.integers(0, 10))
def test_a_smaller_vocabulary_begins_a_larger(texts, size, more):
    small, large = train(texts, size), train(texts, size + more)
    assert list(large.ranks.items())[:len(small.ranks)] == list(small.ranks.items())


@given(documents, st.integers(257, 280))
def test_ids_are_bytes_then_merges_then_special_tokens(texts, size):
    tokenizer = train(texts, size)
    assert [tokenizer.ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    assert list(tokenizer.ranks.values()) == list(range(tokenizer.n_vocab - 1))
    assert tokenizer.eot_token == tokenizer.n_vocab - 1
    assert len(tokenizer.merges()) == tokenizer.n_vocab - 257       # each token is reached, and over one pair
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_and_documents_are_not_merged_across():
    assert [*train("ab cd, ef " * 50, 300, special_tokens=()).ranks][256:] == [
        b" c", b" e", b"ab", b" cd", b" ef", b" ab"]
    assert b"ab" not in train(["a", "b"] * 50, 300).ranks
    assert b"ab" in train("ab" * 50, 300).ranks


def test_own_pattern_and_special_tokens():
    tokenizer = train("a b a b", 300, pattern=r"[\s\S]+", special_tokens=("<|x|>", EOT))
    assert tokenizer.pattern == r"[\s\S]+"
    assert b"a b" in tokenizer.ranks
    assert tokenizer.special_tokens == {"<|x|>": tokenizer.n_vocab - 2, EOT: tokenizer.n_vocab - 1}
    assert train("a", 256, special_tokens=()).special_tokens == {}


def test_nothing_is_learned_from_special_tokens():
    with_them = train(f"one{EOT}two{EOT}{EOT}" * 20, 300)
    assert with_them == train(["one", "two"] * 20, 300)
    assert b"endoftext" not in with_them.ranks


def test_running_out_of_pairs_is_a_warning():
    message = ("the vocabulary has 258 tokens instead of 1000: no pair is left; "
               "train on more text for more")
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        tokenizer = BytePairTokenizer.train("ab", 1000)
    assert caught[0].filename == __file__
    assert tokenizer.n_vocab == 258
    assert tokenizer.encode("ab") == [256]


def test_min_frequency():
    texts = ["ab", "ab", "ab", "cd", "cd", "ef"]
    for min_frequency, learned in ((1, [b"ab", b"cd", b"ef"]), (2, [b"ab", b"cd"]), (3, [b"ab"]), (4, [])):
        assert [*train(texts, 300, special_tokens=(), min_frequency=min_frequency).ranks][256:] == learned


def test_texts_may_be_empty():
    assert train([], 300).n_vocab == train("", 300).n_vocab == 257


def test_surrogates_in_training():
    assert train("\ud83d\udc4d\ud83d" * 9, 300) == train("\U0001f44d\ufffd" * 9, 300)


def test_progress():
    calls = []
    tokenizer = BytePairTokenizer.train("aaabdaaabac", 260, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert tokenizer.n_vocab == 260


@pytest.mark.parametrize(("arguments", "message"), [
    ({"vocab_size": 256}, "vocab_size (bytes, merges and special tokens) must be at least 257, got 256"),
    ({"vocab_size": 255, "special_tokens": ()}, "must be at least 256, got 255"),
    ({"vocab_size": 300.0}, "vocab_size (bytes, merges and special tokens) must be an integer, got 300.0"),
    ({"min_frequency": 0}, "min_frequency must be at least 1, got 0"),
    ({"special_tokens": EOT}, "special_tokens must be a sequence of names, got the string '<|endoftext|>'; "
                              "write ('<|endoftext|>',) for one"),
    ({"special_tokens": (EOT, EOT)}, "special_tokens must be distinct, got '<|endoftext|>' twice"),
    ({"special_tokens": ("a",)}, "a special token must not be spelt like an ordinary one, got 'a'"),
    ({"pattern": "cl1OOk"}, "pattern must be one of ['cl100k', 'gpt2', 'o200k'] or a regular expression, got 'cl1OOk'"),
    ({"texts": b"bytes"}, "training needs a string or an iterable of strings, got bytes"),
    ({"texts": 5}, "training needs a string or an iterable of strings, got int"),
    ({"texts": ["a", 5]}, "a text must be a string, got int"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BytePairTokenizer.train(**({"texts": "text", "vocab_size": 300} | arguments))


def test_english_in_good_time():
    start = time.perf_counter()
    tokenizer = BytePairTokenizer.train(ENGLISH, 1024)
    assert time.perf_counter() - start < 10                     # measured: 0.2 s
    assert tokenizer.n_vocab == 1024
    assert tokenizer.decode(tokenizer.encode(ENGLISH)) == ENGLISH


def test_one_long_piece_in_good_time():
    letters = "".join(filter(str.isalpha, ENGLISH))[:150_000]
    start = time.perf_counter()
    assert BytePairTokenizer.train(letters, 1000).n_vocab == 1000
    assert time.perf_counter() - start < 10             # measured: 0.4 s; by rescans at each merge: 33 s
