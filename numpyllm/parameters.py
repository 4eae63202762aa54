"""Parameters: one flat array with named views, and a flat gradient of the same layout.

    [ trainable, decayed (matrices) | trainable, not decayed (gains, biases) | frozen ]

So an optimiser step is two contiguous slices, a checkpoint is a few flat arrays, and adding up the gradients of
several workers is one addition. The gradient covers the trainable part only.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .random import generator

ALIGNMENT = 64      # bytes: a cache line, and the widest vector register


def zeros(rng, shape):
    return np.zeros(shape)


def ones(rng, shape):
    return np.ones(shape)


def normal(std):
    """Normally distributed with mean 0 and this standard deviation."""
    return lambda rng, shape: std * rng.standard_normal(shape)


@dataclass(frozen=True)
class ParamSpec:
    """What a layer says about one of its parameters."""

    shape: tuple
    init: Callable = zeros      # (rng, shape) -> array
    decay: bool = True          # weight decay applies: to matrices, not to gains and biases
    trainable: bool = True


class Parameters:
    """All parameters of a model and their gradients.

    data (flat, dtype), grad (flat, the trainable part), parameters[name] and parameters.gradient(name) are views.
    Every view begins on a 64-byte boundary of the float32 layout; the gaps hold zeros. With seed=None nothing is drawn: all
    parameters are zero. trainable(name) -> bool freezes those of which it is not true; None freezes none.
    """

    def __init__(self, specs, *, seed=0, dtype=np.float32, data=None, grad=None, trainable=None):
        self.specs = {name: spec if trainable is None or trainable(name) else replace(spec, trainable=False) for name, spec in specs.items()}
        self.dtype = np.dtype(dtype)
        order = sorted(self.specs, key=lambda name: _group(self.specs[name]))       # stable within a group
        gap = ALIGNMENT // np.dtype(np.float32).itemsize
        self.layout, ends, offset = {}, [0, 0, 0], 0
        for name in order:
            spec = self.specs[name]
            self.layout[name] = (offset, spec.shape)
            offset += -(-math.prod(spec.shape) // gap) * gap
            ends[_group(spec)] = offset
        self.n_decayed = ends[0]
        self.n_trainable = max(ends[:2])
        self.data = aligned_zeros(offset, self.dtype) if data is None else data
        self._grad = grad
        self._views = {name: _view(self.data, *place) for name, place in self.layout.items()}
        self._unwritten = self._trainable()
        if data is None and seed is not None:
            self.draw(self.specs, seed)

    def draw(self, names, seed):
        """Give these parameters the values that they begin with."""
        for name in names:
            spec = self.specs[name]
            self[name][...] = spec.init(generator(seed, f"init/{name}"), spec.shape)

    @property
    def grad(self):
        """Made when it is first asked for: who only runs a model needs none."""
        if self._grad is None:
            self._grad = aligned_zeros(self.n_trainable, self.dtype)
        return self._grad

    @cached_property
    def _gradients(self):
        return {name: _view(self.grad, *place) for name, place in self.layout.items() if self.specs[name].trainable}

    def __getitem__(self, name):
        return self._views[name]

    def __iter__(self):
        return iter(self.layout)

    def gradient(self, name):
        """The gradient of one parameter, a view, or None for a frozen one."""
        return self._gradients.get(name)

    def clear_gradients(self):
        """Forget all gradients. Nothing is set to zero: the first to write one overwrites it, later ones add."""
        self._unwritten = self._trainable()

    def _trainable(self):
        return {name for name, spec in self.specs.items() if spec.trainable}

    def slot(self, name):
        """Where the gradient may be written directly: the view if nobody wrote it yet, else None."""
        return self._gradients[name] if name in self._unwritten else None

    @contextmanager
    def contribution(self, name):
        """Yield (gradient, whether to add to it or to overwrite it) to somebody who contributes to it now. Not for a frozen one."""
        yield self._gradients[name], name not in self._unwritten
        self._unwritten.discard(name)

    def collect(self, name, value):
        """Take in one contribution to a gradient (which may already lie in slot(name)); none for a frozen parameter."""
        if not self.specs[name].trainable:
            return
        with self.contribution(name) as (target, add):
            if add:
                target += value
            elif value is not target:
                target[...] = value

    def settle_gradients(self):
        """After the last backward of a step: what nobody wrote is zero."""
        for name in self._unwritten:
            self._gradients[name][...] = 0
        self._unwritten = set()

    def replica(self):
        """The same parameters, shared, with gradients of their own."""
        return Parameters(self.specs, dtype=self.dtype, data=self.data)

    def astype(self, dtype):
        """An independent copy in another dtype, same layout: float64 or complex128 for checks."""
        data = aligned_zeros(self.data.size, np.dtype(dtype))
        data[...] = self.data
        return Parameters(self.specs, dtype=dtype, data=data)

    def count(self, *, trained=False):
        """Number of parameters, gaps not counted; with `trained`, of those that are not frozen."""
        return sum(math.prod(spec.shape) for spec in self.specs.values() if spec.trainable or not trained)


def aligned_zeros(size, dtype):
    """A 1-D array of zeros that begins on a 64-byte boundary, its memory touched: fresh pages
    that a kernel touches first were seen to stay slow."""
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array = raw[start:start + size * dtype.itemsize].view(dtype)
    array[...] = 0
    return array


def _group(spec):
    return 2 if not spec.trainable else 0 if spec.decay else 1


def _view(flat, offset, shape):
    return flat[offset:offset + math.prod(shape)].reshape(shape)
