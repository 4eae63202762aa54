"""Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013), on flat arrays.

Derivation: docs/optimizers.md.
"""


def sgd_update(p, g, u, *, lr, momentum=0.0, weight_decay=0.0, scale=1.0):
    """One step, in place on the parameters p and the velocity u; g is read only.

    p, g, u: 1-D arrays of one length and dtype. Decay is decoupled, as in adamw.py. scale multiplies the gradient.
    """
    u *= momentum
    u += scale * g                                              # (1)
    p *= 1 - lr * weight_decay                                  # (2)
    p -= lr * u                                                 # (3)
