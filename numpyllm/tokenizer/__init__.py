"""Tokenizers: text to ids and back.

To read in this order: bpe.py (the algorithm), patterns.py (how text is cut first), training.py (where the
vocabulary comes from), base.py (what all tokenizers share), format.py (on disk), character.py (the simplest of
all).
"""

from ..files import read_json as _read_json
from .bpe import BytePairTokenizer
from .character import TYPE as _CHARACTER_TYPE
from .character import CharacterTokenizer

__all__ = ["BytePairTokenizer", "CharacterTokenizer", "load"]


def load(path):
    """The tokenizer that a JSON file describes, of whichever class. InputError, naming the file, if none."""
    kind = CharacterTokenizer if _read_json(path).get("type") == _CHARACTER_TYPE else BytePairTokenizer
    return kind.load(path)
