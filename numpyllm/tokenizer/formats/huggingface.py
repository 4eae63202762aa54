"""Hugging Face's tokenizer.json for byte-level BPE, which is also how a tokenizer of ours is saved.

Reading is strict: what would give other ids here than in their library is an error, never a guess. A pattern of the user's
own is written and read as it stands; their library reads it with Oniguruma, where a few signs mean something else.

Their loader refuses members it does not know, but not within the pre-tokenizer: there "unicode_version" says which
characters were letters, numbers and white space when the tokenizer was made.
"""

from ...errors import InputError
from ...files import short
from .byte_characters import text_to_token, token_to_text, vocabulary_to_text
from .merges import parse_merge
from .published import COVERING, NAME_OF, SPELLINGS


def write(ranks, merges, pattern, special_tokens, unicode_version, begins_with=None):
    """The content of a tokenizer.json.

    ranks           {bytes: id}
    merges          pairs of bytes, in the order of the ids of the tokens they make
    pattern         the name of one, or a regular expression
    special_tokens  {text: id}
    begins_with     that of them which is put before each text, or None
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if pattern == "gpt2":
        pre_tokenizer = byte_level      # has GPT-2's pattern built in
    else:
        spelling = SPELLINGS[pattern][0] if pattern in SPELLINGS else pattern
        cut = {"type": "Split", "pattern": {"Regex": spelling}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [cut, byte_level | {"use_regex": False}]}
    return document(special_tokens, begins_with, pre_tokenizer=pre_tokenizer | {"unicode_version": unicode_version},
                    decoder=byte_level, vocab=vocabulary_to_text(ranks, special_tokens),
                    merges=[(token_to_text(left), token_to_text(right)) for left, right in merges],
                    ignore_merges=True)         # their name for: a piece that is a token is that token


def document(special_tokens, begins_with, *, normalizer=None, pre_tokenizer, decoder, vocab, merges, **choices):
    """The content of a tokenizer.json of BPE. vocab {text: id}, merges: pairs of texts; choices of the model are false if not given."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for text, i in sorted(special_tokens.items(), key=lambda item: item[1])],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None if begins_with is None else _template(begins_with, special_tokens[begins_with]),
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **choices,
            "vocab": vocab,
            # One string a merge, which all versions read; the pairs of the newer ones take four lines each.
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def read(data):
    """What a tokenizer.json holds, {name: value}: what `write` takes (unicode_version None if it is not there), and whole_pieces,
    whether a piece that is a token is spared merging. InputError for anything but plain byte-level BPE.
    """
    match data:
        case {"model": {"type": kind}} if kind != "BPE":
            raise InputError(f"model type must be BPE, got {short(kind)}")
        case {"model": {"vocab": dict(vocab), "merges": list(entries)} as model}:
            pass                        # GPT-2's own file names no type
        case _:
            raise InputError(f'there must be a "model" with "vocab" and "merges", got {short(data)}')
    if model.get("byte_fallback"):
        raise InputError("byte_fallback must be false: this is a vocabulary of characters (SentencePieceTokenizer), not byte-level BPE")
    refuse(data, ("normalizer", "truncation", "padding"))
    refuse(model, ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    if data.get("decoder") is not None and _type(data["decoder"]) != "ByteLevel":
        raise InputError(f"decoder must be null or ByteLevel, got {short(data['decoder'])}")
    special_tokens = special_tokens_of(data.get("added_tokens", []), vocab)
    ranks = {text_to_token(text): i for text, i in vocab.items() if text not in special_tokens}
    node = data.get("pre_tokenizer")
    return {"ranks": ranks, "merges": [parse_merge(entry, ranks) for entry in entries], "pattern": _pattern(node),
            "special_tokens": special_tokens, "unicode_version": node.get("unicode_version"),
            "begins_with": begins_with_of(data.get("post_processor"), special_tokens), "whole_pieces": bool(model.get("ignore_merges"))}


def _template(text, i):
    """A post-processor that puts a special token before a text, and before each of a pair."""
    def parts(*names):
        return [part for number, name in enumerate(names)
                for part in ({"SpecialToken": {"id": text, "type_id": number}}, {"Sequence": {"id": name, "type_id": number}})]

    return {"type": "TemplateProcessing", "single": parts("A"), "pair": parts("A", "B"),
            "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]}}}


def begins_with_of(node, special_tokens):
    """The special token that a post-processor puts before each text, or None. InputError if it does anything else to the ids."""
    match node:
        case None | {"type": "ByteLevel"}:          # tells where in the text tokens are, and leaves ids alone
            return None
        case {"type": "Sequence", "processors": [{"type": "ByteLevel"}, dict(last)]}:
            return begins_with_of(last, special_tokens)
        case {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}:      # transformers 5 writes it for GPT-2
            return None
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(text)}}, {"Sequence": {"id": "A"}}],
              "special_tokens": {**known}}:
            match known.get(text):
                case {"ids": [i]} if special_tokens.get(text) == i:
                    return text
    raise InputError("post_processor must be null, ByteLevel, or a template that puts one of the added tokens before each text; got "
                     f"{short(node)}")


def special_tokens_of(nodes, vocab):
    if not isinstance(nodes, list):
        raise InputError(f"added_tokens must be an array, got {short(nodes)}")
    special_tokens = {}
    for node in nodes:
        match node:
            case {"content": str(text), "id": int(i), "special": True}:
                refuse(node, ("single_word", "lstrip", "rstrip"))
            case _:
                raise InputError(f"added tokens must have content, an id and special true, got {short(node)}")
        if text in special_tokens:
            raise InputError(f"added tokens must be distinct, got {text!r} twice")
        if vocab.get(text, i) != i:
            raise InputError(f"added tokens must have their id in the vocabulary, got {i} for {text!r}")
        special_tokens[text] = i
    return special_tokens


def _pattern(node):
    match node:
        case {"type": "ByteLevel", "add_prefix_space": False} if node.get("use_regex", True):
            return "gpt2"
        case {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(spelling)}, "behavior": str(behavior), "invert": bool(invert)},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]} if (
                    (behavior, invert) == ("Isolated", False)
                    or (behavior, invert) == ("Removed", True) and spelling in COVERING):    # between matches is nothing
            return NAME_OF.get(spelling, spelling)
    raise InputError("pre_tokenizer must be ByteLevel with GPT-2's pattern, or Split (Regex, Isolated) and "
                     f"ByteLevel without, both with add_prefix_space false; got {short(node)}")


def _type(node):
    return node.get("type") if isinstance(node, dict) else None


def refuse(node, names):
    """InputError if one of these is anything but null or false."""
    for name in names:
        if node.get(name):
            raise InputError(f"{name} must be null or false, got {short(node[name])}: ids would not be those that are meant")
