"""Choosing the next token from the logits. A token of probability zero is never chosen.

Shapes: logits (B, V), tokens (B).
"""

import numpy as np

from ..errors import InputError
from ..ops import softmax_forward


def check_sampling(temperature, top_k, top_p):
    """Raise InputError for settings that mean nothing."""
    if not 0 <= temperature < np.inf:
        raise InputError(f"temperature must be 0 (always the likeliest token) or positive, got {temperature!r}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k!r}: leave it out to allow all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p must lie in (0, 1], got {top_p!r}: leave it out to allow all tokens")


def token_probabilities(logits, *, temperature=1.0, top_k=None, top_p=None):
    """What sampling draws from -> (B, V), float64.

    temperature divides the logits; 0 puts everything on the likeliest token (the first of several). top_k keeps the
    k likeliest tokens (Fan et al. 2018); top_p then keeps the smallest set of likeliest tokens that holds at least that
    much probability (Holtzman et al. 2020). Among equals the smaller id is kept.
    """
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, axis=-1, kind="stable")                             # likeliest first
    if temperature == 0:
        top_k, temperature = 1, 1.0
    ranked = np.take_along_axis(logits, order, axis=-1)
    ranked = (ranked - ranked[:, :1]) / temperature                                 # 0 first: no temperature overflows it
    if top_k is not None:
        ranked[:, top_k:] = -np.inf
    p, _ = softmax_forward(ranked)
    if top_p is not None:
        before = np.cumsum(p, axis=-1) - p                                          # probability of likelier tokens
        p[(before >= top_p) & (np.arange(p.shape[-1]) > 0)] = 0
        p /= p.sum(axis=-1, keepdims=True)
    probabilities = np.empty_like(p)
    np.put_along_axis(probabilities, order, p, axis=-1)
    return probabilities


def choose(probabilities, uniforms):
    """Token i where the running sum of probabilities first exceeds the uniform draw in [0, 1): (B, V), (B) -> (B)."""
    running = np.cumsum(probabilities, axis=-1)
    chosen = (running <= (uniforms * running[:, -1])[:, None]).sum(axis=-1)
    last = probabilities.shape[-1] - 1 - np.argmax(probabilities[:, ::-1] > 0, axis=-1)
    return np.minimum(chosen, last)                                                 # rounding at the far end
