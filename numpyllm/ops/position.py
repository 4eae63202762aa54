"""Where a token stands: positions that are written down, not learned.

Sinusoids: Vaswani et al. 2017, section 3.5. Chapter: docs/encoder_decoder.md.
"""

import numpy as np


def sinusoidal_positions(T, C, dtype=np.float32):
    """One row a position 0 .. T - 1 -> (T, C): sin(t w_i) in column 2i and cos(t w_i) in 2i + 1, w_i = 10000^(-2i / C).

    Each pair of columns is a hand on a clock, the first quick, the last slow: moving on by k positions turns
    every hand by an angle that does not depend on where it was.
    """
    frequencies = 10000.0 ** (-np.arange(0, C, 2) / C)                  # (ceil(C / 2))
    angles = np.arange(T)[:, None] * frequencies                        # (T, ceil(C / 2))
    positions = np.empty((T, C), dtype)
    positions[:, 0::2] = np.sin(angles)
    positions[:, 1::2] = np.cos(angles[:, :C // 2])
    return positions
