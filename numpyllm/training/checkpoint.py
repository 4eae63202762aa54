"""Checkpoints: a folder step_00001234/ that is complete or not there.

    params.npy adam_m.npy adam_v.npy    flat arrays (numpyllm.parameters; another optimiser has others)
    state.json                          step, configurations, layout, versions, length of the metrics file, progress
    tokenizer.json                      the model is of no use without it
    manifest.json                       size and SHA-256 of each file

It is written into a temporary folder beside it, which is renamed when every byte is on the disk. No pickle anywhere. The
files `latest` and `best` beside the folders hold the name of one each.
"""

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np

from .. import ops as text
from .. import tokenizer as tokenizers
from ..errors import InputError
from ..files import replacing, sync
from ..models import ARCHITECTURES, LoRA
from ..models.estimate import refuse_what_cannot_fit

VERSION = 2                     # 1: without `version` and `progress`
CHECKPOINT = "step_{:08d}"      # name of the folder, by the number of steps taken
STATE = {"step": int, "model": dict, "train": dict, "facts": dict, "layout": dict, "metrics_bytes": int}


def save_checkpoint(folder, arrays, state, tokenizer, *, remedy="make room and go on with --resume"):
    """Write a checkpoint. Raises InputError (disk full, say) with nothing left behind and nothing old touched.

    arrays maps names to 1-D arrays, state is what json can hold, tokenizer has save(path); remedy is what the error advises.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = temporary.with_suffix(".old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            write_array(temporary / f"{name}.npy", array)
        tokenizer.save(temporary / "tokenizer.json")
        (temporary / "state.json").write_text(json.dumps(state | {"version": VERSION}, indent=1))
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                    for path in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(temporary, folder)
        sync(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
        if isinstance(error, (OSError, InputError)):
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise InputError(f"{folder}: the checkpoint cannot be written ({getattr(cause, 'strerror', None) or error}); those "
                             f"before it are as they were: {remedy}") from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def verify_checkpoint(folder):
    """The names in a checkpoint's manifest. InputError where a file is missing, or is not what it was when it was written."""
    folder = Path(folder)
    manifest = _read_json(folder / "manifest.json")
    try:
        missing = {"params.npy", "state.json", "tokenizer.json"} - set(manifest)
        if missing:
            raise InputError(f"{folder} is no whole checkpoint: its manifest must list {', '.join(sorted(missing))}")
        for name, expected in manifest.items():
            path = folder / Path(name).name
            if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
                raise InputError(f"{path} is damaged (its size and SHA-256 must be the manifest's): restore it from a copy, or "
                                 "train anew")
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} is no whole checkpoint ({error}): restore it from a copy, or train anew") from None
    return list(manifest)


def load_checkpoint(folder):
    """-> arrays, state, path of the tokenizer. Raises InputError where a file is missing, altered or of no use."""
    folder = Path(folder)
    arrays = {Path(name).stem: _read_array(folder / name) for name in verify_checkpoint(folder) if name.endswith(".npy")}
    state = _read_json(folder / "state.json")
    for key, kind in STATE.items():
        value = state.get(key) if isinstance(state, dict) else None
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
            raise InputError(f"{folder / 'state.json'} must hold {key} as {kind.__name__}, got {value!r}")
    if state.get("version", 1) not in (1, VERSION):
        raise InputError(f"{folder / 'state.json'} must be of version 1 to {VERSION}, got {state['version']!r}: use the "
                         "numpyllm that wrote it")
    return arrays, state, folder / "tokenizer.json"


def restore(folder, arrays, targets):
    """Copy arrays of a checkpoint into arrays of the same names. InputError where they do not fit or hold no numbers."""
    for name, target in targets.items():
        found = arrays[name] if name in arrays else np.empty(0)
        if found.shape != target.shape or found.dtype != target.dtype:
            raise InputError(f"{folder}: {name}.npy must have shape {target.shape} and type {target.dtype} for this model, it has "
                             f"{found.shape} and {found.dtype}: use the sizes that the run began with")
        if not np.isfinite(found).all():
            raise InputError(f"{folder}: {name}.npy must hold finite numbers only: use another checkpoint")
    for name, target in targets.items():
        target[...] = arrays[name]


def restore_parameters(folder, arrays, layout, parameters):
    """Copy the parameters of a checkpoint, laid out so, into these: in another order, if others of them were frozen. Raises InputError."""
    own = {name: [offset, list(shape)] for name, (offset, shape) in parameters.layout.items()}
    sizes = lambda table: {name: place[1] for name, place in table.items() if isinstance(place, list) and len(place) == 2}
    ends = {name: place[0] + math.prod(place[1]) if isinstance(place[0], int) and place[0] >= 0 else math.inf
            for name, place in layout.items()} if sizes(layout) == sizes(own) else {}
    if not ends or max(ends.values()) > parameters.data.size:
        raise InputError(f"{folder} must hold the parameters of this model, it holds others: use the sizes that the run began with")
    if layout == own:
        restore(folder, arrays, {"params": parameters.data})
        return
    flat = np.empty_like(parameters.data)
    restore(folder, arrays, {"params": flat})
    for name, (offset, shape) in layout.items():
        parameters[name][...] = flat[offset:ends[name]].reshape(shape)


