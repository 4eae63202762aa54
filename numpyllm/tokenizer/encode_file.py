"""The ids of a text file, or straight to a token shard, in bounded memory."""

import codecs
import os

from ..errors import InputError
from ..shards import ShardWriter
from .base import SpecialTokenInText
from .patterns import NAMED
from .twin import DIVIDE

CHUNK = 1 << 21         # bytes read at once; larger ones leave holes in the heap that add up to some 0.4 GB
WINDOW = 1 << 12        # characters at the end of a chunk in which a place to cut is looked for first


def encode_file(tokenizer, path_in, path_out, *, threads, progress, **special):
    """See BytePairTokenizer.encode_file."""
    header = {"n_vocab": tokenizer.n_vocab, "tokenizer": tokenizer.sha256, "sources": [str(path_in)]}
    with _opened(path_in) as file, ShardWriter(path_out, tokenizer.dtype, header) as shard:
        for ids in encode_blocks(tokenizer, file, path_in, errors="replace", threads=threads, progress=progress, **special):
            shard.append(ids)
    return shard.header["count"]


def encode_blocks(tokenizer, file, name, *, errors="strict", chunk=None, threads=1, progress=None, **special):
    """The ids of a text, array after array: a file that is open for reading bytes, read in chunks.

    name        of the file, for errors
    errors      "strict": bytes that are not UTF-8 are an InputError; "replace": they are read as U+FFFD
    chunk       bytes read at once (default: CHUNK)
    special     allowed_special and disallowed_special of Tokenizer.encode; places in SpecialTokenInText are those in the file
    """
    size = _size(file)
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    text, done = "", 0              # what has been read but not encoded; bytes read
    first = 0                       # where in the file `text` begins, in characters
    if threads > 1:
        special["threads"] = threads
    while True:
        data = _read(file, name, chunk or CHUNK)
        pending = len(decoder.getstate()[0])        # bytes of a character that has only begun
        try:
            text += decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is no UTF-8 text (byte {done - pending + error.start} is {error.object[error.start]:#04x}): "
                             "convert it to UTF-8") from None
        done += len(data)
        end = _last_cut(text, tokenizer) if data else len(text)
        if end > 0:
            try:
                yield tokenizer.encode_to_numpy(text[:end], begin=first == 0, **special)
            except SpecialTokenInText as error:
                raise SpecialTokenInText(error.token, first + error.offset, name) from None
            except InputError as error:
                raise InputError(f"{name}: in what begins at character {first}, {error}") from None
            text, first = text[end:], first + end
        if progress is not None:
            progress(done, size)
        if not data:
            return


def _last_cut(text, tokenizer):
    """The last place where the text, to be continued, may be cut with the same ids; 0 if there is none."""
    if tokenizer.pattern not in NAMED:
        return 0
    special_tokens = tokenizer.special_tokens
    limit = len(text) - max(map(len, special_tokens), default=0)        # the last one may be cut short
    divided = [token for token in special_tokens if DIVIDE.search(token)]
    for start in (max(0, limit - WINDOW), 0):
        for match in reversed(list(DIVIDE.finditer(text, start, max(0, limit)))):
            end = match.end()
            if all(text.find(token, max(0, end - len(token) + 1), end + len(token) - 1) < 0 for token in divided):
                return end
    return 0


def _opened(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _size(file):
    """Bytes in all, None for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:             # it is no file at all
        return None


def _read(file, path, chunk):
    try:
        return file.read(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
