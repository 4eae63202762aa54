"""GPT-2 in Hugging Face's layout: what their config.json means here, and which of their tensors is which of ours.

Their matrices are (n_in, n_out), as ours are, so nothing is transposed. The table is in docs/huggingface.md.
"""

import re

from ..errors import InputError
from ..files import short
from ..models import GPTConfig
from .architecture import HEAD, Architecture, Place, flag, require_keys, require_only

BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")      # causal masks that old versions kept with the weights
ACTIVATIONS = {"gelu_new": False, "gelu_pytorch_tanh": False, "gelu": True}     # name -> exact_gelu
SIZES = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_positions": "block_size",
         "vocab_size": "vocab_size"}     # theirs, ours
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
# What must have its default, since nothing here does otherwise: {key: (default, what is done here)}.
ONLY = {
    "scale_attn_weights": (True, "scores are always divided by the square root of the head's size"),
    "scale_attn_by_inverse_layer_idx": (False, "scores are scaled alike in every layer"),
    "add_cross_attention": (False, "there is no encoder to attend to"),
    "is_encoder_decoder": (False, "there is no encoder"),
    "pruned_heads": ({}, "all heads are there"),
    "quantization_config": (None, "weights are floating-point numbers"),
}


def read_config(values, path, *, dropout=None):
    """The GPTConfig that a config.json means. values: what is in it. dropout: instead of the file's three.

    InputError, naming the file and the reason, for what a GPT here cannot be.
    """
    require_only(values, ONLY, path)
    require_keys(values, SIZES, path)
    activation = values.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"{path}: activation_function must be one of {', '.join(ACTIVATIONS)}, got "
                         f"{short(activation)}")
    tied = flag(values, "tie_word_embeddings", True, path)
    if dropout is None:
        dropout, *others = three = [values.get(key, 0.1) for key in DROPOUTS]
        if any(other != dropout for other in others):
            raise InputError(f"{path}: {', '.join(DROPOUTS)} must be equal, for there is one dropout here, got "
                             f"{', '.join(map(short, three))}: say which, by dropout or --dropout")
    try:
        config = GPTConfig(**{ours: values[theirs] for theirs, ours in SIZES.items()}, dropout=dropout, bias=True,
                           tied=tied, exact_gelu=ACTIVATIONS[activation],
                           norm_eps=values.get("layer_norm_epsilon", 1e-5))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise InputError(f"{path}: n_inner must be null or 4 n_embd = {4 * config.n_embd}, the width of an MLP here; got "
                         f"{short(values['n_inner'])}")
    return config


def write_config(config, dtype, end_of_text=None):
    """The content of a config.json. end_of_text: id of the token that ends a document, if there is one."""
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
            **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
            "n_ctx": config.block_size, "n_inner": None, "activation_function": "gelu" if config.exact_gelu else "gelu_new",
            "layer_norm_epsilon": config.norm_eps, **dict.fromkeys(DROPOUTS, config.dropout), "initializer_range": 0.02,
            "tie_word_embeddings": config.tied, "bos_token_id": end_of_text, "eos_token_id": end_of_text,
            "torch_dtype": str(dtype)}


def tensors(config, values=None):
    """{their name, without prefix: Place} of all tensors of a model with biases."""
    C, T, V = config.n_embd, config.block_size, config.vocab_size
    table = {"wte.weight": Place("embedding.wte", (V, C)), "wpe.weight": Place("embedding.wpe", (T, C))}
    for i in range(config.n_layer):
        block = {
            "ln_1.weight": ("norm1.w", (C,)), "ln_1.bias": ("norm1.b", (C,)),
            "attn.c_attn.weight": ("attn.qkv.w", (C, 3 * C)), "attn.c_attn.bias": ("attn.qkv.b", (3 * C,)),
            "attn.c_proj.weight": ("attn.proj.w", (C, C)), "attn.c_proj.bias": ("attn.proj.b", (C,)),
            "ln_2.weight": ("norm2.w", (C,)), "ln_2.bias": ("norm2.b", (C,)),
            "mlp.c_fc.weight": ("mlp.up.w", (C, 4 * C)), "mlp.c_fc.bias": ("mlp.b", (4 * C,)),
            "mlp.c_proj.weight": ("mlp.down.w", (4 * C, C)), "mlp.c_proj.bias": ("mlp.down.b", (C,)),
        }
        table |= {f"h.{i}.{theirs}": Place(f"blocks.{i}.{ours}", shape) for theirs, (ours, shape) in block.items()}
    table |= {"ln_f.weight": Place("norm.w", (C,)), "ln_f.bias": Place("norm.b", (C,))}
    return table if config.tied else table | {HEAD: Place("head.w", (V, C))}


GPT2 = Architecture(read_config, write_config, tensors, unlike=GPTConfig.differing, prefix="transformer.", embedding="wte.weight",
                    buffers=BUFFERS)
