"""Where documents come from: text files, JSON lines, folders of both, the text that Python carries; all cut into pieces.

A *document* is what one end-of-text token follows, and what goes as a whole to the training text or to the validation text. A
*piece* is a file, or a span of a large one, that holds whole documents. Pieces are known before any document is read, so
several processes can share them out, and a document larger than BLOCK is read bit by bit where it is a file of its own.
"""

import io
import json
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import TEXT_SUFFIXES
from ..tokenizer.base import clean
from .corpus import library_files, module_docstrings, reference_topics

ENGLISH, SOURCE = "python:english", "python:source"
EMBEDDED = {ENGLISH: "the docstrings of Python's library, one module a document, and the topics of its language reference",
            SOURCE: "the source of Python's library, one module a document"}
JSON_LINES = {".jsonl", ".ndjson"}
BLOCK = 1 << 20                 # bytes that are read at once
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Reading(NamedTuple):
    """How sources are read."""
    field: str = "text"             # of a JSON object: the document
    separator: str | None = None    # what stands between the documents of a text file; None: a file is one document
    errors: str = "strict"          # bytes that are not UTF-8: "strict", an InputError, or "replace", read as U+FFFD


class Piece(NamedTuple):
    """Bytes start ... stop - 1 of a file."""
    kind: str           # text: one document; separated, json: several; source, docstrings, topics: what Python carries
    path: str
    start: int
    stop: int

    @property
    def size(self):
        return self.stop - self.start


def pieces(source, reading, span):
    """The pieces of a source, in order; of a file that holds several documents, about `span` bytes each.

    source      a text file, a file of JSON lines (.jsonl, .ndjson), a folder, in which all such files count, by name, or a name
                in EMBEDDED
    InputError where there is nothing to read.
    """
    if source in EMBEDDED:
        kind = "source" if source == SOURCE else "docstrings"
        yield from (Piece(kind, str(path), 0, path.stat().st_size) for path in library_files())
        if source == ENGLISH:
            yield Piece("topics", source, 0, sum(map(len, reference_topics())))
        return
    for path in _files(source):
        kind = "json" if path.suffix.lower() in JSON_LINES else "text" if reading.separator is None else "separated"
        try:
            with open(path, "rb") as file:
                size = path.stat().st_size
                cuts = [] if kind == "text" else _cuts(file, size, _separator(kind, reading), span)
                ends = [0, *cuts, size]
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        yield from (Piece(kind, str(path), start, stop) for start, stop in zip(ends, ends[1:]))


def documents(piece, reading):
    """The documents of a piece, in order: pairs of a name, for errors, and a file of UTF-8, to be read from where it stands.

    InputError, naming the file and the place, for what cannot be read.
    """
    if piece.kind == "topics":
        yield from ((piece.path, io.BytesIO(topic.encode("utf-8"))) for topic in reference_topics())
    elif piece.kind == "docstrings":
        yield piece.path, io.BytesIO(clean("\n\n".join(module_docstrings(piece.path))).encode("utf-8"))
    else:
        try:
            with open(piece.path, "rb") as file:
                if piece.start == 0 and file.read(3) != BYTE_ORDER_MARK:
                    file.seek(0)
                if piece.kind in ("text", "source"):
                    yield piece.path, file
                    return
                file.seek(max(piece.start, file.tell()))
                for place, data in _split(file, piece.stop, _separator(piece.kind, reading)):
                    name = f"{piece.path}, what begins at byte {place},"
                    if piece.kind == "separated":
                        yield name, io.BytesIO(data)
                    elif data.strip():
                        yield name, io.BytesIO(clean(_text_of(data, name, reading)).encode("utf-8"))
        except OSError as error:
            raise InputError(f"{piece.path}: cannot be read: {error.strerror}") from None


def decoded(data, name, errors):
    """Bytes as text. InputError, with the name, if they are not UTF-8 and errors is "strict"."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 text (byte {error.start} is {data[error.start]:#04x}): convert it to UTF-8, or "
                         'give --errors replace') from None


def _files(source):
    if not source:
        raise InputError("a source must be named, got an empty name")
    path = Path(source)
    if not path.is_dir():
        return [path]
    suffixes = TEXT_SUFFIXES | JSON_LINES
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not files:
        raise InputError(f"{path} holds no texts ({' '.join(sorted(suffixes))}): name a file or another folder")
    return files


def _separator(kind, reading):
    return b"\n" if kind == "json" else reading.separator.encode("utf-8")


def _cuts(file, size, separator, span):
    """Places where a document begins, at least `span` bytes from one to the next: each is the end of a separator."""
    # Where occurrences may overlap, as those of "\n\n" in "\n\n\n", which of them count depends on all before.
    overlapping = any(separator.startswith(separator[k:]) for k in range(1, len(separator)))
    cut = 0
    while (target := cut + span) < size:
        file.seek(cut if overlapping else max(cut, target - len(separator)))
        cut = next((end for end in _ends(file, separator) if end >= target), size)
        if cut < size:
            yield cut


def _ends(file, separator):
    """Where separators end, from where the file stands."""
    first, data = file.tell(), b""
    while block := file.read(BLOCK):
        data += block
        end = 0
        while (found := data.find(separator, end)) >= 0:
            end = found + len(separator)
            yield first + end
        kept = max(end, len(data) - len(separator) + 1)
        first, data = first + kept, data[kept:]


def _split(file, stop, separator):
    """What stands between separators, from where the file stands up to byte `stop`: pairs of a place and bytes."""
    place, parts = file.tell(), []          # where the document begins, and what is known of it
    position, tail = place, b""             # of what is read next, and the last bytes before, which may begin a separator
    while position < stop:
        block = file.read(min(BLOCK, stop - position))
        if not block:
            raise InputError(f"{file.name}: has become shorter than it was, at byte {position}: let nobody write to it meanwhile")
        position += len(block)
        data, begin = tail + block, 0
        while (found := data.find(separator, begin)) >= 0:
            yield place, b"".join([*parts, data[begin:found]])
            begin, parts = found + len(separator), []
            place = position - len(data) + begin
        kept = max(begin, len(data) - len(separator) + 1)
        parts.append(data[begin:kept])
        tail = data[kept:]
    yield place, b"".join([*parts, tail])


def _text_of(line, name, reading):
    """The document in one line of JSON."""
    text = decoded(line, name, reading.errors)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} must be a JSON object in one line: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get(reading.field), str):
        there = ", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{name} must be a JSON object with a string {reading.field!r}, it has {there}: name the --field")
    return data[reading.field]
