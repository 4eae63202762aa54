"""Models whose weights are stored in fewer bytes: a checkpoint's folder that can be decoded, but not trained.

    params.npy      norms, biases, positions: float32, one after another in the order of the model's layout
    matrices.npy    the stored rows of all matrices, in that order: uint16 (bfloat16) or int8
    scales.npy      a float32 for each row
    state.json      as a checkpoint's, and `weights`: bfloat16 or int8
"""

import re

import numpy as np

from .. import tokenizer as tokenizers
from ..errors import InputError
from ..inference.weights import StoredWeights, check_kind, matrix_shapes
from ..models import architecture_of, require_language_model
from ..training.checkpoint import load_checkpoint, make_model, newest_checkpoint, restore, restore_parameters, save_checkpoint
from .llama2c import is_llama2c, load_llama2c
from .pretrained import is_pretrained, load_pretrained


def save_quantized(folder, model, stored, tokenizer):
    """Write a model as StoredWeights has it into a folder, which is always the old one or the whole new one. Raises InputError."""
    flat = lambda arrays: np.concatenate([array.reshape(-1) for array in arrays])
    arrays = {"params": flat(model.parameters[name] for name in _others(model)), "matrices": flat(stored.rows.values()),
              "scales": flat(stored.scales.values())}
    state = {"step": 0, "architecture": architecture_of(model), "model": vars(model.config), "train": {}, "facts": {},
             "layout": {}, "metrics_bytes": 0}
    save_checkpoint(folder, arrays, state | {"weights": stored.kind}, tokenizer,
                    remedy="make room, or name another folder")


def load_decodable(path, *, weights=None, ops):
    """A run's folder, a checkpoint's, one of `save_quantized`, one in Hugging Face's layout, or a .bin of llama2.c -> model,
    StoredWeights, tokenizer.

    weights: how they are to be stored; None as they are. Raises InputError for a folder that holds no model, and for weights
    that were rounded already and are asked for otherwise.
    """
    if is_pretrained(path) or is_llama2c(path):
        load, lacks = ((load_llama2c, "has no tokenizer.bin beside it") if is_llama2c(path)
                       else (load_pretrained, "holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)"))
        model, tokenizer = load(path, ops=ops, dropout=0.0)
        if tokenizer is None:
            raise InputError(f"{path} {lacks}: put the model's there")
        return model, StoredWeights(model, weights or "float32"), tokenizer
    folder = newest_checkpoint(path)
    arrays, state, tokenizer_path = load_checkpoint(folder)
    model = make_model(state, folder, ops=ops)
    require_language_model(model, path)
    kind = state.get("weights", "float32")
    check_kind(kind)
    if kind == "float32":
        restore_parameters(folder, arrays, state["layout"], model.parameters)
        model = model.merged()
        return model, StoredWeights(model, weights or kind), tokenizers.load(tokenizer_path)
    if weights not in (None, kind):
        raise InputError(f"{folder} holds weights that were rounded to {kind}: take the model that it was made from for {weights}")
    stored = StoredWeights(model, kind)
    others = np.empty(sum(model.parameters[name].size for name in _others(model)), np.float32)
    matrices = np.empty(sum(rows.size for rows in stored.rows.values()), next(iter(stored.rows.values())).dtype)
    scales = np.empty(sum(scale.size for scale in stored.scales.values()), np.float32)
    restore(folder, arrays, {"params": others, "matrices": matrices, "scales": scales})
    _cut(others, [model.parameters[name] for name in _others(model)])
    _cut(matrices, stored.rows.values())
    _cut(scales, stored.scales.values())
    stored.write_into(model)
    return model, stored, tokenizers.load(tokenizer_path)


def _others(model):
    """The names of the parameters that are no stored matrices."""
    stored = set(matrix_shapes(model))
    return [name for name in model.parameters if re.sub(r"^blocks\.\d+", "blocks", name) not in stored]


def _cut(flat, targets):
    """Fill arrays, one after another, from a flat one."""
    offset = 0
    for target in targets:
        target[...] = flat[offset:offset + target.size].reshape(target.shape)
        offset += target.size
