"""Adapters in the layout of Hugging Face's library PEFT, in and out, beside a GPT-2 or a Llama.

    adapter_config.json         rank, alpha, names of the linear maps
    adapter_model.safetensors   base_model.model.<name of the matrix>.lora_A.weight (R, n_in), .lora_B.weight (n_out, R)

Theirs are transposed, and where they have several matrices (q_proj, k_proj, v_proj) ours is one (qkv), with
one A for all. Those with one A each are put side by side: with block after block in B, a matrix of a higher
rank that does the same.
"""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..extras import load_extra
from ..files import parse_json, read_bytes, replacing_folder, short, write_json
from ..interop.pretrained import architecture_of
from ..interop.safetensors import copy_tensor, named, read_header
from ..models import LoRA
from ..models.lora import is_adapter
from .lora import add_lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_CONFIG = 1 << 20       # bytes
PREFIX = "base_model.model."
# What must have its default, since nothing here does otherwise.
ONLY = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False, "rank_pattern": {},
        "alpha_pattern": {}, "use_qalora": False, "modules_to_save": None, "layer_replication": None,
        "trainable_token_indices": None, "lora_bias": False, "target_parameters": None,
        "alora_invocation_tokens": None}
INITS = (True, False, "gaussian")       # others, such as PiSSA, change the base


def save_peft(folder, model, *, base_name=None, overwrite=False):
    """Write a model's adapters for PEFT, whole or not at all (extra `hf`). base_name: where PEFT finds
    the base, if it is to know.

    A folder that holds anything is refused; with overwrite, an adapter is replaced. Raises InputError for that, a
    model without LoRA, one with more trained than its adapters, and one that is neither GPT-2 nor Llama.
    """
    numpy_side = load_extra("safetensors.numpy", "hf")
    if model.lora is None:
        raise InputError("an adapter to save must be LoRA's, this model has none: add_lora gives it one")
    if not np.isfinite(model.parameters.data).all():
        raise InputError("an adapter to save must have finite numbers, this one has not: go back to a checkpoint")
    others = [name for name in model.parameters if model.parameters.specs[name].trainable and not is_adapter(name)]
    if others:
        raise InputError("PEFT's layout has the adapters alone, here more was trained "
                         f"({named('besides', others)}): save_adapter keeps all")
    arrays = {}
    for theirs, stem, columns in _places(model):
        if stem + "lora_a" in model.parameters.layout:
            a, b = model.parameters[stem + "lora_a"], model.parameters[stem + "lora_b"][:, columns]
            arrays[f"{PREFIX}{theirs}.lora_A.weight"] = np.ascontiguousarray(a.T)
            arrays[f"{PREFIX}{theirs}.lora_B.weight"] = np.ascontiguousarray(b.T)
    modules = sorted({".".join(name.split(".")[-4:-2]) for name in arrays})         # attn.c_proj: mlp.c_proj is another
    values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name,
              "r": model.lora.rank, "lora_alpha": model.lora.alpha, "lora_dropout": model.lora.dropout,
              "target_modules": modules, "bias": "none", "fan_in_fan_out": not _transposed(model),
              "inference_mode": True}
    with replacing_folder(folder, known={CONFIG, WEIGHTS} if overwrite else ()) as temporary:
        numpy_side.save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIG, values)


def load_peft(model, folder):
    """A plain GPT-2 or Llama with the adapters of a folder that PEFT has written -> a model with LoRA;
    its parameters are copied.

    PEFT does not say which base an adapter belongs to: what fits is taken. Raises InputError for what cannot be
    read, does not fit, or does more than LoRA does here.
    """
    folder = Path(folder)
    path = folder / CONFIG
    values = parse_json(read_bytes(path, limit=MOST_CONFIG), path)
    for key, only in ONLY.items():
        if values.get(key, only) != only and values.get(key) is not None:
            raise InputError(f"{path}: {key} must be {short(only)} here, got {short(values[key])}")
    if values.get("init_lora_weights", True) not in INITS:
        raise InputError(f"{path}: init_lora_weights must be one of {short(INITS)}, for others change the base; got "
                         f"{short(values['init_lora_weights'])}")
    rank, alpha, dropout = values.get("r"), values.get("lora_alpha"), values.get("lora_dropout", 0.0)
    try:
        LoRA(rank=rank, alpha=alpha, dropout=dropout)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    stored = read_header(folder / WEIGHTS)
    found = {}                                      # stem of our matrix: [(A, B, columns)], in float32 or float64
    for theirs, stem, columns in _places(model):
        names = [f"{PREFIX}{theirs}.lora_{letter}.weight" for letter in "AB"]
        if names[0] in stored and names[1] in stored:
            n_in, n_out = model.parameters[stem + "w"][:, columns].shape
            if rank > min(n_in, n_out):
                raise InputError(f"{path}: r must be at most {min(n_in, n_out)} for {theirs}, got {rank}")
            a, b = np.empty((rank, n_in), model.parameters.dtype), np.empty((n_out, rank), model.parameters.dtype)
            for name, target in zip(names, (a, b), strict=True):
                copy_tensor(stored.pop(name), name, target)
            found.setdefault(stem, []).append((a.T, b.T, columns))
    if stored or not found:
        raise InputError(f"{folder / WEIGHTS}: must hold adapters to this model's linear maps; "
                         f"{named('surplus', stored) or 'there are none'}: is it beside the right base?")
    blocks = {stem: _one_for_equal(parts) for stem, parts in found.items()}
    widest = max(a.shape[1] for a, _ in blocks.values()) // rank
    lora = LoRA(rank=widest * rank, alpha=widest * alpha, dropout=dropout,
                targets=tuple({stem.split(".")[-2] for stem in blocks}))
    adapted = add_lora(model, lora)
    for name in adapted.parameters:
        if is_adapter(name):
            adapted.parameters[name][...] = 0                           # a layer without an adapter of theirs
    for stem, (a, write) in blocks.items():
        adapted.parameters[stem + "lora_a"][:, :a.shape[1]] = a
        for row, columns, b in write:
            adapted.parameters[stem + "lora_b"][row:row + rank, columns] = b
    return adapted


def _one_for_equal(parts):
    """[(A, B, columns)] of the parts of one matrix -> A of all (n_in, R or several times R),
    [(first row, columns, B)]."""
    if all(np.array_equal(a, parts[0][0]) for a, _, _ in parts):
        return parts[0][0], [(0, columns, b) for _, b, columns in parts]
    rank = parts[0][0].shape[1]
    return (np.concatenate([a for a, _, _ in parts], axis=1),
            [(i * rank, columns, b) for i, (_, b, columns) in enumerate(parts)])


def _places(model):
    """(their name of a matrix, the stem of ours, its columns there) of all matrices in the blocks."""
    architecture = architecture_of(model.config)
    if model.config.rotary_interleaved:
        raise InputError("adapters for PEFT are those of a model with rotary pairs half a head apart, this one "
                         "has neighbours: merge it")
    for theirs, place in architecture.tensors(model.config).items():
        if place.name.startswith("blocks.") and place.name.endswith(".w") and len(place.shape) == 2:
            yield architecture.prefix + theirs.removesuffix(".weight"), place.name.removesuffix("w"), place.columns


def _transposed(model):
    """Whether their matrices are (n_out, n_in): Llama's are, GPT-2's are not."""
    return any(place.transposed for place in architecture_of(model.config).tensors(model.config).values())
