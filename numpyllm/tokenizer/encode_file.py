"""A text file straight to a token shard, in bounded memory."""

import codecs
import os
import re

from ..errors import InputError
from ..shards import ShardWriter
from .patterns import NAMED

CHUNK = 1 << 23         # bytes read at once
WINDOW = 1 << 12        # characters at the end of a chunk in which a place to cut is looked for first

# No piece of a named pattern reaches across from a character that is not white space to a space.
BEFORE_A_SPACE = re.compile(r"(?<=\S) ")


def encode_file(tokenizer, path_in, path_out, *, allowed_special, disallowed_special, threads, progress):
    """See BytePairTokenizer.encode_file."""
    header = {"n_vocab": tokenizer.n_vocab, "tokenizer": tokenizer.sha256}
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text, done = "", 0              # what has been read but not encoded; bytes read
    first = 0                       # where in the file `text` begins, in characters
    with _opened(path_in) as file, ShardWriter(path_out, tokenizer.dtype, header) as shard:
        size = os.fstat(file.fileno()).st_size
        more = True
        while more:
            data = _read(file, path_in)
            more, done = bool(data), done + len(data)
            text += decoder.decode(data, final=not more)
            end = _last_cut(text, tokenizer) if more else len(text)
            if end > 0:
                try:
                    shard.append(tokenizer.encode_to_numpy(text[:end], allowed_special=allowed_special,
                                                           disallowed_special=disallowed_special, threads=threads))
                except InputError as error:
                    raise InputError(f"{path_in}: in what begins at character {first}, {error}") from None
                text, first = text[end:], first + end
            if progress is not None:
                progress(done, size)
    return shard.header["count"]


def _last_cut(text, tokenizer):
    """The last place where the text, to be continued, may be cut with the same ids; 0 if there is none."""
    if tokenizer.pattern not in NAMED:
        return 0
    special_tokens = tokenizer.special_tokens
    limit = len(text) - max(map(len, special_tokens), default=0)        # the last one may be cut short
    spaced = [token for token in special_tokens if " " in token]
    for start in (max(0, limit - WINDOW), 0):
        for match in reversed(list(BEFORE_A_SPACE.finditer(text, start, max(0, limit)))):
            end = match.start()
            if all(text.find(token, max(0, end - len(token) + 1), end + len(token) - 1) < 0 for token in spaced):
                return end
    return 0


def _opened(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _read(file, path):
    try:
        return file.read(CHUNK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
