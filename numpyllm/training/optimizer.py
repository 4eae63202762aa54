"""Optimisers over a model's flat arrays, and the norm of the gradient."""

import math
from abc import ABC, abstractmethod

import numpy as np

from ..parameters import aligned_zeros

CHUNK = 1 << 16     # entries summed in the gradient's own precision before float64 takes over


class Optimizer(ABC):
    """Updates the trainable part of some Parameters. state maps names to flat arrays of its size: with `steps`, the updates
    made, all that a checkpoint has to keep.

    Matrices decay; gains and biases do not, and lie behind them in the flat array.
    """

    state_names = ()

    def __init__(self, parameters, ops, *, weight_decay):
        self.parameters, self.ops, self.weight_decay = parameters, ops, weight_decay
        self.state = {name: aligned_zeros(parameters.n_trainable, parameters.dtype) for name in self.state_names}
        self.steps = 0

    def share(self, index, parts):
        """The index-th of several nearly equal parts of the flat arrays, as a slice; they begin at whole chunks."""
        size = self.parameters.n_trainable
        chunks = -(-size // CHUNK)
        return slice(chunks * index // parts * CHUNK, min(size, chunks * (index + 1) // parts * CHUNK))

    def update(self, lr, scale=1.0):
        """One step with the gradient in parameters.grad, multiplied by scale."""
        self.update_part(slice(0, self.parameters.n_trainable), lr, scale)
        self.steps += 1

    def update_part(self, part, lr, scale=1.0):
        """The next step for a slice only: several workers do their parts, then one of them counts the step."""
        cut, end = self.parameters.n_decayed, self.parameters.n_trainable
        for start, stop, decay in ((0, cut, self.weight_decay), (cut, end, 0.0)):
            some = slice(max(start, part.start), min(stop, part.stop))
            if some.start < some.stop:
                self.rule(self.parameters.data[some], self.parameters.grad[some],
                          *(array[some] for array in self.state.values()), lr=lr, weight_decay=decay, scale=scale)

    @abstractmethod
    def rule(self, p, g, *state, lr, weight_decay, scale):
        """The update of these slices, in place."""


class AdamW(Optimizer):
    """Adam with decay apart from the gradient (ops/adamw.py); m and v are its moments."""

    state_names = ("adam_m", "adam_v")

    def __init__(self, parameters, ops, *, beta1, beta2, weight_decay, eps=1e-8):
        super().__init__(parameters, ops, weight_decay=weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m, self.v = self.state.values()

    def rule(self, p, g, m, v, *, lr, weight_decay, scale):
        self.ops.adamw_update(p, g, m, v, step=self.steps + 1, lr=lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
                              weight_decay=weight_decay, scale=scale)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (ops/sgd.py)."""

    state_names = ("sgd_u",)

    def __init__(self, parameters, ops, *, momentum, weight_decay):
        super().__init__(parameters, ops, weight_decay=weight_decay)
        self.momentum = momentum

    def rule(self, p, g, u, *, lr, weight_decay, scale):
        self.ops.sgd_update(p, g, u, lr=lr, momentum=self.momentum, weight_decay=weight_decay, scale=scale)


def make_adamw(config, parameters, ops):
    return AdamW(parameters, ops, beta1=config.beta1, beta2=config.beta2, weight_decay=config.weight_decay)


def make_adam(config, parameters, ops):
    """Adam as published has no decay, whatever config.weight_decay says."""
    return AdamW(parameters, ops, beta1=config.beta1, beta2=config.beta2, weight_decay=0.0)


def make_sgd(config, parameters, ops):
    return SGD(parameters, ops, momentum=config.momentum, weight_decay=config.weight_decay)


OPTIMIZERS = {"adamw": make_adamw, "adam": make_adam, "sgd": make_sgd}


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


def group_norms(parameters):
    """{"embedding": 0.3, "blocks.0": 0.5, ...}: the norm of the present gradient of each part of a model.

    Reads the gradient once; the root of the sum of their squares is the norm of the whole.
    """
    squares = {}
    for name in parameters:
        if parameters.gradient(name) is not None:
            first, second, *_ = name.split(".")
            group = f"{first}.{second}" if second.isdigit() else first
            squares.setdefault(group, []).extend(square_sums(parameters.gradient(name).reshape(-1)))
    return {group: math.sqrt(math.fsum(sums)) for group, sums in squares.items()}


def clip_scale(norm, limit):
    """The factor that brings a gradient of this norm down to the limit (Pascanu et al. 2013); 0 means no limit."""
    return limit / norm if limit and norm > limit else 1.0
