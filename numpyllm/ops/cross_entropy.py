"""Softmax cross-entropy: how many nats the model needs to name the right token.

Shapes: logits (..., V), targets (...) integers in [0, V), or ignore_index where nothing is asked.
The loss is a sum over the counted targets, and their number: sums of slices add up, means do not. Per row it is minus the
log-probability of the target, which preferences and policy gradients are made of.
Label smoothing is that of Szegedy et al. 2016, section 7. Derivation: docs/cross_entropy.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class CrossEntropyCache(NamedTuple):
    logits: np.ndarray      # (..., V)  the input; the probabilities are recomputed
    targets: np.ndarray     # (...)     with 0 in place of ignored ones
    counted: np.ndarray     # (...)     boolean: False where ignored
    top: np.ndarray         # (..., 1)  largest logit of each row
    log_total: np.ndarray   # (...)     log sum exp of each row, less top: apart, for their sum would round in float32
    label_smoothing: float  # share of the target that is spread over all tokens


def cross_entropy_forward(logits, targets, *, ignore_index=-1, label_smoothing=0.0, per_row=False):
    """Sum over the counted rows of -sum_j t_j log softmax(logits)_j, where t is 1 at the target, 0 elsewhere.

    logits (..., V), targets (...) -> loss (a scalar, in nats), count (an int), CrossEntropyCache.
    Nothing counted: loss 0, count 0. Works on the log-sum-exp, never on log(p + eps), which has another gradient.
    per_row: no sum, the loss is (...), zero where ignored; then the backward takes a dloss of that shape, too.
    With label_smoothing a in [0, 1), t is (1 - a) [j = target] + a / V: the target itself keeps 1 - a + a / V.
    """
    counted = targets != ignore_index
    targets = np.where(counted, targets, 0)
    top = logits.real.max(axis=-1, keepdims=True)
    shifted = logits - top                                                      # (1)
    log_total = np.log(np.exp(shifted).sum(axis=-1))                            # (2)
    right = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]    # (3)
    if label_smoothing:
        right = right + label_smoothing * (shifted.mean(axis=-1) - right)       # (3s)
    loss = np.where(counted, log_total - right, 0)                              # (4)
    loss = loss if per_row else loss.sum()                                      # (5)
    return loss, int(counted.sum()), CrossEntropyCache(logits, targets, counted, top, log_total, label_smoothing)


def cross_entropy_backward(dloss, cache, *, out=None):
    """dloss (a scalar; 1 / count for the mean; (...) per row) -> dlogits (..., V).

    d log_total / d shifted_j = exp(shifted_j - log_total) = p_j, and d right / d shifted_j = [j = target], so
        dlogits_j = dloss (p_j - [j = target]):
    what the model says minus what was true (t_j, where that is smoothed). Rows sum to zero, so top, subtracted from all,
    needs no gradient; ignored rows are zero.
    """
    logits, targets, counted, top, log_total, label_smoothing = cache
    dlogits = np.exp(logits - top - log_total[..., None])                       # (2) (1)
    at_target = np.take_along_axis(dlogits, targets[..., None], axis=-1)
    np.put_along_axis(dlogits, targets[..., None], at_target - (1 - label_smoothing), axis=-1)      # (3s) (3)
    if label_smoothing:
        dlogits = dlogits - label_smoothing / logits.shape[-1]                  # (3s)
    weight = np.where(counted, dloss, 0).astype(logits.dtype)                   # (5) (4)
    return deliver((dlogits * weight[..., None],), out)
