"""Llama against Hugging Face's own: what their LlamaForCausalLM saves is read here, and what is written here is read there.

Nothing is fetched: models are made of random weights. Their angles and norms are computed in float32 in every model, which is 1e-6
beside the truth; for comparisons in float64 both are replaced by ones in float64, made here from their definitions.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hugging_face import (MARKS, check_greedy_text, check_saved_logits, check_several_files, off, random_gpt, randomised, read_back,
                          torch, transformers, with_gradients)

from numpyllm import kernels, ops
from numpyllm.interop import load_pretrained
from numpyllm.interop.llama import tensors
from numpyllm.models import GPTConfig

pytestmark = MARKS

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 6, "hidden_size": 24, "intermediate_size": 37, "max_position_embeddings": 160,
         "vocab_size": 97}
LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}
# The four pairs of a head turn 6.4, 1.4, 0.3 and 0.06 times in the trained length: kept, mixed, and divided.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 40,
          "rope_theta": 500.0}
CHOICES = {
    "as published": {},
    "shared heads of keys": {"num_key_value_heads": 2},
    "one head of keys, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3},
    "biases in attention alone": {"attention_bias": True},
    "another base and eps": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-2},
    "linear scaling": {"rope_parameters": LINEAR, "num_key_value_heads": 2},
    "scaling of Llama 3.1": {"rope_parameters": LLAMA3, "num_key_value_heads": 2},
    "Mistral": {"sliding_window": 12, "num_key_value_heads": 2},
    "Mistral without a window": {"sliding_window": None, "num_key_value_heads": 3},
}


class Angles(torch.nn.Module):
    """Cosines and sines in float64, each for both channels of a pair. From Llama 3.1's equations, by wavelengths."""

    def __init__(self, D, rope):
        super().__init__()
        self.frequencies = rope["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        slow = self.frequencies / rope.get("factor", 1.0)
        if rope["rope_type"] == "llama3":
            wavelengths, trained = 2 * math.pi / self.frequencies, rope["original_max_position_embeddings"]
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = (trained / wavelengths - low) / (high - low)
            mixed = (1 - smooth) * slow + smooth * self.frequencies
            slow = torch.where(wavelengths > trained / low, slow, torch.where(wavelengths < trained / high, self.frequencies, mixed))
        self.frequencies = slow

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def theirs(dtype=torch.float32, seed=0, **choices):
    """A LlamaForCausalLM, or with sliding_window a MistralForCausalLM, whose weights, biases and gains are all random and far from nothing."""
    kind = "Mistral" if "sliding_window" in choices else "Llama"
    config = getattr(transformers, f"{kind}Config")(**SIZES, bos_token_id=None, eos_token_id=None, **choices)
    model = randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed)
    if dtype == torch.float64:
        exact(model)
    return model.to(dtype)


class Norm(torch.nn.Module):
    def __init__(self, theirs):
        super().__init__()
        self.weight, self.eps = theirs.weight, theirs.variance_epsilon

    def forward(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


def exact(model):
    """Have their float64 model compute in float64 throughout."""
    rope = model.config.rope_parameters
    model.model.norm = Norm(model.model.norm)
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
    model.model.rotary_emb = Angles(model.config.head_dim, rope)


@pytest.mark.parametrize("choice", CHOICES)
def test_logits_in_float64_and_float32(tmp_path, choice):
    check_saved_logits(tmp_path, theirs(torch.float64, **CHOICES[choice]), theirs(**CHOICES[choice]))


def test_their_attention_in_plain_torch(tmp_path):
    model = theirs(attn_implementation="eager", num_key_value_heads=2)      # its softmax is of float32 in every model
    model.save_pretrained(tmp_path / "m")
    assert off(load_pretrained(tmp_path / "m")[0], model) < 1e-4


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
def test_gradients_of_all_parameters_in_float64(tmp_path, choice, backend):
    model = theirs(torch.float64, **CHOICES[choice])
    ours = with_gradients(tmp_path / "m", model, backend)
    named = {name.removeprefix("model."): parameter for name, parameter in model.named_parameters()}
    table = tensors(ours.config, vars(model.config))
    assert named.keys() == table.keys()
    for name, place in table.items():
        gradient, own = named[name].grad.numpy(), ours.parameters.gradient(place.name)[..., place.columns]
        assert np.abs(gradient).max() > 1e-5 or name.endswith("k_proj.bias")
        assert np.abs((own.T if place.transposed else own) - gradient).max() < 1e-10, name


@pytest.mark.parametrize("choice", ["as published", "one head of keys, tied", "linear scaling", "scaling of Llama 3.1", "Mistral"])
def test_the_same_greedy_text_for_100_tokens(tmp_path, choice):
    model = theirs(**CHOICES[choice])
    with torch.no_grad():
        for name, parameter in model.named_parameters():    # what looks far back keeps it from saying the same for ever
            parameter *= 6 if "q_proj" in name else 0.2 if "embed" in name else 1
    check_greedy_text(tmp_path / "m", model, distinct=8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, dtype):
    """The file's numbers exactly: their model, of the same rounded weights, computes in float32 as ours does."""
    model = theirs(num_key_value_heads=2).to(dtype)
    model.save_pretrained(tmp_path / "m")
    ours, _ = load_pretrained(tmp_path / "m")
    for name, place in tensors(ours.config).items():
        name = name if name == "lm_head.weight" else f"model.{name}"
        assert (place.of(ours.parameters) == model.float().state_dict()[name].numpy()).all()
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)     # angles of float32 as well
    assert off(ours, again) < 1e-4


@pytest.mark.parametrize("choice", ["as published", "one head of keys, tied"])
def test_several_files(tmp_path, choice):
    check_several_files(tmp_path / "m", theirs(**CHOICES[choice]))


def test_a_tied_model_saved_without_its_head(tmp_path):
    model = theirs(tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path / "m")
    assert off(load_pretrained(tmp_path / "m")[0], model) < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2, "tied": True}, {"bias": True, "norm_eps": 1e-2}, {"n_hidden": 37},
                                     {"rotary_base": 500.0, "rotary_scale": 2.5}, {"rotary_interleaved": True, "n_kv_head": 2},
                                     {"rotary_base": 500.0, "rotary_scale": 8.0, "rotary_trained": 40}, {"attention": "window", "window": 5}],
                         ids=["as published", "shared heads, tied", "bias, eps", "width", "rotary", "interleaved", "Llama 3.1", "window"])
def test_the_way_back(tmp_path, dtype, changes):
    config = GPTConfig(n_layer=3, n_head=6, n_embd=24, block_size=160, vocab_size=97, dropout=0.2, tied=False, bias=False,
                       position="rotary", norm="rmsnorm", mlp="swiglu")
    ours = random_gpt(replace(config, **changes), dtype)
    kind = transformers.MistralForCausalLM if ours.config.window else transformers.LlamaForCausalLM
    model = read_back(tmp_path / "m", ours, kind)
    if dtype == np.float64:
        exact(model)
    assert off(ours, model) < (1e-4 if dtype == np.float32 else 1e-10)
