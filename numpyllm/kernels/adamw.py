"""Fused twin of numpyllm.ops.adamw: one pass over the four arrays."""

import math

import numpy as np

from ._jit import jit


@jit
def _update(p, g, m, v, scale, beta1, beta2, step_size, root_scale, eps, keep):
    one = p.dtype.type(1)
    for i in range(p.size):
        gradient = g[i] * scale                                                     # (1)
        mean = beta1 * m[i] + (one - beta1) * gradient                              # (2)
        square = beta2 * v[i] + (one - beta2) * gradient * gradient                 # (3)
        m[i] = mean
        v[i] = square
        p[i] = p[i] * keep - step_size * mean / (np.sqrt(square) * root_scale + eps)    # (4) (5) (6)


def adamw_update(p, g, m, v, *, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, scale=1.0):
    real = p.dtype.type
    _update(p, g, m, v, real(scale), real(beta1), real(beta2), real(lr / (1 - beta1 ** step)),
            real(1 / math.sqrt(1 - beta2 ** step)), real(eps), real(1 - lr * weight_decay))
