"""Vocabularies on disk, one module a format: how each is told from the others, read and written.

    huggingface     tokenizer.json: everything in one file, and our own way to save
    sentencepiece   tokenizer.json of a vocabulary of characters
    gpt2            vocab.json and merges.txt, or encoder.json and vocab.bpe
    tiktoken        ranks alone; pattern and special tokens are given beside the file
"""

import json
import warnings
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ...files import read_bytes, read_json, replacing, restoring, write_json
from . import gpt2, huggingface, sentencepiece, tiktoken
from .merges import check_merges
from .published import ENCODINGS

CHARACTER, SCORED = "character", "scored"       # "type" of the files of a CharacterTokenizer and a ScoredTokenizer
SENTENCEPIECE = "sentencepiece"                 # of a SentencePieceTokenizer
FORMATS = ("huggingface", "gpt2", "tiktoken")
IN_A_FOLDER = ("tokenizer.json", "vocab.json", "encoder.json")     # what to look for, the first that is there


class Vocabulary(NamedTuple):
    """What a file says of a byte-level BPE tokenizer."""
    format: str
    ranks: dict                 # {bytes: id}
    pattern: str
    special_tokens: dict        # {text: id}
    merges: list | None         # pairs of bytes as listed; None in a file of ranks
    whole_pieces: bool          # whether a piece that is a token is spared merging, as we always do
    unicode_version: str | None
    begins_with: str | None = None      # the special token that is put before each text


def detect(path):
    """Which format a file has, or the first tokenizer in a folder -> name, path of the file, content.

    The name is one of `FORMATS`, `CHARACTER`, `SCORED` or `SENTENCEPIECE`; the content is a dict of JSON, or bytes. InputError, naming the file,
    where it is none of them.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in IN_A_FOLDER if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: holds no tokenizer ({', '.join(IN_A_FOLDER)}): name the file")
        path = found[0]
    if path.suffix in (".txt", ".bpe"):                 # merges: the vocabulary is beside them
        path = gpt2.vocabulary_path(path)
    if path.suffix == ".tiktoken":
        return "tiktoken", path, read_bytes(path)
    if path.suffix == ".model":
        raise InputError(f"{path}: SentencePiece's own files are not read: name the tokenizer.json of the same model")
    if path.suffix == ".bin":                           # llama2.c's
        return SCORED, path, {}
    data = read_json(path)
    if path.name.endswith(tuple(gpt2.MERGES_OF)) or data and all(type(value) is int for value in data.values()):
        return "gpt2", path, data                       # "type" and "model" may be tokens
    if data.get("type") in (CHARACTER, SCORED):
        return data["type"], path, data
    if sentencepiece.is_one(data):
        return SENTENCEPIECE, path, data
    return "huggingface", path, data


def read(path, *, encoding=None, pattern=None, special_tokens=None):
    """The `Vocabulary` in a file or folder.

    What a file does not hold is given beside it: a pattern and {text: id} of special tokens, or an encoding for both, one of
    those in published.py (which is not needed where the file is called like one: cl100k_base.tiktoken). InputError, naming the
    file, for a broken one, and for what is given beside a file that holds its own.
    """
    name, path, content = detect(path)
    given = {"encoding": encoding, "pattern": pattern, "special_tokens": special_tokens}
    given = {key: value for key, value in given.items() if value is not None}
    try:
        if name == "tiktoken":
            return _read_tiktoken(path, content, **given)
        if name == "gpt2":
            return _read_gpt2(path, content, **given)
        if given:
            raise InputError(f"it holds its own pattern and special tokens, got {sorted(given)[0]} beside it: leave that out")
        return Vocabulary(name, **huggingface.read(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_gpt2(path, vocab, *, encoding=None, pattern=None, special_tokens=None):
    known = _encoding(encoding, pattern, special_tokens)
    if known is not None:
        pattern, special_tokens = known.pattern, known.special_tokens
    ranks, merges, special_tokens = gpt2.read(vocab, gpt2.merges_path(path), special_tokens)
    if known is not None:
        _check_number(known, encoding, ranks)
    return Vocabulary("gpt2", ranks, pattern or "gpt2", special_tokens, merges, False, None)


def _read_tiktoken(path, content, *, encoding=None, pattern=None, special_tokens=None):
    if encoding is pattern is special_tokens is None and path.stem in ENCODINGS:
        encoding = path.stem
    known = _encoding(encoding, pattern, special_tokens)
    ranks = tiktoken.read(content)
    if known is not None:
        _check_number(known, encoding, ranks)
        pattern, special_tokens = known.pattern, known.special_tokens
    elif pattern is None:
        raise InputError("a .tiktoken file holds ranks alone: give the encoding it belongs to, one of "
                         f"{', '.join(ENCODINGS)}, or a pattern and special tokens")
    return Vocabulary("tiktoken", ranks, pattern, special_tokens or {}, None, True, None)


def _encoding(name, pattern, special_tokens):
    if name is None:
        return None
    if name not in ENCODINGS:
        raise InputError(f"encoding must be one of {', '.join(ENCODINGS)}, got {name!r}")
    if pattern is not None or special_tokens is not None:
        raise InputError(f"the encoding {name} has its own pattern and special tokens: give it or them, not both")
    return ENCODINGS[name]


def _check_number(known, name, ranks):
    if len(ranks) != known.n_ranks:
        raise InputError(f"{name} has {known.n_ranks} ordinary tokens, got {len(ranks)}: the file is truncated, or another's")


def check(vocabulary, tokenizer, path):
    """That a tokenizer made of a `Vocabulary` does what the file says. InputError; a warning where it may not."""
    if vocabulary.merges is not None:
        check_merges(tokenizer.ranks, tokenizer.merges(), vocabulary.merges, vocabulary.whole_pieces)
    made_with, here = vocabulary.unicode_version, tokenizer.unicode_version
    if made_with not in (None, here):
        warnings.warn(f"{path} was made with the letters and numbers of {made_with}, here they are those of {here}: texts "
                      "with characters that are new in the later may get other ids", stacklevel=3)


def write(path, tokenizer, name):
    """Write a tokenizer in one of `FORMATS`: whole or not at all. InputError if it cannot be.

    For gpt2, the path is that of the vocabulary, called vocab.json or encoder.json, or a folder.
    """
    path, ranks, special_tokens = Path(path), tokenizer.ranks, tokenizer.special_tokens
    if name not in FORMATS:
        raise InputError(f"a format must be one of {', '.join(FORMATS)}, got {name!r}")
    if name == "tiktoken":
        with replacing(path) as file:
            file.write(tiktoken.write(ranks))
    elif name == "gpt2":
        path = path / "vocab.json" if path.is_dir() else path
        beside = gpt2.merges_path(path)
        if tokenizer.pattern != "gpt2":
            raise InputError(f"GPT-2's files mean GPT-2's pattern, this tokenizer has {tokenizer.pattern!r}: write a tokenizer.json")
        if tokenizer.begins_with is not None:
            raise InputError(f"GPT-2's files name no token that begins a text, this tokenizer has {tokenizer.begins_with!r}: write a "
                             "tokenizer.json")
        vocab, merges = gpt2.write(ranks, tokenizer.merges(), special_tokens)
        with restoring(beside), replacing(path) as file:
            file.write(json.dumps(vocab, ensure_ascii=False).encode("utf-8") + b"\n")
            with replacing(beside) as other:
                other.write(merges)
    else:
        write_json(path, huggingface.write(ranks, tokenizer.merges(), tokenizer.pattern, special_tokens,
                                           tokenizer.unicode_version, tokenizer.begins_with))
