"""The whole way of one token through a GPT as one compiled function: twin of numpyllm.models.GPT.step for few positions.

A token reads every weight once and does two operations with it, so the time is that of reading the memory: the weights lie
in the order in which they are read, a row for each output, and may be stored in fewer bytes than they are computed in.
Each row's product is a sum of its own, in the same order for one position and for several: their results have the same bits.
Derivation and byte counts: docs/kv_cache.md.

Several threads may call it together, each with its rank: they share the rows and the heads, and meet where one needs
what another has computed. What is as quick to compute as to wait for (norms, sums) each of them does for itself.
"""

from typing import NamedTuple

import numpy as np

from ._barrier import meet
from ._dot import inner_products, number
from ._jit import jit, jit_borrowing
from ._math import erfc, exp, sigmoid
from .gelu import CUBIC, ROOT_HALF, SLOPE


class Matrices(NamedTuple):
    """Weights in the order of reading: all layers' matrices stacked, each (n_out, n_in), as float, bfloat16 (its bits) or int8.

    What is stored times its row's scale is the weight. Biases that a model does not have are zero.
    """

    qkv: np.ndarray             # (L, 3C, C)
    proj: np.ndarray            # (L, C, C)
    up: np.ndarray              # (L, F, C)
    down: np.ndarray            # (L, C, F)
    tokens: np.ndarray          # (V, C)
    head: np.ndarray            # (V, C), the same memory as `tokens` in a tied model


class Scales(NamedTuple):
    """One number for each row of each matrix."""

    qkv: np.ndarray             # (L, 3C)
    proj: np.ndarray            # (L, C)
    up: np.ndarray              # (L, F)
    down: np.ndarray            # (L, C)
    tokens: np.ndarray          # (V)
    head: np.ndarray            # (V)


class Vectors(NamedTuple):
    """Everything that is no matrix, in the type of computation."""

    norm1_w: np.ndarray         # (L, C)
    norm1_b: np.ndarray
    qkv_b: np.ndarray           # (L, 3C)
    proj_b: np.ndarray          # (L, C)
    norm2_w: np.ndarray
    norm2_b: np.ndarray
    mlp_b: np.ndarray           # (L, F)
    down_b: np.ndarray          # (L, C)
    norm_w: np.ndarray          # (C)
    norm_b: np.ndarray
    positions: np.ndarray       # (T, C)
    head_b: np.ndarray          # (V), zeros


class Shared(NamedTuple):
    """Memory in which threads pass on what they computed, for up to N positions."""

    counter: np.ndarray         # (1) int64: how often threads have met
    qkv: np.ndarray             # (N, 3C)
    y: np.ndarray               # (N, C)
    hidden: np.ndarray          # (N, F)
    added: np.ndarray           # (N, C)
    own: np.ndarray             # (threads, 2, N, C): each thread's residual stream, and its norm
    scores: np.ndarray          # (threads, T)


@jit_borrowing
def _norm(N, y, x, w, b, eps):
    C = x.shape[1]
    real = x.dtype.type
    inverse = real(1) / real(C)
    for n in range(N):
        total = real(0)
        for i in range(C):
            total += x[n, i]
        mean = total * inverse
        squares = real(0)
        for i in range(C):
            centred = x[n, i] - mean
            squares += centred * centred
        r = real(1) / np.sqrt(squares * inverse + eps)
        for i in range(C):
            y[n, i] = (x[n, i] - mean) * r * w[i] + b[i]


@jit_borrowing
def _product(N, y, x, w, scale, b, first, last):
    """y[:, first:last] = x w^T + b for these rows of w. A row stays in the nearest cache while all positions use it."""
    inner_products(N, y, x, w, first, last)
    for n in range(N):
        for j in range(first, last):
            y[n, j] = y[n, j] * scale[j] + b[j]


@jit_borrowing
def _gelu(N, y, exact, first, last):
    real = y.dtype.type
    for n in range(N):
        if exact:
            for i in range(first, last):
                y[n, i] *= real(0.5) * erfc(-y[n, i] * real(ROOT_HALF))
        else:
            for i in range(first, last):
                y[n, i] *= sigmoid(y[n, i] * (real(2 * SLOPE) + real(2 * SLOPE * CUBIC) * y[n, i] * y[n, i]))


