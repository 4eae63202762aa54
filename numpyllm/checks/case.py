"""What a case is, and what cases are made of: sizes, values, layers with parameters of their own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..parameters import Parameters


class Sizes(NamedTuple):
    """Prime and pairwise different, so that a swapped axis cannot hide; models, which cost more, take SMALL."""

    B: int = 2      # batch
    T: int = 5      # queries
    S: int = 7      # keys, at least T
    H: int = 3      # heads
    D: int = 11     # channels a head
    C: int = 13     # channels
    F: int = 17     # hidden width
    V: int = 19     # vocabulary


SMALL = Sizes(B=2, T=3, S=5, H=2, D=3, C=7, F=11, V=13)


class Case(NamedTuple):
    forward: Callable       # (**inputs) -> y, ..., cache
    backward: Callable      # (dy, ..., cache) -> gradients of the floating-point inputs in their order
    inputs: dict


def spread_rows(rng, *shape):
    """Rows with |mean| below their standard deviation: a constant row, normalised, amplifies rounding without limit."""
    base = rng.permuted(np.broadcast_to(np.linspace(-1, 1, shape[-1]), shape), axis=-1)
    return base + rng.uniform(-0.3, 0.3, shape) / shape[-1] + rng.uniform(-0.3, 0.3, (*shape[:-1], 1))


def lengths(rng, z, most):
    """How many of `most` places each sequence fills, at least one."""
    return rng.integers(1, most + 1, z.B)


def some_targets(rng, z):
    return rng.integers(-1, z.V, (z.B, z.T))       # -1: nothing is asked


def bound_case(rng, make, ops, call, back, x=None, trainable=None):
    """A case whose inputs are x, if given, and all parameters of what make() makes; those that are frozen are constants.

    A complex step needs the forward of a complex copy: one layer is bound to float64 parameters, another to complex128.
    """
    bound = {}
    for dtype in (np.float64, np.complex128):
        layer = make()
        parameters = Parameters(layer.specs(), dtype=dtype, trainable=trainable)
        layer.bind(parameters, ops)
        bound[dtype] = layer, parameters
    layer, parameters = bound[np.float64]
    for name in parameters:
        shape = parameters[name].shape
        fan_in = shape[0] if len(shape) == 2 and not name.endswith(("wte", "wpe")) else 1
        parameters[name][...] = rng.standard_normal(shape) / np.sqrt(fan_in)    # keeps softmax and GELU out of saturation
    bound[np.complex128][1].data[...] = parameters.data
    values = {name: parameters[name].copy() for name in parameters if parameters.specs[name].trainable}

    def forward(**inputs):
        dtype = np.complex128 if any(map(np.iscomplexobj, inputs.values())) else np.float64
        layer, parameters = bound[dtype]
        for name in values:
            parameters[name][...] = inputs[name]
        return call(layer, *([inputs["x"]] if "x" in inputs else []))

    def backward(*dys_and_cache):
        parameters.clear_gradients()
        dx = back(layer, *dys_and_cache)
        parameters.settle_gradients()
        gradients = tuple(parameters.gradient(name).copy() for name in values)
        return gradients if x is None else (dx, *gradients)

    return Case(forward, backward, ({} if x is None else {"x": x}) | values)


def even(D):
    return D + D % 2
