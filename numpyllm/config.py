"""Options: dataclass fields that carry their own help text, so that a config class is also its command line; and the flat
TOML files that hold them."""

import difflib
import json
import tomllib
from dataclasses import field

from .errors import InputError
from .files import read_bytes, replacing


def option(default, help):
    """A dataclass field with a default and one line that says what it is, with its unit."""
    return field(default=default, metadata={"help": help})


def require_whole(config, low, *names):
    """Raise InputError unless these fields hold integers of at least `low`."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")


def require_between(config, low, high, *names):
    """Raise InputError unless low <= field < high for each of these fields (which also refuses NaN)."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
            raise InputError(f"{name} must be at least {low:g} and below {high:g}, got {value!r}")


def require_flag(config, *names):
    """Raise InputError unless these fields are True or False: a word such as "no" would count as True."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {value!r}")


def require_one_of(config, known, *names):
    """Raise InputError unless each of these fields is one of the known words."""
    for name in names:
        value = getattr(config, name)
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}" + (f": did you mean {near[0]}?" if near else ""))


def read_toml(path):
    """The keys and values of a TOML file. InputError, naming the file, if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:       # not UTF-8, not TOML
        raise InputError(f"{path}: must be TOML, lines such as n_layer = 4: {error}") from None


def format_toml(values, comments):
    """A flat table as TOML: {name: bool, int, float or str} with a comment for each; None, which TOML lacks, is a line commented out.

    read_toml gives the same values back.
    """
    lines = []
    for name, value in values.items():
        line = f"# {name} =" if value is None else f"{name} = {_toml_value(value)}"
        lines.append(f"{line:40}  # {' '.join(comments[name].split())}\n" if name in comments else line + "\n")
    return "".join(lines)


def write_toml(path, values, comments):
    """format_toml into a file, which is always the old one or the whole new one. InputError when it cannot be written."""
    with replacing(path) as file:
        file.write(format_toml(values, comments).encode("utf-8", "replace"))


def _toml_value(value):
    if isinstance(value, str):      # JSON escapes as TOML's basic strings do, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
