"""What all tokenizers share beyond encoding: holes in the ids, the hash of a tokenizer, decoding piece by piece."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_strings import NASTY, with_bytes

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer
from numpyllm.tokenizer.base import StreamDecoder

EOT = "<|endoftext|>"


class TestHoles:
    """As in cl100k_base: ordinary tokens without hole, then special ones with some."""

    tokenizer = BytePairTokenizer(with_bytes(b"ab"), special_tokens={EOT: 258, "<|x|>": 262})

    def test_allowed_among_special_tokens(self):
        assert self.tokenizer.n_vocab == 263
        assert self.tokenizer.encode(f"ab{EOT}<|x|>", allowed_special="all") == [256, 258, 262]
        assert self.tokenizer.decode([256, 258, 262]) == f"ab{EOT}<|x|>"
        assert self.tokenizer.token_byte_lengths.tolist() == [1] * 256 + [2] + [0] * 6

    @pytest.mark.parametrize("i", [257, 259, 261])
    def test_they_cannot_be_decoded(self, i):
        for ids in ([97, i], np.array([97, i])):
            for decode in (self.tokenizer.decode, self.tokenizer.decode_bytes, self.tokenizer.decode_tokens_bytes):
                with pytest.raises(InputError, match=f"^ids must be those of tokens, got {i} at position 1, which this "):
                    decode(ids)

    @pytest.mark.parametrize(("ranks", "special_tokens", "message"), [
        (with_bytes() | {b"ab": 257}, {}, "ids must have no hole, got 257 tokens with ids up to 257 but none with id 256"),
        (with_bytes() | {b"ab": 258}, {EOT: 257}, "ids must have no hole, got 258 tokens with ids up to 258 but none with id 256"),
        (with_bytes() | {b"ab": 258}, {EOT: 300}, "ids must have no hole, got 258 tokens with ids up to 300 but none with id 256"),
        (with_bytes() | {b"ab": 10**12}, {}, "ids must have no hole"),
        (with_bytes(), {EOT: 514}, "at least half of all ids must be tokens, got 257 tokens with ids up to 514"),
        (with_bytes(), {EOT: 10**12}, "at least half of all ids must be tokens"),
    ])
    def test_not_elsewhere(self, ranks, special_tokens, message):
        with pytest.raises(InputError, match=f"^{re.escape(message)}"):
            BytePairTokenizer(ranks, special_tokens=special_tokens)

    def test_special_tokens_may_stand_between_ordinary_ones(self):
        assert BytePairTokenizer(with_bytes() | {b"ab": 257}, special_tokens={EOT: 256, "<|x|>": 513}).n_vocab == 514


def test_the_hash_is_that_of_an_equal_tokenizer():
    ranks, special_tokens = with_bytes(b"ab", b"abc"), {EOT: 258, "<|x|>": 259}
    tokenizer = BytePairTokenizer(ranks, special_tokens=special_tokens)
    reordered = dict(reversed(ranks.items())), dict(reversed(special_tokens.items()))
    assert tokenizer.sha256 == BytePairTokenizer(reordered[0], special_tokens=reordered[1]).sha256
    others = [
        BytePairTokenizer(ranks, r"\s+|\S+", special_tokens),
        BytePairTokenizer(with_bytes(b"abc", b"ab"), special_tokens=special_tokens),
        BytePairTokenizer(ranks, special_tokens={EOT: 258}),
        BytePairTokenizer(ranks, special_tokens={EOT: 259, "<|x|>": 258}),
        BytePairTokenizer(ranks, special_tokens={EOT: 258, "<|x|>": 260}),
        CharacterTokenizer("ab"), CharacterTokenizer("ba"), CharacterTokenizer("a", ["b"]),
    ]
    hashes = [tokenizer.sha256, *(other.sha256 for other in others)]
    assert len(set(hashes)) == len(hashes) and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)


BYTES = BytePairTokenizer(with_bytes(b"\xe2\x82", b"\xacx", "é".encode()), special_tokens={EOT: 259})
PARTS = [*"ax€é😀".encode(), 0xC0, 0xFF, 0xED, 0xA0, 256, 257, 258, 259]      # of characters, of none, and special


class TestStreaming:
    @given(st.lists(st.sampled_from(PARTS), max_size=20), st.lists(st.integers(0, 20)))
    def test_joined_it_is_decode_however_ids_come(self, ids, cuts):
        decoder, cuts = StreamDecoder(BYTES), sorted({0, *cuts, 20})
        pieces = [decoder.feed(ids[start:end]) for start, end in zip(cuts, cuts[1:])]
        assert "".join(pieces) + decoder.flush() == BYTES.decode(ids)
        pieces = list(BYTES.decode_stream(iter(ids)))
        assert "".join(pieces) == BYTES.decode(ids) and "" not in pieces

    @pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:20]))
    def test_no_half_character_ever(self, text):
        ids = BYTES.encode(text)
        assert list(BYTES.decode_stream(ids)) == [character for character in BYTES.decode(ids)] or 256 in ids or 257 in ids

    def test_a_beginning_is_held_back(self):
        decoder = StreamDecoder(BYTES)
        assert [decoder.feed([i]) for i in (ord("a"), 0xF0, 0x9F, 0x98, 0x80, 256)] == ["a", "", "", "", "😀", ""]
        assert decoder.feed(np.array([257])) == "€x"
        assert decoder.feed([256]) == "" and decoder.flush() == "\ufffd" and decoder.flush() == ""
        assert decoder.feed([ord("b")]) == "b"                  # used anew

    def test_a_bad_id_takes_nothing(self):
        decoder = StreamDecoder(BYTES)
        assert decoder.feed([256]) == ""
        with pytest.raises(InputError, match="ids must be from 0 to 259, got 260 at position 1"):
            decoder.feed([97, 260])
        assert decoder.feed([257]) == "€x"


def test_decoding_in_tiktokens_manner():
    ids = [97, 256, 257, 259]
    assert BYTES.decode_batch([ids, [], [256]]) == ["a€x" + EOT, "", "\ufffd"]
    assert BYTES.decode_bytes_batch([ids[:2]]) == [b"a\xe2\x82"]
    assert BYTES.decode([256], errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        BYTES.decode([256], errors="strict")
    assert BYTES.decode_single_token_bytes(257) == b"\xacx"
    assert BYTES.decode_with_offsets(ids) == ("a€x" + EOT, [0, 1, 1, 3])
    assert BYTES.encode_single_token("é") == BYTES.encode_single_token("é".encode()) == 258
    assert BYTES.encode_single_token(EOT) == 259 and BYTES.encode_single_token(b"\xff") == 255
    assert BYTES.is_special_token(259) and not BYTES.is_special_token(258)
    assert BYTES.max_token_value == 259
    values = BYTES.token_byte_values()
    assert values == sorted(BYTES.ranks) and EOT.encode() not in values
    with pytest.raises(InputError, match="this must be one token of the vocabulary, got 'ab'; use encode for a text"):
        BYTES.encode_single_token("ab")


@pytest.fixture(scope="module")
def peer():
    tiktoken = pytest.importorskip("tiktoken")
    return tiktoken.Encoding("x", pat_str=r"[\s\S]+", mergeable_ranks=BYTES.ranks, special_tokens=BYTES.special_tokens)


@pytest.mark.oracle
class TestAgainstTiktoken:
    def test_same_names(self, peer):
        not_ours = {"name", "encode_with_unstable"}         # theirs for completing a word as it is typed
        assert not {name for name in dir(peer) if not name.startswith("_")} - set(dir(BYTES)) - not_ours

    def test_same_answers(self, peer):
        assert BYTES.token_byte_values() == peer.token_byte_values()
        assert BYTES.max_token_value == peer.max_token_value and BYTES.n_vocab == peer.n_vocab
        assert BYTES.special_tokens_set == peer.special_tokens_set and BYTES.eot_token == peer.eot_token

        texts = ["a€", EOT, ""]
        assert BYTES.encode_ordinary_batch(texts) == peer.encode_ordinary_batch(texts)

    @given(text=st.text(st.sampled_from("ax€é😀 "), max_size=20))
    def test_same_offsets(self, peer, text):
        ids = BYTES.encode(text)
        assert BYTES.decode_with_offsets(ids) == peer.decode_with_offsets(ids)
