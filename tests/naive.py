"""Every op's forward from its definition, one scalar at a time: nested lists in, nested lists out, nothing vectorised.

These are oracles: they share no line with the ops, spare no time and sum with `math.fsum`, whose rounding does not grow
with the length. The names are the ops' without `_forward`; sizes are the glossary's (B, T, S, H, D, C, V).
"""

import cmath
import math
from itertools import product
from math import cos, erf, exp, fsum, inf, log, pi, sin, sqrt, tanh


def rowwise(f, *xs):
    """f of each innermost list of xs[0], together with what stands in the same place in the others."""
    return [rowwise(f, *parts) for parts in zip(*xs)] if isinstance(xs[0][0], list) else f(*xs)


def scalarwise(f, *xs):
    """f of each scalar of xs[0], together with what stands in the same place in the others."""
    return [scalarwise(f, *parts) for parts in zip(*xs)] if isinstance(xs[0], list) else f(*xs)


def dot(a, b):
    return fsum(i * j for i, j in zip(a, b))


def log_sum_exp(row):
    top = max(row, default=-inf)
    return top + log(fsum(exp(i - top) for i in row)) if row else -inf


def linear(x, w, b=None):
    columns = list(zip(*w))
    b = b or [0.0] * len(columns)
    return rowwise(lambda row: [dot(row, column) + shift for column, shift in zip(columns, b)], x)


def embedding(ids, w):
    return scalarwise(lambda i: w[i], ids)


def token_position(ids, wte, wpe, start=0):
    return [[[i + j for i, j in zip(wte[token], wpe[start + t])] for t, token in enumerate(row)] for row in ids]


def layernorm(x, w, b=None, eps=1e-5):
    b = b or [0.0] * len(w)

    def normalise(row):
        mean = fsum(row) / len(row)
        variance = fsum((i - mean) ** 2 for i in row) / len(row)
        return [(i - mean) / sqrt(variance + eps) * gain + shift for i, gain, shift in zip(row, w, b)]

    return rowwise(normalise, x)


def rmsnorm(x, w, eps=1e-5):
    """Zhang and Sennrich (2019), equation 4."""
    def normalise(row):
        root = sqrt(fsum(i * i for i in row) / len(row) + eps)
        return [i / root * gain for i, gain in zip(row, w)]

    return rowwise(normalise, x)


def residual(x, r):
    return scalarwise(lambda i, j: i + j, x, r)


def residual_layernorm(x, r, w, b=None, eps=1e-5):
    s = residual(x, r)
    return s, layernorm(s, w, b, eps)


def gelu(x, exact=False):
    """Hendrycks and Gimpel (2016): x times the normal distribution function at x, or its approximation by tanh."""
    if exact:
        return scalarwise(lambda i: 0.5 * i * (1 + erf(i / sqrt(2))), x)
    return scalarwise(lambda i: 0.5 * i * (1 + tanh(sqrt(2 / pi) * (i + 0.044715 * i ** 3))), x)


def bias_gelu(x, b=None, exact=False):
    return gelu(rowwise(lambda row: [i + shift for i, shift in zip(row, b)], x) if b else x, exact)


def relu(x):
    return scalarwise(lambda i: max(i, 0.0), x)


def squared_relu(x):
    return scalarwise(lambda i: max(i, 0.0) ** 2, x)


def silu(x):
    return scalarwise(lambda i: i / (1 + exp(-i)), x)


def swiglu(gate, x):
    return scalarwise(lambda opened, i: opened * i, silu(gate), x)


