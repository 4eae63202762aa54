"""A model's folder of whichever layout: a run, a checkpoint, Hugging Face's, or a file of llama2.c."""

from dataclasses import asdict
from pathlib import Path

from .. import ops as text
from .. import training
from ..errors import InputError
from ..models import architecture_of, require_language_model
from .llama2c import is_llama2c, load_llama2c
from .pretrained import is_pretrained, load_pretrained


def load_model(folder, *, ops=text, dropout=None):
    """The model of a run (its newest), of a checkpoint, in Hugging Face's layout, or in a .bin of llama2.c -> model, tokenizer or None.

    dropout is for a model of theirs, which has several or none. Raises InputError as training.load_model, load_pretrained and
    load_llama2c do, and for a model that is no language model (training.load_model reads that).
    """
    if is_llama2c(folder):
        return load_llama2c(folder, ops=ops, dropout=dropout)
    if is_pretrained(folder):
        return load_pretrained(folder, ops=ops, dropout=dropout)
    model, tokenizer, _ = training.load_model(folder, ops=ops)
    require_language_model(model, folder)
    return model, tokenizer


def save_model(folder, model, tokenizer, *, source=None):
    """Write a model as a checkpoint of no steps: to generate from, and to begin a run with. source: where it came from.

    Raises InputError for a folder that holds anything, and where it cannot be written.
    """
    folder = Path(folder)
    if tokenizer is None:
        raise InputError("a checkpoint must have a tokenizer, this model has none: give one")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: must not be there yet, or be empty: name another folder")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    state = {"step": 0, "architecture": architecture_of(model), "model": asdict(model.config), "train": {}, "facts": {"converted_from": source},
             "layout": model.parameters.layout, "metrics_bytes": 0}
    training.save_checkpoint(folder, {"params": model.parameters.data}, state, tokenizer,
                             remedy="make room, or name another folder")
