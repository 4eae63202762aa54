"""Hugging Face's tokenizer.json for a vocabulary that was SentencePiece's: byte_fallback, and spaces spelt U+2581.

Reading is as strict as that of byte-level BPE (huggingface.py). Older files add the space by a normalizer, newer ones by a
pre-tokenizer called Metaspace.
"""

from ...errors import InputError
from ...files import short
from .huggingface import begins_with_of, document, refuse, special_tokens_of

SPACE = "\u2581"
TO_SPACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
FROM_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def is_one(data):
    """Whether the content of a tokenizer.json is of this kind."""
    match data:
        case {"model": {"byte_fallback": True}}:
            return True
    return False


def write(tokens, merges, special_tokens, prefix, begins_with):
    """The content of a tokenizer.json; what `read` gives."""
    newer = prefix != "prepend"
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix, "split": False}
    decoders = [TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP]
    return document(special_tokens, begins_with, merges=merges, fuse_unk=True, byte_fallback=True,
                    normalizer=None if newer else {"type": "Sequence", "normalizers": [PREPEND, FROM_SPACE]},
                    pre_tokenizer=metaspace if newer else None,
                    decoder={"type": "Sequence", "decoders": decoders[:-1] if prefix == "never" else decoders},
                    vocab=dict(sorted((tokens | special_tokens).items(), key=lambda item: item[1])))


def read(data):
    """What a tokenizer.json holds: the arguments of SentencePieceTokenizer, a dict. InputError for what would give other ids here."""
    match data:
        case {"model": {"type": "BPE", "vocab": dict(vocab), "merges": list(entries)} as model}:
            pass
        case _:
            raise InputError(f'there must be a "model" of type BPE with "vocab" and "merges", got {short(data)}')
    refuse(data, ("truncation", "padding"))
    refuse(model, ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
    special_tokens = special_tokens_of(data.get("added_tokens", []), vocab)
    tokens = {text: i for text, i in vocab.items() if text not in special_tokens}
    merges = [_merge(entry) for entry in entries]       # those of special tokens never happen: texts are cut there before
    merges = [(left, right) for left, right in merges if not special_tokens.keys() & {left, right, left + right}]
    return {"tokens": tokens, "merges": merges, "special_tokens": special_tokens,
            "prefix": _prefix(data.get("normalizer"), data.get("pre_tokenizer")),
            "begins_with": begins_with_of(data.get("post_processor"), special_tokens)}


def _prefix(normalizer, pre_tokenizer):
    match normalizer, pre_tokenizer:
        case {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, dict(last)]}, None if last == FROM_SPACE:
            return "prepend"
        case ({"type": "Sequence", "normalizers": [dict(last)]} | dict(last)), None if last == FROM_SPACE:
            return "never"
        case None, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always" | "first" | "never" as scheme, "split": False}:
            return scheme
        case None, {"type": "Metaspace"}:
            raise InputError("a Metaspace must have replacement U+2581, a prepend_scheme and split false, under which tokens may reach "
                             f"across words; got {short(pre_tokenizer)}")
    raise InputError("there must be a normalizer that puts U+2581 in front and for each space, or a pre_tokenizer Metaspace that does, and "
                     f"nothing else; got {short(normalizer)} and {short(pre_tokenizer)}")


def _merge(entry):
    match entry.split(" ") if isinstance(entry, str) else entry:
        case [str(left), str(right)] if left and right:
            return left, right
    raise InputError(f"a merge must be two tokens, as a list or with a blank between them, got {short(entry)}")