@jit_borrowing
def _add(N, x, y):
    for n in range(N):
        for i in range(x.shape[1]):
            x[n, i] += y[n, i]


@jit_borrowing
def _attend(N, y, scores, qkv, keys, values, sequences, positions, first, last):
    """For these heads: keep the new keys and values, then let each position attend to its sequence up to itself."""
    C = y.shape[1]
    D = keys.shape[3]
    real = y.dtype.type
    scale = real(1) / np.sqrt(real(D))
    for h in range(first, last):
        for n in range(N):
            for d in range(D):
                keys[sequences[n], h, positions[n], d] = qkv[n, C + h * D + d]
                values[sequences[n], h, positions[n], d] = qkv[n, 2 * C + h * D + d]
        for n in range(N):
            past_keys, past_values = keys[sequences[n], h], values[sequences[n], h]
            S = positions[n] + 1
            top = -real(np.inf)
            for s in range(S):
                score = real(0)
                for d in range(D):
                    score += qkv[n, h * D + d] * past_keys[s, d]
                scores[s] = score * scale
                top = max(top, scores[s])
            total = real(0)
            for s in range(S):
                scores[s] = exp(scores[s] - top)
                total += scores[s]
            for d in range(D):
                y[n, h * D + d] = real(0)
            for s in range(S):
                p = scores[s]
                for d in range(D):
                    y[n, h * D + d] += p * past_values[s, d]
            for d in range(D):
                y[n, h * D + d] /= total


@jit_borrowing
def _share(n, rank, threads):
    """The part of n that belongs to this thread: first, last."""
    return n * rank // threads, n * (rank + 1) // threads


@jit
def decode(rank, threads, logits, tokens, sequences, positions, keys, values, matrices, scales, vectors, shared, eps, exact):
    """logits (N, V) of tokens (N), the newest of these sequences (N) at these positions (N); writes keys and values.

    keys, values (L, sequences, H, T, D) hold what came before; several positions of one sequence come in their order. Every one
    of `threads` threads calls this with its own rank, all else the same.
    """
    N, C = logits.shape[0], vectors.norm_w.shape[0]
    F, H, V = matrices.up.shape[1], keys.shape[2], logits.shape[1]
    counter, scores = shared.counter, shared.scores[rank]
    qkv, y, hidden, added = shared.qkv, shared.y, shared.hidden, shared.added
    x, h = shared.own[rank, 0], shared.own[rank, 1]
    real = x.dtype.type
    eps = real(eps)

    for n in range(N):
        token = tokens[n]
        for i in range(C):
            x[n, i] = number(matrices.tokens[token, i]) * scales.tokens[token] + vectors.positions[positions[n], i]
    for layer in range(keys.shape[0]):
        _norm(N, h, x, vectors.norm1_w[layer], vectors.norm1_b[layer], eps)
        _product(N, qkv, h, matrices.qkv[layer], scales.qkv[layer], vectors.qkv_b[layer], *_share(3 * C, rank, threads))
        meet(counter, threads)
        _attend(N, y, scores, qkv, keys[layer], values[layer], sequences, positions, *_share(H, rank, threads))
        meet(counter, threads)
        _product(N, added, y, matrices.proj[layer], scales.proj[layer], vectors.proj_b[layer], *_share(C, rank, threads))
        meet(counter, threads)
        _add(N, x, added)
        _norm(N, h, x, vectors.norm2_w[layer], vectors.norm2_b[layer], eps)
        first, last = _share(F, rank, threads)
        _product(N, hidden, h, matrices.up[layer], scales.up[layer], vectors.mlp_b[layer], first, last)
        _gelu(N, hidden, exact, first, last)
        meet(counter, threads)
        _product(N, added, hidden, matrices.down[layer], scales.down[layer], vectors.down_b[layer], *_share(C, rank, threads))
        meet(counter, threads)
        _add(N, x, added)
    _norm(N, h, x, vectors.norm_w, vectors.norm_b, eps)
    _product(N, logits, h, matrices.head, scales.head, vectors.head_b, *_share(V, rank, threads))
