"""GPTClassifier: a GPT that names a class for a text, in place of its next token (Radford
et al. 2018, section 3.2).

    ids (B, T) -> trunk (B, T, C) -> last real token (B, C) -> classifier (B, K)

A row may be padded on the right, with any ids: its length says where it ends. Attention is causal, so nothing
before the padding sees it, and nothing after it is read.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..config import option, require_whole
from ..errors import InputError
from ..layers import Linear
from ..ops import CrossEntropyCache
from ..workspace import mark, release
from .estimate import Estimate, estimate, parameter_count
from .gpt import GPT, GPTConfig, GPTTrunk


@dataclass(frozen=True)
class GPTClassifierConfig(GPTConfig):
    """Those of the GPT, and the number of classes. Raises InputError as GPTConfig does."""

    n_classes: int = option(2, "classes to choose from; 1: a number for a text, such as a reward")

    def __post_init__(self):
        super().__post_init__()
        require_whole(self, 1, "n_classes")


class GPTClassifierCache(NamedTuple):
    trunk: object
    last: tuple             # (rows, places) of the last real tokens, both (B)
    shape: tuple            # (B, T, C) of the trunk's output
    classifier: object


class ClassLossCache(NamedTuple):
    logits: GPTClassifierCache
    loss: CrossEntropyCache
    weights: np.ndarray     # (B)  of the labels


class GPTClassifier(GPTTrunk):
    """A GPT's trunk, whose parameters keep their names, and a linear head `classifier`.

    class_weights (K), all positive: how much an example counts, by its label. The mean of the loss is the weighted
    one then. None: all count 1. The rest: GPT's.

    Raises InputError for lengths that are not (B) integers in [1, T], labels that are not (B) integers in [0,
    K), and ids as GPT does.
    """

    def __init__(self, config, *, ops=text, seed=0, dtype=np.float32, parameters=None, recompute=False, trainable=None,
                 lora=None, class_weights=None):
        super().__init__(config, recompute)
        self.classifier = Linear(config.n_embd, config.n_classes)
        self.class_weights = None if class_weights is None else _checked_weights(class_weights, config.n_classes)
        self._complete(ops, seed, dtype, parameters, trainable, lora)

    @classmethod
    def from_gpt(cls, gpt, n_classes, *, dropout=None, seed=0, **options):
        """A classifier that begins with what a GPT has learnt: all parameters but the head's are copied, by name.
        dropout None: the GPT's. InputError for another kind of model; LoRA's additions are merged in."""
        if not isinstance(gpt, GPT):
            raise InputError(f"a classifier begins with a GPT, got a {type(gpt).__name__}")
        gpt = gpt.merged()
        values = {field.name: getattr(gpt.config, field.name) for field in fields(gpt.config)}
        config = GPTClassifierConfig(**values | ({} if dropout is None else {"dropout": dropout}), n_classes=n_classes)
        model = cls(config, **{"ops": gpt.ops, "seed": None, "dtype": gpt.parameters.dtype} | options)
        new = [name for name in model.parameters if name not in gpt.parameters.layout]
        for name in model.parameters:
            if name not in new:
                model.parameters[name][...] = gpt.parameters[name]
        model.parameters.draw(new, seed)
        return model

    def forward(self, ids, lengths, draws=None):
        """ids (B, T), of which each row has `lengths` (B) real tokens -> logits (B, K), cache. Dropout acts only
        when Draws are given."""
        last = self._last(ids, lengths)
        h, c_trunk = self._trunk(ids, draws)                                    # (1)  (B, T, C)
        logits, c_classifier = self.classifier.forward(h[last])                 # (2)  (B, K)
        return logits, GPTClassifierCache(c_trunk, last, h.shape, c_classifier)

    def backward(self, dlogits, cache):
        """dlogits (B, K) -> nothing; contributes to parameters.grad."""
        rows = self.classifier.backward(dlogits, cache.classifier)              # (2)
        if not self._trunk_trains:
            return
        dh = np.zeros(cache.shape, rows.dtype)
        dh[cache.last] = rows
        self._trunk_backward(dh, cache.trunk)                                   # (1)

    def logits(self, ids, lengths):
        """As forward, where no backward will follow -> logits (B, K)."""
        last, height = self._last(ids, lengths), mark()
        h = self._hidden(ids, None)[last]
        release(height)
        return self.classifier.forward(h)[0]

    def loss(self, ids, lengths, labels):
        """labels (B) -> the sum of the examples' losses, each times its weight, in nats;
        the sum of the weights."""
        labels = self._checked_labels(labels, len(ids))
        loss, _ = self._loss_forward((self.logits(ids, lengths), None), labels)
        return loss, float(self._weights(labels).sum())

    def loss_and_gradients(self, ids, lengths, labels, *, scale=None, draws=None):
        """As loss, and contributes scale * d(sum)/d(parameters) to parameters.grad; scale None is 1 / sum
        of weights, the mean's."""
        labels = self._checked_labels(labels, len(ids))
        loss, cache = self._loss_forward(self.forward(ids, lengths, draws), labels)                     # (1) (2) (3)
        count = float(self._weights(labels).sum())
        dlosses = cache.weights * (1 / count if scale is None else scale)                               # (B)
        self.backward(self.ops.cross_entropy_backward(dlosses, cache.loss), cache.logits)               # (3) (2) (1)
        return loss, count

    def count(self, ids, lengths, labels):
        """The sum of the labels' weights: what the sum of the loss is divided by."""
        return float(self._weights(self._checked_labels(labels, len(ids))).sum())

    def options(self):
        return super().options() | ({} if self.class_weights is None else {"class_weights": self.class_weights})

    def toy_batch(self):
        ids = np.ones((2, 3), np.int64)
        return ids, np.array([3, 2]), np.array([0, self.config.n_classes - 1])

    def estimate(self, batch_size) -> Estimate:
        """Memory and FLOPs of a training step with this batch size, without running it."""
        return estimate_classifier(self.config, batch_size, itemsize=self.parameters.dtype.itemsize).of(self.parameters)

    @property
    def _trunk_trains(self):
        return self.embedding.trains or self.norm.trains or any(block.trains for block in self.blocks)

    def _loss_forward(self, logits_and_cache, labels):
        logits, cache = logits_and_cache
        losses, _, c_loss = self.ops.cross_entropy_forward(logits, labels, per_row=True)                # (3)  (B)
        weights = self._weights(labels).astype(losses.real.dtype)               # so that nothing is promoted
        return (losses * weights).sum(), ClassLossCache(cache, c_loss, weights)

    def _weights(self, labels):
        return np.ones(len(labels)) if self.class_weights is None else self.class_weights[labels]

    def _last(self, ids, lengths):
        """(rows, places) of the last real tokens."""
        ids, lengths = self.check_ids(ids), np.asarray(lengths)
        B, T = ids.shape
        whole = lengths.shape == (B,) and np.issubdtype(lengths.dtype, np.integer)
        if not whole or B and (lengths.min() < 1 or lengths.max() > T):
            raise InputError(f"lengths must be {B} integers from 1 to {T}, got {lengths.dtype} of shape {lengths.shape}"
                             + (f", {lengths.min()} to {lengths.max()}" if lengths.size else ""))
        return np.arange(B), lengths - 1

    def _checked_labels(self, labels, B):
        labels, K = np.asarray(labels), self.config.n_classes
        whole = labels.shape == (B,) and np.issubdtype(labels.dtype, np.integer)
        if not whole or B and (labels.min() < 0 or labels.max() >= K):
            raise InputError(f"labels must be {B} integers from 0 to {K - 1}, got {labels.dtype} of shape "
                             f"{labels.shape}" + (f", {labels.min()} to {labels.max()}" if labels.size else ""))
        return labels


def estimate_classifier(config, batch_size, *, itemsize=4) -> Estimate:
    """As a GPT's estimate; a head of so few rows, read at one token a text, costs nothing beside it."""
    gpt = estimate(replace(config, vocab_size=1, tied=True), batch_size, itemsize=itemsize)
    number = parameter_count(replace(config, tied=True)) + (config.n_embd + 1) * config.n_classes
    return gpt._replace(parameters=number, trained=number)


def _checked_weights(weights, n_classes):
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n_classes,) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise InputError(f"class_weights must be {n_classes} positive numbers, got {weights.tolist()}")
    return weights
