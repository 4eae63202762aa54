"""What `numpyllm gradcheck` checks: a case for every op, every layer and whole models.

A case is made from a random generator, sizes and a backend; the tests draw sizes and seeds for the same cases. Values are of
order one, gains and biases are not at their defaults, so that no gradient is zero by accident.
"""

import numpy as np

from .. import ops as text
from ..gradcheck import check_gradients, check_op
from .case import SMALL, Sizes
from .layers import LAYERS
from .models import MODELS
from .ops import OPS

CASES = OPS | LAYERS | MODELS


def check_case(name, *, methods=("complex",), sizes=None, seed=0, ops=text, entries=None):
    """Rows of numpyllm.gradcheck for one case; sizes None: Sizes() for ops, SMALL for layers and models. entries: see there."""
    sizes = sizes or (Sizes() if name in OPS else SMALL)
    case = CASES[name](np.random.default_rng(seed), sizes, ops)
    return check_op(name, case.forward, case.backward, case.inputs, methods=methods, seed=seed, entries=entries)


def check_model(model, ids, targets, *, seed=0):
    """Rows for a model as it is: on float64 copies, the mean loss (its `objective`) along one random direction in each tensor.

    One complex forward a tensor, so it is quick for models of any size. ids, targets (B, T).
    """
    exact, shadow = model.astype(np.float64), model.astype(np.complex128)
    exact.parameters.clear_gradients()
    _, count = exact.loss_and_gradients(ids, targets)
    exact.parameters.settle_gradients()

    def mean_loss(**changed):
        for name, value in changed.items():
            shadow.parameters[name][...] = value
        loss = shadow.objective(ids, targets)
        for name in changed:
            shadow.parameters[name][...] = exact.parameters[name]
        return loss / max(1, count)

    trainable = [name for name in exact.parameters if exact.parameters.gradient(name) is not None]
    return check_gradients(type(model).__name__, mean_loss, {name: exact.parameters[name] for name in trainable},
                           {name: exact.parameters.gradient(name) for name in trainable}, methods=("adjoint",), seed=seed)
