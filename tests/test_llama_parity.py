"""Llama against Hugging Face's own: what their LlamaForCausalLM saves is read here, and what is written here is read there.

Nothing is fetched: models are made of random weights. Their angles and norms are computed in float32 in every model, which is 1e-6
beside the truth; for comparisons in float64 both are replaced by ones in float64, made here from their definitions.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

from dataclasses import replace

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.inference import generate
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.interop.llama import tensors
from numpyllm.models import GPT, GPTConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]     # theirs

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 6, "hidden_size": 24, "intermediate_size": 37, "max_position_embeddings": 160,
         "vocab_size": 97}
IDS = np.random.default_rng(0).integers(0, 97, (3, 41))
LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}
CHOICES = {
    "as published": {},
    "shared heads of keys": {"num_key_value_heads": 2},
    "one head of keys, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3},
    "biases in attention alone": {"attention_bias": True},
    "another base and eps": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-2},
    "linear scaling": {"rope_parameters": LINEAR, "num_key_value_heads": 2},
}


class Angles(torch.nn.Module):
    """Cosines and sines in float64, each for both channels of a pair."""

    def __init__(self, D, base, factor):
        super().__init__()
        self.D, self.base, self.factor = D, base, factor

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() / self.factor / self.base ** (torch.arange(0, self.D, 2, dtype=torch.float64) / self.D)
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def theirs(dtype=torch.float32, seed=0, **choices):
    """A LlamaForCausalLM whose weights, biases and gains are all random and far from nothing."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, bos_token_id=None, eos_token_id=None, **choices)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (0 if parameter.ndim > 1 else 0.5))
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
    model.model.rotary_emb = Angles(model.config.head_dim, rope["rope_theta"], rope.get("factor", 1.0))


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


@pytest.mark.parametrize("choice", CHOICES)
def test_logits_in_float64_and_float32(tmp_path, choice):
    model = theirs(torch.float64, **CHOICES[choice])
    expected = logits_of(model)
    assert np.abs(expected).max() > 1
    model.save_pretrained(tmp_path / "f64")
    ours, tokenizer = load_pretrained(tmp_path / "f64", dtype=np.float64)
    assert tokenizer is None and np.abs(ours.forward(IDS)[0] - expected).max() < 1e-10
    model = theirs(**CHOICES[choice])
    model.save_pretrained(tmp_path / "f32")
    expected = logits_of(model)
    for backend in (ops, kernels):
        ours, _ = load_pretrained(tmp_path / "f32", ops=backend)
        assert ours.parameters.dtype == np.float32 and np.abs(ours.forward(IDS)[0] - expected).max() < 1e-4


def test_their_attention_in_plain_torch(tmp_path):
    model = theirs(attn_implementation="eager", num_key_value_heads=2)      # its softmax is of float32 in every model
    model.save_pretrained(tmp_path / "m")
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "kernels"])
def test_gradients_of_all_parameters_in_float64(tmp_path, choice, backend):
    model = theirs(torch.float64, **CHOICES[choice])
    model.save_pretrained(tmp_path / "m")
    ours, _ = load_pretrained(tmp_path / "m", ops=backend, dtype=np.float64)
    targets = np.random.default_rng(1).integers(0, 97, IDS.shape)
    ours.parameters.clear_gradients()
    loss, count = ours.loss_and_gradients(IDS, targets)
    ours.parameters.settle_gradients()
    expected = torch.nn.functional.cross_entropy(model(torch.tensor(IDS)).logits.flatten(0, 1), torch.tensor(targets).flatten())
    expected.backward()
    assert abs(loss / count - expected.item()) < 1e-12
    named = {name.removeprefix("model."): parameter for name, parameter in model.named_parameters()}
    table = tensors(ours.config, vars(model.config))
    assert named.keys() == table.keys()
    for name, place in table.items():
        gradient, own = named[name].grad.numpy(), ours.parameters.gradient(place.name)[..., place.columns]
        assert np.abs(gradient).max() > 1e-5 or name.endswith("k_proj.bias")
        assert np.abs((own.T if place.transposed else own) - gradient).max() < 1e-10, name


@pytest.mark.parametrize("choice", ["as published", "one head of keys, tied", "linear scaling"])
def test_the_same_greedy_text_for_100_tokens(tmp_path, choice):
    model = theirs(**CHOICES[choice])
    with torch.no_grad():
        for name, parameter in model.named_parameters():    # what looks far back keeps it from saying the same for ever
            parameter *= 6 if "q_proj" in name else 0.2 if "embed" in name else 1
    model.save_pretrained(tmp_path / "m")
    ours, _ = load_pretrained(tmp_path / "m")
    for row in IDS:
        prompt = row[:20]
        with torch.no_grad():
            expected = model.generate(torch.tensor(prompt[None]), attention_mask=torch.ones(1, 20), do_sample=False,
                                      max_new_tokens=100, pad_token_id=0)[0, 20:].tolist()
        assert len(expected) == 100 and len(set(expected)) > 8
        assert list(generate(ours, prompt, 100, temperature=0)) == expected


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
    assert np.abs(ours.forward(IDS)[0] - logits_of(again)).max() < 1e-4


@pytest.mark.parametrize("choice", ["as published", "one head of keys, tied"])
def test_several_files(tmp_path, choice):
    model = theirs(**CHOICES[choice])
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 3 and not (tmp_path / "m" / "model.safetensors").exists()
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


def test_a_tied_model_saved_without_its_head(tmp_path):
    model = theirs(tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path / "m")
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2, "tied": True}, {"bias": True, "norm_eps": 1e-2}, {"n_hidden": 37},
                                     {"rotary_base": 500.0, "rotary_scale": 2.5}, {"rotary_interleaved": True, "n_kv_head": 2}],
                         ids=["as published", "shared heads, tied", "bias, eps", "width", "rotary", "interleaved"])
def test_the_way_back(tmp_path, dtype, changes):
    config = GPTConfig(n_layer=3, n_head=6, n_embd=24, block_size=160, vocab_size=97, dropout=0.2, tied=False, bias=False,
                       position="rotary", norm="rmsnorm", mlp="swiglu")
    ours = GPT(replace(config, **changes), seed=None, dtype=dtype)
    rng = np.random.default_rng(0)
    for name in ours.parameters:
        ours.parameters[name][...] = 0.3 * rng.standard_normal(ours.parameters[name].shape) + 0.5 * (ours.parameters[name].ndim == 1)
    save_pretrained(tmp_path / "m", ours)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto", output_loading_info=True)
    assert isinstance(model, transformers.LlamaForCausalLM) and not any(report.values()), report
    assert model.dtype == {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    if dtype == np.float64:
        exact(model)
    difference = np.abs(logits_of(model.eval()) - ours.forward(IDS)[0]).max()
    assert difference < (1e-4 if dtype == np.float32 else 1e-10)
