"""Llama in Hugging Face's layout (Touvron et al. 2023): what their config.json means here, and which of their tensors is which of ours.

Their matrices are (n_out, n_in), ours (n_in, n_out): all but the tables are transposed. Queries, keys and values have a matrix each
there and lie side by side here. Rotary pairs are half a head apart. The table is in docs/huggingface.md.
"""

import re
from dataclasses import replace

from ..errors import InputError
from ..files import short
from ..models import GPT, GPTConfig
from ..ops.rotary import FEW_TURNS, MANY_TURNS
from .architecture import HEAD, Architecture, Place, flag, require_keys, require_only

SIZES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embd", "intermediate_size": "n_hidden",
         "max_position_embeddings": "block_size", "vocab_size": "vocab_size"}       # theirs, ours
MOST = 1e30         # an integer of JSON may be more than any float
# What must have its default, since nothing here does otherwise: {key: (default, what is done here)}.
ONLY = {
    "hidden_act": ("silu", "the MLP is SwiGLU, of which SiLU is a part"),
    "partial_rotary_factor": (1.0, "all channels of a head are turned"),
    "quantization_config": (None, "weights are floating-point numbers"),
    "sliding_window": (None, "every token sees all before it"),
    "is_encoder_decoder": (False, "there is no encoder"),
}
# What each rope_type has beside the base: {theirs: ours}.
ROPE = {"default": {}, "linear": {"factor": "rotary_scale"},
        "llama3": {"factor": "rotary_scale", "original_max_position_embeddings": "rotary_trained"}}
TURNS = {"low_freq_factor": (FEW_TURNS, "pairs that turn less often than once have their frequency divided"),
         "high_freq_factor": (MANY_TURNS, "pairs that turn more often than four times keep their frequency")}
# The choices that make a GPT a Llama; all else may be as it likes.
CHOICES = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "pre_norm": True, "qk_norm": False, "softcap": 0.0,
           "attention": "causal", "n_expert": 0}


def read_config(values, path, *, dropout=None):
    """The GPTConfig that a config.json means. values: what is in it. dropout: instead of the file's, which is for attention alone.

    InputError, naming the file and the reason, for what a GPT here cannot be.
    """
    require_only(values, ONLY, path)
    require_keys(values, SIZES, path)
    if dropout is None and values.get("attention_dropout", 0.0) not in (0, None):
        raise InputError(f"{path}: attention_dropout must be 0, for dropout here is in attention and after it, got "
                         f"{short(values['attention_dropout'])}: say which, by dropout or --dropout")
    rotary = _rotary(values, path)
    n_head, n_kv_head = values["num_attention_heads"], values.get("num_key_value_heads")
    if n_kv_head is not None and (type(n_kv_head) is not int or n_kv_head < 1):
        raise InputError(f"{path}: num_key_value_heads must be null or a whole number of at least 1, got {short(n_kv_head)}")
    if type(values["intermediate_size"]) is not int or values["intermediate_size"] < 1:
        raise InputError(f"{path}: intermediate_size must be a whole number of at least 1, got {short(values['intermediate_size'])}")
    *biases, tied = [flag(values, name, False, path) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")]
    try:
        config = GPTConfig(**{ours: values[theirs] for theirs, ours in SIZES.items()}, dropout=dropout or 0.0, bias=any(biases),
                           tied=tied, norm_eps=values.get("rms_norm_eps", 1e-6),
                           n_kv_head=0 if n_kv_head in (None, n_head) else n_kv_head, **rotary, **CHOICES)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if values.get("head_dim") not in (None, config.head_size):
        raise InputError(f"{path}: head_dim must be null or hidden_size / num_attention_heads = {config.head_size}, the size of a head "
                         f"here; got {short(values['head_dim'])}")
    return config


def _rotary(values, path):
    """-> {our option: value}. Newer files have all of it in rope_parameters, older ones the base in rope_theta and the rest in
    rope_scaling."""
    said = [values[key] for key in ("rope_parameters", "rope_scaling") if values.get(key)]
    rope = said[0] if said else {}
    if not isinstance(rope, dict) or len(said) == 2 and said[0] != said[1]:
        raise InputError(f"{path}: rope_parameters, or rope_scaling in its place, must be null or an object, got "
                         f"{' and '.join(map(short, said))}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE:
        raise InputError(f"{path}: rope_type must be one of {', '.join(ROPE)}, got {short(kind)}: frequencies here are the same for all "
                         "lengths of text")
    require_only(rope, {"partial_rotary_factor": ONLY["partial_rotary_factor"]} | (TURNS if kind == "llama3" else {}), path)
    missing = [key for key in ROPE[kind] if key not in rope]
    if missing:
        raise InputError(f"{path}: rope_type {kind} must have {' and '.join(missing)}, got {short(rope)}")
    found = {"rotary_base": rope.get("rope_theta", values.get("rope_theta", 10000.0))}
    found |= {ours: rope[theirs] for theirs, ours in ROPE[kind].items()}
    for number in found.values():
        if isinstance(number, int) and number > MOST:
            raise InputError(f"{path}: numbers of rotary positions must be below {MOST:g}, got {short(number)}")
    if kind == "llama3" and found["rotary_trained"] == 0:       # which means none here
        raise InputError(f"{path}: original_max_position_embeddings must be at least 1, got 0")
    return found


def write_config(config, dtype, end_of_text=None):
    """The content of a config.json, for versions of their library before 5 and after. end_of_text: id of the token that ends a
    document, if there is one. Dropout, which is there in attention alone, is written as none."""
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_scale != 1:
        kind = "llama3" if config.rotary_trained else "linear"
        rope |= {"rope_type": kind} | {theirs: getattr(config, ours) for theirs, ours in ROPE[kind].items()}
        rope |= {theirs: value for theirs, (value, _) in TURNS.items()} if kind == "llama3" else {}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()}, "intermediate_size": config.hidden,
            "num_key_value_heads": config.kv_heads, "head_dim": config.head_size, "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps, "rope_theta": config.rotary_base, "rope_parameters": rope,
            "rope_scaling": rope if config.rotary_scale != 1 else None, "attention_bias": config.bias, "mlp_bias": config.bias,
            "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": config.tied, "bos_token_id": end_of_text,
            "eos_token_id": end_of_text, "torch_dtype": str(dtype)}


