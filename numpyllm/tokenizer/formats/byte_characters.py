"""GPT-2's way to write the bytes of a token as text, so that JSON can hold it.

Each byte has a visible character: itself where it is one in Latin-1, else one from U+0100 on. The space is Ġ (U+0120), so
" the" is written "Ġthe". Hugging Face's files use the same table.
"""

from ...errors import InputError


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


def vocabulary_to_text(ranks, special_tokens):
    """{text: id} in the order of ids, from {bytes: id} and {name: id}. InputError for a name that reads like a token."""
    vocab = {token_to_text(token): i for token, i in ranks.items()}
    for text in special_tokens:
        if text in vocab:
            raise InputError("a special token must not read like an ordinary one in the file's notation, got "
                             f"{text!r}; name it otherwise")
    return dict(sorted((vocab | special_tokens).items(), key=lambda item: item[1]))
