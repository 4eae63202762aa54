"""Direct preference optimisation (Rafailov et al. 2023): a model learns from preferences, as if it
were its own reward model.

Shapes: ids, targets (B, 2, T) as in preferences.py; reference (B, 2): the answers' log-probabilities in the
model before training. Those are computed once and kept beside the pairs, so no second model is in memory.
Derivation: docs/preferences.md.
"""

import numpy as np

from ..errors import InputError
from ..ops import dpo_backward, dpo_forward
from ..workspace import mark, release
from .preferences import check_label_smoothing, two_rows_each


class DPO:
    """What a Trainer minimises (Replicas says what that must have). beta: how dear it is to move away from
    the reference; label_smoothing: so often a preference is the wrong way round. Raises InputError for
    values that mean nothing."""

    def __init__(self, model, *, beta=0.1, label_smoothing=0.0):
        if not 0 < beta < np.inf:
            raise InputError(f"beta must be positive, got {beta!r}")
        check_label_smoothing(label_smoothing)
        self.model, self.beta, self.label_smoothing = model, beta, label_smoothing

    @property
    def parameters(self):
        return self.model.parameters

    def replica(self, parameters):
        return DPO(self.model.replica(parameters), beta=self.beta, label_smoothing=self.label_smoothing)

    def count(self, ids, targets, reference):
        """Pairs."""
        return len(ids)

    def loss(self, ids, targets, reference):
        """-> sum of the loss in nats, pairs."""
        return self.judge(ids, targets, reference)[1], len(ids)

    def judge(self, ids, targets, reference):
        """-> implicit rewards (B, 2), beta log(p / p_reference), and the sum of the loss."""
        answers = answer_logprobs(self.model, ids, targets)
        return self.beta * (answers - reference), self._forward(answers, reference)[0]

    def loss_and_gradients(self, ids, targets, reference, *, scale=None, draws=None):
        """As loss, and contributes scale * its gradient to parameters.grad; scale None is 1 / pairs."""
        height, flat = mark(), (2 * len(ids), ids.shape[-1])
        scale = 1 / len(ids) if scale is None else scale
        ids, targets, draws = ids.reshape(flat), targets.reshape(flat), two_rows_each(draws)
        logprobs, cache = self.model.logprobs_forward(ids, targets, draws=draws)                            # (1)
        answers = _summed(logprobs).reshape(-1, 2)                                                          # (2)
        loss, c_dpo = self._forward(answers, reference)                                                     # (3)
        danswers = np.stack(dpo_backward(scale, c_dpo), axis=-1)                                            # (3)
        dlogprobs = np.broadcast_to(danswers.reshape(-1, 1), flat).astype(logprobs.dtype)                   # (2)
        self.model.logprobs_backward(dlogprobs, cache)                                                      # (1)
        release(height)
        return loss, len(answers)

    def _forward(self, answers, reference):
        return dpo_forward(*answers.T, *reference.T, beta=self.beta, label_smoothing=self.label_smoothing)


def answer_logprobs(model, ids, targets):
    """ids, targets (B, 2, T) -> log-probability of each answer, the sum of its tokens' (B, 2), float64."""
    flat = (2 * len(ids), ids.shape[-1])
    return _summed(model.logprobs(ids.reshape(flat), targets.reshape(flat))).reshape(-1, 2)


def reference_logprobs(model, pairs, batch_size):
    """The log-probabilities of all Pairs' answers in the model as it is now (N, 2), float64: the frozen
    reference, once and for all."""
    return np.concatenate([answer_logprobs(model, *batch[:2]) for batch in pairs.consecutive(batch_size)])


def _summed(logprobs):
    """Sums over an answer's tokens in double precision: what counts is small differences of large sums."""
    return logprobs.sum(axis=-1, dtype=np.result_type(logprobs.dtype, np.float64))
