"""Rotary positions (Su et al. 2021, eq. 34): queries and keys are turned by angles proportional to their positions, so that their
inner product depends on the distance alone.

Shapes: x, y (B, T, H, D) with D even; cos, sin (T, D / 2) or (B, T, D / 2). Channels are turned in pairs, for which there are two habits:
    split half      channel i with channel i + D / 2        (GPT-NeoX, Llama in Hugging Face's layout)
    interleaved     channel 2 i with channel 2 i + 1        (the paper, Llama as published)
They are the same function up to the order of channels. Derivation: docs/positions.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver

FEW_TURNS, MANY_TURNS = 1.0, 4.0        # low_freq_factor and high_freq_factor of Llama 3.1 to 3.3


class RotaryCache(NamedTuple):
    cos: np.ndarray         # (T, D / 2) or (B, T, D / 2)
    sin: np.ndarray
    interleaved: bool


def rotary_angles(positions, D, *, base=10000.0, scale=1.0, trained=0, dtype=np.float64):
    """positions (...) -> cos, sin (..., D / 2) of position * base^(-2 i / D) / scale. scale > 1 reads longer texts than were
    trained on, by squeezing their positions (Chen et al. 2023).

    trained > 0 is the length of the texts trained on: pairs that turn more than 4 times in it keep their frequency, those that turn
    less than once have it divided by scale, and between is a mean of both, weighted by the number of turns (Llama 3.1).
    """
    frequencies = float(base) ** (-np.arange(0, D, 2) / D)
    turns = trained * frequencies / (2 * np.pi)
    kept = np.clip((turns - FEW_TURNS) / (MANY_TURNS - FEW_TURNS), 0, 1)       # 0 for all pairs where trained is 0
    angles = np.asarray(positions)[..., None] * (frequencies * (kept + (1 - kept) / float(scale)))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rotary_forward(x, cos, sin, *, interleaved=False):
    """Each pair (a, b) becomes (a cos - b sin, a sin + b cos). x (B, T, H, D) -> y (B, T, H, D), RotaryCache."""
    return _turn(x, cos, sin, interleaved), RotaryCache(cos, sin, interleaved)                  # (1)


def rotary_backward(dy, cache, *, out=None):
    """dy (B, T, H, D) -> dx (B, T, H, D): a rotation's transpose is the rotation by the opposite angle."""
    cos, sin, interleaved = cache
    return deliver((_turn(dy, cos, -sin, interleaved),), out)                                   # (1)


def _turn(x, cos, sin, interleaved):
    cos, sin = cos[..., None, :], sin[..., None, :]             # the same for all heads
    a, b = _pairs(x, interleaved)
    y = np.empty(x.shape, x.dtype)
    y_a, y_b = _pairs(y, interleaved)
    y_a[...] = a * cos - b * sin
    y_b[...] = a * sin + b * cos
    return y


def _pairs(x, interleaved):
    """The first and the second channel of each pair, as views (..., D / 2)."""
    half = x.shape[-1] // 2
    return (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
