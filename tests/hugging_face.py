"""What the comparisons with Hugging Face's models share: random models of theirs, and how they and ours must agree.

Nothing is fetched. Who imports it is skipped where torch or transformers is missing.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.inference import generate
from numpyllm.interop import load_pretrained, save_pretrained
from numpyllm.models import GPT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MARKS = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]     # theirs
IDS = np.random.default_rng(0).integers(0, 97, (3, 41))
TORCH = {np.float32: torch.float32, np.float64: torch.float64}


def randomised(model, seed=0):
    """Their model, all weights, biases and gains random and far from nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (0 if parameter.ndim > 1 else 0.5))
    return model


def random_gpt(config, dtype):
    """The same of ours."""
    ours, rng = GPT(config, seed=None, dtype=dtype), np.random.default_rng(0)
    for name in ours.parameters:
        ours.parameters[name][...] = 0.3 * rng.standard_normal(ours.parameters[name].shape) + 0.5 * (ours.parameters[name].ndim == 1)
    return ours


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def off(ours, model):
    """The largest difference of their logits and ours."""
    return np.abs(ours.forward(IDS)[0] - logits_of(model)).max()


def check_saved_logits(folder, exact, model):
    """One model in float64 and in float32: what it saves is read here, on both backends."""
    assert np.abs(logits_of(exact)).max() > 1
    exact.save_pretrained(folder / "f64")
    ours, tokenizer = load_pretrained(folder / "f64", dtype=np.float64)
    assert tokenizer is None and off(ours, exact) < 1e-10
    model.save_pretrained(folder / "f32")
    for backend in (ops, kernels):
        ours, _ = load_pretrained(folder / "f32", ops=backend)
        assert ours.parameters.dtype == np.float32 and off(ours, model) < 1e-4


def with_gradients(folder, model, backend):
    """-> our reading of their model of float64; both have the gradients of one loss, which is compared."""
    model.save_pretrained(folder)
    ours, _ = load_pretrained(folder, ops=backend, dtype=np.float64)
    targets = np.random.default_rng(1).integers(0, 97, IDS.shape)
    ours.parameters.clear_gradients()
    loss, count = ours.loss_and_gradients(IDS, targets)
    ours.parameters.settle_gradients()
    expected = torch.nn.functional.cross_entropy(model(torch.tensor(IDS)).logits.flatten(0, 1), torch.tensor(targets).flatten())
    expected.backward()
    assert abs(loss / count - expected.item()) < 1e-12
    return ours


def check_greedy_text(folder, model, distinct):
    """100 tokens, of which more than so many are distinct: a model that says one for ever shows nothing."""
    model.save_pretrained(folder)
    ours, _ = load_pretrained(folder)
    for row in IDS:
        prompt = row[:20]
        with torch.no_grad():
            expected = model.generate(torch.tensor(prompt[None]), attention_mask=torch.ones(1, 20), do_sample=False,
                                      max_new_tokens=100, pad_token_id=0)[0, 20:].tolist()
        assert len(expected) == 100 and len(set(expected)) > distinct
        assert list(generate(ours, prompt, 100, temperature=0)) == expected


def check_several_files(folder, model):
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3 and not (folder / "model.safetensors").exists()
    assert off(load_pretrained(folder)[0], model) < 1e-4


def read_back(folder, ours, kind):
    """-> their model of what we save, of this class and of our numbers' width, with nothing missing or left over."""
    save_pretrained(folder, ours)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert isinstance(model, kind) and not any(report.values()), report
    assert model.dtype == TORCH[ours.parameters.dtype.type]
    return model.eval()
