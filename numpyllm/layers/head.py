"""The output head: one score a token of the vocabulary, from a matrix of its own or the tied token embedding."""

from typing import NamedTuple

import numpy as np

from ..ops import CrossEntropyCache, LinearCache
from ..parameters import ParamSpec, normal
from ..workspace import mark, release
from .base import Layer


LOGITS = 1 << 25            # logits that exist at once where no backward will want them


class LogprobsCache(NamedTuple):
    counted: np.ndarray     # (...)  boolean: where a target was asked for; only these rows were multiplied
    linear: LinearCache
    loss: CrossEntropyCache


class Head(Layer):
    """h (..., C) -> logits (..., V) = h w^T. Tied to an embedding (Press, Wolf 2017), w is its wte, one shared view."""

    def __init__(self, n_embd, vocab_size, *, tied_to=None):
        self.n_embd, self.vocab_size, self.tied = n_embd, vocab_size, tied_to is not None
        self._owner = (tied_to, "wte") if self.tied else (self, "w")    # in a tuple: no child of this layer

    def own_specs(self):
        return {} if self.tied else {"w": ParamSpec((self.vocab_size, self.n_embd), normal(0.02))}

    @property
    def weight(self):
        layer, name = self._owner
        return getattr(layer, name)

    def forward(self, h):
        return self.ops.linear_forward(h, self.weight.T)

    def backward(self, dlogits, cache):
        dh, dw, _ = self.ops.linear_backward(dlogits, cache, frozen=self._frozen)
        self._collect(None if dw is None else dw.T)
        return dh

    def loss(self, h, targets, *, label_smoothing=0.0):
        """-> loss (a sum over counted targets, in nats), count."""
        loss, count, _ = self.ops.head_loss_forward(h, self.weight, targets, label_smoothing=label_smoothing)
        return loss, count

    def loss_forward_backward(self, h, targets, dloss, *, label_smoothing=0.0):
        """-> loss, count, dh."""
        layer, name = self._owner
        height = mark()
        loss, count, dh, dw = self.ops.head_loss_forward_backward(
            h, self.weight, targets, dloss, label_smoothing=label_smoothing, out=(None, *layer.slots(name)), frozen=self._frozen)
        self._collect(dw)
        return loss, count, release(height, keep=dh)

    def logprobs_forward(self, h, targets):
        """h (..., C), targets (...), -1 where nothing is asked -> log-probabilities of the targets (...), 0 there; cache."""
        counted = targets != -1
        logits, c_linear = self.ops.linear_forward(h[counted], self.weight.T)                           # (1)
        losses, _, c_loss = self.ops.cross_entropy_forward(logits, targets[counted], per_row=True)      # (2)
        logprobs = np.zeros(targets.shape, losses.dtype)
        logprobs[counted] = -losses                                                                     # (3)
        return logprobs, LogprobsCache(counted, c_linear, c_loss)

    def logprobs_backward(self, dlogprobs, cache):
        """dlogprobs (...) -> dh (..., C)."""
        dlogits = self.ops.cross_entropy_backward(-dlogprobs[cache.counted], cache.loss)                # (3) (2)
        rows = self.backward(dlogits, cache.linear)                                                     # (1)
        dh = np.zeros((*cache.counted.shape, self.n_embd), rows.dtype)
        dh[cache.counted] = rows
        return dh

    def logprobs(self, h, targets):
        """As logprobs_forward without a cache, LOGITS at a time."""
        h, flat, step = h.reshape(-1, h.shape[-1]), targets.reshape(-1), max(1, LOGITS // self.vocab_size)
        parts = [self.logprobs_forward(h[i:i + step], flat[i:i + step])[0] for i in range(0, len(flat), step)]
        return np.concatenate(parts).reshape(targets.shape)

    @property
    def _frozen(self):
        layer, name = self._owner
        return layer.frozen(name)

    def _collect(self, dw):
        layer, name = self._owner
        layer.collect(**{name: dw})
