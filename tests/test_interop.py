"""GPT-2 in Hugging Face's layout: a strict reader of files that nobody vouches for, a careful writer, and both ways round."""

import json
import os
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numpyllm import interop, kernels, ops
from numpyllm import tokenizer as tokenizers
from numpyllm.checks import check_model
from numpyllm.cli.main import main
from numpyllm.errors import InputError
from numpyllm.files import replacing_folder
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.interop.gpt2 import BUFFERS, tensors
from numpyllm.interop.safetensors import MOST_HEADER, read_header, read_index
from numpyllm.layers import LayerNorm
from numpyllm.models import GPT, GPTConfig
from numpyllm.parameters import Parameters
from numpyllm.tokenizer import BytePairTokenizer, CharacterTokenizer

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=6, block_size=5, vocab_size=11)
THEIRS = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 6, "n_positions": 5, "vocab_size": 11,
          "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
TEXT = "the quick brown fox jumps over the lazy dog. " * 20
STORE = {"F64": lambda a: a.astype("<f8"), "F32": lambda a: a.astype("<f4"), "F16": lambda a: a.astype("<f2"),
         "BF16": lambda a: (np.ascontiguousarray(a, "<f4").view("<u4") >> 16).astype("<u2"), "U8": lambda a: a.astype("u1")}


def file_of(arrays, dtype="F32", metadata=None):
    """The bytes of a .safetensors file: {name: array, or (dtype, array)}."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        kind, array = array if isinstance(array, tuple) else (dtype, array)
        stored = STORE[kind](array).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    return with_header(json.dumps(header).encode(), data)


def with_header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


def weights(config=CONFIG, seed=0):
    """{their name: array} of order one, exact in bfloat16."""
    rng = np.random.default_rng(seed)
    made = {name: rng.integers(-64, 65, place.shape) / 64.0 for name, place in tensors(config).items()}
    return {name if name == "lm_head.weight" else f"transformer.{name}": array for name, array in made.items()}


def write(folder, arrays=None, config=THEIRS, **options):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(file_of(weights() if arrays is None else arrays, **options))
    return folder


def model_of(config=CONFIG, dtype=np.float32, seed=0):
    model = GPT(config, seed=None, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name in model.parameters:
        model.parameters[name][...] = 0.3 * rng.standard_normal(model.parameters[name].shape)
    return model


def refused(call, *words):
    """The call must raise InputError, in one line of a bounded length, with these words in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500
    assert all(word in message for word in words), message
    return message


# ---- reading ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_file_becomes_the_model_it_describes(tmp_path, dtype, prefix):
    arrays = {name.replace("transformer.", prefix): array for name, array in weights().items()}
    model, tokenizer = load_pretrained(write(tmp_path / "m", arrays, dtype=dtype, metadata={"format": "pt"}))
    assert tokenizer is None and model.config == CONFIG and model.parameters.dtype == np.float32
    for name, place in tensors(CONFIG).items():
        assert (model.parameters[place.name] == weights()[f"transformer.{name}"]).all(), name
    assert set(model.parameters) == {place.name for place in tensors(CONFIG).values()}


def test_the_order_of_tensors_and_an_unaligned_header_do_not_matter(tmp_path):
    arrays = dict(reversed(weights().items()))
    data = file_of(arrays, "F64")
    n = struct.unpack("<Q", data[:8])[0]
    for spaces in range(8):
        folder = write(tmp_path / "m")
        (folder / "model.safetensors").write_bytes(with_header(data[8:8 + n] + b" " * spaces, data[8 + n:]))
        assert (load_pretrained(folder)[0].parameters["norm.w"] == arrays["transformer.ln_f.weight"]).all()


def test_buffers_are_ignored_and_an_untied_head_is_read(tmp_path):
    untied = replace(CONFIG, tied=False)
    arrays = weights(untied) | {"transformer.h.0.attn.bias": ("U8", np.ones((1, 1, 5, 5))),
                                "h.1.attn.masked_bias": np.array(-1e4)}
    model, _ = load_pretrained(write(tmp_path / "m", arrays, THEIRS | {"tie_word_embeddings": False}))
    assert model.config == untied and (model.parameters["head.w"] == arrays["lm_head.weight"]).all()
    assert BUFFERS.fullmatch("h.11.attn.bias") and not BUFFERS.fullmatch("h.11.attn.c_attn.bias")


def test_a_tied_head_in_the_file_must_be_the_embedding(tmp_path):
    arrays = weights()
    folder = write(tmp_path / "m", arrays | {"lm_head.weight": arrays["transformer.wte.weight"]})
    assert load_pretrained(folder)[0].config.tied
    other = arrays["transformer.wte.weight"].copy()
    other[3, 4] += 1
    write(folder, arrays | {"lm_head.weight": other})
    refused(lambda: load_pretrained(folder), "lm_head.weight must equal wte.weight", "tie_word_embeddings to false")


