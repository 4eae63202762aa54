"""Byte-pair encoding: against its definition, against tiktoken, and at its edges."""

import copy
import pickle
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_strings import NASTY, gpt2_ranks, with_bytes

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, bpe
from numpyllm.tokenizer.patterns import NAMED, compile_pattern, split

EOT = "<|endoftext|>"
WIKIPEDIA = with_bytes(b"aa", b"ab", b"aaab")                   # Z = aa, Y = ab, X = ZY

small_pieces = st.lists(st.sampled_from(b"abc"), max_size=30).map(bytes)
small_tokens = st.lists(st.lists(st.sampled_from(b"abc"), min_size=2, max_size=5).map(bytes), max_size=20,
                        unique=True)
any_text = st.text(st.characters(), max_size=40)                # surrogates among them


@pytest.fixture(scope="module")
def gpt2(data_dir):
    return BytePairTokenizer(gpt2_ranks(data_dir), "gpt2", {EOT: 50256})


@pytest.fixture
def tokenizer():
    return BytePairTokenizer(with_bytes(b" a", b"bc", b"abc"), special_tokens={EOT: 259, "<|x|>": 260})


def naive_merge(piece, ranks):
    """The definition: look at all neighbours, join the best, begin again."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        joined = [(ranks[parts[i] + parts[i + 1]], i) for i in range(len(parts) - 1)
                  if parts[i] + parts[i + 1] in ranks]
        if not joined:
            return [ranks[part] for part in parts]
        _, i = min(joined)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]


def test_wikipedia_example():
    assert bpe.merge(b"aaabdaaabac", WIKIPEDIA) == [258, ord("d"), 258, ord("a"), ord("c")]


@given(small_pieces, small_tokens, st.randoms())
def test_merging_is_the_definition(piece, tokens, random):
    ids = list(range(256 + len(tokens)))
    random.shuffle(ids)                                         # neither bytes nor merges in any order of ids
    ranks = dict(zip(with_bytes(*tokens), ids))
    assert bpe.merge(piece, ranks) == naive_merge(piece, ranks)


@pytest.mark.parametrize(("piece", "tokens", "parts"), [
    (b"aaa", [b"aa"], [b"aa", b"a"]),                           # the leftmost of equals
    (b"abcd", [b"bc", b"ab", b"cd"], [b"a", b"bc", b"d"]),      # the lowest rank, not the leftmost
    (b"abcabc", [b"ab", b"abc", b"ca"], [b"abc", b"abc"]),
    (b"abab", [b"abab", b"ab"], [b"abab"]),                     # reached over a token of higher rank
    (b"", [], []),
    (b"a", [], [b"a"]),
])
def test_merging_by_hand(piece, tokens, parts):
    ranks = with_bytes(*tokens)
    assert bpe.merge(piece, ranks) == [ranks[part] for part in parts]


def test_a_piece_that_is_a_token_is_not_merged():
    ranks = with_bytes(b"bc", b"abcd")                          # no merges lead to abcd
    tokenizer = BytePairTokenizer(ranks)
    assert tokenizer.encode("abcd") == [257]
    assert tokenizer.encode("abcde") == [ord("a"), 256, ord("d"), ord("e")]


def test_merges_are_the_one_pair_of_each_token():
    ranks = with_bytes(b"aa", b"aaaa", b"aaa", b"xyz")
    assert BytePairTokenizer(ranks).merges() == [(b"a", b"a"), (b"aa", b"aa"), (b"aa", b"a")]


@given(small_tokens, small_pieces)
def test_merging_by_pairs_is_merging_by_rank(tokens, piece):
    tokenizer = BytePairTokenizer(with_bytes(*tokens))
    order = {pair: i for i, pair in enumerate(tokenizer.merges())}
    parts = [bytes([byte]) for byte in piece]
    while known := [(order[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in order]:
        _, i = min(known)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    assert [tokenizer.ranks[part] for part in parts] == naive_merge(piece, tokenizer.ranks)


@pytest.mark.parametrize(("text", "pieces"), [
    ("", []),
    ("Hello there       dear", ["Hello", " there", "      ", " dear"]),     # seven spaces: six and one
    ("today\n \n", ["today", "\n \n"]),
    ("today\n  x", ["today", "\n ", " x"]),
    ("a\r\nb", ["a", "\r", "\n", "b"]),
    ("\tx", ["\t", "x"]),                                                   # only U+0020 joins a word
    (" \u00a0x", [" ", "\u00a0", "x"]),
    (" \x1cx", [" \x1c", "x"]),                                             # str.isspace says so, Unicode not
    (" \x850", [" ", "\x85", "0"]),                                         # white space in both
    ("we've I'LL", ["we", "'ve", " I", "'", "LL"]),
    ("I'd she's don't", ["I", "'d", " she", "'s", " don", "'t"]),
    ("you're I'm he'll", ["you", "'re", " I", "'m", " he", "'ll"]),
    ("x1½ ²", ["x", "1½", " ²"]),
    ("e\u0301a", ["e", "\u0301", "a"]),                                     # a combining mark is no letter
    ("ab12?!", ["ab", "12", "?!"]),
])
def test_gpt2_pieces(text, pieces):
    assert list(split(compile_pattern("gpt2"), text)) == pieces


@given(any_text, st.sampled_from([*NAMED, r"\w+", "(a)|(b)", r"x*", r"(?=b)", r"[\s\S]+"]))
def test_pieces_joined_are_the_text(text, pattern):
    pieces = list(split(compile_pattern(pattern), text))
    assert "".join(pieces) == text
    assert "" not in pieces


def test_own_pattern(tokenizer):
    whole = BytePairTokenizer(tokenizer.ranks, r"[\s\S]+", tokenizer.special_tokens)
    assert tokenizer.encode("a a") == [ord("a"), 256]
    assert whole.encode("b ab") == [ord("b"), 256, ord("b")]
    digits = BytePairTokenizer(with_bytes(b"11"), r"\d")
    assert digits.encode("x11y") == [ord("x"), ord("1"), ord("1"), ord("y")]


@pytest.mark.parametrize(("pattern", "message"), [
    ("gtp2", "pattern must be one of ['cl100k', 'gpt2', 'llama3', 'o200k'] or a regular expression, got 'gtp2'"),
    ("(a", "pattern must be a regular expression, got '(a': missing ) at position 2"),
    (None, "pattern must be a string, got NoneType"),
])
def test_bad_patterns(pattern, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        BytePairTokenizer(with_bytes(), pattern)


@given(any_text)
def test_round_trip_of_any_text(text):
    tokenizer = BytePairTokenizer(with_bytes(b" a", b"bc", b"\xc3\xa9"))
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == clean


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:20]))
def test_round_trip_of_nasty_text(tokenizer, text):
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == clean.encode("utf-8")


def test_surrogates(tokenizer):
    assert tokenizer.encode("\ud83d\udc4d") == list("\U0001f44d".encode())
    assert tokenizer.encode("\ud83d") == list("\ufffd".encode())
    assert tokenizer.encode_ordinary("x\udc4dy") == list("x\ufffdy".encode())
    assert tokenizer.encode("\ufeffx\ud83d") == list("\ufeffx\ufffd".encode())      # the mark is not eaten


def test_all_bytes_round_trip_even_where_they_are_no_utf8(tokenizer):
    data = bytes(range(256))
    ids = [tokenizer.ranks[data[i:i + 1]] for i in range(256)]
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"
    assert tokenizer.decode([0xE2, 0x82, 0xAC]) == "€"
    assert tokenizer.decode_tokens_bytes([256, 258, 259]) == [b" a", b"abc", EOT.encode()]


class TestSpecialTokens:
    nested = BytePairTokenizer(with_bytes(), special_tokens={"<a>": 256, "<a><b>": 257, "<b>": 258})

    def test_refused_by_default(self, tokenizer):
        message = ("the text must not contain the special token '<|endoftext|>', found at character 2; pass "
                   "allowed_special={'<|endoftext|>'} to encode it as that token, or disallowed_special=() "
                   "to encode it as ordinary text")
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            tokenizer.encode(f"ab{EOT}")

    def test_allowed(self, tokenizer):
        assert tokenizer.encode(f"{EOT}a{EOT}<|x|>", allowed_special="all") == [259, ord("a"), 259, 260]
        assert tokenizer.encode(f"a{EOT}", allowed_special={EOT}) == [ord("a"), 259]
        with pytest.raises(InputError, match="special token '<|x|>'"):
            tokenizer.encode(f"a{EOT}<|x|>", allowed_special=[EOT])

    def test_ordinary(self, tokenizer):
        as_text = list(EOT.encode())
        assert tokenizer.encode_ordinary(EOT) == as_text
        assert tokenizer.encode(EOT, disallowed_special=()) == as_text
        assert tokenizer.encode(EOT, disallowed_special={"<|x|>"}) == as_text
        ids = tokenizer.encode(EOT + "<|x|>", allowed_special={"<|x|>"}, disallowed_special=())
        assert ids == [*as_text, 260]

    def test_disallowed_by_name_wins(self, tokenizer):
        with pytest.raises(InputError, match="must not contain"):
            tokenizer.encode(EOT, allowed_special="all", disallowed_special={EOT})

    def test_the_longest_counts(self):
        assert self.nested.encode("<a><b><a><b", allowed_special="all") == [257, 256, ord("<"), ord("b")]
        ids = self.nested.encode("<a><b>", allowed_special={"<a>", "<b>"}, disallowed_special=())
        assert ids == [256, 258]
        with pytest.raises(InputError, match="special token '<a><b>'"):
            self.nested.encode("<a><b>", allowed_special={"<a>"})

    def test_text_beside_one_is_cut_as_if_alone(self, tokenizer):
        spaces = BytePairTokenizer(with_bytes(b"  "), special_tokens={EOT: 257})
        assert spaces.encode("  " + EOT, allowed_special="all") == [256, 257]
        assert spaces.encode("  x") == [ord(" "), ord(" "), ord("x")]

    @pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
    def test_bad_arguments(self, tokenizer, argument):
        with pytest.raises(InputError, match=re.escape(
                f"{argument} must name special tokens of this tokenizer, which has "
                "['<|endoftext|>', '<|x|>']; got '<|y|>'")):
            tokenizer.encode("a", **{argument: {"<|y|>"}})
        with pytest.raises(InputError, match=re.escape(
                f'{argument} must be "all" or a collection of special tokens, got the string '
                "'<|x|>'; write {'<|x|>'} for one token")):
            tokenizer.encode("a", **{argument: "<|x|>"})

    def test_what_is_known_of_them(self, tokenizer):
        assert tokenizer.eot_token == 259
        assert tokenizer.special_tokens_set == {EOT, "<|x|>"}
        assert self.nested.eot_token is None
        assert tokenizer.decode([259, 97]) == EOT + "a"


def test_sizes(tokenizer):
    assert tokenizer.n_vocab == 261
    lengths = tokenizer.token_byte_lengths
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [1] * 256 + [2, 2, 3] + [0, 0]


def test_bytes_of_a_text_are_the_sum_of_its_token_lengths(tokenizer):
    ids = tokenizer.encode_to_numpy("abc Ärger a" + EOT, allowed_special="all")
    assert tokenizer.token_byte_lengths[ids].sum() == len("abc Ärger a".encode())


@pytest.mark.parametrize(("n_vocab", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_arrays_are_as_small_as_all_ids_allow(n_vocab, dtype):
    pairs = (bytes([first, second]) for first in range(256) for second in range(256))
    ranks = with_bytes(*(pair for pair, _ in zip(pairs, range(n_vocab - 257))))
    tokenizer = BytePairTokenizer(ranks, special_tokens={EOT: n_vocab - 1})
    ids = tokenizer.encode_to_numpy("a" + EOT, allowed_special={EOT})
    assert tokenizer.dtype == ids.dtype == dtype
    assert ids.tolist() == [ord("a"), n_vocab - 1]
    assert tokenizer.encode_to_numpy("").dtype == dtype


def test_batch(tokenizer):
    assert tokenizer.encode_batch(["abc", "", EOT], allowed_special="all") == [[258], [], [259]]
    with pytest.raises(InputError, match="needs an iterable of strings, got one string; use encode"):
        tokenizer.encode_batch("abc")


@pytest.mark.parametrize("text", [b"a", None, 5])
def test_only_strings_are_texts(tokenizer, text):
    for encode in (tokenizer.encode, tokenizer.encode_ordinary, tokenizer.encode_to_numpy):
        with pytest.raises(InputError, match=f"^a text must be a string, got {type(text).__name__}$"):
            encode(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_ids_in_arrays(tokenizer, dtype):
    ids = np.array([97, 98], dtype)
    assert tokenizer.decode(ids) == tokenizer.decode(list(ids)) == tokenizer.decode(iter([97, 98])) == "ab"


@pytest.mark.parametrize(("ids", "message"), [
    ([97, 261], "ids must be from 0 to 260, got 261 at position 1; was this sequence made with another "
                "tokenizer?"),
    ([-1], "ids must be from 0 to 260, got -1 at position 0"),
    (np.array([-1]), "ids must be from 0 to 260, got -1 at position 0"),
    ([97, 1.0], "ids must be integers, got 1.0 at position 1"),
    ("a", "ids must be integers, got 'a' at position 0"),
    ([None], "ids must be integers, got None at position 0"),
    (np.array([97.0]), "ids must be a one-dimensional array of integers, got float64 of shape (1,)"),
    (np.array([[97]]), "got int64 of shape (1, 1); decode one sequence at a time"),
    (97, "ids must be a sequence of integers, got 97; pass [97] for one id"),
])
def test_ids_that_are_none(tokenizer, ids, message):
    for decode in (tokenizer.decode, tokenizer.decode_bytes, tokenizer.decode_tokens_bytes):
        with pytest.raises(InputError, match=re.escape(message)):
            decode(ids)


@pytest.mark.parametrize(("ranks", "special_tokens", "message"), [
    (with_bytes() | {b"ab": 255}, {}, "ids must be distinct, got 255 for both b'\\xff' and b'ab'"),
    (with_bytes(), {EOT: 97}, "ids must be distinct, got 97 for both b'a' and b'<|endoftext|>'"),
    (with_bytes() | {b"ab": 257}, {}, "ids must have no hole, got 257 tokens with ids up to 257 but none "
                                      "with id 256"),
    (with_bytes() | {b"ab": -1}, {}, "ids must be Python integers from 0 on, got -1 for the token b'ab'"),
    (with_bytes() | {b"ab": 256.0}, {}, "ids must be Python integers from 0 on, got 256.0 for the token"),
    ({b"ab": 0}, {}, "every byte must be a token of its own, got none for b'\\x00'"),
    (with_bytes(), {"": 256}, "a special token must be a string, not empty, no surrogates, got ''"),
    (with_bytes(), {"\ud800": 256}, "must be a string, not empty, no surrogates, got '\\ud800'"),
    (with_bytes(), {b"x": 256}, "a special token must be a string, not empty, no surrogates, got b'x'"),
    (with_bytes(b"ab"), {"ab": 257}, "a special token must not be spelt like an ordinary one, got 'ab'"),
    (with_bytes(), [EOT], "special_tokens must be a dict of ids by name, got ['<|endoftext|>']"),
])
def test_bad_vocabularies(ranks, special_tokens, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BytePairTokenizer(ranks, special_tokens=special_tokens)


def test_equality_and_copies(tokenizer):
    same = BytePairTokenizer(tokenizer.ranks, "gpt2", tokenizer.special_tokens)
    same.encode("abc a")                                        # what is in the cache makes no difference
    assert tokenizer == same == copy.deepcopy(same) == pickle.loads(pickle.dumps(same))
    assert tokenizer != BytePairTokenizer(tokenizer.ranks, r"\s+", tokenizer.special_tokens)
    assert tokenizer != BytePairTokenizer(with_bytes(b"bc", b" a", b"abc"), "gpt2", tokenizer.special_tokens)
    assert tokenizer != BytePairTokenizer(tokenizer.ranks, "gpt2", {EOT: 259})
    assert tokenizer != "gpt2"
    assert repr(tokenizer) == ("BytePairTokenizer(n_vocab=261, pattern='gpt2', "
                               "special_tokens={'<|endoftext|>': 259, '<|x|>': 260})")


def test_arguments_may_be_changed_afterwards():
    ranks, special_tokens = with_bytes(b"ab"), {EOT: 257}
    tokenizer = BytePairTokenizer(ranks, special_tokens=special_tokens)
    del ranks[b"ab"], special_tokens[EOT]
    assert tokenizer.encode("ab" + EOT, allowed_special="all") == [256, 257]


def test_the_cache_is_bounded_and_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(bpe, "CACHED_PIECES", 3)
    text = "abc a abcabc x y z abc " * 5 + "a" * 1000
    ids = tokenizer.encode(text)
    assert len(tokenizer._cache) <= 3
    assert all(len(piece) <= bpe.CACHED_LENGTH for piece in tokenizer._cache)
    assert ids == tokenizer.encode(text) == BytePairTokenizer(tokenizer.ranks).encode(text)


@pytest.mark.parametrize("sign", "^0a' \n")
def test_long_runs_take_no_quadratic_time(sign):
    ranks = with_bytes(*(sign.encode() * 2 ** k for k in range(1, 7)))
    tokenizer = BytePairTokenizer(ranks, r"[\s\S]+")
    start = time.perf_counter()
    ids = tokenizer.encode(sign * 100_001)
    assert time.perf_counter() - start < 5              # measured: 0.4 s; by rescans at each merge: minutes
    assert ids == [261] * 1562 + [260, ord(sign)]               # 100,001 = 1562 x 64 + 32 + 1


def test_gpt2_ids_known_by_heart(gpt2):
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2.encode(f"Hello<{EOT}", allowed_special="all") == [15496, 27, 50256]
    assert gpt2.n_vocab == 50257
    assert gpt2.dtype == np.uint16
    assert len(gpt2.merges()) == 50_000


@pytest.mark.thorough
def test_a_million_times_the_same_letter(gpt2):
    assert gpt2.encode("x" * 1_000_000) == [gpt2.ranks[b"x" * 8]] * 125_000


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "wikitext2-valid.txt"])
def test_gpt2_round_trip_of_a_corpus(gpt2, data_dir, name):
    text = (data_dir / name).read_text(encoding="utf-8")
    start = time.perf_counter()
    ids = gpt2.encode_to_numpy(text)
    assert time.perf_counter() - start < 10                     # measured: 0.4 s
    assert gpt2.token_byte_lengths[ids].sum() == len(text.encode("utf-8"))
    assert gpt2.decode(ids) == text


@pytest.fixture(scope="module")
def peer(data_dir):
    tiktoken = pytest.importorskip("tiktoken")
    return tiktoken.Encoding("gpt2", pat_str=NAMED["gpt2"], mergeable_ranks=gpt2_ranks(data_dir),
                             special_tokens={EOT: 50256})


@pytest.mark.oracle
class TestAgainstTiktoken:
    @pytest.mark.parametrize("name", ["tinyshakespeare.txt", "wikitext2-valid.txt"])
    def test_corpora(self, gpt2, peer, data_dir, name):
        text = (data_dir / name).read_text(encoding="utf-8")
        assert gpt2.encode(text) == peer.encode(text)

    @pytest.mark.parametrize("text", [*NASTY, "x" * 30_000], ids=lambda text: ascii(text[:20]))
    def test_nasty_strings(self, gpt2, peer, text):
        ids = gpt2.encode(text)
        assert ids == peer.encode(text)
        assert gpt2.decode_bytes(ids) == peer.decode_bytes(ids)
        assert gpt2.decode_tokens_bytes(ids) == peer.decode_tokens_bytes(ids)
        joined = f"{text}{EOT}{text}"
        assert gpt2.encode(joined, allowed_special="all") == peer.encode(joined, allowed_special="all")
        assert gpt2.encode_ordinary(joined) == peer.encode_ordinary(joined)

    @given(text=st.text(st.sampled_from("ab'sLl09 \t\n\r\x85\u00a0?é\u0301汉😀"), max_size=30))
    def test_mixtures(self, gpt2, peer, text):
        assert gpt2.encode(text) == peer.encode(text)

    @given(tokens=small_tokens, text=st.text("abc", max_size=30))
    def test_any_vocabulary(self, tokens, text):
        tiktoken = pytest.importorskip("tiktoken")
        ranks = with_bytes(*tokens)
        peer = tiktoken.Encoding("any", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
        assert BytePairTokenizer(ranks, r"[\s\S]+").encode(text) == peer.encode(text)
