"""A tokenizer whose tokens are single characters: the smallest vocabulary there is, and easy to read.

Saved as a JSON object of three members, "special_tokens" taking the ids after the characters:

    {"type": "character", "characters": "\\n !$&',-.3:;?ABC", "special_tokens": ["<|endoftext|>"]}
"""

from ..errors import InputError
from ..files import read_json, write_json
from . import sources
from .base import Tokenizer, clean, numbered

TYPE = "character"


class CharacterTokenizer(Tokenizer):
    """One token for each character of `characters`, its place in it the id; then the special tokens.

    characters      a string in which no character is repeated
    special_tokens  a sequence of names
    InputError otherwise.
    """

    def __init__(self, characters, special_tokens=()):
        if (not isinstance(characters, str) or not characters or clean(characters) != characters
                or len(set(characters)) < len(characters)):
            raise InputError("characters must be a string of distinct characters, not empty, no surrogates, "
                             f"got {characters!r}")
        self.characters = characters
        self._id_of = {character: i for i, character in enumerate(characters)}
        super().__init__({character.encode("utf-8"): i for character, i in self._id_of.items()},
                         numbered(special_tokens, len(characters)))

    @classmethod
    def train(cls, texts, *, special_tokens=()):
        """The distinct characters of some texts, sorted by code point.

        texts           as BytePairTokenizer.train has them: a string, a pathlib.Path, a file, or an iterable of these
        special_tokens  a sequence of names; where one stands in the texts it is left out
        InputError when no character remains, and for a file that cannot be read or is not UTF-8.
        """
        special_tokens = tuple(numbered(special_tokens, 0))
        characters = set()
        for stretch in sources.stretches(sources.documents(texts), special_tokens, dividable=True):
            characters.update(stretch)
        if not characters:
            raise InputError("training needs at least one character, got none")
        return cls("".join(sorted(characters)), special_tokens)

    def _encode_stretch(self, text, offset):
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise InputError(
                f"every character must be in the vocabulary of {len(self.characters)}, got {character!r} "
                f"(U+{ord(character):04X}) at position {offset + text.index(character)}; remove it, or "
                "train on a text that has it") from None

    def save(self, path):
        """Write the JSON object described above. InputError if it cannot be written."""
        write_json(path, {"type": TYPE, "characters": self.characters,
                          "special_tokens": list(self.special_tokens)})

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. InputError, naming the file, for anything else."""
        data = read_json(path)
        if data.get("type") != TYPE or data.keys() != {"type", "characters", "special_tokens"}:
            raise InputError(f'{path}: must hold "type": "{TYPE}", "characters" and "special_tokens", '
                             f"got {sorted(data)}")
        characters, special_tokens = data["characters"], data["special_tokens"]
        if not isinstance(special_tokens, list) or not all(isinstance(name, str) for name in special_tokens):
            raise InputError(f'{path}: "special_tokens" must be an array of strings, got {special_tokens!r}')
        try:
            return cls(characters, special_tokens)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def __eq__(self, other):
        if not isinstance(other, CharacterTokenizer):
            return NotImplemented
        return (self.characters, self.special_tokens) == (other.characters, other.special_tokens)

    def __repr__(self):
        return f"CharacterTokenizer(n_vocab={self.n_vocab}, special_tokens={self.special_tokens})"
