"""What all tokenizers share beyond encoding: holes in the ids, the hash of a tokenizer, decoding piece by piece."""

import re

import numpy as np
import pytest
from tokenizer_strings import with_bytes

from numpyllm.errors import InputError
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer

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
