"""Routing of tokens to experts: which k of E maps a token goes through, with what weight, and a loss that spreads the tokens.

Shapes: scores (..., E), gates (..., E), chosen (..., E) boolean with k True in each row.
Sources: Shazeer et al. 2017, section 2; Fedus et al. 2021 (Switch), equations 2 and 4 to 6; Jiang et al. 2024
(Mixtral), section 2.1. Derivation: docs/mixture_of_experts.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver
from .softmax import SoftmaxCache, softmax_backward, softmax_forward


class RouteCache(NamedTuple):
    chosen: np.ndarray      # (..., E)  boolean: the k highest scores of each row
    softmax: SoftmaxCache


def route_forward(scores, k):
    """scores (..., E), 1 <= k <= E -> gates (..., E), zero but for the k highest scores of each row, and RouteCache.

    With k > 1 the gates are the softmax over the chosen scores alone (Mixtral). Over one score alone that would be 1, and
    the router would never learn: with k = 1 the gate is the chosen one's part of the softmax over all (Switch). Of equal scores
    the first is chosen.
    """
    chosen = _highest(scores.real, k)                                                           # (1)
    if k == 1:
        p, cache = softmax_forward(scores)                                                      # (2)
        return np.where(chosen, p, p.dtype.type(0)), RouteCache(chosen, cache)                  # (3)
    gates, cache = softmax_forward(np.where(chosen, scores, scores.dtype.type(-np.inf)))        # (2)
    return gates, RouteCache(chosen, cache)


def route_backward(dgates, cache, *, out=None):
    """dgates (..., E) -> dscores (..., E); entries of dgates that were not chosen count for nothing.

    Which scores are the highest does not change with a small step, so (1) has no gradient. A score of -inf has a probability
    of zero, and softmax's dx_j = y_j (...) is zero with it: with k > 1 only chosen scores have a gradient, with k = 1 all have.
    """
    dp = np.where(cache.chosen, dgates, dgates.dtype.type(0))                                   # (3)
    return deliver((softmax_backward(dp, cache.softmax),), out)                                 # (2)


class BalanceCache(NamedTuple):
    p: np.ndarray           # (..., T, E)  each token's probabilities
    share: np.ndarray       # (..., 1, E)  part of its sequence's choices that an expert got, times E


def balance_forward(scores, chosen):
    """How unevenly each sequence uses the experts. scores (..., T, E), chosen (..., T, E) -> loss (a scalar), BalanceCache.

    With f_e the share of a sequence's choices that went to expert e, and P_e its mean probability, the loss is the sum over
    sequences of T E sum_e f_e P_e: 1 a token where the experts are used evenly, E where one gets all and k = 1. Switch takes f and P
    over a whole batch; of each sequence alone, losses of slices add up to the same, however a batch is divided.
    """
    p, _ = softmax_forward(scores)                                                              # (1)
    count = chosen.sum(axis=-2, keepdims=True)
    share = (count / count.sum(axis=-1, keepdims=True) * scores.shape[-1]).astype(p.real.dtype) # (2)
    return (share * p).sum(), BalanceCache(p, share)                                            # (3)


def balance_backward(dloss, cache, *, out=None):
    """dloss (a scalar) -> dscores (..., T, E). f counts choices, which a small step does not change: its gradient is zero."""
    p, share = cache
    dp = p.dtype.type(dloss) * np.broadcast_to(share, p.shape)                                  # (3)
    return deliver((softmax_backward(dp, SoftmaxCache(p)),), out)                               # (1)


def _highest(scores, k):
    """Boolean (..., E): True at the k highest of each row."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order[..., :k], True, axis=-1)
    return chosen
