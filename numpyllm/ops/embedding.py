"""Embedding: a row of a table for every id, and its position's row beside it.

Shapes: ids (B, T) integers in [0, V), w (V, C), y (B, T, C); wpe (T_max, C), one row a position.
The fused pair adds learned positions as GPT-2 does (Radford et al. 2019). Derivation: docs/embedding.md.
"""

from typing import NamedTuple

import numpy as np

from ._out import deliver


class EmbeddingCache(NamedTuple):
    ids: np.ndarray         # (B, T)  which row went where
    n_rows: int             # V       the height of the table, for its gradient


def embedding_forward(ids, w):
    """y[b, t] = w[ids[b, t]].

    ids (B, T), w (V, C) -> y (B, T, C), EmbeddingCache. Ids are trusted here; models check them at the door.
    """
    return w[ids], EmbeddingCache(ids, w.shape[0])                                  # (1)


def embedding_backward(dy, cache, *, out=None, add=False):
    """dy (B, T, C) -> dw (V, C); with `add` the rows are added to what `out` holds (a tied head wrote there first).

    Row i of w was copied to every place where ids = i, so its gradient is the sum over those places. The sum must
    scatter: `dw[ids] += dy` would keep only the last of several equal ids.
    """
    ids, n_rows = cache
    dw = out[0] if add else np.zeros((n_rows, dy.shape[-1]), dy.dtype)
    np.add.at(dw, ids, dy)                                                          # (1)
    return dw if add else deliver((dw,), out)


class TokenPositionCache(NamedTuple):
    token: EmbeddingCache
    start: int              # the position of the first column of ids
    positions: np.ndarray   # (B, T)  the position of each, or None where they count up from start
    n_positions: int        # T_max, the height of the position table


def token_position_forward(ids, wte, wpe, *, start=0, positions=None):
    """y[b, t] = wte[ids[b, t]] + wpe[positions[b, t]]; without positions, wpe[start + t].

    ids (B, T), wte (V, C), wpe (T_max, C), positions (B, T) -> y (B, T, C), TokenPositionCache; positions lie below T_max.
    """
    tokens, c_token = embedding_forward(ids, wte)                                   # (1)
    places = slice(start, start + ids.shape[-1]) if positions is None else positions
    return tokens + wpe[places], TokenPositionCache(c_token, start, positions, wpe.shape[0])        # (2) (3)


def token_position_backward(dy, cache, *, out=None, add=False):
    """dy (B, T, C) -> dwte (V, C), dwpe (T_max, C); `add` concerns dwte alone, as in embedding_backward.

    The sum (3) passes dy to both tables. A position's row was used once in each sequence (given positions: as often
    as they say): its gradient is the sum over those places. Positions that no token had get zero.
    """
    c_token, start, positions, n_positions = cache
    dwte_out, dwpe_out = out or (None, None)
    T, C = dy.shape[-2:]
    if positions is None:
        dwpe = np.zeros((n_positions, C), dy.dtype)
        dwpe[start:start + T] = dy.reshape(-1, T, C).sum(axis=0)                    # (3) (2)
    else:
        dwpe = embedding_backward(dy, EmbeddingCache(positions, n_positions))       # (3) (2)
    dwte = embedding_backward(dy, c_token, out=(dwte_out,), add=add)                # (3) (1)
    return dwte, deliver((dwpe,), (dwpe_out,))
