"""GPT-2 against Hugging Face's own: what their GPT2LMHeadModel saves is read here, and what is written here is read there.

Nothing is fetched: models are made of random weights.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm import tokenizer as tokenizers
from numpyllm.inference import generate
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.interop.gpt2 import tensors
from numpyllm.models import GPT, GPTConfig
from numpyllm.tokenizer import BytePairTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]     # theirs

TEXT = "the quick brown fox jumps over the lazy dog, don't they?  \n\n1,234 naïve Ärger 汉字 \U0001f600 <|endoftext|> end"
SIZES = {"n_layer": 3, "n_head": 3, "n_embd": 24, "n_positions": 160, "vocab_size": 97}
IDS = np.random.default_rng(0).integers(0, 97, (3, 41))
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
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**SIZES, bos_token_id=None, eos_token_id=None, **choices)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (0 if parameter.ndim > 1 else 0.5))
    return model.to(dtype)


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
    model.float().save_pretrained(tmp_path / "f32")
    expected = logits_of(model)
    for backend in (ops, kernels):
        ours, _ = load_pretrained(tmp_path / "f32", ops=backend)
        assert ours.parameters.dtype == np.float32 and np.abs(ours.forward(IDS)[0] - expected).max() < 1e-4


@pytest.mark.parametrize("choice", ["untied", "exact GELU", "another eps", "GPT-2's"])
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
    model.save_pretrained(tmp_path / "m")
    ours, _ = load_pretrained(tmp_path / "m")
    for row in IDS:
        prompt = row[:20]
        with torch.no_grad():
            expected = model.generate(torch.tensor(prompt[None]), attention_mask=torch.ones(1, 20), do_sample=False,
                                      max_new_tokens=100, pad_token_id=0)[0, 20:].tolist()
        assert len(expected) == 100 and len(set(expected)) > 20
        assert list(generate(ours, prompt, 100, temperature=0)) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, dtype):
    """The file's numbers exactly: their model, of the same rounded weights, computes in float32 as ours does."""
    model = theirs().to(dtype)
    model.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 2.1 * model.num_parameters() + 10_000
    ours, _ = load_pretrained(tmp_path / "m")
    for name, (own, *_) in tensors(ours.config).items():
        assert (ours.parameters[own] == model.float().state_dict()[f"transformer.{name}"].numpy()).all()
    assert np.abs(ours.forward(IDS)[0] - logits_of(model.float())).max() < 1e-4


@pytest.mark.parametrize("choice", ["GPT-2's", "untied"])
def test_several_files(tmp_path, choice):
    model = theirs(**CHOICES[choice])
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 3 and not (tmp_path / "m" / "model.safetensors").exists()
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


def test_attention_reordered_and_upcast_is_the_same_function(tmp_path):
    """It matters in float16 alone, where their scores could overflow."""
    model = theirs(reorder_and_upcast_attn=True, attn_implementation="eager")
    model.save_pretrained(tmp_path / "m")
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


def test_a_model_saved_without_its_head(tmp_path):
    model = theirs()
    model.transformer.save_pretrained(tmp_path / "m")
    assert np.abs(load_pretrained(tmp_path / "m")[0].forward(IDS)[0] - logits_of(model)).max() < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"exact_gelu": True, "norm_eps": 1e-2}, {"bias": False}],
                         ids=["GPT-2's", "untied", "exact GELU, eps", "no bias"])
def test_the_way_back(tmp_path, dtype, changes):
    config = GPTConfig(n_layer=3, n_head=3, n_embd=24, block_size=160, vocab_size=97, dropout=0.2, **changes)
    ours = GPT(config, seed=None, dtype=dtype)
    rng = np.random.default_rng(0)
    for name in ours.parameters:
        ours.parameters[name][...] = 0.3 * rng.standard_normal(ours.parameters[name].shape) + 0.5 * (ours.parameters[name].ndim == 1)
    save_pretrained(tmp_path / "m", ours)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto", output_loading_info=True)
    assert isinstance(model, transformers.GPT2LMHeadModel) and not any(report.values()), report
    assert model.dtype == {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    assert (model.config.attn_pdrop, model.config.resid_pdrop, model.config.embd_pdrop) == (0.2,) * 3
    difference = np.abs(logits_of(model.eval()) - ours.forward(IDS)[0]).max()
    assert difference < (1e-4 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
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
