"""A model's folder in Hugging Face's layout, in and out.

    config.json                             sizes and choices (gpt2.py)
    model.safetensors                       weights (safetensors.py); or several files and an index
    tokenizer.json, vocab.json, merges.txt  the tokenizer, if it is there
"""

import json
from pathlib import Path

import numpy as np

from .. import ops as text
from .. import tokenizer as tokenizers
from ..errors import InputError
from ..extras import load_extra
from ..files import parse_json, read_bytes, replacing_folder
from ..models import GPT
from ..models.estimate import parameter_count, refuse_what_cannot_fit
from ..tokenizer import BytePairTokenizer
from ..tokenizer.formats import IN_A_FOLDER
from .gpt2 import PREFIX, match, read_config, tensors, write_config
from .safetensors import copy_tensor, read_header, read_index

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MOST_CONFIG = 1 << 20       # bytes
WRITTEN = {CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}  # by save_pretrained


def is_pretrained(folder):
    """Whether a folder has Hugging Face's layout rather than ours."""
    folder = Path(folder)
    theirs = any((folder / name).is_file() for name in (CONFIG, WEIGHTS, INDEX))
    return theirs and not (folder / "manifest.json").exists()


def load_pretrained(folder, *, ops=text, dtype=np.float32, dropout=None):
    """A GPT-2 in Hugging Face's layout -> GPT, tokenizer or None.

    dtype is the model's, whatever that of the file (F64, F32, F16 and BF16 are read); dropout is for training it on,
    by default the file's. Nothing of the size of a tensor is allocated before everything has been found to fit. Raises
    InputError for what cannot be read, is not whole, or does something that no GPT here does.
    """
    folder = Path(folder)
    path = folder / CONFIG
    config = read_config(parse_json(read_bytes(path, limit=MOST_CONFIG), path), path, dropout=dropout)
    path, stored = _stored(folder)
    places, head = match(config, stored, path)
    tokenizer = _load_tokenizer(folder, config)
    refuse_what_cannot_fit(2 * parameter_count(config) * np.dtype(dtype).itemsize)      # parameters and gradients
    model = GPT(config, ops=ops, seed=None, dtype=dtype)
    for name, place in places.items():
        copy_tensor(place, name, model.parameters[name])
    if head is not None:
        own = np.empty_like(model.parameters["embedding.wte"])
        copy_tensor(head, "lm_head.weight", own)
        if not np.array_equal(own, model.parameters["embedding.wte"]):
            raise InputError(f"{path}: lm_head.weight must equal wte.weight where config.json ties them, it does not: "
                             "set tie_word_embeddings to false")
    return model, tokenizer


def _stored(folder):
    """-> path of the weights or of their index, {name: Stored}."""
    if (folder / WEIGHTS).exists():
        return folder / WEIGHTS, read_header(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return folder / INDEX, read_index(folder / INDEX)
    pickled = [path.name for path in folder.glob("*.bin")]
    hint = f": {pickled[0]} is a pickle, which can run code; save the model as safetensors" if pickled else ""
    raise InputError(f"{folder}: must hold {WEIGHTS} or {INDEX}{hint}")


def _load_tokenizer(folder, config):
    if not any((folder / name).is_file() for name in IN_A_FOLDER):
        return None
    tokenizer = tokenizers.load(folder)
    _check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _check_tokenizer(tokenizer, config, folder):
    if tokenizer.n_vocab > config.vocab_size:
        raise InputError(f"{folder}: the tokenizer must have ids below vocab_size={config.vocab_size} only, it has "
                         f"{tokenizer.n_vocab}: it is another model's")


def save_pretrained(folder, model, tokenizer=None, *, overwrite=False):
    """Write a GPT, and its tokenizer if given, in Hugging Face's layout, whole or not at all (extra `hf`).

    A model without biases is written with biases of zero, for the layout has them. A folder that holds anything is
    refused; with overwrite, one that this function wrote is replaced. Raises InputError for that, for a model in other
    types than float32 or float64 or with values that are no numbers, a tokenizer of characters, and a full disk.
    """
    safetensors, numpy_side = load_extra("safetensors", "hf"), load_extra("safetensors.numpy", "hf")
    if not isinstance(model, GPT):
        raise InputError(f"Hugging Face's layout here is GPT-2's, got a {type(model).__name__}: keep its checkpoint")
    parameters = model.parameters
    if parameters.dtype not in (np.float32, np.float64) or not np.isfinite(parameters.data).all():
        raise InputError("a model to save must have finite numbers of type float32 or float64, this one of "
                         f"{parameters.dtype} has not")
    if tokenizer is not None:
        if not isinstance(tokenizer, BytePairTokenizer):
            raise InputError("a vocabulary of characters has no form that Hugging Face's libraries read: save the model "
                             "without its tokenizer (--no_tokenizer)")
        _check_tokenizer(tokenizer, model.config, folder)
    end_of_text = None if tokenizer is None else tokenizer.eot_token
    arrays = {name if name == "lm_head.weight" else PREFIX + name:
              parameters[ours] if ours in parameters.layout else np.zeros(shape, parameters.dtype)
              for name, (ours, shape) in tensors(model.config).items()}
    with replacing_folder(folder, known=WRITTEN if overwrite else ()) as temporary:
        try:
            numpy_side.save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})    # transformers asks for it
        except safetensors.SafetensorError as error:
            raise InputError(f"{folder}: the weights cannot be written ({error})") from error
        _write_json(temporary / CONFIG, write_config(model.config, parameters.dtype, end_of_text))
        if tokenizer is not None:
            _save_tokenizer(temporary, tokenizer, model.config.block_size)


def _save_tokenizer(folder, tokenizer, block_size):
    tokenizer.save(folder / "tokenizer.json")
    end = {} if tokenizer.eot_token is None else {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    _write_json(folder / "tokenizer_config.json", {     # the class that takes tokenizer.json as it stands
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size,
        "clean_up_tokenization_spaces": False} | end)
    try:
        tokenizer.save(folder / "vocab.json", "gpt2")
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        # Another pattern, or a token that no merges make: this older pair of files cannot say so.


def _write_json(path, values):
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
