"""Byte-pair encoding over characters, of which those that are no token become bytes: SentencePiece's (Kudo, Richardson 2018).

    text  --spaces added-->  characters  --merges-->  tokens  --table-->  ids

Nothing is cut first, so tokens may reach across words. Two tokenizers do this: one ranks the pairs (sentencepiece.py), one scores what
they make (scored.py).
"""

from abc import abstractmethod

from .base import StreamDecoder, Tokenizer, clean
from .merging import merged

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))     # how the tokens of single bytes are spelt


class CharacterPairTokenizer(Tokenizer):
    """tokens {text: id}, those of BYTES among them; the rest as for every tokenizer. Subclasses say which pairs merge, and
    where spaces are added."""

    space = " "         # as it is spelt in tokens

    def __init__(self, tokens, special_tokens, begins_with):
        super().__init__({token.encode(): i for token, i in tokens.items()}, special_tokens, begins_with)
        self._byte_ids = [tokens[spelling] for spelling in BYTES]
        self._id_of = {token: i for token, i in tokens.items() if token not in BYTES}
        # A byte may be a token of its own and the same character another: the table of the base class holds spellings till here.
        for token, i in self._id_of.items():
            self._bytes_of[i] = token.replace(self.space, " ").encode()
        for byte, i in enumerate(self._byte_ids):
            self._bytes_of[i] = bytes([byte])

    @abstractmethod
    def _rank(self, left, right):
        """What tells when two neighbours become one, the lowest first and the leftmost of equals; None: never."""

    @abstractmethod
    def _spaced(self, text, offset, before, begin):
        """A stretch as its characters are merged, with the spaces that are added. before: the special token in front of it, or None."""

    @abstractmethod
    def _adds_space_after(self, i):
        """Whether a space was added to what follows this id, and is taken away again."""

    def _encode(self, text, allowed_special=frozenset(), disallowed_special="all", begin=True):
        ids, before = [], None
        for offset, stretch, special in self._stretches(clean(text), allowed_special, disallowed_special, begin):
            if special:
                ids.append(self.special_tokens[stretch])
                before = stretch
            elif stretch:
                ids += self._encode_stretch(self._spaced(stretch, offset, before, begin), offset)
        return ids

    def _encode_stretch(self, text, offset):
        ids = []
        for part in merged(text, lambda i, j, k: self._rank(text[i:j], text[j:k])):
            known = self._id_of.get(part)
            ids += [self._byte_ids[byte] for byte in part.encode()] if known is None else [known]
        return ids

    def decode_tokens_bytes(self, ids):
        """As every tokenizer's; a token after one that begins a text is without the space that was added."""
        return self._after(None, ids)

    def stream_decoder(self):
        return _AfterDecoder(self)

    def _after(self, previous, ids):
        """The bytes of ids that come after `previous`."""
        ids = list(ids) if not hasattr(ids, "tolist") else ids
        tokens = super().decode_tokens_bytes(ids)
        for position, before in enumerate([previous, *ids][:len(tokens)]):
            if before is not None and self._adds_space_after(before):
                tokens[position] = tokens[position].removeprefix(b" ")
        return tokens


class _AfterDecoder(StreamDecoder):
    """Remembers the id before, for the space after it."""

    _previous = None

    def feed(self, ids):
        ids = list(ids)
        text = self._utf8.decode(b"".join(self._tokenizer._after(self._previous, ids)))
        self._previous = ids[-1] if ids else self._previous
        return text

    def flush(self):
        self._previous = None
        return super().flush()
