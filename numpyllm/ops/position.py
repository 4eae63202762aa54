"""Positions that are not learned: the sinusoids of the first Transformer, and ALiBi's slopes. Derivation: docs/positions.md."""

import numpy as np


def sinusoidal_positions(T, C, *, dtype=np.float64):
    """The table of Vaswani et al. 2017, section 3.5: sin and cos of t 10000^(-2 i / C) in turns -> (T, C)."""
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, C, 2) / C)
    table = np.empty((T, C))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, :C // 2])
    return table.astype(dtype)


def alibi_slopes(H, *, dtype=np.float64):
    """By how much a head's scores fall a position of distance (Press et al. 2022, section 3) -> (H): 2^(-8 h / H) for h = 1 .. H.

    That is the paper's rule for H a power of two; it is used for every H here.
    """
    return (2.0 ** (-8 * np.arange(1, H + 1) / H)).astype(dtype)
