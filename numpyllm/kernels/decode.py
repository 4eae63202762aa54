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

ACTIVATIONS = ("gelu", "exact_gelu", "relu", "squared_relu", "silu", "swiglu")
GELU, EXACT_GELU, RELU, SQUARED_RELU, SILU, SWIGLU = range(6)
PATTERNS = ("causal", "window", "strided", "fixed")
CAUSAL, WINDOW, STRIDED, FIXED = range(4)


class Choices(NamedTuple):
    """What a GPTConfig chooses, as numbers."""

    eps: float
    rms: bool               # norms do not subtract the mean
    pre_norm: bool
    activation: int         # place in ACTIVATIONS
    qk_norm: bool
    rotary: int             # 0: no; 1: pairs are half a head apart; 2: neighbours
    alibi: bool
    softcap: float
    pattern: int            # place in PATTERNS
    window: int


class Matrices(NamedTuple):
    """Weights in the order of reading: all layers' matrices stacked, each (n_out, n_in), as float, bfloat16 (its bits) or int8.

    What is stored times its row's scale is the weight.
    """

    qkv: np.ndarray             # (L, (H + 2 G) D, C)
    proj: np.ndarray            # (L, C, C)
    gate: np.ndarray            # (L, F, C), of SwiGLU; else the same as `up`, and not read
    up: np.ndarray              # (L, F, C)
    down: np.ndarray            # (L, C, F)
    tokens: np.ndarray          # (V, C)
    head: np.ndarray            # (V, C), the same memory as `tokens` in a tied model


class Scales(NamedTuple):
    """One number for each row of each matrix."""

    qkv: np.ndarray             # (L, (H + 2 G) D)
    proj: np.ndarray            # (L, C)
    gate: np.ndarray            # (L, F)
    up: np.ndarray              # (L, F)
    down: np.ndarray            # (L, C)
    tokens: np.ndarray          # (V)
    head: np.ndarray            # (V)


class Vectors(NamedTuple):
    """Everything that is no matrix, in the type of computation. Biases and shifts that a model does not have are zero."""

    norm1_w: np.ndarray         # (L, C)
    norm1_b: np.ndarray
    qkv_b: np.ndarray           # (L, (H + 2 G) D)
    q_norm: np.ndarray          # (L, D)
    k_norm: np.ndarray          # (L, D)
    proj_b: np.ndarray          # (L, C)
    norm2_w: np.ndarray
    norm2_b: np.ndarray
    gate_b: np.ndarray          # (L, F)
    up_b: np.ndarray            # (L, F)
    down_b: np.ndarray          # (L, C)
    norm_w: np.ndarray          # (C)
    norm_b: np.ndarray
    head_b: np.ndarray          # (V), zeros
    positions: np.ndarray       # (T, C), learned or sinusoidal; (0, C): none
    cos: np.ndarray             # (T, D / 2), of rotary positions
    sin: np.ndarray
    slopes: np.ndarray          # (H), of ALiBi


class Shared(NamedTuple):
    """Memory in which threads pass on what they computed, for up to N positions."""

    counter: np.ndarray         # (1) int64: how often threads have met
    qkv: np.ndarray             # (N, (H + 2 G) D)
    y: np.ndarray               # (N, C)
    gate: np.ndarray            # (N, F)
    hidden: np.ndarray          # (N, F)
    added: np.ndarray           # (N, C)
    own: np.ndarray             # (threads, 2, N, C): each thread's residual stream, and its norm
    scores: np.ndarray          # (threads, T)


