"""AdamW over a model's flat arrays, and the norm of the gradient."""

import math

import numpy as np

from ..parameters import aligned_zeros

CHUNK = 1 << 16     # entries summed in the gradient's own precision before float64 takes over


class AdamW:
    """The state of AdamW for the trainable part of some Parameters: two moments and the number of steps taken.

    Matrices decay; gains and biases do not, and lie behind them in the flat array.
    """

    def __init__(self, parameters, ops, *, beta1, beta2, weight_decay, eps=1e-8):
        self.parameters, self.ops = parameters, ops
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2, weight_decay, eps
        self.m = aligned_zeros(parameters.n_trainable, parameters.dtype)
        self.v = aligned_zeros(parameters.n_trainable, parameters.dtype)
        self.steps = 0

    def share(self, index, parts):
        """The index-th of several nearly equal parts of the flat arrays, as a slice; they begin at whole chunks."""
        chunks = -(-self.m.size // CHUNK)
        return slice(chunks * index // parts * CHUNK, min(self.m.size, chunks * (index + 1) // parts * CHUNK))

    def update(self, lr, scale=1.0):
        """One step with the gradient in parameters.grad, multiplied by scale."""
        self.update_part(slice(0, self.m.size), lr, scale)
        self.steps += 1

    def update_part(self, part, lr, scale=1.0):
        """The next step for a slice only: several workers do their parts, then one of them counts the step."""
        cut = self.parameters.n_decayed
        for start, stop, decay in ((0, cut, self.weight_decay), (cut, self.m.size, 0.0)):
            some = slice(max(start, part.start), min(stop, part.stop))
            if some.start < some.stop:
                self.ops.adamw_update(self.parameters.data[some], self.parameters.grad[some], self.m[some], self.v[some],
                                      step=self.steps + 1, lr=lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
                                      weight_decay=decay, scale=scale)


def square_sums(grad, others=()):
    """The sums of squares of a flat gradient's chunks, as a list: their fsum is the square of its norm.

    Gradients of the same parameters by `others` are added to it before, a chunk at a time, while it is in the cache. Within a
    chunk the gradient's own precision does; over 10^8 entries float32 would lose digits.
    """
    sums = []
    for i in range(0, grad.size, CHUNK):
        chunk = grad[i:i + CHUNK]
        for other in others:
            np.add(chunk, other[i:i + CHUNK], out=chunk)
        sums.append(float(np.dot(chunk, chunk)))
    return sums


def gradient_norm(grad):
    """The 2-norm of a flat gradient."""
    return math.sqrt(math.fsum(square_sums(grad)))


def clip_scale(norm, limit):
    """The factor that brings a gradient of this norm down to the limit (Pascanu et al. 2013); 0 means no limit."""
    return limit / norm if limit and norm > limit else 1.0
