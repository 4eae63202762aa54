"""Llama in Hugging Face's layout: files written here by hand, whatever may be wrong with them, and both ways round."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer
from test_interop import file_of, model_of, refused

CONFIG = GPTConfig(n_layer=2, n_head=4, n_embd=8, block_size=5, vocab_size=11, bias=False, tied=False, n_kv_head=2, n_hidden=7,
                   norm_eps=1e-6, position="rotary", norm="rmsnorm", mlp="swiglu")
THEIRS = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8,
          "intermediate_size": 7, "max_position_embeddings": 5, "vocab_size": 11}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}             # Llama 3.1's
MISTRAL = THEIRS | {"model_type": "mistral", "sliding_window": 3}
TEXT = "the quick brown fox jumps over the lazy dog. " * 20


def weights(attention_bias=False, mlp_bias=False, tied=False):
    """{their name: array} of order one, exact in bfloat16, as the layout has them: matrices (n_out, n_in)."""
    shapes = {"model.embed_tokens.weight": (11, 8), "model.norm.weight": (8,)} | ({} if tied else {"lm_head.weight": (11, 8)})
    for i in range(2):
        block = f"model.layers.{i}."
        shapes |= {f"{block}input_layernorm.weight": (8,), f"{block}post_attention_layernorm.weight": (8,)}
        for name, n_out, n_in in (("self_attn.q", 8, 8), ("self_attn.k", 4, 8), ("self_attn.v", 4, 8), ("self_attn.o", 8, 8),
                                  ("mlp.gate", 7, 8), ("mlp.up", 7, 8), ("mlp.down", 8, 7)):
            shapes[f"{block}{name}_proj.weight"] = n_out, n_in
            if mlp_bias if name.startswith("mlp") else attention_bias:
                shapes[f"{block}{name}_proj.bias"] = (n_out,)
    rng = np.random.default_rng(0)
    return {name: rng.integers(-64, 65, shape) / 64.0 for name, shape in shapes.items()}


def write(folder, arrays=None, config=THEIRS, **options):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(file_of(weights() if arrays is None else arrays, **options))
    return folder


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_file_becomes_the_model_it_describes(tmp_path, dtype, prefix):
    w = weights(True, True)
    arrays = {name.replace("model.", prefix): array for name, array in w.items()}
    model, tokenizer = load_pretrained(write(tmp_path / "m", arrays, THEIRS | {"attention_bias": True, "mlp_bias": True}, dtype=dtype))
    assert tokenizer is None and model.config == replace(CONFIG, bias=True) and model.parameters.dtype == np.float32
    p = model.parameters
    assert (p["embedding.wte"] == w["model.embed_tokens.weight"]).all() and (p["head.w"] == w["lm_head.weight"]).all()
    assert (p["norm.w"] == w["model.norm.weight"]).all()
    for i in range(2):
        theirs = lambda name, kind="weight": w[f"model.layers.{i}.{name}.{kind}"]
        ours = lambda name: p[f"blocks.{i}.{name}"]
        assert (ours("norm1.w") == theirs("input_layernorm")).all() and (ours("norm2.w") == theirs("post_attention_layernorm")).all()
        together = [f"self_attn.{letter}_proj" for letter in "qkv"]
        assert (ours("attn.qkv.w") == np.concatenate([theirs(name).T for name in together], 1)).all()
        assert (ours("attn.qkv.b") == np.concatenate([theirs(name, "bias") for name in together])).all()
        for mine, name in (("attn.proj", "self_attn.o"), ("mlp.gate", "mlp.gate"), ("mlp.up", "mlp.up"), ("mlp.down", "mlp.down")):
            assert (ours(f"{mine}.w") == theirs(f"{name}_proj").T).all() and (ours(f"{mine}.b") == theirs(f"{name}_proj", "bias")).all()


def test_biases_that_are_not_in_the_file_are_zero(tmp_path):
    model, _ = load_pretrained(write(tmp_path / "m", weights(attention_bias=True), THEIRS | {"attention_bias": True}))
    assert model.config.bias and not model.parameters["blocks.1.mlp.gate.b"].any() and model.parameters["blocks.1.attn.qkv.b"].any()
    refused(lambda: load_pretrained(write(tmp_path / "m", weights(True), THEIRS)), "surplus: layers.0.self_attn.k_proj.bias")
    refused(lambda: load_pretrained(write(tmp_path / "m", config=THEIRS | {"mlp_bias": True})), "missing: layers.0.mlp.down_proj.bias")


def test_buffers_are_ignored_and_a_tied_head_must_be_the_embedding(tmp_path):
    arrays = weights(tied=True) | {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(1)}
    tied = THEIRS | {"tie_word_embeddings": True}
    assert load_pretrained(write(tmp_path / "m", arrays, tied))[0].config == replace(CONFIG, tied=True)
    load_pretrained(write(tmp_path / "m", arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"]}, tied))
    folder = write(tmp_path / "m", arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"] + 1}, tied)
    refused(lambda: load_pretrained(folder), "lm_head.weight must equal embed_tokens.weight")


@pytest.mark.parametrize("theirs, ours", [
    ({"rms_norm_eps": 1e-3}, {"norm_eps": 1e-3}), ({"rope_theta": 5e5}, {"rotary_base": 5e5}), ({"head_dim": 2, "pretraining_tp": 1}, {}),
    ({"rope_parameters": {"rope_theta": 500, "rope_type": "default"}}, {"rotary_base": 500}),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}, {"rotary_base": 5e5, "rotary_scale": 4.0}),
    ({"rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 2}}, {"rotary_base": 300.0, "rotary_scale": 2}),
    ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, {"rotary_base": 5e5, "rotary_scale": 8.0, "rotary_trained": 8192}),
    ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, {"rotary_base": 5e5, "rotary_scale": 8.0, "rotary_trained": 8192}),
    ({"rope_scaling": None, "rope_parameters": None, "attention_dropout": 0.0}, {}), ({"num_key_value_heads": 2}, {})])
def test_choices_are_carried_over(tmp_path, theirs, ours):
    assert load_pretrained(write(tmp_path / "m", config=THEIRS | theirs))[0].config == replace(CONFIG, **ours)


@pytest.mark.parametrize("changes, words", [
    ({"hidden_act": "gelu"}, ["hidden_act must be", "SwiGLU"]), ({"quantization_config": {}}, ["quantization_config must be null"]),
    ({"head_dim": 4}, ["head_dim must be null or hidden_size / num_attention_heads = 2"]), ({"sliding_window": 4}, ["sliding_window"]),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_type llama3 must have original_max_position_embeddings"]),
    ({"rope_scaling": LLAMA3 | {"low_freq_factor": 2.0}}, ["low_freq_factor must be 1.0, for pairs that turn less often than once"]),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 2}}, ["high_freq_factor must be 4.0"]),
    ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}}, ["original_max_position_embeddings must be at least 1"]),
    ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8.5}}, ["rotary_trained must be a whole number"]),
    ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 10**400}}, ["must be below 1e+30"]),
    ({"rope_parameters": {"rope_type": "yarn"}}, ["rope_type must be", "yarn"]), ({"rope_scaling": {"type": ["linear"]}}, ["rope_type"]),
    ({"rope_scaling": {"type": "linear"}}, ["rope_type linear must have factor"]), ({"rope_scaling": [1]}, ["must be null or an object"]),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, ["rotary_scale must be"]), ({"rope_theta": True}, ["rotary_base must be"]),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, ["rotary_scale must be"]), ({"rope_theta": None}, ["rotary_base must be"]),
    ({"rope_theta": 10**400}, ["must be below 1e+30"]),
    ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 2}}, ["rope_scaling in its place"]),
    ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor must be 1.0", "all channels"]),
    ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, ["partial_rotary_factor must be 1.0"]),
    ({"attention_dropout": 0.1}, ["attention_dropout must be 0", "--dropout"]), ({"attention_bias": 1}, ["attention_bias must be true or"]),
    ({"num_key_value_heads": 3}, ["n_kv_head must divide n_head=4"]), ({"num_key_value_heads": 0}, ["num_key_value_heads must be null or"]),
    ({"num_key_value_heads": 4}, ["layers.0.self_attn.k_proj.weight [4, 8] for [8, 8]"]),
    ({"num_key_value_heads": True}, ["num_key_value_heads must be null or"]), ({"rms_norm_eps": 0}, ["norm_eps must be"]),
    ({"num_key_value_heads": None}, ["self_attn.v_proj.weight [4, 8] for [8, 8]"]), ({"hidden_size": "8"}, ["n_embd must be"]),
    ({"intermediate_size": 0}, ["intermediate_size must be"]), ({"intermediate_size": None}, ["intermediate_size must be"]),
    ({"intermediate_size": 8}, ["mlp.down_proj.weight [8, 7] for [8, 8]"]), ({"hidden_size": 9}, ["n_embd must be divisible"]),
    ({"num_hidden_layers": 10**9}, ["n_layer=1000000000", "there are 21 in all"]), ({"vocab_size": 10**15}, ["embed_tokens.weight [11, 8]"]),
    ({"num_hidden_layers": 3}, ["missing: layers.2.input_layernorm.weight"]), ({"tie_word_embeddings": None}, ["tie_word_embeddings"]),
    ({"num_attention_heads": 8, "num_key_value_heads": 8}, ["must be even"])])
def test_what_no_gpt_here_can_be_is_refused_with_the_reason(tmp_path, changes, words):
    folder = write(tmp_path / "m", config=THEIRS | changes)
    message = refused(lambda: load_pretrained(folder), *words)
    assert message.count(str(folder)) == 1


def test_a_mistral_is_a_llama_that_may_have_a_window(tmp_path):
    assert load_pretrained(write(tmp_path / "m", config=MISTRAL))[0].config == replace(CONFIG, attention="window", window=3)
    assert load_pretrained(write(tmp_path / "m", config=MISTRAL | {"sliding_window": None}))[0].config == CONFIG


@pytest.mark.parametrize("changes, words", [
    ({"sliding_window": 0}, ["sliding_window must be null or a whole number of at least 1, got 0"]),
    ({"sliding_window": True}, ["sliding_window must be null"]), ({"sliding_window": 10**40}, ["sliding_window must be null"]),
    ({"attention_bias": True}, ["attention_bias must be false, for their model has no biases"]), ({"hidden_act": "gelu"}, ["SwiGLU"])])
def test_what_is_no_mistral_is_refused_with_the_reason(tmp_path, changes, words):
    refused(lambda: load_pretrained(write(tmp_path / "m", config=MISTRAL | changes)), "config.json: ", *words)


def test_a_mistrals_defaults_are_not_guessed(tmp_path):
    config = {key: value for key, value in MISTRAL.items() if key not in ("sliding_window", "num_key_value_heads")}
    refused(lambda: load_pretrained(write(tmp_path / "m", config=config)), "must hold num_key_value_heads, sliding_window")


def test_sizes_must_be_there_and_dropout_is_the_callers(tmp_path):
    refused(lambda: load_pretrained(write(tmp_path / "m", config={"model_type": "llama", "vocab_size": 11})),
            "must hold num_hidden_layers, num_attention_heads, hidden_size, intermediate_size, max_position_embeddings")
    folder = write(tmp_path / "m", config=THEIRS | {"attention_dropout": 0.1})
    assert load_pretrained(folder, dropout=0.2)[0].config == replace(CONFIG, dropout=0.2)


def test_a_matrix_of_ours_shape_and_no_numbers_are_refused(tmp_path):
    arrays = weights()
    name = "model.layers.1.mlp.down_proj.weight"
    refused(lambda: load_pretrained(write(tmp_path / "m", arrays | {name: arrays[name].T.copy()})), "mlp.down_proj.weight [7, 8] for [8, 7]")
    arrays["model.layers.1.self_attn.v_proj.weight"][3, 2] = np.nan         # the last of three in one array of ours
    refused(lambda: load_pretrained(write(tmp_path / "m", arrays)), '"layers.1.self_attn.v_proj.weight" must hold finite numbers')


def test_a_large_transposed_matrix_is_copied_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("numpyllm.interop.safetensors.BLOCK", 17)           # two rows and a bit
    model, whole = load_pretrained(write(tmp_path / "m"))[0], weights()
    assert (model.parameters["blocks.1.mlp.down.w"] == whole["model.layers.1.mlp.down_proj.weight"].T).all()
    assert (model.parameters["blocks.0.attn.qkv.w"][:, 8:12] == whole["model.layers.0.self_attn.k_proj.weight"].T).all()


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
KEYS = [*THEIRS, "rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "head_dim", "tie_word_embeddings", "attention_bias",
        "mlp_bias", "hidden_act", "attention_dropout", "partial_rotary_factor", "quantization_config"]
ROPE = st.dictionaries(st.sampled_from(["rope_type", "type", "partial_rotary_factor", "rope_theta", *LLAMA3]),
                       VALUES | st.sampled_from(["linear", "default", "llama3"]), max_size=5)


@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES | ROPE, max_size=3), missing=st.sets(st.sampled_from(KEYS), max_size=1))
@settings(max_examples=200)
def test_any_config_is_read_or_refused(tmp_path_factory, changes, missing):
    folder = tmp_path_factory.getbasetemp() / "any"
    write(folder, config={key: value for key, value in (THEIRS | changes).items() if key not in missing})
    tracemalloc.start()
    try:
        model, _ = load_pretrained(folder)
        assert np.isfinite(model.parameters.data).all()
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3e6


# ---- writing ------------------------------------------------------------------------------------------------------

CHANGES = [{}, {"tied": True}, {"bias": True, "n_kv_head": 0}, {"rotary_scale": 3.0, "rotary_base": 77.0},
           {"rotary_scale": 8.0, "rotary_trained": 30}, {"attention": "window", "window": 3}, {"norm_eps": 1e-3, "n_hidden": 0}]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", CHANGES)
def test_there_and_back(tmp_path, dtype, changes):
    library = pytest.importorskip("safetensors.numpy")
    model = model_of(replace(CONFIG, **changes), dtype)
    save_pretrained(tmp_path / "m", model)
    again, _ = load_pretrained(tmp_path / "m", dtype=dtype)
    assert again.config == replace(model.config, n_hidden=model.config.hidden) and (again.parameters.data == model.parameters.data).all()
    stored = library.load_file(tmp_path / "m" / "model.safetensors")
    assert stored["model.layers.1.self_attn.v_proj.weight"].shape == (2 * model.config.kv_heads, 8)


def test_neighbouring_pairs_are_written_half_a_head_apart(tmp_path):
    pytest.importorskip("safetensors")
    model = model_of(replace(CONFIG, n_embd=24, rotary_interleaved=True, bias=True), np.float64)
    save_pretrained(tmp_path / "m", model)
    again, _ = load_pretrained(tmp_path / "m", dtype=np.float64)
    ids = np.arange(10).reshape(2, 5)
    assert np.abs(again.forward(ids)[0] - model.forward(ids)[0]).max() < 1e-12
    plain = GPT(replace(model.config, rotary_interleaved=False), parameters=model.parameters)
    assert np.abs(plain.forward(ids)[0] - model.forward(ids)[0]).max() > 1e-5


@pytest.mark.parametrize("changes, words", [
    ({"qk_norm": True}, ["gpt2 has no position=rotary", "llama has no qk_norm=True"]), ({"softcap": 30.0}, ["llama has no softcap=30.0"]),
    ({"attention": "window", "window": 3, "bias": True}, ["llama has no attention=window", "mistral has no bias=True"]),
    ({"attention": "strided", "window": 3}, ["mistral has no attention=strided"]), ({"pre_norm": False}, ["llama has no pre_norm=False"]),
    ({"mlp": "silu"}, ["llama has no mlp=silu"]), ({"position": "alibi"}, ["llama has no position=alibi"])])
def test_what_is_no_llama_is_not_written(tmp_path, changes, words):
    pytest.importorskip("safetensors")
    refused(lambda: save_pretrained(tmp_path / "m", model_of(replace(CONFIG, **changes))), "only be kept as a checkpoint", *words)
    assert not list(tmp_path.iterdir())


def test_convert_and_generate(tmp_path, capsys):
    pytest.importorskip("safetensors")
    tokenizer = BytePairTokenizer.train(TEXT, 280, pattern=r"\p{N}{1,3}|\p{L}+|\s+|[^\s\p{L}\p{N}]+",
                                        special_tokens=("<|endoftext|>", "<|eot_id|>"))
    model = model_of(replace(CONFIG, vocab_size=300, block_size=32))
    model.save_pretrained(tmp_path / "hf", tokenizer)
    assert GPT.from_pretrained(tmp_path / "hf").config == model.config
    assert main(["convert", str(tmp_path / "hf"), "--out", str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), "--out", str(tmp_path / "again")]) == 0
    assert (load_pretrained(tmp_path / "again")[0].parameters.data == model.parameters.data).all()
    assert load_pretrained(tmp_path / "again")[1] == tokenizer
    capsys.readouterr()
    said = []
    for name in ("hf", "ours", "again"):
        assert main(["generate", "--model", str(tmp_path / name), "--prompt", "the fox", "--max_new_tokens", "9"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0].startswith("the fox") and said[0] == said[1] == said[2]


def test_a_tokenizer_that_means_something_else_is_refused_with_the_reason(tmp_path):
    folder = write(tmp_path / "m")
    (folder / "tokenizer.json").write_text(json.dumps({
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}, "pre_tokenizer": None,
        "model": {"type": "BPE", "byte_fallback": True, "vocab": {"<unk>": 0}, "merges": []}}))
    refused(lambda: load_pretrained(folder), "tokenizer.json", "there must be a normalizer that puts U+2581", "without its tokenizer's files")