@jit_borrowing
def _norm(N, y, x, w, b, eps, rms):
    """y may be x."""
    C = x.shape[1]
    real = x.dtype.type
    inverse = real(1) / real(C)
    for n in range(N):
        mean = real(0)
        if not rms:
            for i in range(C):
                mean += x[n, i]
            mean *= inverse
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
def _activate(N, y, gate, kind, first, last):
    real = y.dtype.type
    nothing = real(0)
    for n in range(N):
        if kind == GELU:
            for i in range(first, last):
                y[n, i] *= sigmoid(y[n, i] * (real(2 * SLOPE) + real(2 * SLOPE * CUBIC) * y[n, i] * y[n, i]))
        elif kind == EXACT_GELU:
            for i in range(first, last):
                y[n, i] *= real(0.5) * erfc(-y[n, i] * real(ROOT_HALF))
        elif kind == RELU:
            for i in range(first, last):
                y[n, i] = max(y[n, i], nothing)
        elif kind == SQUARED_RELU:
            for i in range(first, last):
                y[n, i] = max(y[n, i], nothing) * max(y[n, i], nothing)
        elif kind == SILU:
            for i in range(first, last):
                y[n, i] *= sigmoid(y[n, i])
        else:
            for i in range(first, last):
                y[n, i] *= gate[n, i] * sigmoid(gate[n, i])


@jit_borrowing
def _add(N, x, y):
    for n in range(N):
        for i in range(x.shape[1]):
            x[n, i] += y[n, i]


