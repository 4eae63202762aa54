"""DPO, the reward model's loss and REINFORCE with its penalty against torch in float64, on a torch GPT with our weights: losses and the
gradients of all parameters. Written from the papers."""

import numpy as np
import pytest

from numpyllm import kernels, ops
from numpyllm.finetuning import DPO, BradleyTerry, Reinforce, answer_logprobs
from numpyllm.models import GPT, GPTClassifier, GPTConfig

torch = pytest.importorskip("torch")
F = torch.nn.functional

from test_torch_parity import torch_gpt  # noqa: E402: it needs torch itself

pytestmark = pytest.mark.oracle

CONFIG = GPTConfig(n_layer=2, n_head=3, n_embd=15, block_size=11, vocab_size=13)
RNG = np.random.default_rng(0)
IDS, TARGETS = RNG.integers(13, size=(4, 2, 9)), RNG.integers(13, size=(4, 2, 9))
TARGETS[:, :, :3] = -1                                              # the prompt
for row, length in zip(TARGETS.reshape(8, 9), (9, 5, 4, 9, 7, 8, 6, 9), strict=True):
    row[length:] = -1                                               # padding


@pytest.fixture(params=[ops, kernels], ids=["text", "kernels"])
def models(request):
    """A model with parameters of order one, and another one near it: the reference."""
    made = [GPT(CONFIG, ops=request.param, dtype=np.float64) for _ in range(2)]
    values = 0.5 * np.random.default_rng(1).standard_normal(made[0].parameters.data.shape)
    made[0].parameters.data[...] = values
    made[1].parameters.data[...] = values + 0.1 * np.random.default_rng(2).standard_normal(values.shape)
    return made


def tensors_of(model):
    return {name: torch.tensor(model.parameters[name], requires_grad=True) for name in model.parameters}


class NoDropout:
    def keep(self, name, shape, p):
        return np.ones(shape, bool)


def torch_logprobs(tensors, ids, targets):
    """(B, T), 0 where nothing is asked."""
    logits = torch_gpt(tensors, CONFIG, torch.tensor(ids), NoDropout())
    targets = torch.tensor(targets)
    chosen = torch.gather(F.log_softmax(logits, dim=-1), -1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets == -1, torch.zeros_like(chosen), chosen)


def agree(objective, batch, tensors, expected):
    """The mean of the loss, and its gradients, to 1e-10; what they come to is far below."""
    objective.parameters.clear_gradients()
    loss, count = objective.loss_and_gradients(*batch)
    objective.parameters.settle_gradients()
    expected.backward()
    assert loss / count == pytest.approx(expected.item(), rel=1e-12)
    for name, tensor in tensors.items():
        if tensor.grad is not None:
            ours, theirs = objective.parameters.gradient(name), tensor.grad.numpy()
            assert np.abs(ours - theirs).max() <= 1e-12 * max(1, np.abs(theirs).max()), name
    assert sum(tensor.grad is not None for tensor in tensors.values()) == len(tensors)


@pytest.mark.parametrize("beta, label_smoothing", [(0.1, 0.0), (0.7, 0.0), (0.5, 0.2)])
def test_dpo(models, beta, label_smoothing):
    model, reference = models
    tensors, frozen = tensors_of(model), tensors_of(reference)
    log_p = torch_logprobs(tensors, IDS.reshape(8, 9), TARGETS.reshape(8, 9)).sum(-1)
    with torch.no_grad():
        log_ref = torch_logprobs(frozen, IDS.reshape(8, 9), TARGETS.reshape(8, 9)).sum(-1)
    chosen, rejected = (log_p - log_ref)[0::2], (log_p - log_ref)[1::2]
    margin = beta * (chosen - rejected)
    expected = (-(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)).mean()
    assert np.abs(margin.detach().numpy()).max() > 0.1
    cached = answer_logprobs(reference, IDS, TARGETS)
    assert np.abs(cached.reshape(-1) - log_ref.numpy()).max() < 1e-11
    agree(DPO(model, beta=beta, label_smoothing=label_smoothing), (IDS, TARGETS, cached), tensors, expected)


def test_reinforce_with_its_penalty(models):
    model, reference = models
    ids, targets, gains = IDS.reshape(8, 9), TARGETS.reshape(8, 9), np.random.default_rng(3).standard_normal(8)
    tensors, frozen = tensors_of(model), tensors_of(reference)
    log_p = torch_logprobs(tensors, ids, targets)
    with torch.no_grad():
        log_ref = torch_logprobs(frozen, ids, targets)
    k3 = torch.exp(log_ref - log_p) - (log_ref - log_p) - 1
    expected = (-torch.tensor(gains) * log_p.sum(-1) + 0.3 * k3.sum(-1)).mean()
    agree(Reinforce(model, kl=0.3), (ids, targets, reference.logprobs(ids, targets), gains), tensors, expected)


def test_bradley_terry_of_a_reward_model(models):
    """The head in place of the token's is a product with the trunk's output, which our matrix of tokens made the identity shows."""
    model = GPTClassifier.from_gpt(models[0], 1)
    model.parameters["classifier.w"][...] = np.random.default_rng(4).standard_normal((15, 1))
    tensors = tensors_of(model)
    hidden = torch_gpt(tensors | {"head.w": torch.eye(15, dtype=torch.float64)}, GPTConfig(**vars(CONFIG) | {"tied": False}),
                       torch.tensor(IDS.reshape(8, 9)), NoDropout())
    last = [max(np.flatnonzero(row != -1)) for row in TARGETS.reshape(8, 9)]
    rewards = hidden[torch.arange(8), torch.tensor(last)] @ tensors["classifier.w"] + tensors["classifier.b"]
    expected = -F.logsigmoid(rewards[0::2, 0] - rewards[1::2, 0]).mean()
    agree(BradleyTerry(model), (IDS, TARGETS), tensors, expected)
