"""Llama 2's and Mistral's tokenizer as Hugging Face keeps it: SentencePiece's pairs of characters in a list, the first of it first.

A space is spelt U+2581 in tokens, and so is a U+2581 of the text, which comes back as a space. Where one is added, `prefix` says:

    "prepend"   before each text, and after each special token in it
    "always"    the same, but not where there is a space already
    "first"     before a text alone, unless it begins with one or with a special token
    "never"     nowhere
"""

import hashlib

from ..errors import InputError
from ..files import read_json, write_json
from .character_pairs import BYTES, CharacterPairTokenizer
from .formats import sentencepiece
from .formats.sentencepiece import SPACE

PREFIXES = ("prepend", "always", "first", "never")
END = "</s>"


class SentencePieceTokenizer(CharacterPairTokenizer):
    """A tokenizer by ranked pairs of characters.

    tokens          {text: id}, the 256 bytes as <0x00> to <0xFF> among them
    merges          pairs of tokens that make a token, in the order in which they do
    special_tokens  {text: id}
    prefix          where a space is added: see above
    begins_with     the special token that `encode` puts before each text, or None
    InputError otherwise.
    """

    space = SPACE

    def __init__(self, tokens, merges, special_tokens, *, prefix="prepend", begins_with=None):
        missing = next((spelling for spelling in BYTES if spelling not in tokens), None)
        if missing is not None:
            raise InputError(f"tokens must hold all bytes as <0x00> to <0xFF>, {missing} is missing")
        if prefix not in PREFIXES:
            raise InputError(f"prefix must be one of {', '.join(PREFIXES)}, got {prefix!r}")
        super().__init__(tokens, special_tokens, begins_with)
        self.tokens, self.merges, self.prefix = dict(tokens), [tuple(pair) for pair in merges], prefix
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        for left, right in self.merges:
            if not {left, right, left + right} <= self._id_of.keys():
                raise InputError(f"a merge must be of two tokens that make a token, got {left!r} and {right!r}")
        if len(self._ranks) < len(self.merges):
            raise InputError(f"merges must be distinct, got {len(self.merges) - len(self._ranks)} twice")

    def _rank(self, left, right):
        return self._ranks.get((left, right))

    def _spaced(self, text, offset, before, begin):
        text = text.replace(" ", SPACE)
        if self.prefix == "never" or offset == 0 and not begin or offset > 0 and self.prefix == "first":
            return text
        return text if text.startswith(SPACE) and self.prefix != "prepend" else SPACE + text

    def _adds_space_after(self, i):
        if self.prefix in ("prepend", "always"):
            return self.is_special_token(i)
        return self.prefix == "first" and self.begins_with is not None and i == self.special_tokens[self.begins_with]

    @property
    def eot_token(self):
        """Id of </s>, or of what other tokenizers end a text with; None if the vocabulary has none of them."""
        return self.special_tokens.get(END, super().eot_token)

    @property
    def sha256(self):
        return hashlib.sha256(f"{super().sha256} {self.prefix} {self.merges}".encode()).hexdigest()

    def save(self, path):
        """Write a tokenizer.json. InputError if it cannot be written."""
        write_json(path, sentencepiece.write(self.tokens, self.merges, self.special_tokens, self.prefix, self.begins_with))

    @classmethod
    def load(cls, path):
        """Read a tokenizer.json with byte_fallback. InputError, naming the file, for anything else."""
        try:
            return cls(**sentencepiece.read(read_json(path)))
        except InputError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None

    def __eq__(self, other):
        if not isinstance(other, SentencePieceTokenizer):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name)
                   for name in ("tokens", "merges", "special_tokens", "prefix", "begins_with"))

    def __repr__(self):
        return f"SentencePieceTokenizer(n_vocab={self.n_vocab})"
