"""The output head and its loss: logits = h w^T, then cross-entropy.

Shapes: h (..., C), w (V, C), targets (...). This one matrix is stored (V, C), because with tied weights
(Press, Wolf 2017) it is the token embedding. Derivation: docs/head_loss.md.
"""

from typing import NamedTuple

from ._out import deliver
from .cross_entropy import CrossEntropyCache, cross_entropy_backward, cross_entropy_forward
from .linear import LinearCache, linear_backward, linear_forward


class HeadLossCache(NamedTuple):
    head: LinearCache
    loss: CrossEntropyCache


def head_loss_forward(h, w, targets, *, ignore_index=-1, label_smoothing=0.0):
    """h (..., C), w (V, C), targets (...) -> loss (a sum, in nats), count, HeadLossCache."""
    logits, c_head = linear_forward(h, w.T)                                                 # (1)  (..., V)
    loss, count, c_loss = cross_entropy_forward(logits, targets, ignore_index=ignore_index,
                                                label_smoothing=label_smoothing)            # (2)
    return loss, count, HeadLossCache(c_head, c_loss)


def head_loss_backward(dloss, cache, *, out=None):
    """dloss (a scalar) -> dh (..., C), dw (V, C)."""
    dlogits = cross_entropy_backward(dloss, cache.loss)                                     # (2)
    dh, dw, _ = linear_backward(dlogits, cache.head)                                        # (1)
    return deliver((dh, dw.T), out)


def head_loss_forward_backward(h, w, targets, dloss, *, ignore_index=-1, label_smoothing=0.0, out=None, frozen=False):
    """Both passes at once, for training: loss, count, dh (..., C), dw (V, C) or None if w is frozen; dloss is known before the
    loss is.

    The logits are the largest array of a small model. Nobody else wants them, so their gradient overwrites them.
    """
    logits, c_head = linear_forward(h, w.T)                                                 # (1)
    loss, count, c_loss = cross_entropy_forward(logits, targets, ignore_index=ignore_index,
                                                label_smoothing=label_smoothing)            # (2)
    dlogits = cross_entropy_backward(dloss, c_loss, out=(logits,))                          # (2)
    dh, dw, _ = linear_backward(dlogits, c_head, frozen=frozen)                             # (1)
    dh, dw = deliver((dh, None if frozen else dw.T), out)
    return loss, count, dh, dw