def make_config(config_class, values, folder):
    """A config from the fields that a checkpoint holds. InputError where they are not those of this version."""
    try:
        return config_class(**values)
    except TypeError as error:
        raise InputError(f"{folder / 'state.json'} describes no {config_class.__name__} of this version ({error})") from None


def architecture(state, folder):
    """The name of the architecture that a checkpoint's model has. InputError for one that this version does not know."""
    name = state.get("architecture", "gpt")             # older checkpoints name none
    if name not in ARCHITECTURES:
        raise InputError(f"{folder / 'state.json'} must name one of the architectures {', '.join(ARCHITECTURES)}, got {name!r}")
    return name


def make_model(state, folder, *, ops=text):
    """The model that a checkpoint's state describes, its parameters still zero. Raises InputError."""
    kind = ARCHITECTURES[architecture(state, folder)]
    lora = {} if state.get("lora") is None else {"lora": make_config(LoRA, state["lora"], folder)}
    config = make_config(kind.config, state["model"], folder)
    refuse_what_cannot_fit(kind.estimate(config, 1).parameter_bytes)        # to hold it at all; what training adds, its start tells
    return kind.model(config, ops=ops, seed=None, **lora)


def load_model(run, *, ops=text):
    """The newest model of a run's folder (or a checkpoint's) -> model, tokenizer, state. Raises InputError."""
    folder = newest_checkpoint(run)
    arrays, state, tokenizer_path = load_checkpoint(folder)
    if "weights" in state:
        raise InputError(f"{folder} holds weights rounded to {state['weights']}, for numpyllm generate and serve alone: take the model "
                         "that it was made from")
    model = make_model(state, folder, ops=ops)
    restore_parameters(folder, arrays, state["layout"], model.parameters)
    return model, tokenizers.load(tokenizer_path), state


def checkpoints(run):
    """The checkpoint folders in a run's folder, oldest first. What else begins with step_ is the user's."""
    return sorted(path for path in Path(run).glob("step_*") if re.fullmatch(r"step_\d{8}", path.name)
                  and path.is_dir() and not path.is_symlink() and (path / "manifest.json").is_file())


def steps_of(folder):
    """Steps taken at this checkpoint."""
    return int(folder.name.removeprefix("step_"))


def newest_checkpoint(run, *, suits=lambda step: True):
    """The newest checkpoint folder in a run's folder that is whole, or the folder itself if it is a checkpoint.

    The newest is the one that `latest` names. If it is damaged, the one before it is taken, with a warning that says so. One
    whose number of steps does not suit is taken only where there is no other. Raises InputError if there is none at all.
    """
    if not str(run):
        raise InputError("a model's folder must be named, got an empty name")
    run = Path(run)
    if (run / "manifest.json").is_file():
        return run
    found, latest, reason = checkpoints(run), pointer(run, "latest"), None
    if not found:
        raise InputError(f"{run} {'holds no checkpoint (a folder step_...)' if run.exists() else 'does not exist'}: "
                         "train a model into it first")
    latest = latest or found[-1].name
    found.sort(key=lambda folder: folder.name, reverse=True)
    found.sort(key=lambda folder: (not suits(steps_of(folder)), folder.name > latest))      # stable: else newest first
    for folder in found:
        try:
            verify_checkpoint(folder)
        except InputError as error:
            reason = reason or error
            continue
        if reason:
            warnings.warn(f"{reason}; the newest whole checkpoint is {folder}", stacklevel=2)
        return folder
    raise reason


def best_checkpoint(run):
    """The folder of a run's best checkpoint; of its newest, if none is said to be; or the checkpoint itself. Raises InputError."""
    best = pointer(run, "best")
    return newest_checkpoint(run if best is None else Path(run) / best)


def point(run, name, folder):
    """Make the file `name` in a run's folder say which checkpoint is meant, from one instant to the next."""
    with replacing(Path(run) / name) as file:
        file.write(f"{folder.name}\n".encode())


def pointer(run, name):
    """The name of the checkpoint that this file names, or None where it names none that is there."""
    try:
        named = (Path(run) / name).read_text().strip()
    except (OSError, ValueError):
        return None
    return named if any(folder.name == named for folder in checkpoints(run)) else None


def write_array(path, array):
    """np.save, but a full disk is an OSError that says so (ndarray.tofile names no reason)."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _read_array(path):
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{path} is no array ({error}): restore it from a copy, or train anew") from None


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is no valid JSON: restore it from a copy, or train anew") from None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
