"""GPT-2 against Hugging Face's own: what their GPT2LMHeadModel saves is read here, and what is written here is read there.

Nothing is fetched: models are made of random weights.
"""

import numpy as np
import pytest
from hugging_face import (MARKS, check_greedy_text, check_saved_logits, check_several_files, off, random_gpt, randomised, read_back,
                          torch, transformers, with_gradients)

from numpyllm import kernels, ops
from numpyllm import tokenizer as tokenizers
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.interop.gpt2 import tensors
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer

pytestmark = MARKS

TEXT = "the quick brown fox jumps over the lazy dog, don't they?  \n\n1,234 naïve Ärger 汉字 \U0001f600 <|endoftext|> end"
SIZES = {"n_layer": 3, "n_head": 3, "n_embd": 24, "n_positions": 160, "vocab_size": 97}
CHOICES = {
    "GPT-2's": {},
    "untied": {"tie_word_embeddings": False},
    "exact GELU": {"activation_function": "gelu"},
    "GELU by torch's name": {"activation_function": "gelu_pytorch_tanh"},
    "another eps": {"layer_norm_epsilon": 1e-2},
    "attention in plain torch": {"attn_implementation": "eager"},
}


def theirs(dtype=torch.float32, seed=0, **choices):
    """A GPT2LMHeadModel whose weights, biases and gains are all random and far from nothing."""
    config = transformers.GPT2Config(**SIZES, bos_token_id=None, eos_token_id=None, **choices)
    return randomised(transformers.GPT2LMHeadModel(config), seed).to(dtype)


@pytest.mark.parametrize("choice", CHOICES)
def test_logits_in_float64_and_float32(tmp_path, choice):
    check_saved_logits(tmp_path, theirs(torch.float64, **CHOICES[choice]), theirs(**CHOICES[choice]))


@pytest.mark.parametrize("choice", ["untied", "exact GELU", "another eps", "GPT-2's"])
@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
def test_gradients_of_all_parameters_in_float64(tmp_path, choice, backend):
    model = theirs(torch.float64, **CHOICES[choice])
    ours = with_gradients(tmp_path / "m", model, backend)
    named = {name.removeprefix("transformer."): parameter for name, parameter in model.named_parameters()}
    table = tensors(ours.config)
    assert named.keys() == table.keys()
    for name, (own, *_) in table.items():
        gradient = named[name].grad.numpy()
        assert np.abs(gradient).max() > 1e-5 or name.endswith("c_attn.bias")
        assert np.abs(ours.parameters.gradient(own) - gradient).max() < 1e-10, name


@pytest.mark.parametrize("choice", ["GPT-2's", "untied", "exact GELU"])
def test_the_same_greedy_text_for_100_tokens(tmp_path, choice):
    model = theirs(**CHOICES[choice])
    with torch.no_grad():
        for name, parameter in model.named_parameters():    # what adds the same everywhere makes it one token for ever
            parameter *= 0.1 if name.endswith("bias") else 4 if "wpe" in name else 1
    check_greedy_text(tmp_path / "m", model, distinct=20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, dtype):
    """The file's numbers exactly: their model, of the same rounded weights, computes in float32 as ours does."""
    model = theirs().to(dtype)
    model.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 2.1 * model.num_parameters() + 10_000
    ours, _ = load_pretrained(tmp_path / "m")
    for name, (own, *_) in tensors(ours.config).items():
        assert (ours.parameters[own] == model.float().state_dict()[f"transformer.{name}"].numpy()).all()
    assert off(ours, model.float()) < 1e-4


@pytest.mark.parametrize("choice", ["GPT-2's", "untied"])
def test_several_files(tmp_path, choice):
    check_several_files(tmp_path / "m", theirs(**CHOICES[choice]))


def test_attention_reordered_and_upcast_is_the_same_function(tmp_path):
    """It matters in float16 alone, where their scores could overflow."""
    model = theirs(reorder_and_upcast_attn=True, attn_implementation="eager")
    model.save_pretrained(tmp_path / "m")
    assert off(load_pretrained(tmp_path / "m")[0], model) < 1e-4


def test_a_model_saved_without_its_head(tmp_path):
    model = theirs()
    model.transformer.save_pretrained(tmp_path / "m")
    assert off(load_pretrained(tmp_path / "m")[0], model) < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"exact_gelu": True, "norm_eps": 1e-2}, {"bias": False}],
                         ids=["GPT-2's", "untied", "exact GELU, eps", "no bias"])
def test_the_way_back(tmp_path, dtype, changes):
    config = GPTConfig(n_layer=3, n_head=3, n_embd=24, block_size=160, vocab_size=97, dropout=0.2, **changes)
    ours = random_gpt(config, dtype)
    model = read_back(tmp_path / "m", ours, transformers.GPT2LMHeadModel)
    assert (model.config.attn_pdrop, model.config.resid_pdrop, model.config.embd_pdrop) == (0.2,) * 3
    assert off(ours, model) < (1e-4 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "llama3"])
def test_tokenizers_there_and_back(tmp_path, pattern):
    ours = BytePairTokenizer.train(TEXT * 3, 300, pattern=pattern)
    save_pretrained(tmp_path / "m", GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=8, vocab_size=ours.n_vocab)), ours)
    expected = ours.encode(TEXT, allowed_special="all")
    hub = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    library = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert hub(TEXT).input_ids == library.encode(TEXT).ids == expected and hub.decode(expected) == TEXT
    assert hub.eos_token_id == ours.eot_token and len(hub) == ours.n_vocab and hub.model_max_length == 8
    hub.save_pretrained(tmp_path / "again")
    assert tokenizers.load(tmp_path / "again") == ours
    if pattern == "gpt2":       # the older pair of files, alone
        (tmp_path / "pair").mkdir()
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / "m" / name).rename(tmp_path / "pair" / name)
        hub = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "pair")
        assert hub(TEXT).input_ids == expected and tokenizers.load(tmp_path / "pair") == ours


def test_gpt2s_own_vocabulary_as_transformers_saves_it(tmp_path, data_dir):
    original = tokenizers.load(data_dir / "gpt2" / "encoder.json")
    (tmp_path / "pair").mkdir()
    original.save(tmp_path / "pair" / "vocab.json", "gpt2")
    transformers.GPT2Tokenizer.from_pretrained(tmp_path / "pair").save_pretrained(tmp_path / "m")
    assert tokenizers.load(tmp_path / "m") == original
