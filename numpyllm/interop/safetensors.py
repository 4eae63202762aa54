"""safetensors: named tensors in a file that cannot run code, read strictly. Nobody need trust whoever wrote it.

    8 bytes: n, little-endian | n bytes of JSON | the data, tensor by tensor, without a gap
    {"wte.weight": {"dtype": "F32", "shape": [50257, 768], "data_offsets": [0, 154389504]}, "__metadata__": {}}

Format: huggingface.co/docs/safetensors. All of the header is checked against the size of the file before anything of
the size of a tensor is allocated. A tensor is then copied in blocks out of the mapped file, so that memory holds the
model and a block. A model in several files has an index, which says in which file each tensor is.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..files import parse_json, read_bytes, short

MOST_HEADER = 1 << 20           # bytes: GPT-2's largest model needs 60,000, and Python takes up to 26 times as much memory
MOST_DIMENSIONS = 8
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
        "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64}
READABLE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BLOCK = 1 << 20                 # entries of a tensor that are converted at once


class Stored(NamedTuple):
    """Where a tensor lies."""

    path: Path
    dtype: str                  # F32, BF16, ...
    shape: tuple
    offset: int                 # bytes, in the file


def read_header(path):
    """{name: Stored} of a .safetensors file, in the order of the data. Reads no data.

    InputError, naming file and tensor, unless every byte of the file belongs to exactly one tensor of the size that its
    shape and type say.
    """
    path = Path(path)
    text, n_data = _header(path)
    table = parse_json(text, path)
    _check_metadata(path, table.pop("__metadata__", {}))
    placed = sorted((_place(path, name, entry) for name, entry in table.items()), key=lambda place: place[:2])
    end = 0
    for begin, stop, name, _, _ in placed:
        if begin != end:
            what = "overlaps the tensor before it" if begin < end else "leaves a gap before it"
            raise InputError(f"{path}: tensors must follow one another, {short(name)} {what} (data_offsets {begin} to "
                             f"{stop}, {end} expected)")
        end = stop
    if end != n_data:
        raise InputError(f"{path}: its tensors must fill the file, they have {end:,} bytes of {n_data:,}: it is truncated, "
                         "or has something else at its end")
    return {name: Stored(path, dtype, shape, 8 + len(text) + begin) for begin, _, name, dtype, shape in placed}


def _header(path):
    """-> the JSON of the header, the number of bytes that come after it."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: must be a file")
        with open(path, "rb") as file:
            n = int.from_bytes(file.read(8), "little")
            if size < 8 or n > size - 8:
                raise InputError(f"{path}: must begin with the length of its header, got {n:,} in a file of {size:,} "
                                 "bytes: it is truncated, or no safetensors file")
            if not 2 <= n <= MOST_HEADER:
                raise InputError(f"{path}: a header must have 2 to {MOST_HEADER:,} bytes, got {n:,}: is it safetensors?")
            text = file.read(n)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) < n or not text.startswith(b"{"):
        raise InputError(f"{path}: its header must be a JSON object, it begins with {text[:10]!r}: is it safetensors?")
    return text, size - 8 - n


def _check_metadata(path, metadata):
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{path}: __metadata__ must be an object of strings, got {short(metadata)}")


def _place(path, name, entry):
    """One entry of the header -> begin, end, name, dtype, shape. Python's integers overflow for no file."""
    what = f"{path}: {short(name)}"
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if len(entry) == 3:
            pass
        case _:
            raise InputError(f"{what} must have dtype, shape and two data_offsets, got {short(entry)}")
    if dtype not in BITS:
        raise InputError(f"{what} must have a dtype of {', '.join(BITS)}, got {short(dtype)}")
    if len(shape) > MOST_DIMENSIONS:
        raise InputError(f"{what} must have at most {MOST_DIMENSIONS} dimensions, got {len(shape):,}")
    for number in (*shape, begin, end):
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise InputError(f"{what} must have sizes and offsets that are whole numbers from 0 on, got {short(number)}")
    expected = math.prod(shape) * BITS[dtype] // 8
    if end - begin != expected:
        raise InputError(f"{what} of shape {shape} and type {dtype} must have {expected:,} bytes, its data_offsets "
                         f"{begin} to {end} have {end - begin:,}")
    return begin, end, name, dtype, tuple(shape)


def read_index(path):
    """{name: Stored} of a model in several files, from its model.safetensors.index.json; the files lie beside it.

    InputError for an index that leads out of its folder, and for tensors missing in their file or in the index.
    """
    path = Path(path)
    weight_map = parse_json(read_bytes(path, limit=MOST_HEADER), path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path}: must hold a weight_map of tensors and their files, got {short(weight_map)}")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and file.isprintable() and Path(file).name == file and "\\" not in file
        if not plain or not file.endswith(".safetensors"):
            raise InputError(f"{path}: {short(name)} must be in a .safetensors file beside the index, named without a "
                             f"folder, got {short(file)}")
    entries = {}
    for file in sorted(set(weight_map.values())):
        found = read_header(path.with_name(file))
        listed = {name for name, where in weight_map.items() if where == file}
        problems = [named("missing", listed - found.keys()), named("not in the index", found.keys() - listed)]
        if any(problems):
            raise InputError(f"{path.with_name(file)}: must hold the tensors that {path.name} says: "
                             f"{'; '.join(filter(None, problems))}")
        entries |= found
    return entries


def copy_tensor(stored, name, target):
    """Copy a tensor into an array of its shape, which may be a view, converted to the array's type.

    InputError, naming the tensor, for a type that is none of READABLE, and for values that are no finite numbers in it.
    """
    what = f"{stored.path}: {short(name)}"
    if stored.dtype not in READABLE or stored.shape != target.shape:
        raise InputError(f"{what} must be of type {', '.join(READABLE)} and shape {list(target.shape)}, got {stored.dtype} "
                         f"and {list(stored.shape)}")
    if not target.size:
        return
    kind = np.dtype(READABLE[stored.dtype])
    try:
        mapped = np.memmap(stored.path, np.uint8, "r", stored.offset, (target.size * kind.itemsize,)).view(kind)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} cannot be read ({error}): has the file changed meanwhile?") from None
    rows = target.reshape(-1) if target.flags.c_contiguous else target      # no copy: what is written must arrive
    mapped, step = mapped.reshape(rows.shape), max(1, BLOCK // rows[0].size)
    for start in range(0, len(rows), step):
        block = mapped[start:start + step]
        if stored.dtype == "BF16":      # the upper half of a float32
            block = (block.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            rows[start:start + step] = block
        if not np.isfinite(rows[start:start + step]).all():
            raise InputError(f"{what} must hold finite numbers of type {target.dtype} only")


def named(what, names, most=4):
    """"missing: a, b and 3 more", or nothing if there are no names: for an error message."""
    names = sorted(names)
    if not names:
        return ""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{what}: {', '.join(map(_plain, names[:most]))}{more}"


def _plain(name):
    """A tensor's name, in quotes only where a message could be misread without."""
    return name if len(name) <= 100 and name.isascii() and name.isprintable() else short(name)
