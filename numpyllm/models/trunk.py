"""Everything of a model but its head, which language models and classifiers have in common.

    ids (B, T) -> embedding (B, T, C) -> blocks (B, T, C) -> what each kind of trunk has above them (B, T, C)
"""

import math

import numpy as np

from ..errors import InputError
from ..layers import Layer
from ..parameters import Parameters
from ..workspace import mark, release
from .lora import adapt, is_adapter, with_adapter


class Trunk(Layer):
    """A model (config, ops=, parameters=, recompute=) with `embedding`, `blocks`, a head, and the `parameters` of
    them all; which head, is left to who inherits. Each kind of trunk adds

        _trunk(ids, draws, starts) -> h (B, T, C), cache    everything below the head; cache.head is None
        _trunk_backward(dh, cache, dloss=0.0)               dloss: gradient of what the blocks add to the loss, if any
        _top(x) -> h                                        what comes between the last block and the head, undropped

    starts (B, T), where a row holds several examples: the place where the example of each token begins. None sees
    another, and each is read as if it stood alone.

    trainable(name) -> bool says of each parameter whether it is trained; None: all are. A frozen one has no
    gradient and no moments, and no work is done for either: the backward ends at the lowest block in which
    anything is trained, and blocks below keep nothing for it.

    lora (LoRA) puts an addition of low rank beside the linear maps that it names. It is trained then, and besides
    only what `trainable` names.

    recompute=True keeps only the input of each block for the backward and runs the block's forward again there:
    less memory, a third more work, the same gradients to the bit (Chen et al. 2016).
    """

    lora = None

    def _complete(self, ops, seed, dtype, parameters, trainable, lora=None):
        """The end of a model's __init__: once its layers are there, they are given
        parameters, these or new ones."""
        if lora is not None:
            self.lora = lora
            adapt(self, lora)
        if parameters is None:
            also = trainable or (lambda name: False)
            chosen = trainable if lora is None else lambda name: is_adapter(name) or also(name)
            parameters = Parameters(self.specs(), seed=seed, dtype=dtype, trainable=chosen)
        self.parameters = parameters
        self.bind(parameters, ops)

    def astype(self, dtype):
        """An independent copy in another dtype: float64 or complex128 for checks."""
        return self.replica(self.parameters.astype(dtype))

    def replica(self, parameters):
        """The same model on other Parameters, which may share their arrays with these: for another thread."""
        return type(self)(self.config, parameters=parameters, **self.options())

    def options(self):
        """What made this model such as it is, besides the config and the parameters."""
        return {"ops": self.ops, "recompute": self.recompute} | ({} if self.lora is None else {"lora": self.lora})

    def merged(self):
        """A plain model that does the same: LoRA's additions are in its matrices. Without
        LoRA, this model itself."""
        if self.lora is None:
            return self
        plain = type(self)(self.config, seed=None, dtype=self.parameters.dtype, **self.options() | {"lora": None})
        for name in plain.parameters:
            plain.parameters[name][...] = with_adapter(self.parameters, name, self.lora)
        return plain

    def n_params(self, *, embedding=True):
        """Number of parameters; without `embedding`, those of the token table and the positions are left out."""
        tables = 0 if embedding else sum(math.prod(spec.shape) for spec in self.embedding.own_specs().values())
        return self.parameters.count() - tables

    def check_ids(self, ids, most=None):
        """ids as an array (B, T). InputError unless they are integers that this model knows, at least one
        and no more than `most`."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"ids must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
        if not 1 <= ids.shape[1] <= (math.inf if most is None else most):
            bounds = "at least one token" if most is None else f"1 to block_size={most} tokens"
            raise InputError(f"a context must have {bounds}, got {ids.shape[1]}")
        check_range("ids", ids, 0, self.config.vocab_size)
        return ids

    def _top(self, x):
        return x

    def _embed(self, ids, starts):
        """-> x (B, T, C), cache, and what the blocks are told beside x and draws, a tuple."""
        if starts is not None:
            raise InputError(f"{type(self).__name__} carries a state along the row: give each example a row of its own")
        return *self.embedding.forward(self.check_ids(ids)), ()

    def _hidden(self, ids, starts):
        """-> h (B, T, C), where no backward will follow: what a block leaves is given back at once."""
        height = mark()
        x, _, told = self._embed(ids, starts)
        for block in self.blocks:
            y, _ = block.forward(x, None, *told)
            x = release(height, keep=y)
        return self._top(x)

    def _blocks_forward(self, x, draws, told):
        """x (B, T, C) through all blocks -> x (B, T, C), one cache a block: with `recompute`, or if it has no
        backward, only its input."""
        caches = []
        for i, block in enumerate(self.blocks):
            if self.recompute or i < self._lowest:
                height, cache = mark(), x
                y, _ = block.forward(x, draws, *told)
                x = release(height, keep=y)
            else:
                x, cache = block.forward(x, draws, *told)
            caches.append(cache)
        return x, caches

    @property
    def _lowest(self):
        """How many blocks need no backward, because nothing is trained in them or below."""
        if self.embedding.trains:
            return 0
        return next((i for i, block in enumerate(self.blocks) if block.trains), len(self.blocks))

    def _blocks_backward(self, dx, caches, draws, told, height, *dloss):
        """dx (B, T, C) back through all blocks that need it; memory taken since `height` was marked is given back,
        block by block. dloss is for blocks that add to the loss."""
        for block, cache in reversed(list(zip(self.blocks, caches, strict=True))[self._lowest:]):
            if self.recompute:
                _, cache = block.forward(cache, draws, *told)
            dx = release(height, keep=block.backward(dx, cache, *dloss))
        return dx


def check_range(name, values, low, high):
    if values.size and (values.min() < low or values.max() >= high):
        raise InputError(f"{name} must lie in [{low}, {high}), got {values.min()} to {values.max()}: "
                         "was the text encoded with this model's tokenizer?")
