"""Records with named fields, from CSV, TSV, JSON lines or a JSON list: what labelled examples come in. Plain lines. Their split.

Every error names the file and the line, as FILE:LINE, so that an editor finds it.
"""

import csv
import hashlib
import json
import re
from pathlib import Path

from ..errors import InputError
from ..files import read_bytes, short, without_repeats

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
BETWEEN = re.compile(r"[\s,]*")         # two entries of a JSON list


def read_records(path, parse=dict, *, columns=(), header=None, kind=None, skip_bad=False, skipped=None, places=None):
    """The records of a file as parse(fields) makes them, in order: a list.

    path      .csv: comma-separated, "quoted"; .tsv: tab-separated, never quoted; .jsonl, .ndjson: an object a line; .json: a list
              of objects
    parse     {name: value} -> an example; an InputError that it raises is about this record
    columns   names that every record must have
    header    names of the columns of a file whose first line has none
    kind      what the file is, one of these suffixes, whatever its own
    skip_bad  leave out records that cannot be used, rather than refuse the file
    skipped   a list, to which messages about those are appended
    places    a list, to which FILE:LINE of each example is appended

    InputError for a file that cannot be read, lacks a column, or holds nothing that can be used.
    """
    path = Path(path)
    kind = path.suffix.lower() if kind is None else kind
    if kind not in SUFFIXES:
        raise InputError(f"{path}: must be of a known kind ({', '.join(SUFFIXES)}), got {kind or 'no suffix'}: rename or convert it")
    data = read_bytes(path)
    rows = _table(data, path, kind, columns, header) if kind in (".csv", ".tsv") else _objects(data, path, kind)

    def parse_fields(fields):
        for name in columns:
            if fields.get(name) is None:
                raise InputError(f"must have a field {name!r}, it has {', '.join(map(repr, fields)) or 'none'}")
        return parse(fields)

    return _parsed(rows, parse_fields, f"{path}: must hold records", skip_bad, skipped, places)


def read_lines(path, parse=str, *, skip_bad=False, skipped=None):
    """The lines of a text that are not blank, as parse(line) makes them, in order: a list. Blanks at their ends are taken off.

    skip_bad, skipped and InputError: as for read_records.
    """
    lines = enumerate(map(str.strip, _lines(read_bytes(path), path)), 1)
    rows = ((f"{path}:{number}", line) for number, line in lines if line)
    return _parsed(rows, parse, f"{path}: must hold texts, one a line", skip_bad, skipped)


def _parsed(rows, parse, must, skip_bad, skipped, places=None):
    """What parse makes of each row: rows are (place, row), or with an InputError in place of the row. See read_records."""
    examples, bad = [], 0
    for place, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            examples.append(parse(row))
            if places is not None:
                places.append(place)
        except InputError as error:
            message = f"{place}: {error}"
            if not skip_bad:
                raise InputError(message) from None
            bad += 1
            if skipped is not None:
                skipped.append(message)
    if not examples:
        raise InputError(f"{must}, it holds none" + (f" that can be used, and {bad} that cannot" if bad else ""))
    return examples


def split_by_content(examples, fraction, *, key, seed=0):
    """-> two lists in the old order: of most examples, and of about this fraction, held out.

    Which one an example goes to is decided by its content alone, key(example) (a string), in which upper case and blanks count for
    nothing: equal ones go the same way, whatever else is there, so nothing that was trained on is held out.
    """
    kept, held = [], []
    for example in examples:
        (held if content_share(key(example), seed) < fraction else kept).append(example)
    return kept, held


def hold_out(examples, fraction, *, key, seed=0):
    """split_by_content for training. InputError if either part would be empty."""
    kept, held = split_by_content(examples, fraction, key=key, seed=seed)
    if not kept or not held:
        raise InputError(f"there must be examples to train on and others to hold out, val_fraction={fraction:g} makes {len(kept)} and "
                         f"{len(held)}: give more examples or another val_fraction")
    return kept, held


def content_share(text, seed=0):
    """A number in [0, 1) that is drawn for this text, upper case and blanks aside."""
    plain = " ".join(text.casefold().split())
    digest = hashlib.blake2b(f"{seed}/{plain}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def text_field(fields, name, *, empty=False):
    """The text in a field, blanks at its ends taken off. InputError if it is no text, or empty and must not be."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, got {short(value)}")
    if not value.strip() and not empty:
        raise InputError(f"{name} must not be empty")
    return value.strip()


def _table(data, path, kind, columns, header):
    """Yield (place, fields), or an InputError in place of fields."""
    lines = _lines(data, path)
    rows = csv.reader(lines, strict=True) if kind == ".csv" else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = header
    while True:
        place = f"{path}:{rows.line_num + 1}"           # where the record begins: quoted, it may have several lines
        try:
            row = next(rows, None)
        except csv.Error as error:
            what = str(error).partition(" - ")[0]       # without advice on how Python opens files
            raise InputError(f"{place}: {what}: is a quotation mark missing, or too much?") from None
        if row is None:
            return
        if not row:
            continue
        if names is None:
            names = [name.strip() for name in row]
            missing = [name for name in columns if name not in names]
            if missing:
                raise InputError(f"{place}: the first line must name the column {missing[0]!r}, it names {', '.join(map(repr, names))}")
            if len(set(names)) < len(names):
                raise InputError(f"{place}: columns must have names of their own, got {', '.join(map(repr, names))}")
        elif len(row) != len(names):
            yield place, InputError(f"must have {len(names)} columns, as the header says, it has {len(row)}")
        else:
            yield place, dict(zip(names, row, strict=True))


def _objects(data, path, kind):
    if kind == ".json":
        try:
            text = "".join(_lines(data, path))
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: must be JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: must be JSON: {error}") from None
        if not isinstance(values, list):
            raise InputError(f"{path}: must hold a JSON list of objects, got {short(values)}")
        for number, (start, end) in _entries(text):
            yield f"{path}:{number}", _object(text[start:end])
        return
    for number, line in enumerate(_lines(data, path), 1):
        if line.strip():
            yield f"{path}:{number}", _object(line)


def _entries(text):
    """Yield the line, and (begin, end), of each entry of the JSON list that a text is known to be."""
    decoder, end = json.JSONDecoder(), text.index("[") + 1
    line = 1 + text.count("\n", 0, end)
    while text[(start := BETWEEN.match(text, end).end())] != "]":
        line += text.count("\n", end, start)
        _, end = decoder.raw_decode(text, start)
        yield line, (start, end)
        line += text.count("\n", start, end)


def _object(text):
    """The JSON object that a text is, or an InputError that says why it is none."""
    try:
        value = json.loads(text, object_pairs_hook=without_repeats)
        if "\\u" in text:               # may be half of a character, which no file of text can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return InputError(f"must hold whole characters, got \\u{ord(error.object[error.start]):x} alone: it is half of one")
    except json.JSONDecodeError as error:
        return InputError(f"must be a JSON object in one line: {error.msg}, at its character {error.pos + 1}")
    except InputError as error:
        return error
    except (ValueError, RecursionError) as error:
        return InputError(f"must be a JSON object in one line: {error}")
    return value if isinstance(value, dict) else InputError(f"must be a JSON object, got {short(value)}")


def _lines(data, path):
    """The lines of UTF-8 text, each with "\\n", for CSV may have them inside a field."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if b"\n" not in data:               # as old spreadsheets on a Mac write
        data = data.replace(b"\r", b"\n")
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: is no UTF-8 text (byte {error.start} of the line is {line[error.start]:#04x}): "
                             "convert it to UTF-8") from None
