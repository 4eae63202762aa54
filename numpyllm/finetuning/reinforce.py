"""REINFORCE (Williams 1992): answers are drawn from the model, what earned more than expected becomes
likelier. With a baseline, and a penalty for moving away from the model that training began with: what RLHF
does, small enough to watch.

Shapes: B sampled answers, each behind its prompt: ids, targets (B, T), reference (B, T), advantages (B).
Derivation: docs/policy_gradient.md.
"""

import numpy as np

from ..errors import InputError
from ..ops import policy_gradient_backward, policy_gradient_forward
from ..workspace import mark, release

BASELINES = ("leave_one_out", "mean", "none")


class Reinforce:
    """What a Trainer minimises (Replicas says what that must have). kl: weight of the penalty. One step on
    each batch: an answer is of use only to the model that it was drawn from. Dropout should be 0, for answers
    are drawn without it."""

    def __init__(self, model, *, kl=0.0):
        if not 0 <= kl < np.inf:
            raise InputError(f"the weight of the KL penalty must be at least 0, got {kl!r}")
        self.model, self.kl = model, kl

    @property
    def parameters(self):
        return self.model.parameters

    def replica(self, parameters):
        return Reinforce(self.model.replica(parameters), kl=self.kl)

    def count(self, ids, targets, reference, advantages):
        """Answers: an estimate for each of them is averaged, whatever its length."""
        return len(ids)

    def loss(self, ids, targets, reference, advantages):
        """-> sum of a loss whose gradient alone has a meaning (ops/preference.py), answers."""
        logprobs = self.model.logprobs(ids, targets)
        return policy_gradient_forward(logprobs, reference, advantages, targets != -1, kl=self.kl)[0], len(ids)

    def loss_and_gradients(self, ids, targets, reference, advantages, *, scale=None, draws=None):
        """As loss, and contributes scale * its gradient to parameters.grad; scale None is 1 / answers."""
        height, scale = mark(), 1 / len(ids) if scale is None else scale
        logprobs, cache = self.model.logprobs_forward(ids, targets, draws=draws)                            # (1)
        asked = targets != -1
        loss, c_policy = policy_gradient_forward(logprobs, reference, advantages, asked, kl=self.kl)        # (2)
        self.model.logprobs_backward(policy_gradient_backward(scale, c_policy), cache)                      # (2) (1)
        release(height)
        return loss, len(ids)


def advantages(rewards, answers_each, baseline):
    """rewards (B), the answers to one prompt side by side -> (B): rewards less what was to be expected.

    leave_one_out: the mean reward of the other answers to the same prompt (Kool et al. 2019). mean: the mean of
    the whole batch. none: 0. Only a baseline that an answer has no part in leaves the estimate unbiased; `mean`
    shrinks it by 1 - 1 / B.
    """
    if baseline == "none":
        return rewards
    if baseline == "mean":
        return rewards - rewards.mean()
    groups = rewards.reshape(-1, answers_each)
    others = (groups.sum(axis=1, keepdims=True) - groups) / (answers_each - 1)
    return (groups - others).reshape(-1)
