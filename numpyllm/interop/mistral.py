"""Mistral in Hugging Face's layout (Jiang et al. 2023): Llama without biases, in which a query may see the last few keys alone."""

from dataclasses import replace

from ..errors import InputError
from ..files import short
from . import llama
from .architecture import Architecture, require_keys, require_only

NO_BIAS = {name: (False, "their model has no biases") for name in ("attention_bias", "mlp_bias")}
CHOICES = llama.CHOICES | {"attention": "window", "bias": False}


def read_config(values, path, *, dropout=None):
    """As Llama's. What may be left out there and has a number of its own here must be in the file."""
    require_keys(values, ("num_key_value_heads", "sliding_window"), path)
    require_only(values, NO_BIAS, path)
    window = values["sliding_window"]
    if window is not None and (type(window) is not int or not 1 <= window <= llama.MOST):
        raise InputError(f"{path}: sliding_window must be null or a whole number of at least 1, got {short(window)}")
    config = llama.read_config(values | {"sliding_window": None}, path, dropout=dropout)
    return config if window is None else replace(config, attention="window", window=window)


def write_config(config, dtype, end_of_text=None):
    """As Llama's."""
    values = llama.write_config(config, dtype, end_of_text)
    values |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": config.window}
    return {key: value for key, value in values.items() if key not in NO_BIAS}


def unlike(config):
    """The choices of a GPT that are not those of a Mistral with a window, {name: value}: without one it is written as Llama."""
    return {name: getattr(config, name) for name, value in CHOICES.items() if getattr(config, name) != value}


MISTRAL = Architecture(read_config, write_config, llama.tensors, unlike, llama.LLAMA.prefix, llama.LLAMA.embedding, llama.LLAMA.buffers)
