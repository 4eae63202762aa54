"""Tokenizers: text to ids and back.

To read in this order: merging.py (the algorithm), bpe.py (on bytes), patterns.py (how text is cut first), training.py
(where the vocabulary comes from), base.py (what all tokenizers share), formats/ (on disk), character.py (the simplest
of all), character_pairs.py (Llama 2's; sentencepiece.py and scored.py are its two ways on disk). For speed and size:
twin.py (encoding compiled), trainer.py (training compiled), sources.py (files as streams).
"""

from .bpe import BytePairTokenizer
from .character import CharacterTokenizer
from .formats import detect as _detect
from .scored import ScoredTokenizer
from .sentencepiece import SentencePieceTokenizer

__all__ = ["BytePairTokenizer", "CharacterTokenizer", "ScoredTokenizer", "SentencePieceTokenizer", "load"]


def load(path, **beside):
    """The tokenizer in a file, of whichever class and format, or the first one in a folder.

    What is given beside it is for `BytePairTokenizer.load`. InputError, naming the file, if there is none.
    """
    format, file, _ = _detect(path)
    others = {"character": CharacterTokenizer, "scored": ScoredTokenizer, "sentencepiece": SentencePieceTokenizer}
    kind = others.get(format, BytePairTokenizer) if not beside else BytePairTokenizer
    return kind.load(file, **beside)
