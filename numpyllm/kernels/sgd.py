"""Fused twin of numpyllm.ops.sgd: one pass over the three arrays."""

from ._jit import jit


@jit
def _update(p, g, u, scale, momentum, lr, keep):
    for i in range(p.size):
        velocity = momentum * u[i] + scale * g[i]                                   # (1)
        u[i] = velocity
        p[i] = p[i] * keep - lr * velocity                                          # (2) (3)


def sgd_update(p, g, u, *, lr, momentum=0.0, weight_decay=0.0, scale=1.0):
    real = p.dtype.type
    _update(p, g, u, real(scale), real(momentum), real(lr), real(1 - lr * weight_decay))
