"""JSON files: read with errors that name the file, written so that nothing half-written remains."""

import json
import os
import secrets
from pathlib import Path

from ..errors import InputError


def read_json(path):
    """The JSON object in a file. InputError, naming the file, if there is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:       # not UTF-8, not JSON, or nested beyond all reason
        raise InputError(f"{path}: must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a JSON object, got {short(data)}")
    return data


def _without_repeats(pairs):
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"keys must be distinct, got {repeated!r} twice")
    return table


def write_json(path, data):
    """Write JSON to a temporary sibling and rename that: the file is always the old one or the whole new one.

    InputError, naming the file, when it cannot be written.
    """
    path = Path(path)
    sibling = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
    try:
        with open(sibling, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        sibling.unlink(missing_ok=True)


def short(value):
    """A JSON value for an error message: at most 100 characters."""
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
