"""What every model that predicts the next token has, whatever it is made of: losses, gradients, copies, and checks of its input.

    ids (B, T) -> trunk (B, T, C) -> head (B, T, V)
"""

import math

import numpy as np

from ..errors import InputError
from ..layers import Layer
from ..workspace import mark, release


class LanguageModel(Layer):
    """A model (config, ops=, parameters=, recompute=) with `embedding`, `blocks`, `head` and `parameters`. It adds

        _trunk(ids, draws) -> h (B, T, C), cache        everything below the head; the cache has a field `head`, None here
        _trunk_backward(dh, cache, dloss=0.0)           dloss: gradient of what the blocks add to the loss, if they do
        _top(x) -> h                                    what comes between the last block and the head, when nothing is dropped

    recompute=True keeps only the input of each block for the backward and runs the block's forward again there: less
    memory, a third more work, the same gradients to the bit (Chen et al. 2016).
    """

    def forward(self, ids, draws=None):
        """ids (B, T) -> logits (B, T, V), cache. Dropout acts only when Draws are given."""
        h, cache = self._trunk(ids, draws)
        logits, c_head = self.head.forward(h)
        return logits, cache._replace(head=c_head)

    def backward(self, dlogits, cache):
        """dlogits (B, T, V) -> nothing; contributes to parameters.grad, as loss_and_gradients does."""
        self._trunk_backward(self.head.backward(dlogits, cache.head), cache)

    def loss(self, ids, targets):
        """ids, targets (B, T), -1 where nothing is asked -> sum of the loss in nats, number of counted targets."""
        targets, height = self._checked_targets(ids, targets), mark()
        x, _ = self.embedding.forward(self.check_ids(ids))
        for block in self.blocks:
            y, _ = block.forward(x)
            x = release(height, keep=y)                                     # no backward will want what it left
        loss = self.head.loss(self._top(x), targets)
        release(height)
        return loss

    def loss_and_gradients(self, ids, targets, *, scale=None, draws=None):
        """As loss, and contributes scale * d(sum)/d(parameters) to parameters.grad; scale None is 1 / count, the mean's.

        A step begins with parameters.clear_gradients() and ends with settle_gradients(): in between the first contribution to
        a gradient overwrites, later ones add.

        What is returned is the loss alone, what is differentiated is `objective`: the same, but with a mixture of experts.
        """
        targets = self._checked_targets(ids, targets)
        if scale is None:
            scale = 1 / max(1, int((targets != -1).sum()))
        h, cache = self._trunk(ids, draws)
        loss, count, dh = self.head.loss_forward_backward(h, targets, scale)
        self._trunk_backward(dh, cache, scale)
        return loss, count

    def objective(self, ids, targets):
        """Of what loss_and_gradients gives the gradients, times scale: the sum of the loss, and what blocks add to it."""
        return self.loss(ids, targets)[0]

    def astype(self, dtype):
        """An independent copy in another dtype: float64 or complex128 for checks."""
        return self.replica(self.parameters.astype(dtype))

    def replica(self, parameters):
        """The same model on other Parameters, which may share their arrays with these: for another thread."""
        return type(self)(self.config, ops=self.ops, parameters=parameters, recompute=self.recompute)

    def n_params(self, *, embedding=True):
        """Number of parameters; without `embedding`, those of the token table and the positions are left out."""
        tables = 0 if embedding else sum(math.prod(spec.shape) for spec in self.embedding.own_specs().values())
        return self.parameters.count() - tables

    def check_ids(self, ids, most=None):
        """ids as an array (B, T). InputError unless they are integers that this model knows, at least one and no more than `most`."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"ids must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
        if not 1 <= ids.shape[1] <= (math.inf if most is None else most):
            bounds = "at least one token" if most is None else f"1 to block_size={most} tokens"
            raise InputError(f"a context must have {bounds}, got {ids.shape[1]}")
        _check_range("ids", ids, 0, self.config.vocab_size)
        return ids

    def _top(self, x):
        return x

    def _blocks_forward(self, x, draws):
        """x (B, T, C) through all blocks -> x (B, T, C), one cache a block: with `recompute`, only its input."""
        caches = []
        for block in self.blocks:
            if self.recompute:
                height, cache = mark(), x
                y, _ = block.forward(x, draws)
                x = release(height, keep=y)
            else:
                x, cache = block.forward(x, draws)
            caches.append(cache)
        return x, caches

    def _blocks_backward(self, dx, caches, draws, height, *dloss):
        """dx (B, T, C) back through all blocks; memory taken since `height` was marked is given back, block by block.
        dloss is for blocks that add to the loss."""
        for block, cache in zip(reversed(self.blocks), reversed(caches), strict=True):
            if self.recompute:
                _, cache = block.forward(cache, draws)
            dx = release(height, keep=block.backward(dx, cache, *dloss))
        return dx

    def _checked_targets(self, ids, targets):
        targets = np.asarray(targets)
        if targets.shape != np.shape(ids) or not np.issubdtype(targets.dtype, np.integer):
            raise InputError(f"targets must be integers shaped like ids {np.shape(ids)}, got {targets.dtype} of shape {targets.shape}")
        _check_range("targets", targets, -1, self.config.vocab_size)
        return targets


def _check_range(name, values, low, high):
    if values.size and (values.min() < low or values.max() >= high):
        raise InputError(f"{name} must lie in [{low}, {high}), got {values.min()} to {values.max()}: "
                         "was the text encoded with this model's tokenizer?")
