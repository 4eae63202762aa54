"""The tokenizer of Llama 2 as llama2.c keeps it: of all neighbours that together are a token, those of the best score become one.

Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then the rest. <s> begins each text, and what follows it loses the space again.
Saved as a JSON object, {"type": "scored", "tokens": [...], "scores": [...]}, tokens spelt as in llama2.c's tokenizer.bin:

    uint32 length of the longest token | for each: float32 score, uint32 length, the bytes    (little-endian)
"""

import hashlib
import math
import struct

from ..errors import InputError
from ..files import read_bytes, read_json, write_json
from .base import clean
from .character_pairs import BYTES, CharacterPairTokenizer

TYPE = "scored"
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
SPELT = "<unk>", "\n<s>\n", "\n</s>\n"      # in the file
BEGIN, FIRST_BYTE, FIRST = 1, 3, 259        # ids
MOST_BYTES = 1 << 26                        # of a file


class ScoredTokenizer(CharacterPairTokenizer):
    """tokens: their spellings in order of ids, as above; scores: a finite number for each. InputError otherwise."""

    def __init__(self, tokens, scores):
        tokens, scores = list(tokens), list(scores)
        if not all(isinstance(token, str) and token and clean(token) == token for token in tokens):
            raise InputError("tokens must be strings, not empty, no surrogates")
        if tuple(tokens[:FIRST]) != (*SPELT, *BYTES):
            raise InputError(f"tokens must begin with <unk>, <s>, </s> and the 256 bytes as <0x00> to <0xFF>, got {tokens[:4]!r} and so "
                             f"on, {len(tokens):,} in all: was it written by an early version of llama2.c?")
        if len(scores) != len(tokens) or not all(type(score) in (int, float) and math.isfinite(score) for score in scores):
            raise InputError(f"each of {len(tokens):,} tokens must have a score that is a finite number, got {len(scores):,} scores")
        self.tokens, self.scores = tokens, scores
        if len(set(tokens)) < len(tokens):
            raise InputError("tokens must be distinct")
        super().__init__({token: i for i, token in enumerate(tokens) if i >= FIRST_BYTE}, SPECIAL, "<s>")
        self._bytes_of[1:FIRST_BYTE] = b"", b""

    def _rank(self, left, right):
        known = self._id_of.get(left + right)
        return -self.scores[known] if known is not None and left in self._id_of and right in self._id_of else None

    def _spaced(self, text, offset, before, begin):
        return " " + text if before == self.begins_with else text

    def _adds_space_after(self, i):
        return i == BEGIN

    @property
    def eot_token(self):
        """Id of <s>: the beginning of the next text is the end of the one before."""
        return BEGIN

    @property
    def sha256(self):
        return hashlib.sha256(f"{super().sha256} {self.scores}".encode()).hexdigest()

    def save(self, path):
        """Write the JSON object described above. InputError if it cannot be written."""
        write_json(path, {"type": TYPE, "tokens": self.tokens, "scores": self.scores})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote, or llama2.c's tokenizer.bin. InputError, naming the file, for anything else."""
        data = read_bytes(path, limit=MOST_BYTES)
        try:
            if len(data) < 4 or b"\0" in data[:4]:       # a length below 2^24, which no JSON begins with
                return cls(*_read_binary(data))
            data = read_json(path)
            tokens, scores = data.get("tokens"), data.get("scores")
            if data.get("type") != TYPE or not isinstance(tokens, list) or not isinstance(scores, list):
                raise InputError(f'must hold "type": "{TYPE}", "tokens" and "scores", got {sorted(data)}')
            return cls(tokens, scores)
        except InputError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None

    def __eq__(self, other):
        if not isinstance(other, ScoredTokenizer):
            return NotImplemented
        return (self.tokens, self.scores) == (other.tokens, other.scores)

    def __repr__(self):
        return f"ScoredTokenizer(n_vocab={self.n_vocab})"


def _read_binary(data):
    """A tokenizer.bin -> tokens, scores. InputError where a length leads out of the file, or is more than that of the longest."""
    if len(data) < 4:
        raise InputError(f"a tokenizer.bin must begin with the length of its longest token, got {len(data)} bytes")
    longest, offset = struct.unpack_from("<I", data)[0], 4
    tokens, scores = [], []
    while offset < len(data):
        if len(data) - offset < 8:
            raise InputError(f"token {len(tokens)} must have a score and a length, the file ends after {len(data):,} bytes: it is truncated")
        score, length = struct.unpack_from("<fI", data, offset)
        offset += 8
        if length > min(longest, len(data) - offset):
            raise InputError(f"token {len(tokens)} must have at most {min(longest, len(data) - offset):,} bytes, got {length:,}: it is "
                             "truncated, or no tokenizer.bin")
        try:
            tokens.append(data[offset:offset + length].decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"token {len(tokens)} must be UTF-8, got {data[offset:offset + length][:20]!r}") from None
        scores.append(score)
        offset += length
    return tokens, scores
