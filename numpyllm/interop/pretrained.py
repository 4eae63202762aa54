"""A model's folder in Hugging Face's layout, in and out.

    config.json                             sizes and choices (gpt2.py, llama.py, mistral.py)
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
from ..files import parse_json, read_bytes, replacing_folder, short
from ..models import GPT
from ..models.estimate import parameter_count, refuse_what_cannot_fit
from ..models.lora import is_adapter
from ..tokenizer import BytePairTokenizer, SentencePieceTokenizer
from ..tokenizer.formats import IN_A_FOLDER
from .architecture import HEAD
from .gpt2 import GPT2
from .llama import LLAMA, in_split_halves
from .mistral import MISTRAL
from .safetensors import copy_tensor, read_header, read_index

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ARCHITECTURES = {"gpt2": GPT2, "llama": LLAMA, "mistral": MISTRAL}      # by model_type
MOST_CONFIG = 1 << 20       # bytes
WRITTEN = {CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}  # by save_pretrained


def is_pretrained(folder):
    """Whether a folder has Hugging Face's layout rather than ours."""
    folder = Path(folder)
    theirs = any((folder / name).is_file() for name in (CONFIG, WEIGHTS, INDEX))
    return theirs and not (folder / "manifest.json").exists()


def load_pretrained(folder, *, ops=text, dtype=np.float32, dropout=None, trainable=None, lora=None):
    """A GPT-2, a Llama or a Mistral in Hugging Face's layout -> GPT, tokenizer or None.

    dtype is the model's, whatever that of the file (F64, F32, F16 and BF16 are read); dropout is for training it on,
    by default the file's; trainable and lora say what of it is trained (models/trunk.py). Nothing of the size of a
    tensor is allocated before everything has been found to fit. Raises InputError for what cannot be read, is not
    whole, or does something that no GPT here does.
    """
    folder = Path(folder)
    path = folder / CONFIG
    values = parse_json(read_bytes(path, limit=MOST_CONFIG), path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise InputError(f"{path}: model_type must be one of {', '.join(ARCHITECTURES)}, got {short(kind)}")
    architecture = ARCHITECTURES[kind]
    config = architecture.read_config(values, path, dropout=dropout)
    path, stored = _stored(folder)
    matched = architecture.match(config, values, stored, path)
    tokenizer = _load_tokenizer(folder, config)
    refuse_what_cannot_fit(parameter_count(config) * np.dtype(dtype).itemsize)
    model = GPT(config, ops=ops, seed=None, dtype=dtype, trainable=trainable, lora=lora)
    model.parameters.draw(filter(is_adapter, model.parameters), seed=0)
    embedding = model.parameters["embedding.wte"]
    for name, place, where in matched:
        target = np.empty_like(embedding) if place is None else place.of(model.parameters)
        copy_tensor(where, name, target)
        if place is None and not np.array_equal(target, embedding):
            raise InputError(f"{path}: {HEAD} must equal {architecture.embedding} where config.json ties them, it does not: "
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
    try:
        tokenizer = tokenizers.load(folder)
    except InputError as error:
        raise InputError(f"{error}; without its tokenizer's files the folder can be read as a model alone") from None
    _check_tokenizer(tokenizer, config, folder)
    return tokenizer


def _check_tokenizer(tokenizer, config, folder):
    if tokenizer.n_vocab > config.vocab_size:
        raise InputError(f"{folder}: the tokenizer must have ids below vocab_size={config.vocab_size} only, it has "
                         f"{tokenizer.n_vocab}: it is another model's")


def save_pretrained(folder, model, tokenizer=None, *, overwrite=False):
    """Write a GPT, and its tokenizer if given, in Hugging Face's layout, whole or not at all (extra `hf`).

    LoRA is merged in. A model without biases is written with biases of zero where the layout has them, rotary pairs of
    neighbours as pairs half a head apart. A folder that holds anything is refused; with overwrite, one that this
    function wrote is replaced. Raises InputError for that, for a model in other types than float32 or float64 or with
    values that are no numbers, a tokenizer that has no tokenizer.json, and a full disk.
    """
    safetensors, numpy_side = load_extra("safetensors", "hf"), load_extra("safetensors.numpy", "hf")
    if not isinstance(model, GPT):
        raise InputError(f"Hugging Face's layout here is GPT-2's, got a {type(model).__name__}: keep its checkpoint")
    model = model.merged()
    parameters = model.parameters
    if parameters.dtype not in (np.float32, np.float64) or not np.isfinite(parameters.data).all():
        raise InputError("a model to save must have finite numbers of type float32 or float64, this one of "
                         f"{parameters.dtype} has not")
    if tokenizer is not None:
        if not isinstance(tokenizer, BytePairTokenizer | SentencePieceTokenizer):
            raise InputError("a vocabulary of characters, or with scores, has no form that is written here for Hugging Face's "
                             "libraries: save the model without its tokenizer (--no_tokenizer)")
        _check_tokenizer(tokenizer, model.config, folder)
    end_of_text = None if tokenizer is None else tokenizer.eot_token
    architecture = architecture_of(model.config)
    if model.config.rotary_interleaved:
        model = in_split_halves(model)
        parameters = model.parameters
    values = architecture.write_config(model.config, parameters.dtype, end_of_text)
    if tokenizer is not None and tokenizer.begins_with is not None:
        values["bos_token_id"] = tokenizer.special_tokens[tokenizer.begins_with]
    arrays = {architecture.stored_name(name): np.ascontiguousarray(place.of(parameters)) if place.name in parameters.layout
              else np.zeros(place.shape, parameters.dtype)
              for name, place in architecture.tensors(model.config, values).items()}
    with replacing_folder(folder, known=WRITTEN if overwrite else ()) as temporary:
        try:
            numpy_side.save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})    # transformers asks for it
        except safetensors.SafetensorError as error:
            raise InputError(f"{folder}: the weights cannot be written ({error})") from error
        _write_json(temporary / CONFIG, values)
        if tokenizer is not None:
            _save_tokenizer(temporary, tokenizer, model.config.block_size)


def architecture_of(config):
    """The architecture that a GPT can be written as. InputError, with all reasons, if there is none."""
    reasons = []
    for kind, architecture in ARCHITECTURES.items():
        other = architecture.unlike(config)
        if not other:
            return architecture
        reasons.append(f"{kind} has no {', '.join(f'{name}={value}' for name, value in other.items())}")
    raise InputError(f"no architecture of Hugging Face's that is known here is this model: {'; '.join(reasons)}: it can only be kept "
                     "as a checkpoint")


def _save_tokenizer(folder, tokenizer, block_size):
    tokenizer.save(folder / "tokenizer.json")
    end = None if tokenizer.eot_token is None else tokenizer.decode([tokenizer.eot_token])
    named = {"bos_token": tokenizer.begins_with or end, "eos_token": end}
    _write_json(folder / "tokenizer_config.json", {     # the class that takes tokenizer.json as it stands
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size,
        "clean_up_tokenization_spaces": False} | {name: text for name, text in named.items() if text is not None})
    if not isinstance(tokenizer, BytePairTokenizer):
        return
    try:
        tokenizer.save(folder / "vocab.json", "gpt2")
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        # Another pattern, or a token that no merges make: this older pair of files cannot say so.


def _write_json(path, values):
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
