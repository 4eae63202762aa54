"""Byte-pair encoding by scores over characters: the tokenizer of Llama 2 as llama2.c keeps it (SentencePiece: Kudo, Richardson 2018).

    text  --a space before it-->  characters  --merges-->  tokens  --table-->  ids, after that of <s>

Of all neighbours that together are a token, those of the best score become one, the leftmost first, as long as there are any. A
character that is no token becomes its bytes, each of which is a token. Nothing is cut first, so tokens may reach across words.

Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then the rest. <s> begins each text, and what follows it loses the space again.
Saved as a JSON object, {"type": "scored", "tokens": [...], "scores": [...]}, tokens spelt as in llama2.c's tokenizer.bin:

    uint32 length of the longest token | for each: float32 score, uint32 length, the bytes    (little-endian)
"""

import hashlib
import math
import struct
from heapq import heappop, heappush

from ..errors import InputError
from ..files import read_bytes, read_json, write_json
from .base import StreamDecoder, Tokenizer, clean

TYPE = "scored"
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
SPELT = "<unk>", "\n<s>\n", "\n</s>\n"      # in the file
BEGIN, FIRST_BYTE, FIRST = 1, 3, 259        # ids
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MOST_BYTES = 1 << 26                        # of a file


class ScoredTokenizer(Tokenizer):
    """tokens: their spellings in order of ids, as above; scores: a finite number for each. InputError otherwise."""

    begins_with = "<s>"

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
        self._id_of = {token: i for i, token in enumerate(tokens) if i >= FIRST}
        if len(self._id_of) < len(tokens) - FIRST:
            raise InputError("tokens must be distinct")
        super().__init__({token.encode(): i for i, token in enumerate(tokens) if i >= FIRST_BYTE}, SPECIAL)
        # A byte may be a token of its own and the same character another: the table of the base class holds spellings till here.
        self._bytes_of[1:FIRST] = [b"", b"", *(bytes([byte]) for byte in range(256))]

    def _encode(self, text, allowed_special=frozenset(), disallowed_special="all", begin=True):
        ids = []
        for offset, stretch, special in self._stretches(clean(text), allowed_special, disallowed_special, begin):
            if special:
                ids.append(SPECIAL[stretch])
            elif stretch:
                ids += self._encode_stretch((" " if ids[-1:] == [BEGIN] else "") + stretch, offset)
        return ids

    def _encode_stretch(self, text, offset):
        n = len(text)
        end = list(range(1, n + 1))     # end[i]: where the part that begins at i ends; 0 when none begins there
        begin = list(range(-1, n))      # begin[j]: where the part that ends at j begins
        candidates = []                 # heap of (-score, i, j, k): the parts from i to j and j to k make a token

        def consider(i, j, k):
            known = self._id_of.get(text[i:k])
            if known is not None and text[i:j] in self._id_of and text[j:k] in self._id_of:     # bytes do not merge
                heappush(candidates, (-self.scores[known], i, j, k))

        for i in range(n - 1):
            consider(i, i + 1, i + 2)
        while candidates:
            _, i, j, k = heappop(candidates)
            if end[i] != j or end[j] != k:
                continue                # one of the two parts has been merged with another meanwhile
            end[i], end[j], begin[k] = k, 0, i
            if i > 0:
                consider(begin[i], i, k)
            if k < n:
                consider(i, k, end[k])
        ids, i = [], 0
        while i < n:
            known = self._id_of.get(text[i:end[i]])
            ids += [FIRST_BYTE + byte for byte in text[i].encode()] if known is None else [known]
            i = end[i]
        return ids

    @property
    def eot_token(self):
        """Id of <s>: the beginning of the next text is the end of the one before."""
        return BEGIN

    @property
    def sha256(self):
        return hashlib.sha256(f"{super().sha256} {self.scores}".encode()).hexdigest()

    def decode_tokens_bytes(self, ids):
        """As every tokenizer's; a token after <s> is without the space that it begins with."""
        return self._after(None, ids)

    def stream_decoder(self):
        return _AfterDecoder(self)

    def _after(self, previous, ids):
        """The bytes of ids that come after `previous`."""
        ids = list(ids) if not hasattr(ids, "tolist") else ids
        tokens = super().decode_tokens_bytes(ids)
        for position, before in enumerate([previous, *ids][:len(tokens)]):
            if before == BEGIN:
                tokens[position] = tokens[position].removeprefix(b" ")
        return tokens

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


class _AfterDecoder(StreamDecoder):
    """Remembers the id before, for the space after <s>."""

    _previous = None

    def feed(self, ids):
        ids = list(ids)
        text = self._utf8.decode(b"".join(self._tokenizer._after(self._previous, ids)))
        self._previous = ids[-1] if ids else self._previous
        return text

    def flush(self):
        self._previous = None
        return super().flush()


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
