"""A mixture of experts against torch: one of our own writing, by autograd in float64, and Mixtral's block of Hugging Face's."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.layers import MLP, GatedMLP, MixtureOfExperts
from numpyllm.parameters import Parameters

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]     # theirs

B, T, C, F, E = 3, 7, 10, 6, 5
backends = pytest.mark.parametrize("backend", [ops, kernels], ids=["text", "twin"])


def bound(layer, backend, dtype=np.float64):
    parameters = Parameters(layer.specs(), dtype=dtype)
    layer.bind(parameters, backend)
    rng = np.random.default_rng(0)
    for name in parameters:
        parameters[name][...] = rng.standard_normal(parameters[name].shape) / np.sqrt(parameters[name].shape[0])
    return layer, parameters


def all_experts_and_a_mask(x, w, gated, k, balance):
    """Every token through every expert, and nearly all of it thrown away -> y, loss. w: {our name: tensor}."""
    scores = x @ w["router.w"]
    p = scores.softmax(-1)
    top = scores.topk(k, -1).indices
    chosen = torch.zeros_like(p).scatter(-1, top, 1.0)
    gates = p * chosen
    if k > 1:
        gates = gates / gates.sum(-1, keepdim=True)
    outputs = []
    for e in range(E):
        of = lambda name, e=e: w[f"experts.{e}.{name}"]
        if gated:
            h = torch.nn.functional.silu(x @ of("gate.w")) * (x @ of("up.w"))
            outputs.append(h @ of("down.w"))
        else:
            h = torch.nn.functional.gelu(x @ of("up.w") + of("b"), approximate="tanh")
            outputs.append(h @ of("down.w") + of("down.b"))
    y = (gates[..., None] * torch.stack(outputs, -2)).sum(-2)
    f, P = chosen.mean(1) / k, p.mean(1)                            # (B, E)
    return y, balance * (E * (f * P).sum(-1) * x.shape[1]).sum()


@backends
@pytest.mark.parametrize("k", [1, 2, 3, E])
@pytest.mark.parametrize("gated", [False, True], ids=["GELU", "SwiGLU"])
def test_values_and_gradients_of_autograd(backend, gated, k):
    make = (lambda: GatedMLP(C, n_hidden=F)) if gated else (lambda: MLP(C, n_hidden=F))
    layer, parameters = bound(MixtureOfExperts(C, [make() for _ in range(E)], n_used=k, balance=0.3), backend)
    x, dy = np.random.default_rng(1).standard_normal((2, B, T, C))
    y, cache = layer.forward(x)
    parameters.clear_gradients()
    dx = layer.backward(dy, cache, 0.7)
    w = {name: torch.tensor(parameters[name], requires_grad=True) for name in parameters}
    x_ = torch.tensor(x, requires_grad=True)
    y_, loss = all_experts_and_a_mask(x_, w, gated, k, 0.3)
    ((torch.tensor(dy) * y_).sum() + 0.7 * loss).backward()
    pairs = {"y": (y, y_), "loss": (cache.loss, loss), "dx": (dx, x_.grad)} | {name: (parameters.gradient(name), w[name].grad) for name in w}
    for name, (ours, theirs) in pairs.items():
        theirs = theirs.detach().numpy()
        assert np.linalg.norm(ours - theirs) <= 1e-12 * max(1, np.linalg.norm(theirs)), name


@backends
def test_the_block_of_mixtral(backend):
    """Their router computes in float32 in every model."""
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = mixtral.MixtralConfig(hidden_size=C, intermediate_size=F, num_local_experts=E, num_experts_per_tok=2)
    block = mixtral.MixtralSparseMoeBlock(config)
    layer, _ = bound(MixtureOfExperts(C, [GatedMLP(C, n_hidden=F) for _ in range(E)], n_used=2), backend, np.float32)
    with torch.no_grad():
        block.gate.weight.copy_(torch.tensor(layer.router.w.T))
        for e, expert in enumerate(layer.experts):
            block.experts.gate_up_proj[e].copy_(torch.tensor(np.concatenate([expert.gate.w, expert.up.w], axis=1).T))
            block.experts.down_proj[e].copy_(torch.tensor(expert.down.w.T))
    x = np.random.default_rng(1).standard_normal((B, T, C)).astype(np.float32)
    x_ = torch.tensor(x, requires_grad=True)
    y_ = block(x_)
    y, cache = layer.forward(x)
    np.testing.assert_allclose(y, y_.detach().numpy(), atol=1e-6)
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    y_.backward(torch.tensor(dy))
    np.testing.assert_allclose(layer.backward(dy, cache), x_.grad.numpy(), atol=1e-5)
