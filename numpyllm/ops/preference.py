"""Losses that know no right token, only what is better: preferences between two answers, and rewards of answers that were sampled.

Shapes: one number an answer (B) or one a token (B, T). A loss is a sum over pairs, or over answers, as in cross_entropy.py.
Sources: Bradley, Terry 1952; Ouyang et al. 2022, eq. 1; Rafailov et al. 2023, eq. 7; Williams 1992; Schulman 2020 (k3), as in Shao
et al. 2024, eq. 4. Derivations: docs/preferences.md, docs/policy_gradient.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver
from .activation import sigmoid


class BradleyTerryCache(NamedTuple):
    margin: np.ndarray      # (B)  reward of the chosen answer less that of the rejected one
    label_smoothing: float


def bradley_terry_forward(chosen, rejected, *, label_smoothing=0.0):
    """Sum of -log sigmoid(chosen - rejected): the better of two is preferred with probability sigmoid(difference of rewards).

    chosen, rejected (B): rewards -> loss (a scalar, in nats), BradleyTerryCache.
    label_smoothing a in [0, 1/2): so often a preference is the wrong way round, (1 - a) of it and a of its opposite are asked for
    (Mitchell 2023, "conservative"). The margin has a finite best value then, log((1 - a) / a).
    """
    margin = chosen - rejected                                                          # (1)
    losses = softplus(-margin)                                                          # (2)
    if label_smoothing:
        losses = losses + label_smoothing * margin          # softplus(m) = softplus(-m) + m    (2s)
    return losses.sum(), BradleyTerryCache(margin, label_smoothing)                     # (3)


def bradley_terry_backward(dloss, cache, *, out=None):
    """dloss (a scalar) -> dchosen, drejected (B).

    d softplus(-m) / dm = -sigmoid(-m): the probability that the model gives to the opposite of what was preferred.
    """
    margin, label_smoothing = cache
    dmargin = dloss * (label_smoothing - sigmoid(-margin))                              # (3) (2s) (2)
    return deliver((dmargin, -dmargin), out)                                            # (1)


class DPOCache(NamedTuple):
    preference: BradleyTerryCache
    beta: float


def dpo_forward(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1, label_smoothing=0.0):
    """Bradley-Terry's loss of the rewards that a model implies: beta (log p(answer) - log p_ref(answer)).

    chosen, rejected (B): log-probabilities of both answers in the model, ref_...: in the frozen reference, which has no gradient;
    beta: how dear it is to move away from the reference -> loss (a scalar, in nats), DPOCache.
    """
    rewards = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)            # (1)
    loss, preference = bradley_terry_forward(*rewards, label_smoothing=label_smoothing)  # (2)
    return loss, DPOCache(preference, beta)


def dpo_backward(dloss, cache, *, out=None):
    """dloss (a scalar) -> dchosen, drejected (B).

    Both log-probabilities move by beta sigmoid(-margin), up and down: most where the order is wrong, hardly where it is settled.
    """
    dchosen, drejected = bradley_terry_backward(dloss, cache.preference)                # (2)
    return deliver((cache.beta * dchosen, cache.beta * drejected), out)                 # (1)


class PolicyGradientCache(NamedTuple):
    log_ratio: np.ndarray   # (B, T)  reference less model, 0 where nothing is counted
    advantages: np.ndarray  # (B, 1)
    counted: np.ndarray     # (B, T)
    kl: float


def policy_gradient_forward(logprobs, reference, advantages, counted, *, kl=0.0):
    """Sum over counted tokens of -advantage log p + kl (r - 1 - log r), with r = p_ref / p.

    logprobs, reference (B, T): of sampled tokens, in the model and in the frozen reference; advantages (B): reward of the answer
    less a baseline; counted (B, T): boolean, the tokens that were sampled -> loss (a scalar), PolicyGradientCache.

    The value means nothing, the gradient does. If answers were drawn from the model, and a baseline does not depend on the
    answer that it is subtracted from, the gradient of the first term over the number of answers has the expected value
    -d E[reward] / d parameters. That of the second has sum_t d KL(p_ref || p) in the contexts that were met (k3's value
    estimates KL(p || p_ref), its gradient the other: docs/policy_gradient.md).
    A log r beyond what exp can hold gives an infinite loss.
    """
    advantages = advantages[:, None]
    log_ratio = np.where(counted, reference - logprobs, 0)                              # (1)
    penalty = np.expm1(log_ratio) - log_ratio                                           # (2)
    gain = np.where(counted, advantages * logprobs, 0)                                  # (3)
    return (kl * penalty - gain).sum(), PolicyGradientCache(log_ratio, advantages, counted, kl)     # (4)


def policy_gradient_backward(dloss, cache, *, out=None):
    """dloss (a scalar) -> dlogprobs (B, T).

    d penalty / d log_ratio = expm1(log_ratio), and d log_ratio / d logprobs = -1. An advantage has no gradient: the reward says
    nothing about how it would be with other parameters, the log-probability does (score function).
    """
    log_ratio, advantages, counted, kl = cache
    dterm = np.where(counted, dloss, 0)                                                 # (4)
    dlogprobs = -dterm * (advantages + kl * np.expm1(log_ratio))                        # (3) (2) (1)
    return deliver((dlogprobs.astype(log_ratio.dtype),), out)


def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): of e^-|x| only, which cannot overflow."""
    positive = x.real > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))