@pytest.mark.parametrize("theirs, ours", [
    ({"activation_function": "gelu"}, {"exact_gelu": True}), ({"activation_function": "gelu_pytorch_tanh"}, {}),
    ({"layer_norm_epsilon": 1e-12}, {"norm_eps": 1e-12}), ({"n_inner": 24}, {}), ({"n_inner": None, "pruned_heads": {}}, {}),
    ({"attn_pdrop": 0.25, "embd_pdrop": 0.25, "resid_pdrop": 0.25}, {"dropout": 0.25})])
def test_choices_are_carried_over(tmp_path, theirs, ours):
    assert load_pretrained(write(tmp_path / "m", config=THEIRS | theirs))[0].config == replace(CONFIG, **ours)


@pytest.mark.parametrize("changes, words", [
    ({"model_type": "bert"}, ["model_type must be one of gpt2, llama", "bert"]), ({"model_type": None}, ["model_type must be"]), ({"model_type": ["gpt2"]}, ["model_type must be"]),
    ({"activation_function": "relu"}, ["activation_function must be one of gelu_new", "relu"]),
    ({"activation_function": ["gelu"]}, ["activation_function must be one of"]),
    ({"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx must be false", "alike in every layer"]),
    ({"scale_attn_weights": False}, ["scale_attn_weights must be true"]),
    ({"add_cross_attention": True}, ["add_cross_attention must be false", "no encoder"]),
    ({"quantization_config": {"bits": 4}}, ["quantization_config must be null"]), ({"pruned_heads": {"0": [1]}}, ["pruned_heads"]),
    ({"n_inner": 25}, ["n_inner must be null or 4 n_embd = 24", "25"]), ({"n_inner": "x"}, ["n_inner must be"]),
    ({"layer_norm_epsilon": 0}, ["norm_eps must be"]), ({"layer_norm_epsilon": "1e-5"}, ["norm_eps must be"]),
    ({"tie_word_embeddings": 0}, ["tie_word_embeddings must be true or false"]),
    ({"attn_pdrop": 0.1}, ["embd_pdrop, attn_pdrop, resid_pdrop must be equal", "0.0, 0.1, 0.0"]),
    ({"n_head": 5}, ["n_embd must be divisible by n_head"]), ({"n_layer": 0}, ["n_layer must be"]),
    ({"vocab_size": "11"}, ["vocab_size must be"]), ({"n_embd": True}, ["n_embd must be"]),
    ({"n_layer": 10**9}, ["n_layer=1000000000", "there are 28 in all"]), ({"n_layer": 3}, ["missing: h.2.attn.c_attn.bias", "8 more"]),
    ({"n_layer": 1}, ["surplus: h.1.attn.c_attn.bias"]), ({"vocab_size": 10**15}, ["wte.weight [11, 6] for [1000000000000000, 6]"]),
    ({"n_positions": 6}, ["of another shape: wpe.weight [5, 6] for [6, 6]"]),
    ({"n_embd": 8}, ["of another shape: h.0.attn.c_attn.bias [18] for [24]"])])
def test_what_no_gpt_here_can_be_is_refused_with_the_reason(tmp_path, changes, words):
    folder = write(tmp_path / "m", config=THEIRS | changes)
    refused(lambda: load_pretrained(folder), str(folder), *words)


def test_unequal_dropouts_are_settled_by_the_caller(tmp_path):
    folder = write(tmp_path / "m", config=THEIRS | {"attn_pdrop": 0.1})
    assert load_pretrained(folder, dropout=0.2)[0].config == replace(CONFIG, dropout=0.2)


def test_missing_surplus_and_misshapen_tensors_are_named_in_one_error(tmp_path):
    arrays = weights()
    del arrays["transformer.wpe.weight"], arrays["transformer.h.1.ln_2.bias"]
    arrays["score.weight"] = np.ones((2, 6))
    arrays["transformer.h.0.mlp.c_fc.weight"] = arrays["transformer.h.0.mlp.c_fc.weight"].T.copy()
    arrays["transformer.ln_f.bias"] = ("U8", np.ones(6))
    refused(lambda: load_pretrained(write(tmp_path / "m", arrays)), "missing: h.1.ln_2.bias, wpe.weight", "surplus: score.weight",
            "of another shape: h.0.mlp.c_fc.weight [24, 6] for [6, 24]", "of a type other than F64, F32, F16, BF16: ln_f.bias U8")


