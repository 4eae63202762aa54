"""What LoRA has trained, on disk without the model that it was trained beside:

    adapter.json    the choices of LoRA, the layout of the array, SHA-256 of the base and of the array
    adapter.npy     flat: the trained part of the parameters, adapters and whatever else was trained

For GPT-2's 124M and rank 8 that is 2 MB instead of 498 (docs/lora.md). One base serves many adapters:
load_adapter exchanges them.
"""

import hashlib
import io
import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import parse_json, read_bytes, replacing_folder, short, write_json
from ..models import LoRA
from ..models.lora import is_adapter
from ..training.checkpoint import write_array
from .lora import add_lora

VERSION = 1
VALUES, ARRAY = "adapter.json", "adapter.npy"
MOST_VALUES = 1 << 22       # bytes
MOST_HEADER = 1 << 12       # bytes of an .npy before its data
BLOCK = 1 << 20             # entries that are hashed at once


def save_adapter(folder, model, *, overwrite=False):
    """Write what was trained of a model with LoRA, whole or not at all.

    A folder that holds anything is refused; with overwrite, an adapter is replaced. Raises InputError for that, a
    model without LoRA, values that are no numbers, and a full disk.
    """
    if model.lora is None:
        raise InputError("an adapter is what LoRA has trained, this model has none: save it as a checkpoint")
    parameters = model.parameters
    trained = parameters.data[:parameters.n_trainable]
    if not np.isfinite(trained).all():
        raise InputError("an adapter to save must have finite numbers, this one has not: go back to a checkpoint")
    layout = _trained_layout(parameters)
    with replacing_folder(folder, known={VALUES, ARRAY} if overwrite else ()) as temporary:
        write_array(temporary / ARRAY, trained)
        write_json(temporary / VALUES, {"version": VERSION, "lora": asdict(model.lora), "layout": layout,
                                        "base_sha256": base_sha256(model, layout),
                                        "array_sha256": hashlib.sha256((temporary / ARRAY).read_bytes()).hexdigest()})


def load_adapter(model, folder):
    """Give a model the adapter in a folder -> model. A plain GPT gets LoRA (its parameters are copied), one with
    LoRA of the same kind has its adapter exchanged in place.

    Nothing is changed before everything has been found to fit. Raises InputError for what cannot be read or is
    damaged, and for an adapter that was trained beside another base, by a single bit.
    """
    folder = Path(folder)
    path = folder / VALUES
    values = parse_json(read_bytes(path, limit=MOST_VALUES), path)
    lora, layout = _checked(values, path)
    n = max(offset + math.prod(shape) for offset, shape in layout.values())
    if n > 3 * model.parameters.data.size:      # A and B together have at most twice the entries of w
        raise InputError(f"{path}: layout must be that of an adapter to this model, it has {n:,} numbers: load "
                         "the base that it belongs to")
    data = read_bytes(folder / ARRAY, limit=2 * 8 * n + MOST_HEADER)
    if hashlib.sha256(data).hexdigest() != values.get("array_sha256"):
        raise InputError(f"{folder / ARRAY}: is damaged (its SHA-256 must be that in {VALUES}): restore it from a copy")
    if values.get("base_sha256") != base_sha256(model, layout):
        raise InputError(f"{folder}: this adapter was trained beside other weights than this model's: load the "
                         "base that it belongs to")
    if model.lora is None:
        model = add_lora(model, lora, trainable=lambda name: name in layout)
    elif _function(model.lora) != _function(lora):
        raise InputError(f"{folder}: an adapter to exchange must be of the model's kind, {model.lora}, got "
                         f"{lora}: load it into the plain base")
    trained = model.parameters.data[:model.parameters.n_trainable]
    if layout != _trained_layout(model.parameters):
        raise InputError(f"{path}: layout must be that of a {lora} beside this model, it is another: has the file "
                         "been edited?")
    trained[...] = _read_array(data, folder / ARRAY, trained.shape)
    return model


def base_sha256(model, trained):
    """SHA-256 of what a model's adapter is beside: its choices, and its parameters (as float32)
    without those in `trained`."""
    digest = hashlib.sha256()
    choices = {field.name: value for field in fields(model.config)
               if (value := getattr(model.config, field.name)) != field.default and field.name != "dropout"}
    digest.update(json.dumps(choices, sort_keys=True).encode())
    for name in sorted(name for name in model.parameters if name not in trained and not is_adapter(name)):
        flat = model.parameters[name].reshape(-1)
        digest.update(f"{name} {model.parameters[name].shape}".encode())
        for start in range(0, flat.size, BLOCK):
            digest.update(flat[start:start + BLOCK].astype("<f4", copy=False).data)
    return digest.hexdigest()


def _trained_layout(parameters):
    """{name: [offset, shape]} as JSON has it."""
    return {name: [offset, list(shape)] for name, (offset, shape) in parameters.layout.items()
            if parameters.specs[name].trainable}


def _function(lora):
    """Of its choices those on which it depends what the model does."""
    return lora.rank, lora.alpha, lora.targets


def _checked(values, path):
    """The LoRA and the layout in adapter.json."""
    if values.get("version") != VERSION:
        raise InputError(f"{path}: must be of version {VERSION}, got {short(values.get('version'))}: is it an "
                         "adapter of this program?")
    layout = values.get("layout")
    whole = lambda number: type(number) is int and 0 <= number < 1 << 40
    if not isinstance(layout, dict) or not layout or not all(
            isinstance(place, list) and len(place) == 2 and whole(place[0]) and isinstance(place[1], list)
            and len(place[1]) <= 2 and all(map(whole, place[1])) for place in layout.values()):
        raise InputError(f"{path}: layout must hold an offset and a shape for each trained parameter, got "
                         f"{short(layout)}")
    try:
        return LoRA(**values.get("lora")), layout
    except TypeError:
        raise InputError(f"{path}: lora must hold {', '.join(field.name for field in fields(LoRA))}, got "
                         f"{short(values.get('lora'))}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_array(data, path, shape):
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{path}: is no array ({error}): restore it from a copy") from None
    if array.shape != shape or array.dtype not in (np.float32, np.float64) or not np.isfinite(array).all():
        raise InputError(f"{path}: must hold {shape[0]:,} finite numbers of type float32 or float64, got shape "
                         f"{array.shape} of {array.dtype}")
    return array
