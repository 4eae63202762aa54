"""GPT-2's pair of files: vocab.json, {token: id}, and merges.txt, a pair of tokens a line in the order of merging.

OpenAI's own are called encoder.json and vocab.bpe. Tokens are written in byte-level characters. The pattern is GPT-2's, and
nothing says which tokens are special: here they are those in angle brackets that no merges make.
"""

from pathlib import Path

from ...errors import InputError
from ...files import read_bytes
from .byte_characters import CHARACTER_OF, text_to_token, token_to_text, vocabulary_to_text
from .merges import parse_merge

MERGES_OF = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
VERSION_LINE = "#version: 0.2"


def merges_path(path):
    """The file of merges that belongs to one of a vocabulary: merges.txt to vocab.json, small-merges.txt to small-vocab.json."""
    path = Path(path)
    for vocabulary, merges in MERGES_OF.items():
        if path.name.endswith(vocabulary):
            return path.with_name(path.name.removesuffix(vocabulary) + merges)
    raise InputError(f"{path}: GPT-2's files must be called vocab.json and merges.txt, or encoder.json and vocab.bpe")


def vocabulary_path(path):
    """The file of the vocabulary that belongs to one of merges."""
    path = Path(path)
    for vocabulary, merges in MERGES_OF.items():
        if path.name.endswith(merges):
            return path.with_name(path.name.removesuffix(merges) + vocabulary)
    raise InputError(f"{path}: GPT-2's files must be called vocab.json and merges.txt, or encoder.json and vocab.bpe")


def write(ranks, merges, special_tokens):
    """The content of both files: {token: id} for JSON, and the bytes of the merges.

    InputError when there is a token that no merges make, which stands for whole pieces only: these files cannot say so.
    """
    reached = {left + right for left, right in merges}
    stranded = [token for token in ranks if len(token) > 1 and token not in reached]
    if stranded:
        raise InputError(f"GPT-2's files need merges that make each token, none make {stranded[0]!r}: write a tokenizer.json")
    lines = [VERSION_LINE, *(f"{token_to_text(left)} {token_to_text(right)}" for left, right in merges), ""]
    return vocabulary_to_text(ranks, special_tokens), "\n".join(lines).encode("utf-8")


def read(vocab, merges_file, special_tokens=None):
    """Ranks, merges and special tokens from {token: id} and the path of the merges. InputError for what cannot be right.

    special_tokens  {text: id}; where None, the tokens <...> that no merges make
    """
    try:
        lines = read_bytes(merges_file).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{merges_file}: must be UTF-8: {error}") from None
    texts = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1)]
    texts = [(number, text) for number, text in texts if text and not (number == 1 and text.startswith("#version"))]
    made = {text.replace(" ", "") for _, text in texts}
    if special_tokens is None:
        special_tokens = {text: i for text, i in vocab.items()
                          if text not in made and text.startswith("<") and text.endswith(">") and len(text) > 2}
    for text, i in special_tokens.items():
        if vocab.get(text, i) != i:
            raise InputError(f"special tokens must have their id in the vocabulary, got {i} for {text!r}")
    ranks = {text_to_token(text): i for text, i in vocab.items() if text not in special_tokens}
    single = set(CHARACTER_OF)
    for text in vocab:
        if text not in made and text not in single and text not in special_tokens:
            raise InputError(f"merges must lead to each token, none in {Path(merges_file).name} make {text!r} (is it truncated?); "
                             "a special token that is not written <...> must be given as one")
    merges = []
    for number, text in texts:
        try:
            merges.append(parse_merge(text, ranks))
        except InputError as error:
            raise InputError(f"{merges_file}, line {number}: {error}") from None
    return ranks, merges, special_tokens
