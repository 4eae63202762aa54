"""Choosing the next token from the logits. A token of probability zero is never chosen.

Shapes: logits (V). Steps, in this order: repetition penalty, temperature, top_k, top_p, min_p. Chapter: docs/sampling.md.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Sampling:
    """What to draw the next token from. Raises InputError for settings that mean nothing.

    temperature divides the logits; 0 always takes the likeliest token (the first of several). top_k keeps the k likeliest tokens
    (Fan et al. 2018); of those, top_p keeps the smallest set of likeliest ones that holds at least that much probability (Holtzman
    et al. 2020); of those, min_p keeps what is at least that many times as likely as the likeliest (Nguyen et al. 2024).
    repetition_penalty divides the positive logits of tokens that were seen, and multiplies the others (Keskar et al. 2019);
    1 is none. Among equals the smaller id is kept.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if not _is_number(self.temperature) or not 0 <= self.temperature < np.inf:
            raise InputError(f"temperature must be 0 (always the likeliest token) or positive, got {self.temperature!r}")
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1):
            raise InputError(f"top_k must be at least 1, got {self.top_k!r}: leave it out to allow all tokens")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise InputError(f"{name} must lie in (0, 1], got {value!r}: leave it out to allow all tokens")
        if not _is_number(self.repetition_penalty) or not 1e-3 <= self.repetition_penalty <= 1e3:
            raise InputError(f"repetition_penalty must lie between 0.001 and 1000 (1: none), got {self.repetition_penalty!r}")


def candidates(logits, sampling, seen=()):
    """The tokens that may come next -> ids (K) ascending, probabilities (K) float64, all above 0, of sum 1.

    logits (V), seen: ids that the penalty concerns. Raises InputError for logits that are NaN: such a model says nothing.
    """
    scores = logits.astype(np.float64)
    if sampling.repetition_penalty != 1 and len(seen):
        ids = np.unique(seen)
        scores[ids] = np.where(scores[ids] > 0, scores[ids] / sampling.repetition_penalty, scores[ids] * sampling.repetition_penalty)
    likeliest = _likeliest_of_all(scores)
    if sampling.temperature == 0:
        return np.array([likeliest]), np.ones(1)
    with np.errstate(over="ignore"):                            # the largest is 0, others may become -inf
        scores = (scores - scores[likeliest]) / sampling.temperature
    ids = np.arange(len(scores))
    if sampling.top_k is not None and sampling.top_k < len(scores):
        ids = _likeliest(scores, sampling.top_k)
    p = np.exp(scores[ids])
    p /= p.sum()
    if sampling.top_p is not None and sampling.top_p < 1:
        ids, p = _nucleus(ids, p, sampling.top_p)
    keep = p >= (sampling.min_p or 0) * p.max()
    keep &= p > 0
    return ids[keep], p[keep] / p[keep].sum()


def token_probabilities(logits, sampling, seen=()):
    """What sampling draws from, for every token: logits (V) -> (V), float64."""
    probabilities = np.zeros(len(logits))
    ids, p = candidates(logits, sampling, seen)
    probabilities[ids] = p
    return probabilities


def choose(logits, sampling, uniform, seen=()):
    """The token at which the running sum of the probabilities first exceeds this draw in [0, 1)."""
    ids, p = candidates(logits, sampling, seen)
    running = np.cumsum(p)
    return int(ids[min(np.searchsorted(running, uniform * running[-1], side="right"), len(ids) - 1)])


def log_softmax(logits):
    """logits (V) -> log-probabilities (V), float64: what the model itself says, whatever sampling makes of it. Raises as candidates."""
    scores = logits.astype(np.float64)
    scores -= scores[_likeliest_of_all(scores)]
    return scores - np.log(np.exp(scores).sum())


def _likeliest_of_all(scores):
    likeliest = int(scores.argmax())                            # of a NaN, the NaN
    if not np.isfinite(scores[likeliest]):
        raise InputError(f"the largest of the model's logits must be a finite number, got {scores[likeliest]}: its weights are damaged, "
                         "or its training went astray; take an earlier checkpoint")
    return likeliest


def _likeliest(scores, k):
    """The ids of the k largest, ascending."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate([above, equal[:k - len(above)]]))


def _nucleus(ids, p, top_p):
    """The likeliest tokens up to that much probability.

    Tokens of less than (1 - top_p) / K hold less than 1 - top_p together, so they are outside, and need not be sorted.
    """
    possible = np.flatnonzero(p >= (1 - top_p) / len(p) * (1 - 1e-9))
    ranked = possible[np.argsort(-p[possible], kind="stable")]
    before = np.cumsum(p[ranked]) - p[ranked]                   # probability of likelier tokens
    kept = np.sort(ranked[before < top_p])
    return ids[kept], p[kept] / p[kept].sum()


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
