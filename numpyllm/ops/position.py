"""Positions that are not learned: the sinusoids of the first Transformer, and ALiBi's slopes. Derivation: docs/positions.md."""

import numpy as np


def sinusoidal_positions(T, C, dtype=np.float64):
    """The table of Vaswani et al. 2017, section 3.5 -> (T, C): sin(t w_i) in column 2i and cos(t w_i) in 2i + 1, w_i = 10000^(-2i / C).

    Each pair of columns is a hand on a clock, the first quick, the last slow: moving on by k positions turns
    every hand by an angle that does not depend on where it was.
    """
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, C, 2) / C)       # (T, ceil(C / 2))
    positions = np.empty((T, C), dtype)
    positions[:, 0::2] = np.sin(angles)
    positions[:, 1::2] = np.cos(angles[:, :C // 2])
    return positions


def alibi_slopes(H, *, dtype=np.float64):
    """By how much a head's scores fall a position of distance (Press et al. 2022, section 3) -> (H): 2^(-8 h / H) for h = 1 .. H.

    That is the paper's rule for H a power of two; it is used for every H here.
    """
    return (2.0 ** (-8 * np.arange(1, H + 1) / H)).astype(dtype)
