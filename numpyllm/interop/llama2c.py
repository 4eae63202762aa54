"""Models of llama2.c (github.com/karpathy/llama2.c, export.py and run.c): one .bin file, read only.

    version 0   seven int32: width, MLP's width, layers, heads, heads of keys, vocabulary, context; then float32
                a vocabulary below zero means a head of its own; two tables of angles, which are computed here, come before it
    version 1   "ak42", version, the same seven, a byte that says whether the head is tied, zeros up to byte 256; then float32

All numbers are little-endian. Each kind of tensor lies there for all layers, one after another; matrices are (n_out, n_in). Rotary
pairs are neighbours. The size of the file must be what the seven numbers say, before anything is allocated.
"""

import math
import struct
from pathlib import Path

import numpy as np

from .. import ops as text
from .. import tokenizer as tokenizers
from ..errors import InputError
from ..models import GPT, GPTConfig
from ..models.estimate import parameter_count, refuse_what_cannot_fit
from .architecture import Place
from .safetensors import Stored, copy_tensor

MAGIC = 0x616B3432
HEADERS = {0: 28, 1: 256}           # bytes, by version
NAMES = "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"
TOKENIZER = "tokenizer.bin"         # is looked for beside the model


def is_llama2c(path):
    """Whether a path is to be read as llama2.c's: a file that ends in .bin."""
    return Path(path).suffix == ".bin" and Path(path).is_file()


def load_llama2c(path, *, ops=text, dtype=np.float32, dropout=None):
    """A .bin of llama2.c, version 0 or 1 -> GPT, the tokenizer in a tokenizer.bin beside it or None.

    Raises InputError for a file of another kind, or another size than its header says, and for values that are no numbers.
    """
    path = Path(path)
    config, version = _read_header(path, dropout or 0.0)
    tokenizer = tokenizers.load(path.with_name(TOKENIZER)) if path.with_name(TOKENIZER).is_file() else None
    if tokenizer is not None and tokenizer.n_vocab > config.vocab_size:
        raise InputError(f"{path.with_name(TOKENIZER)}: must have at most vocab_size={config.vocab_size} tokens, it has "
                         f"{tokenizer.n_vocab}: it is another model's")
    refuse_what_cannot_fit(parameter_count(config) * np.dtype(dtype).itemsize)
    model = GPT(config, ops=ops, seed=None, dtype=dtype)
    offset = HEADERS[version]
    for name, shape, layers, place in _sections(config, version):
        for layer in range(layers):
            if place is not None:
                here = place._replace(name=place.name.format(layer))
                copy_tensor(Stored(path, "F32", shape, offset), f"{name} {layer}" if layers > 1 else name, here.of(model.parameters))
            offset += 4 * math.prod(shape)
    return model, tokenizer


def _read_header(path, dropout):
    """-> GPTConfig, version. InputError unless the file has the size that its header says."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: must be a file")
        with open(path, "rb") as file:
            head = file.read(HEADERS[1])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(head) < HEADERS[0]:
        raise InputError(f"{path}: must begin with a header of {HEADERS[0]} bytes or more, it has {len(head)} in all")
    version, start = 0, 0
    if struct.unpack_from("<I", head)[0] == MAGIC:
        version, start = struct.unpack_from("<i", head, 4)[0], 8
        if version != 1:
            raise InputError(f"{path}: must be of version 0 or 1 of llama2.c's formats, got {version}"
                             + (", whose weights are rounded to int8: export it as version 1" if version == 2 else ""))
        if len(head) < HEADERS[1] or head[36] > 1 or any(head[37:]):
            raise InputError(f"{path}: a header of version 1 must have {HEADERS[1]} bytes, a flag of 0 or 1 for the head and then "
                             "zeros: it is damaged")
    sizes = dict(zip(NAMES, struct.unpack_from("<7i", head, start)))
    tied = sizes["vocab_size"] > 0 if version == 0 else head[36] == 1
    if version == 0:
        sizes["vocab_size"] = abs(sizes["vocab_size"])
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{path}: {name} must be at least 1, got {value}: is it a model of llama2.c?")
    try:
        config = GPTConfig(n_layer=sizes["n_layers"], n_head=sizes["n_heads"], n_embd=sizes["dim"], block_size=sizes["max_seq_len"],
                           vocab_size=sizes["vocab_size"], n_hidden=sizes["hidden_dim"], dropout=dropout, bias=False, tied=tied,
                           n_kv_head=0 if sizes["n_kv_heads"] == sizes["n_heads"] else sizes["n_kv_heads"], norm_eps=1e-5,
                           position="rotary", rotary_interleaved=True, norm="rmsnorm", mlp="swiglu")
    except InputError as error:
        raise InputError(f"{path}: {error}: is it a model of llama2.c?") from None
    expected = HEADERS[version] + 4 * sum(math.prod(shape) * layers for _, shape, layers, _ in _sections(config, version))
    if size != expected:
        raise InputError(f"{path}: must have {expected:,} bytes for {', '.join(f'{name} {value}' for name, value in sizes.items())}, it has "
                         f"{size:,}: it is truncated, or no model of llama2.c")
    return config, version


def _sections(config, version):
    """[(their name, shape, how many one after another, Place with {} for the layer, or None for what is computed here)], in order."""
    L, C, V, F, D, T = config.n_layer, config.n_embd, config.vocab_size, config.hidden, config.head_size, config.block_size
    Q, K = config.n_head * D, config.kv_heads * D

    def matrix(name, parameter, n_out, n_in, first=0):
        return name, (n_out, n_in), L, Place(f"blocks.{{}}.{parameter}.w", (n_out, n_in), True, slice(first, first + n_out))

    def vector(name, parameter, layers=L):
        return name, (C,), layers, Place(parameter, (C,))

    embedding = "tok_embeddings", (V, C), 1, Place("embedding.wte", (V, C))
    attention = [matrix("wq", "attn.qkv", Q, C), matrix("wk", "attn.qkv", K, C, Q), matrix("wv", "attn.qkv", K, C, Q + K),
                 matrix("wo", "attn.proj", C, Q)]
    mlp = [matrix("w1", "mlp.gate", F, C), matrix("w2", "mlp.down", C, F), matrix("w3", "mlp.up", F, C)]
    norm1, norm2 = vector("attention_norm", "blocks.{}.norm1.w"), vector("ffn_norm", "blocks.{}.norm2.w")
    norm = vector("norm", "norm.w", 1)
    if version == 0:
        order = [embedding, norm1, *attention, norm2, *mlp, norm, ("freqs", (T, D // 2), 2, None)]
    else:
        order = [norm1, norm2, norm, embedding, *attention, *mlp]
    return order if config.tied else [*order, ("output", (V, C), 1, Place("head.w", (V, C)))]
