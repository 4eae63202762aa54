"""Files: read with errors that name them, written so that nothing half-written remains."""

import codecs
import json
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

TEXT_SUFFIXES = {".txt", ".md", ".rst", ".text"}
BLOCK = 1 << 18     # bytes of a text that are read at once


@contextmanager
def replacing(path):
    """A binary file to write, which takes the place of `path` when the block ends well: all of it is on disk then.

    When the block ends in an exception, `path` is what it was. A link goes on to be one. InputError for what is there and no file,
    such as a device, and one that names the file for an OSError.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        raise InputError(f"{path}: cannot be written: it must be a file, or not be there yet: name another")
    sibling = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(sibling, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, place)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        sibling.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path, *, known=()):
    """A new folder to write files into, which becomes `path` when the block ends well: all of it is on disk then.

    A folder `path` that holds anything is refused, unless all its files are called as one of `known`: then it is replaced.
    When the block ends in an exception, `path` is what it was. An OSError becomes an InputError that names it.
    """
    path = Path(path).resolve()
    token = secrets.token_hex(4)
    new, old = path.with_name(f".{path.name}.{token}.tmp"), path.with_name(f".{path.name}.{token}.old")
    try:
        others = [] if not os.path.lexists(path) else sorted(entry.name for entry in path.iterdir() if entry.name not in known
                                                             or entry.is_dir())
        if others:
            raise InputError(f"{path}: must not be there yet, or be empty, it holds {others[0]}: name another folder")
        new.mkdir(parents=True)
        yield new
        for file in (*new.iterdir(), new):
            sync(file)
        if os.path.lexists(path):
            os.rename(path, old)
        os.rename(new, path)
        sync(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync(path):
    """Have a file or folder on the disk, whatever happens to the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def restoring(path):
    """For the smaller of two files that belong together: if the block fails, `path` is again what it was."""
    path = Path(path)
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            with replacing(path) as file:
                file.write(before)
        raise


def read_bytes(path, limit=None):
    """The bytes of a file. InputError, naming the file, if it cannot be read, or has more than `limit` bytes."""
    try:
        with open(path, "rb") as file:
            data = file.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if limit is not None and len(data) > limit:
        raise InputError(f"{path}: must have at most {limit:,} bytes")
    return data


def text_files(path):
    """The text files that a path names: itself, or if it is a folder all in it that end in TEXT_SUFFIXES, by name.

    InputError if there are none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{path} holds no text files ({' '.join(sorted(TEXT_SUFFIXES))}): name a file or another folder")
    return files


def text_blocks(file):
    """The text of a UTF-8 file in blocks of about BLOCK characters, without a byte order mark.

    file    a path, or a file that is open for reading bytes
    InputError, naming the file and the place, if it cannot be read or is not UTF-8.
    """
    if hasattr(file, "read"):
        name = getattr(file, "name", "the text")
        yield from _text_blocks(file, "standard input" if name == "<stdin>" else name)
        return
    try:
        with open(file, "rb") as opened:
            yield from _text_blocks(opened, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _text_blocks(file, name):
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoded = 0                     # bytes
    while True:
        data = file.read(BLOCK)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is no UTF-8 text (byte {decoded + error.start} is {error.object[error.start]:#04x}): "
                             "convert it to UTF-8") from None
        yield text.removeprefix("\ufeff") if decoded == 0 else text
        if not data:
            return
        decoded += len(text.encode("utf-8"))


def read_json(path):
    """The JSON object in a file. InputError, naming the file, if there is none."""
    return parse_json(read_bytes(path), path)


def parse_json(data, path):
    """The JSON object in the bytes of a file. InputError, naming the file, if there is none, or a key is there twice."""
    try:
        data = json.loads(data.decode("utf-8"), object_pairs_hook=without_repeats)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:       # not UTF-8, not JSON, or nested beyond all reason
        raise InputError(f"{path}: must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a JSON object, got {short(data)}")
    return data


def without_repeats(pairs):
    """For json.loads: the pairs of an object -> dict. InputError if a key is there twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        seen = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InputError(f"keys must be distinct, got {repeated[:100]!r} twice")
    return table


def write_json(path, data):
    """Write JSON: the file is always the old one or the whole new one. InputError, naming it, when it cannot be.

    What is no character, as in the name of a file that is not UTF-8, is escaped: \\udcff, as JSON does.
    """
    with replacing(path) as file:
        file.write(json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n")


def short(value):
    """A JSON value for an error message: at most 100 characters."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "something nested beyond all reason"
    return text if len(text) <= 100 else text[:97] + "..."
