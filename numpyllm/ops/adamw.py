"""AdamW (Kingma, Ba 2015, algorithm 1; decay decoupled after Loshchilov, Hutter 2019, algorithm 2), on flat arrays.

An update rule has no backward. Derivation and meaning of each line: docs/optimizers.md.
"""

import math

import numpy as np


def adamw_update(p, g, m, v, *, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, scale=1.0):
    """One step, in place on the parameters p and the moments m and v; g is read only.

    p, g, m, v: 1-D arrays of one length and dtype. step counts from 1. scale multiplies the gradient (clipping).
    """
    g = g * scale                                               # (1)
    m *= beta1
    m += (1 - beta1) * g                                        # (2)  running mean of the gradient
    v *= beta2
    v += (1 - beta2) * g * g                                    # (3)  running mean of its square
    step_size = lr / (1 - beta1 ** step)                        # (4)  both means start at zero: undo that bias
    root = np.sqrt(v) * (1 / math.sqrt(1 - beta2 ** step)) + eps
    p *= 1 - lr * weight_decay                                  # (5)  decay apart from the gradient
    p -= step_size * m / root                                   # (6)
