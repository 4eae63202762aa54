"""Checkpoints: a folder step_00001234/ that is complete or not there.

    params.npy adam_m.npy adam_v.npy    flat arrays (numpyllm.parameters)
    state.json                          step, configurations, layout, versions, length of the metrics file
    tokenizer.json                      the model is of no use without it
    manifest.json                       size and SHA-256 of each file

It is written into a temporary folder beside it, which is renamed when every byte is on the disk. No pickle anywhere.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from .. import ops as text
from .. import tokenizer as tokenizers
from ..errors import InputError
from ..models import GPT, GPTConfig


def save_checkpoint(folder, arrays, state, tokenizer):
    """Write a checkpoint. Raises OSError (disk full, say) with nothing left behind and nothing old touched.

    arrays maps names to 1-D arrays, state is what json can hold, tokenizer has save(path).
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            _write_array(temporary / f"{name}.npy", array)
        tokenizer.save(temporary / "tokenizer.json")
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                    for path in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        replaced = temporary.with_suffix(".old")
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(temporary, folder)
        _sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_checkpoint(folder):
    """-> arrays, state, path of the tokenizer. Raises InputError where a file is missing, altered or of no use."""
    folder = Path(folder)
    manifest = _read_json(folder / "manifest.json")
    try:
        for name, expected in manifest.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
                raise InputError(f"{path} is damaged (its SHA-256 is not the manifest's): use an older checkpoint")
        arrays = {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy")) if path.name in manifest}
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} is no whole checkpoint ({error}): use an older one") from None
    return arrays, _read_json(folder / "state.json"), folder / "tokenizer.json"


def restore(folder, arrays, targets):
    """Copy arrays of a checkpoint into arrays of the same names; InputError where one is missing or of another shape."""
    for name, target in targets.items():
        if name not in arrays or arrays[name].shape != target.shape:
            found = arrays[name].shape if name in arrays else "missing"
            raise InputError(f"{folder}: {name}.npy must have shape {target.shape} for this model, it is {found}: "
                             "use the sizes that the run began with")
        target[...] = arrays[name]


def load_model(run, *, ops=text):
    """The newest model of a run's folder (or a checkpoint's) -> GPT, tokenizer, state. Raises InputError."""
    folder = newest_checkpoint(run)
    arrays, state, tokenizer_path = load_checkpoint(folder)
    try:
        config = GPTConfig(**state["model"])
    except (TypeError, KeyError) as error:
        raise InputError(f"{folder / 'state.json'} describes no model of this version ({error})") from None
    model = GPT(config, ops=ops)
    restore(folder, arrays, {"params": model.parameters.data})
    return model, tokenizers.load(tokenizer_path), state


def newest_checkpoint(run):
    """The checkpoint folder with the most steps in a run's folder, or the folder itself if it is one.

    Raises InputError if there is none.
    """
    run = Path(run)
    if (run / "manifest.json").is_file():
        return run
    found = sorted(path for path in run.glob("step_*") if (path / "manifest.json").is_file())
    if not found:
        raise InputError(f"{run} holds no checkpoint (a folder step_...): train a model into it first")
    return found[-1]


def _write_array(path, array):
    """np.save, but a full disk is an OSError that says so (ndarray.tofile names no reason)."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is no valid JSON: use an older checkpoint") from None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