def tensors(config, values=None):
    """{their name, without prefix: Place} of all tensors. values, what is in config.json, says where there are biases: attention and
    MLP may differ there, and the biases that are not in the file are zero here."""
    values = {"attention_bias": config.bias, "mlp_bias": config.bias} if values is None else values
    C, V, F, D = config.n_embd, config.vocab_size, config.hidden, config.head_size
    Q, K = config.n_head * D, config.kv_heads * D
    table = {"embed_tokens.weight": Place("embedding.wte", (V, C))}
    for i in range(config.n_layer):
        theirs, ours = f"layers.{i}.", f"blocks.{i}."
        table[f"{theirs}input_layernorm.weight"] = Place(f"{ours}norm1.w", (C,))
        table[f"{theirs}post_attention_layernorm.weight"] = Place(f"{ours}norm2.w", (C,))
        for group, name, parameter, n_in, columns in (
                ("self_attn", "q_proj", "attn.qkv", C, slice(0, Q)), ("self_attn", "k_proj", "attn.qkv", C, slice(Q, Q + K)),
                ("self_attn", "v_proj", "attn.qkv", C, slice(Q + K, Q + 2 * K)), ("self_attn", "o_proj", "attn.proj", C, slice(0, C)),
                ("mlp", "gate_proj", "mlp.gate", C, slice(0, F)), ("mlp", "up_proj", "mlp.up", C, slice(0, F)),
                ("mlp", "down_proj", "mlp.down", F, slice(0, C))):
            n_out = columns.stop - columns.start
            table[f"{theirs}{group}.{name}.weight"] = Place(f"{ours}{parameter}.w", (n_out, n_in), True, columns)
            if values.get("mlp_bias" if group == "mlp" else "attention_bias", False):
                table[f"{theirs}{group}.{name}.bias"] = Place(f"{ours}{parameter}.b", (n_out,), False, columns)
    table["norm.weight"] = Place("norm.w", (C,))
    return table if config.tied else table | {HEAD: Place("head.w", (V, C))}


def unlike(config):
    """The choices of a GPT that no Llama has, {name: value}."""
    return {name: getattr(config, name) for name, value in CHOICES.items() if getattr(config, name) != value}


def in_split_halves(model):
    """The same function with rotary pairs half a head apart in place of neighbours: a GPT with the channels of each head of queries
    and keys in another order, the even ones before the odd ones. Their inner products do not notice."""
    config = replace(model.config, rotary_interleaved=False)
    parameters = model.parameters.astype(model.parameters.dtype)
    turned = (config.n_head + config.kv_heads) * config.head_size          # columns: queries, keys
    for name in parameters:
        if ".attn.qkv." in name:
            array = parameters[name]
            part = array[..., :turned].reshape(*array.shape[:-1], -1, config.head_size // 2, 2)
            array[..., :turned] = part.swapaxes(-1, -2).reshape(*array.shape[:-1], turned)
    return GPT(config, ops=model.ops, parameters=parameters)


LLAMA = Architecture(read_config, write_config, tensors, unlike, prefix="model.", embedding="embed_tokens.weight",
                     buffers=re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"))