def rotary(row, position, base=10000.0, scale=1.0, interleaved=False, trained=0):
    """One head's channels: pair i is a complex number, which is turned by position / scale * base^(-2 i / D) (Su et al. 2021).

    With `trained`, as in Llama 3.1: by the wavelength of a pair, in tokens, its frequency is kept, divided, or a mean of both.
    """
    D, turned = len(row), list(row)
    for i in range(D // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + D // 2)
        kept = base ** (-2 * i / D)
        divided, wavelength = kept / scale, 2 * math.pi / kept
        if not trained or wavelength > trained / 1:
            frequency = divided
        elif wavelength < trained / 4:
            frequency = kept
        else:
            smooth = (trained / wavelength - 1) / (4 - 1)
            frequency = (1 - smooth) * divided + smooth * kept
        z = complex(row[a], row[b]) * cmath.exp(1j * position * frequency)
        turned[a], turned[b] = z.real, z.imag
    return turned


def sinusoidal_positions(T, C):
    """Vaswani et al. (2017), section 3.5: an even channel 2 i and the odd one after it share a frequency."""
    return [[(cos if c % 2 else sin)(t / 10000 ** (c // 2 * 2 / C)) for c in range(C)] for t in range(T)]


def dropout(x, keep, p):
    return scalarwise(lambda i, kept: i / (1 - p) if kept else 0.0, x, keep)


def softmax(x):
    def normalise(row):
        powers = [exp(i - max(row)) for i in row]
        return [power / fsum(powers) for power in powers]

    return rowwise(normalise, x)


def route(scores, k):
    """Jiang et al. (2024), section 2.1: softmax over the k highest scores. Of one: Fedus et al. (2021), equation 2."""
    def gates(row):
        chosen = sorted(range(len(row)), key=lambda e: (-row[e], e))[:k]
        among = range(len(row)) if k == 1 else chosen
        total = fsum(exp(row[e] - max(row)) for e in among)
        return [exp(row[e] - max(row)) / total if e in chosen else 0.0 for e in range(len(row))]

    return rowwise(gates, scores)


def balance(scores, k):
    """Fedus et al. (2021), equations 4 to 6, with alpha = 1, of each sequence of scores (B, T, E), times its length; a sum."""
    losses = []
    for sequence in scores:
        T, E = len(sequence), len(sequence[0])
        gates, p = route(sequence, k), softmax(sequence)
        f = [sum(row[e] > 0 for row in gates) / (k * T) for e in range(E)]
        P = [fsum(row[e] for row in p) / T for e in range(E)]
        losses.append(T * E * dot(f, P))
    return fsum(losses)


def mixture(x, w, experts, k):
    """x (B, T, C) through a router w (C, E) and experts (rows -> rows): token by token, and each through its own alone."""
    def token(row):
        [gates] = route(linear([row], w), k)
        parts = [(gate, experts[e]([row])[0]) for e, gate in enumerate(gates) if gate > 0]
        return [fsum(gate * part[c] for gate, part in parts) for c in range(len(row))]

    return rowwise(token, x)


def causal_spans(T, S=None):
    return [[[0, (S or T) - T + t + 1]] for t in range(T)]


def dense_mask(spans, S):
    """Key j is visible where any of the query's intervals [start, stop) holds it."""
    if isinstance(spans[0][0], list):
        return [dense_mask(part, S) for part in spans]
    return [any(start <= j < stop for start, stop in spans) for j in range(S)]


def sees(pattern, t, s, n):
    """Whether position t sees position s. n is the window, the stride l of Child et al. (2019, section 4.2, c = 1), or the prefix."""
    if pattern == "prefix":
        return s <= t or s < n
    return s <= t and {"causal": True, "window": t - s < n, "strided": t - s < n or (t - s) % n == 0,
                       "fixed": s // n == t // n or s % n == n - 1}[pattern]


def attention(q, k, v, spans=None, keep=None, p=0.0, slopes=None, softcap=0.0):
    """-> y (B, T, H, D), lse (B, H, T). Queries of head h ask head h // (H / G) of k and v; they are the last T positions."""
    B, T, H, D, S = len(q), len(q[0]), len(q[0][0]), len(q[0][0][0]), len(k[0])
    share = H // len(k[0][0])
    mask = dense_mask(spans or [[[0, S]]] * T, S)
    if not isinstance(mask[0][0], list):                                            # one mask for the whole batch
        mask = [mask] * B
    y = [[[None] * H for _ in range(T)] for _ in range(B)]
    lse = [[[None] * T for _ in range(H)] for _ in range(B)]
    for b, h, t in product(range(B), range(H), range(T)):
        seen = [j for j in range(S) if mask[b][t][j]]
        g = h // share
        scores = [dot(q[b][t][h], k[b][j][g]) / sqrt(D) for j in seen]
        if softcap:
            scores = [softcap * tanh(score / softcap) for score in scores]
        if slopes:
            scores = [score - slopes[h] * (S - T + t - j) for score, j in zip(scores, seen)]
        lse[b][h][t] = log_sum_exp(scores)
        weights = softmax(scores) if seen else []
        if keep:
            weights = dropout(weights, [keep[b][h][t][j] for j in seen], p)
        y[b][t][h] = [fsum(weight * v[b][j][g][d] for weight, j in zip(weights, seen)) for d in range(D)]
    return y, lse


def lstm(x, w_x, w_h, b=None, h0=None, c0=None):
    """-> y (B, T, H), c (B, H). One unit at a time; column k H + j of the matrices is gate k (i, f, g, o) of unit j."""
    H = len(w_h)
    columns_x, columns_h, shift = list(zip(*w_x)), list(zip(*w_h)), b or [0.0] * (4 * H)
    sigmoid = lambda a: 1 / (1 + exp(-a))
    ys, last = [], []
    for n, sequence in enumerate(x):
        h, c, y = h0[n] if h0 else [0.0] * H, c0[n] if c0 else [0.0] * H, []
        for entry in sequence:
            gate = lambda k, j: fsum([dot(entry, columns_x[k * H + j]), dot(h, columns_h[k * H + j]), shift[k * H + j]])
            c = [sigmoid(gate(1, j)) * c[j] + sigmoid(gate(0, j)) * tanh(gate(2, j)) for j in range(H)]
            h = [sigmoid(gate(3, j)) * tanh(c[j]) for j in range(H)]
            y.append(h)
        ys.append(y)
        last.append(c)
    return ys, last


def cross_entropy(logits, targets, ignore_index=-1, label_smoothing=0.0):
    """-> loss_sum, count"""
    losses = []

    def add(row, target):
        if target != ignore_index:
            shares = [(1 - label_smoothing) * (j == target) + label_smoothing / len(row) for j in range(len(row))]
            losses.append(fsum(share * (log_sum_exp(row) - score) for share, score in zip(shares, row)))

    rowwise(add, logits, targets)
    return fsum(losses), len(losses)


def head_loss(h, w, targets, ignore_index=-1, label_smoothing=0.0):
    """-> loss_sum, count"""
    return cross_entropy(linear(h, list(zip(*w))), targets, ignore_index, label_smoothing)


def adamw(p, g, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, scale=1.0):
    """One scalar's step (Loshchilov and Hutter, 2019, algorithm 2; eps outside the root) -> p, m, v"""
    g = scale * g
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** step), v / (1 - beta2 ** step)
    return p - lr * weight_decay * p - lr * m_hat / (sqrt(v_hat) + eps), m, v


def sgd(p, g, u, lr, momentum=0.0, weight_decay=0.0, scale=1.0):
    """One scalar's step -> p, u"""
    u = momentum * u + scale * g
    return p - lr * weight_decay * p - lr * u, u
