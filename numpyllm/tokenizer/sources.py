"""Texts to train on, as a stream: strings, files, folders, or anything that gives one after the other.

A string is a text, never the name of a file; a file is named by a pathlib.Path. No more than a part of a file is in memory
at a time, as long as it may be divided: see `stretches`.
"""

import os
from collections.abc import Iterable

from ..errors import InputError
from ..files import BLOCK, text_blocks, text_files
from .base import clean, cut
from .twin import DIVIDE


def documents(texts):
    """The strings and files in `texts`, one by one: a list if texts can be gone through again, else an iterator.

    texts       a string, a path of a file or of a folder (files.text_files says what is read of it), a file that is open for
                reading bytes, or an iterable of these
    InputError, when one comes to it, for anything else.
    """
    if _is_one(texts):
        texts = [texts]
    elif isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"training needs a string, a path or an iterable of them, got {type(texts).__name__}")
    return list(_flat(texts)) if isinstance(texts, list | tuple) else _flat(texts)


def size(documents):
    """UTF-8 bytes in all, if that can be told before reading, else None."""
    if not isinstance(documents, list) or any(hasattr(document, "read") for document in documents):
        return None
    try:
        return sum(_bytes(document) if isinstance(document, str) else document.stat().st_size for document in documents)
    except OSError:
        return None         # reading it will tell why


def stretches(documents, special_tokens, dividable):
    """The texts of the documents, cut where one of the special tokens stands, which are left out.

    dividable   whether the pattern is one that may be given the two sides of a twin.DIVIDE one after the other; a file is
                then read in blocks which end there, else it is read whole
    """
    dividable = dividable and not any(map(DIVIDE.search, special_tokens))
    for document in documents:
        if isinstance(document, str):
            blocks = [clean(document)]
        else:
            blocks = text_blocks(document)
            blocks = _divided(blocks) if dividable else ["".join(blocks)]
        for block in blocks:
            for _, stretch, special in cut(block, special_tokens):
                if stretch and not special:
                    yield stretch


def _is_one(text):
    return isinstance(text, str | os.PathLike) or hasattr(text, "read")


def _flat(texts):
    for text in texts:
        if not _is_one(text):
            raise InputError(f"a text must be a string, or the path of a file, got {type(text).__name__}")
        if isinstance(text, os.PathLike):
            yield from text_files(text)
        else:
            yield text


def _bytes(text):
    if text.isascii():
        return len(text)
    return sum(len(text[i:i + BLOCK].encode("utf-8", "surrogatepass")) for i in range(0, len(text), BLOCK))


def _divided(blocks):
    """The same text in blocks that end at a twin.DIVIDE."""
    held = []
    for block in blocks:
        found = DIVIDE.search(block)
        end = found.end() if found else 0
        if found:
            yield "".join(held) + block[:end]
            held = []
        held.append(block[end:])
    yield "".join(held)