def test_a_tensor_with_and_without_prefix_is_refused(tmp_path):
    folder = write(tmp_path / "m", weights() | {"ln_f.bias": np.ones(6)})
    refused(lambda: load_pretrained(folder), '"ln_f.bias" must be there once')


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad):
    arrays = weights()
    arrays["transformer.h.1.attn.c_proj.weight"][3, 2] = bad
    folder = write(tmp_path / "m", arrays, dtype="F64")
    refused(lambda: load_pretrained(folder), "model.safetensors", '"h.1.attn.c_proj.weight" must hold finite numbers of type float32')
    if bad == 1e300:
        assert load_pretrained(folder, dtype=np.float64)[0].parameters["blocks.1.attn.proj.w"][3, 2] == bad


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    folder = write(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(lambda: load_pretrained(folder), "must hold model.safetensors", "pytorch_model.bin is a pickle")
    refused(lambda: load_pretrained(tmp_path / "nothing"), "config.json: cannot be read")


def test_a_model_is_read_into_little_more_than_its_own_memory(tmp_path):
    config = GPTConfig(n_layer=2, n_head=2, n_embd=128, block_size=64, vocab_size=16000)
    folder = write(tmp_path / "m", {name: array.astype(np.float32) for name, array in weights(config).items()},
                   THEIRS | {"n_embd": 128, "n_positions": 64, "vocab_size": 16000}, dtype="F16")
    tracemalloc.start()
    model, _ = load_pretrained(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < model.parameters.data.nbytes + model.parameters.grad.nbytes + 8e6     # two arrays of 10 MB, and a block


# ---- hostile files ------------------------------------------------------------------------------------------------

def entry(shape=(2,), offsets=(0, 8), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


HOSTILE = {
    "empty file": (b"", "truncated"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "truncated"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "length of its header, got 100"),
    "header of 2^64 - 1 bytes": (b"\xff" * 8 + b"{}", "got 18,446,744,073,709,551,615"),
    "header of a megabyte of spaces": (with_header(b"{" + b" " * MOST_HEADER + b"}"), "header must have 2 to"),
    "header of no bytes": (with_header(b""), "header must have 2 to"),
    "no JSON": (with_header(b"{wte}"), "must be JSON"),
    "JSON after a space": (with_header(b" {}"), "must be a JSON object"),
    "an array": (with_header(b"[1]"), "must be a JSON object"),
    "not UTF-8": (with_header(b'{"\xff":1}'), "must be JSON"),
    "nested beyond all reason": (with_header(b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}"), "must be JSON"),
    "350,000 lists": (with_header(b'{"a":[' + b",".join([b"[]"] * 349_000) + b"]}"), '"a" must have dtype, shape'),
    "nested": (with_header(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"), ""),
    "a key twice": (with_header(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":1}', bytes(4)), "distinct, got 'a' twice"),
    "a shape twice": (with_header(b'{"a":{"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}', bytes(4)), "'shape' twice"),
    "metadata of numbers": (with_header(b'{"__metadata__":{"a":1}}'), "__metadata__ must be an object of strings"),
    "an integer of 5,000 digits": (with_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'), "JSON"),
    "an entry of another kind": (with_header(b'{"a":5}'), '"a" must have dtype, shape'),
    "a member too many": (with_header(json.dumps({"a": entry(code="x")}).encode(), bytes(8)), '"a" must have dtype, shape'),
    "three offsets": (with_header(json.dumps({"a": entry(offsets=(0, 8, 9))}).encode(), bytes(8)), '"a" must have dtype, shape'),
    "an unknown type": (with_header(json.dumps({"a": entry(dtype="PICKLE")}).encode(), bytes(8)), '"a" must have a dtype of'),
    "a size below zero": (with_header(json.dumps({"a": entry((-1, -2))}).encode(), bytes(8)), '"a" must have sizes and offsets'),
    "a size of 2.0": (with_header(json.dumps({"a": entry((2.0,))}).encode(), bytes(8)), '"a" must have sizes and offsets'),
    "a size of true": (with_header(json.dumps({"a": entry((True, 2))}).encode(), bytes(8)), '"a" must have sizes and offsets'),
    "100,000 dimensions": (with_header(json.dumps({"a": entry((1,) * 100_000, (0, 4))}).encode(), bytes(4)), "at most 8 dimensions"),
    "a dimension of 10^9": (with_header(json.dumps({"a": entry((10**9, 10**9))}).encode(), bytes(8)),
                            "must have 4,000,000,000,000,000,000 bytes"),
    "a product that overflows to 8 bytes": (with_header(json.dumps({"a": entry((2**62 + 2,), (0, 8))}).encode(), bytes(8)), '"a" of shape'),
    "four sizes whose product is 2^64": (with_header(json.dumps({"a": entry((2**16,) * 4, (0, 0))}).encode()), '"a" of shape'),
    "bytes that are too few": (with_header(json.dumps({"a": entry((3,), (0, 8))}).encode(), bytes(8)), "must have 12 bytes"),
    "offsets in reverse": (with_header(json.dumps({"a": entry((2,), (8, 0))}).encode(), bytes(8)), '"a" of shape'),
    "offsets beyond the file": (with_header(json.dumps({"a": entry((2,), (0, 8))}).encode(), bytes(7)), "8 bytes of 7"),
    "offsets beyond 2^63": (with_header(json.dumps({"a": entry((2,), (2**64, 2**64 + 8))}).encode(), bytes(8)), "sizes and offsets"),
    "bytes at the end": (with_header(json.dumps({"a": entry()}).encode(), bytes(9)), "something else at its end"),
    "a gap at the beginning": (with_header(json.dumps({"a": entry((2,), (4, 12))}).encode(), bytes(12)), '"a" leaves a gap'),
    "a gap": (with_header(json.dumps({"a": entry(), "b": entry((1,), (12, 16))}).encode(), bytes(16)), '"b" leaves a gap'),
    "overlapping tensors": (with_header(json.dumps({"a": entry(), "b": entry((2,), (4, 12))}).encode(), bytes(12)), '"b" overlaps'),
    "the same bytes twice": (with_header(json.dumps({"a": entry(), "b": entry()}).encode(), bytes(8)), '"b" overlaps'),
    "a name that draws on the terminal": (with_header(json.dumps({"a\n\x1b[2J": entry()}).encode(), bytes(9)), "something else"),
    "a name of 100,000 characters": (with_header(json.dumps({"a" * 100_000: entry((9,))}).encode(), bytes(8)), '"aaaaaaa'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_before_anything_large_is_allocated(tmp_path, name):
    data, words = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    message = refused(lambda: read_header(path), str(path), words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * MOST_HEADER and message.isprintable()


def test_a_model_larger_than_the_machine_is_refused(tmp_path, monkeypatch):
    folder = write(tmp_path / "m")
    needed = load_pretrained(folder)[0].n_params() * 4
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else needed)
    assert load_pretrained(folder)[0].n_params() * 4 == needed      # gradients are made when they are asked for
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else needed - 1)
    refused(lambda: load_pretrained(folder), "must fit into the")


def test_names_in_an_error_cannot_draw_on_the_terminal(tmp_path):
    arrays = weights() | {"\x1b[2J\nall is well": np.ones(1), "é" * 500: np.ones(1)}
    assert refused(lambda: load_pretrained(write(tmp_path / "m", arrays)), "surplus", "u001b").isprintable()


def test_zero_sized_tensors_and_scalars_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of({"scalar": np.array(1.0), "none": np.ones((0, 10**6)), "two": np.ones(2)}))
    found = read_header(path)
    assert {name: stored.shape for name, stored in found.items()} == {"scalar": (), "none": (0, 10**6), "two": (2,)}
    path.write_bytes(with_header(b"{}"))
    assert read_header(path) == {}


def test_what_is_no_file_is_refused(tmp_path):
    refused(lambda: read_header(tmp_path), "must be a file")
    refused(lambda: read_header(tmp_path / "no"), "cannot be read")
    os.mkfifo(tmp_path / "pipe")                    # opening it would wait for ever
    refused(lambda: read_header(tmp_path / "pipe"), "must be a file")


GOOD = file_of(weights(), "BF16")


@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) * 8 - 1)), max_size=6), header_only=st.booleans(),
       cut=st.none() | st.integers(0, len(GOOD)), more=st.binary(max_size=9))
@settings(max_examples=300)
def test_a_damaged_file_is_refused_or_holds_other_numbers(tmp_path_factory, flips, header_only, cut, more):
    """Nothing but InputError, and little memory, whatever is in the file."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        write(folder)
    data, n = bytearray(GOOD), struct.unpack("<Q", GOOD[:8])[0]
    for (bit,) in flips:
        bit = bit % ((8 + n) * 8) if header_only else bit
        data[bit // 8] ^= 1 << bit % 8
    (folder / "model.safetensors").write_bytes(data[:cut] + more)
    tracemalloc.start()
    try:
        model, _ = load_pretrained(folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert cut in (None, len(GOOD)) and not more and np.isfinite(model.parameters.data).all()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3e6


@given(st.binary(max_size=400), st.integers(0, 300))
def test_random_bytes_are_refused(tmp_path_factory, data, n):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    for content in (data, with_header(data), struct.pack("<Q", n) + b"{" + data):
        path.write_bytes(content)
        try:
            read_header(path)
        except InputError:
            continue
        assert content == with_header(b"{}" + b" " * (len(content) - 10))


# ---- several files ------------------------------------------------------------------------------------------------

def write_shards(folder, arrays=None, change=None):
    arrays = list((weights() if arrays is None else arrays).items())
    files = {"model-00001-of-00002.safetensors": dict(arrays[:9]), "model-00002-of-00002.safetensors": dict(arrays[9:])}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(THEIRS))
    for file, part in files.items():
        (folder / file).write_bytes(file_of(part))
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, part in files.items() for name in part}}
    if change:
        change(index["weight_map"])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_model_in_several_files(tmp_path):
    model, _ = load_pretrained(write_shards(tmp_path / "m"))
    whole, _ = load_pretrained(write(tmp_path / "whole"))
    assert (model.parameters.data == whole.parameters.data).all()


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "..", ".", "", "sub/a.safetensors", "..\\a.safetensors",
                                  "a\0.safetensors", "\ud800.safetensors", "a.bin", 5, None, ["a.safetensors"], "a\n.safetensors"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, file):
    (tmp_path / "outside.safetensors").write_bytes(file_of(weights()))
    folder = write_shards(tmp_path / "m", change=lambda table: table.update({"transformer.wte.weight": file}))
    refused(lambda: load_pretrained(folder), "index.json", '"transformer.wte.weight" must be in a .safetensors file beside the index')


@pytest.mark.parametrize("change, words", [
    (lambda table: table.pop("transformer.ln_f.bias"), ["00002", "not in the index: transformer.ln_f.bias"]),
    (lambda table: table.update(extra="model-00001-of-00002.safetensors"), ["00001", "missing: extra"]),
    (lambda table: table.update({"transformer.wte.weight": "model-00002-of-00002.safetensors"}), ["transformer.wte.weight"]),
    (lambda table: table.update({"x": "model-00003-of-00003.safetensors"}), ["00003", "cannot be read: No such file"]),
    (lambda table: table.clear(), ["must hold a weight_map"])])
def test_an_index_must_agree_with_its_files(tmp_path, change, words):
    refused(lambda: read_index(write_shards(tmp_path / "m", change=change) / "model.safetensors.index.json"), *words)


def test_a_truncated_file_of_several_and_a_broken_index_are_refused(tmp_path):
    folder = write_shards(tmp_path / "m")
    second = folder / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    refused(lambda: load_pretrained(folder), "model-00002-of-00002.safetensors", "truncated")
    second.write_bytes(whole)
    index = folder / "model.safetensors.index.json"
    for text in ("[]", "{", '{"weight_map": []}', '{"weight_map": 3}'):
        index.write_text(text)
        refused(lambda: load_pretrained(folder), "index.json")
    index.write_text(" " * (MOST_HEADER + 1))
    refused(lambda: load_pretrained(folder), "index.json", "at most")
    with open(folder / "config.json", "ab") as file:
        file.truncate(10**10)                       # sparse
    refused(lambda: load_pretrained(folder), "config.json", "at most")


# ---- writing ------------------------------------------------------------------------------------------------------

@pytest.fixture
def library():
    return pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"exact_gelu": True, "norm_eps": 1e-6, "dropout": 0.1}])
def test_there_and_back(tmp_path, library, dtype, changes):
    model = model_of(replace(CONFIG, **changes), dtype)
    save_pretrained(tmp_path / "m", model)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    again, tokenizer = load_pretrained(tmp_path / "m", dtype=dtype)
    assert tokenizer is None and again.config == model.config and (again.parameters.data == model.parameters.data).all()
    names = set(library.load_file(tmp_path / "m" / "model.safetensors"))
    assert "transformer.h.1.mlp.c_fc.weight" in names and ("lm_head.weight" in names) == (not model.config.tied)


def test_the_model_s_own_methods(tmp_path, library):
    model, tokenizer = model_of(replace(CONFIG, vocab_size=280, dropout=0.1)), BytePairTokenizer.train(TEXT, 270)
    model.save_pretrained(tmp_path / "m", tokenizer)
    model.save_pretrained(tmp_path / "m", tokenizer, overwrite=True)
    again = GPT.from_pretrained(tmp_path / "m", dropout=0.0, dtype=np.float64)
    assert again.config == replace(model.config, dropout=0.0) and (again.parameters.data == model.parameters.data).all()


def test_a_model_without_biases_gets_biases_of_zero(tmp_path, library):
    model = model_of(replace(CONFIG, bias=False), np.float64)
    save_pretrained(tmp_path / "m", model)
    again, _ = load_pretrained(tmp_path / "m", dtype=np.float64)
    ids = np.arange(10).reshape(2, 5)
    assert again.config.bias and not again.parameters["blocks.1.mlp.b"].any()
    assert abs(again.forward(ids)[0] - model.forward(ids)[0]).max() < 1e-15


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", r"\w+|\W+"])
def test_the_tokenizer_goes_with_the_model(tmp_path, library, pattern):
    tokenizer = BytePairTokenizer.train(TEXT, 270, pattern=pattern)
    model = model_of(replace(CONFIG, vocab_size=280))
    save_pretrained(tmp_path / "m", model, tokenizer)
    assert load_pretrained(tmp_path / "m")[1] == tokenizer
    assert (tmp_path / "m" / "vocab.json").exists() == (tmp_path / "m" / "merges.txt").exists() == (pattern == "gpt2")
    if pattern == "gpt2":
        assert tokenizers.load(tmp_path / "m" / "vocab.json") == tokenizer
    assert json.loads((tmp_path / "m" / "config.json").read_text())["eos_token_id"] == tokenizer.eot_token
    refused(lambda: save_pretrained(tmp_path / "n", model_of(), tokenizer), "ids below vocab_size=11", "another model's")
    tokenizer.save(write(tmp_path / "n") / "tokenizer.json")
    refused(lambda: load_pretrained(tmp_path / "n"), "ids below vocab_size=11")


def test_what_cannot_be_saved_is_refused_and_writes_nothing(tmp_path, library):
    refused(lambda: save_pretrained(tmp_path / "m", model_of(), CharacterTokenizer("abc")), "vocabulary of characters")
    refused(lambda: save_pretrained(tmp_path / "m", model_of().astype(np.complex128)), "complex128")
    broken = model_of()
    broken.parameters["norm.w"][0] = np.nan
    refused(lambda: save_pretrained(tmp_path / "m", broken), "finite numbers")
    assert not list(tmp_path.iterdir())


def test_without_the_library_one_line_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    refused(lambda: save_pretrained(tmp_path / "m", model_of()), "pip install 'numpyllm[hf]'")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_anything_is_not_touched(tmp_path, library):
    folder = tmp_path / "m"
    folder.mkdir()
    save_pretrained(folder, model_of())                             # empty: good
    before = contents(folder)
    refused(lambda: save_pretrained(folder, model_of(seed=1)), str(folder), "or be empty, it holds config.json")
    (folder / "mine.txt").write_text("precious")
    refused(lambda: save_pretrained(folder, model_of(seed=1), overwrite=True), "it holds mine.txt")
    assert contents(folder) == before | {"mine.txt": b"precious"}
    (folder / "mine.txt").unlink()
    (folder / "vocab.json").mkdir()                                 # a folder of that name is not ours
    refused(lambda: save_pretrained(folder, model_of(seed=1), overwrite=True), "it holds vocab.json")
    (folder / "vocab.json").rmdir()
    save_pretrained(folder, model_of(seed=1), overwrite=True)
    assert (load_pretrained(folder)[0].parameters.data == model_of(seed=1).parameters.data).all()
    refused(lambda: save_pretrained(folder / "config.json", model_of()), "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("fault", ["fsync", "rename 1", "rename 2", "save_file", "write_text", "interrupt"])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, library, monkeypatch, fault):
    import pathlib
    import safetensors
    folder = tmp_path / "m"
    save_pretrained(folder, model_of())
    before, calls, rename = contents(folder), [], os.rename

    def full(*args, **kwargs):
        calls.append(args)
        if fault == "rename 2" and len(calls) != 2:                 # the third puts the old one back
            return rename(*args)
        if fault == "interrupt":
            raise KeyboardInterrupt
        raise safetensors.SafetensorError("no space") if fault == "save_file" else OSError(28, "No space left on device")

    target = {"save_file": (library, "save_file"), "write_text": (pathlib.Path, "write_text"), "interrupt": (os, "fsync")}
    monkeypatch.setattr(*target.get(fault, (os, fault.split()[0])), full)
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else InputError):
        save_pretrained(folder, model_of(seed=1), overwrite=True)
    monkeypatch.undo()
    assert calls and contents(folder) == before and [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_disk_that_fills_up_with_the_last_file_is_noticed(tmp_path, library, monkeypatch):
    save = BytePairTokenizer.save

    def full(self, path, format="huggingface"):
        if format == "gpt2":
            raise InputError(f"{path}: cannot be written: No space left on device") from OSError(28, "No space left on device")
        save(self, path, format)

    monkeypatch.setattr(BytePairTokenizer, "save", full)
    refused(lambda: save_pretrained(tmp_path / "m", model_of(replace(CONFIG, vocab_size=280)), BytePairTokenizer.train(TEXT, 270)),
            "No space left")
    assert not list(tmp_path.iterdir())


def test_a_new_folder_may_lie_deep(tmp_path):
    with replacing_folder(tmp_path / "a" / "b") as temporary:
        (temporary / "x").write_text("1")
    assert contents(tmp_path) == {os.path.join("a", "b", "x"): b"1"}


# ---- choices that only their configurations have -----------------------------------------------------------------

@pytest.mark.parametrize("changes", [{"exact_gelu": True}, {"norm_eps": 0.3}, {"exact_gelu": True, "norm_eps": 1e-3, "tied": False}])
def test_gradients_under_the_new_choices(changes):
    model, ids = model_of(replace(CONFIG, **changes)), np.arange(10).reshape(2, 5)
    assert all(row.ok for row in check_model(model, ids, (ids + 1) % 11))
    plain = GPT(CONFIG, parameters=model.parameters) if "tied" not in changes else model_of(replace(CONFIG, tied=False))
    assert abs(plain.forward(ids)[0] - model.forward(ids)[0]).max() > 1e-5


@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
def test_a_norm_of_a_sum_has_the_same_eps(backend):
    layer, x, r = LayerNorm(6, eps=0.3), *np.random.default_rng(0).standard_normal((2, 4, 6))
    layer.bind(Parameters(layer.specs(), dtype=np.float64), backend)
    expected = (x + r - (x + r).mean(1, keepdims=True)) / np.sqrt((x + r).var(1, keepdims=True) + 0.3)
    assert np.abs(layer.residual_forward(x, r)[1] - expected).max() < 1e-14
    assert np.abs(layer.forward(x + r)[0] - expected).max() < 1e-14


def test_seed_none_makes_zeros_and_the_default_stays_as_it_was():
    assert not GPT(CONFIG, seed=None).parameters.data.any()
    assert GPT(CONFIG).parameters.data.any()


# ---- the command line --------------------------------------------------------------------------------------------

def run(capsys, *argv):
    try:
        code = main([str(arg) for arg in argv])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = BytePairTokenizer.train(TEXT, 270)
    model = model_of(replace(CONFIG, vocab_size=tokenizer.n_vocab, block_size=16))
    interop.save_model(tmp_path / "ours", model, tokenizer)
    return tmp_path / "ours"


def test_convert_and_generate(tmp_path, capsys, library, checkpoint):
    sample = ("--prompt", "the", "--max_new_tokens", 30)
    code, expected, _ = run(capsys, "generate", "--model", checkpoint, *sample)
    assert code == 0 and expected.startswith("the")
    code, out, _ = run(capsys, "convert", checkpoint, "--out", tmp_path / "theirs")
    assert code == 0 and "a tokenizer of 270 tokens" in out
    assert run(capsys, "generate", "--model", tmp_path / "theirs", *sample) == (0, expected, "")
    assert run(capsys, "convert", tmp_path / "theirs", "--out", tmp_path / "back")[0] == 0
    assert run(capsys, "generate", "--model", tmp_path / "back", *sample) == (0, expected, "")
    first, second = (interop.load_model(folder) for folder in (checkpoint, tmp_path / "back"))
    assert first[0].config == second[0].config and first[1] == second[1]
    assert (first[0].parameters.data == second[0].parameters.data).all()


def test_convert_with_and_without_a_tokenizer(tmp_path, capsys, library, checkpoint):
    code, out, _ = run(capsys, "convert", checkpoint, "--out", tmp_path / "theirs", "--no_tokenizer")
    assert code == 0 and "no tokenizer" in out and "generate" not in out
    code, _, err = run(capsys, "generate", "--model", tmp_path / "theirs")
    assert code == 2 and "holds no tokenizer" in err
    code, _, err = run(capsys, "convert", tmp_path / "theirs", "--out", tmp_path / "back")
    assert code == 2 and "must have a tokenizer" in err and not (tmp_path / "back").exists()
    code, _, _ = run(capsys, "convert", tmp_path / "theirs", "--out", tmp_path / "back", "--tokenizer", checkpoint / "tokenizer.json")
    assert code == 0 and interop.load_model(tmp_path / "back")[1] == interop.load_model(checkpoint)[1]
    assert run(capsys, "convert", tmp_path / "theirs", "--to", "hf", "--out", tmp_path / "theirs", "--overwrite")[0] == 0


@pytest.mark.parametrize("argv, words", [
    (["SOURCE", "--out", "SOURCE"], "it holds manifest.json"), (["SOURCE", "--to", "numpyllm", "--out", "SOURCE"], "or be empty"),
    (["nowhere", "--out", "x"], "nowhere does not exist"), (["SOURCE"], "required: --out"),
    (["SOURCE", "--out", "x", "--to", "gguf"], "invalid choice"), (["SOURCE", "--out", "x", "--overwite"], "did you mean --overwrite"),
    (["SOURCE", "--out", "x", "--to", "numpyllm", "--overwrite"], "are for --to hf"),
    (["SOURCE", "--out", "x", "--tokenizer", "t", "--no_tokenizer"], "give one of them"),
    (["SOURCE", "--out", "x", "--dropout", "0.1"], "--dropout is for a source of others")])
def test_convert_refuses_with_one_line(tmp_path, capsys, library, checkpoint, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    code, _, err = run(capsys, "convert", *(str(checkpoint) if arg == "SOURCE" else arg for arg in argv))
    assert code == 2 and words in err.splitlines()[-1] and contents(tmp_path) == before


def test_convert_takes_the_dropout_where_there_are_three(tmp_path, capsys, checkpoint):
    folder = write(tmp_path / "m", config=THEIRS | {"attn_pdrop": 0.1})
    vocabulary = ("--tokenizer", tmp_path / "characters.json")
    CharacterTokenizer("abcdefghijk").save(vocabulary[1])
    code, _, err = run(capsys, "convert", folder, "--out", tmp_path / "x", *vocabulary)
    assert code == 2 and "--dropout" in err
    assert run(capsys, "convert", folder, "--out", tmp_path / "x", "--dropout", "0.3", *vocabulary)[0] == 0
    assert interop.load_model(tmp_path / "x")[0].config.dropout == 0.3
    CharacterTokenizer("abcdefghijk").save(folder / "tokenizer.json")
    assert run(capsys, "generate", "--model", folder, "--prompt", "abc")[0] == 0        # it drops nothing, so need not know


# ---- training a model on -----------------------------------------------------------------------------------------

TRAIN = ("--max_iters", 4, "--batch_size", 2, "--eval_interval", 2, "--eval_iters", 1, "--warmup_iters", 0, "--threads", 1,
         "--backend", "numpy", "--log_interval", 1)


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


def test_train_begins_with_a_model_of_either_layout(tmp_path, capsys, library, checkpoint, book):
    assert run(capsys, "convert", checkpoint, "--out", tmp_path / "theirs")[0] == 0
    begun, tokenizer = interop.load_model(checkpoint)
    for source in (checkpoint, tmp_path / "theirs"):
        out = tmp_path / f"run-{source.name}"
        code, log, _ = run(capsys, "train", "--init_from", source, "--data", book, "--out_dir", out, "--block_size", 7,
                           "--learning_rate", 1e-9, "--weight_decay", 0, *TRAIN)
        assert code == 0 and f"beginning with the model in {source}" in log
        trained, same = interop.load_model(out)
        assert same == tokenizer and trained.config == replace(begun.config, block_size=7)
        for name in trained.parameters:
            value = trained.parameters[name]
            assert np.allclose(value, begun.parameters[name][:len(value)], rtol=0, atol=1e-6), name
    logs = [(tmp_path / f"run-{name}" / "metrics.jsonl").read_text() for name in ("ours", "theirs")]
    losses = [[json.loads(line).get("train/loss") for line in log.splitlines()] for log in logs]
    assert losses[0] == losses[1]


def test_a_run_that_began_with_a_model_goes_on_and_can_be_repeated(tmp_path, capsys, checkpoint, book):
    begin = ("--init_from", checkpoint, "--data", book, *TRAIN)
    out = tmp_path / "run"
    assert run(capsys, "train", *begin, "--out_dir", out)[0] == 0
    assert run(capsys, "train", *begin, "--out_dir", tmp_path / "short", "--max_iters", 2, "--lr_decay_iters", 4)[0] == 0
    assert run(capsys, "train", "--resume", "--out_dir", tmp_path / "short", "--max_iters", 4)[0] == 0
    assert run(capsys, "train", "--config", tmp_path / "short" / "config.toml", "--out_dir", tmp_path / "repeated")[0] == 0
    whole, *others = (interop.load_model(tmp_path / name)[0].parameters.data for name in ("run", "short", "repeated"))
    assert all((whole == other).all() for other in others)
    code, _, err = run(capsys, "train", "--resume", "--out_dir", out, "--init_from", "elsewhere")
    assert code == 2 and "give one of them" in err


@pytest.mark.parametrize("flags, words", [
    (["--n_layer", "3"], "has n_layer=2, got --n_layer 3"), (["--vocab_size", "9"], "has vocab_size=270"),
    (["--exact_gelu"], "has exact_gelu=False"), (["--block_size", "17"], "block_size must be at most 16"),
    (["--tokenizer", "bpe"], "--init_from or --tokenizer"), (["--init_from", "nowhere"], "nowhere does not exist")])
def test_what_contradicts_the_model_is_refused(tmp_path, capsys, checkpoint, book, flags, words):
    code, _, err = run(capsys, "train", "--init_from", checkpoint, "--data", book, "--out_dir", tmp_path / "run", *TRAIN, *flags)
    assert code == 2 and words in err and not (tmp_path / "run").exists()


def test_a_hostile_folder_on_the_command_line(tmp_path, capsys):
    folder = write(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(HOSTILE["overlapping tensors"][0])
    code, out, err = run(capsys, "generate", "--model", folder)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("numpyllm: error: ") and "overlaps" in err
