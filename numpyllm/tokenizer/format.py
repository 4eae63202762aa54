"""Hugging Face's tokenizer.json for byte-level BPE.

In a tokenizer.json a token is text, not bytes. GPT-2's table gives each byte a visible character: itself
where it is one in Latin-1, else one from U+0100 on. The space is Ġ (U+0120), so " the" is written "Ġthe".

Reading is strict: what would give other ids here than in their library is an error, never a guess.
"""

from itertools import zip_longest

from ..errors import InputError
from ..files import short


def _visible_characters():
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}     # U+00AD is the soft hyphen
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(substitutes)) for byte in range(256)]


CHARACTER_OF = _visible_characters()                                            # byte -> character
BYTE_OF = {character: byte for byte, character in enumerate(CHARACTER_OF)}      # and back


def token_to_text(token):
    """The bytes of a token in visible characters."""
    return "".join(CHARACTER_OF[byte] for byte in token)


def text_to_token(text):
    """The bytes that such visible characters stand for."""
    try:
        return bytes(BYTE_OF[character] for character in text)
    except KeyError as error:
        raise InputError(f"a token must be written in byte-level characters, got {text!r} with "
                         f"{error.args[0]!r}; is this a vocabulary of bytes?") from None


def bpe_to_json(ranks, merges, pattern, special_tokens):
    """The content of a tokenizer.json.

    ranks           {bytes: id}
    merges          pairs of bytes, in the order of the ids of the tokens they make
    pattern         "gpt2", or a regular expression, which their library reads with Oniguruma
    special_tokens  {text: id}
    """
    vocab = {token_to_text(token): i for token, i in ranks.items()}
    for text in special_tokens:
        if text in vocab:
            raise InputError("a special token must not read like an ordinary one in the file's notation, got "
                             f"{text!r}; name it otherwise")
    vocab |= special_tokens
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if pattern == "gpt2":
        pre_tokenizer = byte_level      # has GPT-2's pattern built in
    else:
        cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [cut, byte_level | {"use_regex": False}]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for text, i in sorted(special_tokens.items(), key=lambda item: item[1])],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,      # their name for: a piece that is a token is that token
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            # One string a merge, which all versions read; the pairs of the newer ones take four lines each.
            "merges": [f"{token_to_text(left)} {token_to_text(right)}" for left, right in merges],
        },
    }


def bpe_from_json(data):
    """What a tokenizer.json holds: ranks, merges, pattern and special tokens as `bpe_to_json` takes them, and
    fifth whether a piece that is a token is spared merging. InputError for anything but plain byte-level BPE.
    """
    match data:
        case {"model": {"type": kind}} if kind != "BPE":
            raise InputError(f"model type must be BPE, got {short(kind)}")
        case {"model": {"vocab": dict(vocab), "merges": list(entries)} as model}:
            pass                        # GPT-2's own file names no type
        case _:
            raise InputError(f'there must be a "model" with "vocab" and "merges", got {short(data)}')
    _refuse(data, ("normalizer", "truncation", "padding"))
    _refuse(model, ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
    for name in ("post_processor", "decoder"):
        node = data.get(name)
        if node is not None and _type(node) != "ByteLevel":
            raise InputError(f"{name} must be null or ByteLevel, got {short(node)}")
    special_tokens = _special_tokens(data.get("added_tokens", []), vocab)
    ranks = {text_to_token(text): i for text, i in vocab.items() if text not in special_tokens}
    merges = [_merge(entry, ranks) for entry in entries]
    whole_pieces = bool(model.get("ignore_merges"))
    return ranks, merges, _pattern(data.get("pre_tokenizer")), special_tokens, whole_pieces


def check_merges(ranks, needed, listed, whole_pieces):
    """That merging by the listed pairs in their order, as a file means it, is merging by rank, as here.

    needed          pairs of bytes that merging by rank uses: BytePairTokenizer.merges
    listed          those of the file; any beyond the needed ones do no harm, as these pairs never meet
    whole_pieces    whether the file spares a piece that is a token from merging, as we always do
    """
    missing = set(needed).difference(listed)
    if missing:
        raise InputError(f"merges must lead to each token, {min(missing)} is missing")
    usable = set(needed)
    for got, due in zip_longest((pair for pair in listed if pair in usable), needed):
        if got != due:
            raise InputError(f"merges must stand once each, in the order of the ids made, {got} does not")
    reached = {left + right for left, right in needed}
    stranded = [token for token in ranks if len(token) > 1 and token not in reached]
    if stranded and not whole_pieces:
        raise InputError("merges must lead to each token unless ignore_merges is true, none does to "
                         f"{stranded[0]!r}")


def _merge(entry, ranks):
    match entry.split(" ") if isinstance(entry, str) else entry:
        case [str(left), str(right)]:
            left, right = text_to_token(left), text_to_token(right)
        case _:
            raise InputError(f'a merge must be "left right" or ["left", "right"], got {short(entry)}')
    for token in (left, right, left + right):
        if token not in ranks:
            raise InputError(f"merges must name tokens of the vocabulary, got {token!r} in {short(entry)}")
    return left, right


def _special_tokens(nodes, vocab):
    if not isinstance(nodes, list):
        raise InputError(f"added_tokens must be an array, got {short(nodes)}")
    special_tokens = {}
    for node in nodes:
        match node:
            case {"content": str(text), "id": int(i), "special": True}:
                _refuse(node, ("single_word", "lstrip", "rstrip"))
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
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}:
            return pattern
    raise InputError("pre_tokenizer must be ByteLevel with GPT-2's pattern, or Split (Regex, Isolated) and "
                     f"ByteLevel without, both with add_prefix_space false; got {short(node)}")


def _type(node):
    return node.get("type") if isinstance(node, dict) else None


def _refuse(node, names):
    for name in names:
        if node.get(name):
            raise InputError(f"{name} must be null or false, got {short(node[name])}; only plain byte-level "
                             "BPE is read")
