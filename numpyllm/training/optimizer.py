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

    def update(self, lr, scale=1.0):
        """One step with the gradient in parameters.grad, multiplied by scale."""
        self.steps += 1
        cut = self.parameters.n_decayed
        for part, decay in ((slice(0, cut), self.weight_decay), (slice(cut, self.m.size), 0.0)):
            self.ops.adamw_update(self.parameters.data[:self.m.size][part], self.parameters.grad[part],
                                  self.m[part], self.v[part], step=self.steps, lr=lr, beta1=self.beta1,
                                  beta2=self.beta2, eps=self.eps, weight_decay=decay, scale=scale)


def gradient_norm(grad):
    """The 2-norm of a flat gradient. Its square is summed in float64: over 10^8 entries float32 would lose digits."""
    chunks = (grad[i:i + CHUNK] for i in range(0, grad.size, CHUNK))
    return math.sqrt(math.fsum(float(np.dot(chunk, chunk)) for chunk in chunks))


def clip_scale(norm, limit):
    """The factor that brings a gradient of this norm down to the limit (Pascanu et al. 2013); 0 means no limit."""
    return limit / norm if limit and norm > limit else 1.0