@jit_borrowing
def _prepare(head, gain, cos, sin, choices):
    """Normalise and turn one head of queries or keys (D), in place."""
    D = head.size
    real = head.dtype.type
    if choices.qk_norm:
        squares = real(0)
        for d in range(D):
            squares += head[d] * head[d]
        r = real(1) / np.sqrt(squares / real(D) + real(choices.eps))
        for d in range(D):
            head[d] *= r * gain[d]
    if choices.rotary > 0:
        first, apart = (1, D // 2) if choices.rotary == 1 else (2, 1)
        for i in range(D // 2):
            a, b = head[first * i], head[first * i + apart]
            head[first * i] = a * cos[i] - b * sin[i]
            head[first * i + apart] = a * sin[i] + b * cos[i]


@jit_borrowing
def _sees(pattern, window, t, s):
    """Whether a query at position t sees the key at s <= t, as in numpyllm.ops.mask."""
    if pattern == STRIDED:
        return t - s < window or (t - s) % window == 0
    if pattern == FIXED:
        return s // window == t // window or s % window == window - 1
    return True


@jit_borrowing
def _attend(N, y, scores, qkv, keys, values, origins, sequences, positions, vectors, layer, choices, first, last):
    """For these heads of keys, and the heads of queries that they serve: keep the new keys and values, then let each position
    attend to its sequence up to itself."""
    G, D = keys.shape[1], keys.shape[3]
    H = y.shape[1] // D
    group = H // G
    real = y.dtype.type
    scale = real(1) / np.sqrt(real(D))
    for g in range(first, last):
        for n in range(N):
            t = positions[n]
            key = qkv[n, (H + g) * D:(H + g + 1) * D]
            _prepare(key, vectors.k_norm[layer], vectors.cos[t], vectors.sin[t], choices)
            for d in range(D):
                keys[sequences[n], g, t - origins[n], d] = key[d]
                values[sequences[n], g, t - origins[n], d] = qkv[n, (H + G + g) * D + d]
        for n in range(N):
            t, origin = positions[n], origins[n]
            past_keys, past_values = keys[sequences[n], g], values[sequences[n], g]
            start = max(0, t + 1 - choices.window) if choices.pattern == WINDOW else 0
            for h in range(g * group, (g + 1) * group):
                query = qkv[n, h * D:(h + 1) * D]
                _prepare(query, vectors.q_norm[layer], vectors.cos[t], vectors.sin[t], choices)
                top = -real(np.inf)
                for s in range(start, t + 1):
                    score = real(0)
                    for d in range(D):
                        score += query[d] * past_keys[s - origin, d]
                    score *= scale
                    if choices.softcap > 0:
                        cap = real(choices.softcap)
                        score = cap * (real(2) * sigmoid(real(2) * score / cap) - real(1))
                    if choices.alibi:
                        score -= vectors.slopes[h] * real(t - s)
                    if choices.pattern >= STRIDED and not _sees(choices.pattern, choices.window, t, s):
                        score = -real(np.inf)
                    scores[s] = score
                    top = max(top, score)
                total = real(0)
                for s in range(start, t + 1):
                    scores[s] = exp(scores[s] - top)
                    total += scores[s]
                for d in range(D):
                    y[n, h * D + d] = real(0)
                for s in range(start, t + 1):
                    p = scores[s]
                    for d in range(D):
                        y[n, h * D + d] += p * past_values[s - origin, d]
                for d in range(D):
                    y[n, h * D + d] /= total


@jit_borrowing
def _share(n, rank, threads):
    """The part of n that belongs to this thread: first, last."""
    return n * rank // threads, n * (rank + 1) // threads


@jit
def decode(rank, threads, logits, tokens, sequences, positions, keys, values, origins, matrices, scales, vectors, shared, choices):
    """logits (N, V) of tokens (N), the newest of these sequences (N) at these positions (N); writes keys and values.

    keys, values (L, sequences, G, S, D) hold what came before, from position origins (N) on; several positions of one sequence
    come in their order. Every one of `threads` threads calls this with its own rank, all else the same.
    """
    N, C = logits.shape[0], vectors.norm_w.shape[0]
    F, G, V = matrices.up.shape[1], keys.shape[2], logits.shape[1]
    counter, scores = shared.counter, shared.scores[rank]
    qkv, y, hidden, added = shared.qkv, shared.y, shared.hidden, shared.added
    x, h = shared.own[rank, 0], shared.own[rank, 1]
    eps, rms, activation = x.dtype.type(choices.eps), choices.rms, choices.activation
    source = h if choices.pre_norm else x           # what attention and MLP read

    for n in range(N):
        token = tokens[n]
        for i in range(C):
            x[n, i] = number(matrices.tokens[token, i]) * scales.tokens[token]
        if vectors.positions.shape[0] > 0:
            for i in range(C):
                x[n, i] += vectors.positions[positions[n], i]
    for layer in range(keys.shape[0]):
        if choices.pre_norm:
            _norm(N, h, x, vectors.norm1_w[layer], vectors.norm1_b[layer], eps, rms)
        _product(N, qkv, source, matrices.qkv[layer], scales.qkv[layer], vectors.qkv_b[layer], *_share(qkv.shape[1], rank, threads))
        meet(counter, threads)
        _attend(N, y, scores, qkv, keys[layer], values[layer], origins, sequences, positions, vectors, layer, choices,
                *_share(G, rank, threads))
        meet(counter, threads)
        _product(N, added, y, matrices.proj[layer], scales.proj[layer], vectors.proj_b[layer], *_share(C, rank, threads))
        meet(counter, threads)
        _add(N, x, added)
        if choices.pre_norm:
            _norm(N, h, x, vectors.norm2_w[layer], vectors.norm2_b[layer], eps, rms)
        else:
            _norm(N, x, x, vectors.norm1_w[layer], vectors.norm1_b[layer], eps, rms)
        first, last = _share(F, rank, threads)
        if activation == SWIGLU:
            _product(N, shared.gate, source, matrices.gate[layer], scales.gate[layer], vectors.gate_b[layer], first, last)
        _product(N, hidden, source, matrices.up[layer], scales.up[layer], vectors.up_b[layer], first, last)
        _activate(N, hidden, shared.gate, activation, first, last)
        meet(counter, threads)
        _product(N, added, hidden, matrices.down[layer], scales.down[layer], vectors.down_b[layer], *_share(C, rank, threads))
        meet(counter, threads)
        _add(N, x, added)
        if not choices.pre_norm:
            _norm(N, x, x, vectors.norm2_w[layer], vectors.norm2_b[layer], eps, rms)
    _norm(N, h, x, vectors.norm_w, vectors.norm_b, eps, rms)
    _product(N, logits, h, matrices.head, scales.head, vectors.head_b, *_share(V, rank, threads))
