"""tiktoken's .tiktoken: a line for each ordinary token, its bytes in base64 and its rank.

    IQ== 0
    Ig== 1

Pattern and special tokens are not in it; they belong to the name of an encoding, or are given beside it.
"""

import base64
import binascii

from ...errors import InputError


def write(ranks):
    """The content, bytes, from {bytes: id}: one line a token, by id."""
    lines = sorted((i, base64.b64encode(token)) for token, i in ranks.items())
    return b"".join(b"%s %d\n" % (token, i) for i, token in lines)


def read(content):
    """{bytes: id}. InputError, naming the line, for what is no such file."""
    ranks = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        match line.split():
            case [text, digits] if digits.isdigit():
                token = _from_base64(text)
            case _:
                token = None
        if not token:
            raise InputError(f"line {number} must be a token in base64 and its rank, got {line[:50]!r}")
        if token in ranks:
            raise InputError(f"tokens must be distinct, got {token!r} twice, again in line {number}")
        ranks[token] = int(digits)
    return ranks


def _from_base64(text):
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
