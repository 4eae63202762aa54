"""A reward model: a GPT with one number in place of the next token, learnt from preferences
(Ouyang et al. 2022, eq. 1).

Shapes: ids, targets (B, 2, T) as in preferences.py. The number is read where the last token of the answer has been
asked for, when all before it has been seen. It is a GPTClassifier of one class. Derivation: docs/preferences.md.
"""

import numpy as np

from ..errors import InputError
from ..models import GPTClassifier
from ..ops import bradley_terry_backward, bradley_terry_forward
from ..workspace import mark, release
from .packing import padded
from .preferences import check_label_smoothing, two_rows_each


class BradleyTerry:
    """What a Trainer minimises (Replicas says what that must have). Raises InputError for a model
    that is no reward model."""

    def __init__(self, model, *, label_smoothing=0.0):
        require_reward_model(model, "what learns from preferences as a reward")
        check_label_smoothing(label_smoothing)
        self.model, self.label_smoothing = model, label_smoothing

    @property
    def parameters(self):
        return self.model.parameters

    def replica(self, parameters):
        return BradleyTerry(self.model.replica(parameters), label_smoothing=self.label_smoothing)

    def count(self, ids, targets):
        """Pairs."""
        return len(ids)

    def loss(self, ids, targets):
        """-> sum of the loss in nats, pairs."""
        return self.judge(ids, targets)[1], len(ids)

    def judge(self, ids, targets):
        """-> rewards (B, 2), and the sum of the loss."""
        rewards = self.model.logits(*_answers(ids, targets)).reshape(-1, 2)
        return rewards, bradley_terry_forward(*rewards.T, label_smoothing=self.label_smoothing)[0]

    def loss_and_gradients(self, ids, targets, *, scale=None, draws=None):
        """As loss, and contributes scale * its gradient to parameters.grad; scale None is 1 / pairs."""
        height, scale = mark(), 1 / len(ids) if scale is None else scale
        rewards, cache = self.model.forward(*_answers(ids, targets), two_rows_each(draws))                  # (1)
        pairs = rewards.reshape(-1, 2).T
        loss, c_preference = bradley_terry_forward(*pairs, label_smoothing=self.label_smoothing)            # (2)
        drewards = np.stack(bradley_terry_backward(scale, c_preference), axis=-1)                           # (2)
        self.model.backward(drewards.reshape(-1, 1).astype(rewards.dtype), cache)                           # (1)
        release(height)
        return loss, len(ids)


class ModelReward:
    """A reward for rollouts.py: what a reward model says of prompts and answers, written as `form` writes them."""

    def __init__(self, model, form, *, batch_size=32):
        require_reward_model(model, "a reward")
        self.model, self.form, self.batch_size = model, form, batch_size

    def __call__(self, prompts, answers):
        end, most = self.form.ending.ids, self.model.config.block_size
        rows = [[*self.form.prompt_ids(prompt), *self.form.tokenizer.encode_ordinary(answer), *end][:-1][:most]
                for prompt, answer in zip(prompts, answers, strict=True)]
        parts = [rows[i:i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        return np.concatenate([self.model.logits(*padded(part))[:, 0] for part in parts])


def require_reward_model(model, what):
    """InputError unless this is a GPTClassifier of one class."""
    if not isinstance(model, GPTClassifier) or model.config.n_classes != 1:
        raise InputError(f"{what} must be a reward model, as numpyllm finetune prefer --method reward makes it, "
                         f"got another {type(model).__name__}")


def _answers(ids, targets):
    """ids, targets (B, 2, T) -> ids (2B, T), lengths (2B): up to the last token that has a target."""
    T = ids.shape[-1]
    return ids.reshape(-1, T), T - (targets.reshape(-1, T)[:, ::-1] != -1).argmax(axis=1)
