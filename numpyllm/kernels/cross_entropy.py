"""Fused twins of numpyllm.ops.cross_entropy and head_loss: two passes over a row of logits, which its gradient overwrites."""

import numpy as np

from .. import ops as text
from ..ops import CrossEntropyCache, HeadLossCache
from ..ops._out import deliver
from ..workspace import empty, mark, release
from ._arrays import any_complex, rows, target
from ._jit import jit
from ._math import exp, maximum
from .linear import linear_backward, linear_forward
from .matmul import matmul

LOGITS = 1 << 25            # logits that are made at once in training; more rows are taken in turns


@jit
def _log_sum_exp(top, log_total, logits):
    N, V = logits.shape
    real = logits.dtype.type
    for n in range(N):
        largest = logits[n, 0]
        for j in range(V):
            largest = maximum(largest, logits[n, j])
        total = real(0)
        for j in range(V):
            total += exp(logits[n, j] - largest)
        top[n, 0] = largest
        log_total[n] = np.log(total)


@jit
def _gradient(dlogits, logits, targets, weight, top, log_total):
    """dlogits may be logits."""
    N, V = logits.shape
    for n in range(N):
        largest = top[n, 0]
        share = weight[n] * exp(-log_total[n])
        for j in range(V):
            dlogits[n, j] = share * exp(logits[n, j] - largest)
        dlogits[n, targets[n]] -= weight[n]


@jit
def _loss_and_gradient(logits, targets, counted, dloss):
    """The sum of the loss over the counted rows; logits become their gradient."""
    N, V = logits.shape
    real = logits.dtype.type
    loss = real(0)
    for n in range(N):
        if not counted[n]:
            logits[n] = real(0)
            continue
        top = logits[n, 0]
        for j in range(V):
            top = maximum(top, logits[n, j])
        right = logits[n, targets[n]] - top
        total = real(0)
        for j in range(V):
            e = exp(logits[n, j] - top)
            logits[n, j] = e
            total += e
        loss += np.log(total) - right
        share = dloss / total
        for j in range(V):
            logits[n, j] *= share
        logits[n, targets[n]] -= dloss
    return loss


# Label smoothing has passes of its own, so that a loss without it pays nothing, and keeps its bits.

@jit
def _above_mean(logits, targets, counted):
    """By how much the target's logit is above the mean of its row, summed over the counted rows: what a smoothed loss lacks."""
    N, V = logits.shape
    real = logits.dtype.type
    above = real(0)
    for n in range(N):
        if counted[n]:
            total = real(0)
            for j in range(V):
                total += logits[n, j]
            above += logits[n, targets[n]] - total / real(V)
    return above


@jit
def _smooth(dlogits, targets, weight):
    """So much of each row's gradient goes from the target to all tokens."""
    N, V = dlogits.shape
    for n in range(N):
        share = weight[n] / dlogits.dtype.type(V)
        for j in range(V):
            dlogits[n, j] -= share
        dlogits[n, targets[n]] += weight[n]


def cross_entropy_forward(logits, targets, *, ignore_index=-1, label_smoothing=0.0, per_row=False):
    if any_complex(logits) or (per_row and label_smoothing):
        return text.cross_entropy_forward(logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing, per_row=per_row)
    counted = targets != ignore_index
    targets = np.where(counted, targets, 0)
    top, log_total = empty((*targets.shape, 1), logits.dtype), empty(targets.shape, logits.dtype)
    _log_sum_exp(top.reshape(-1, 1), log_total.reshape(-1), rows(logits))
    right = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - top[..., 0]
    loss = np.where(counted, log_total - right, 0)
    loss = loss if per_row else loss.sum()
    if label_smoothing:
        loss += logits.dtype.type(label_smoothing) * _above_mean(rows(logits), targets.reshape(-1), counted.reshape(-1))
    return loss, int(counted.sum()), CrossEntropyCache(logits, targets, counted, top, log_total, label_smoothing)


def cross_entropy_backward(dloss, cache, *, out=None):
    logits, targets, counted, top, log_total, label_smoothing = cache
    dlogits = target(out, 0, like=logits)
    weight = np.where(counted, dloss, 0).astype(logits.dtype)
    _gradient(dlogits.reshape(-1, dlogits.shape[-1]), rows(logits), targets.reshape(-1), weight.reshape(-1),
              top.reshape(-1, 1), log_total.reshape(-1))
    if label_smoothing:
        _smooth(dlogits.reshape(-1, dlogits.shape[-1]), targets.reshape(-1), label_smoothing * weight.reshape(-1))
    return deliver((dlogits,), out)


def head_loss_forward(h, w, targets, *, ignore_index=-1, label_smoothing=0.0):
    logits, c_head = linear_forward(h, w.T)
    loss, count, c_loss = cross_entropy_forward(logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing)
    return loss, count, HeadLossCache(c_head, c_loss)


def head_loss_backward(dloss, cache, *, out=None):
    w = cache.head.w.T
    dlogits = cross_entropy_backward(dloss, cache.loss)
    dw = target(out, 1, like=w)
    dh, _, _ = linear_backward(dlogits, cache.head, out=(out and out[0], dw.T, None))
    return deliver((dh, dw), out)


def head_loss_forward_backward(h, w, targets, dloss, *, ignore_index=-1, label_smoothing=0.0, out=None, frozen=False):
    if any_complex(h, w):
        return text.head_loss_forward_backward(h, w, targets, dloss, ignore_index=ignore_index,
                                               label_smoothing=label_smoothing, out=out, frozen=frozen)
    dh, dw = target(out, 0, like=h), None if frozen else target(out, 1, like=w)
    h_rows, dh_rows, targets = rows(h), dh.reshape(-1, h.shape[-1]), targets.reshape(-1)
    counted = targets != ignore_index
    N, V = h_rows.shape[0], w.shape[0]
    step = max(1, LOGITS // V)
    loss = 0.0
    for first in range(0, N, step):
        height = mark()
        part = slice(first, min(N, first + step))
        logits = matmul(h_rows[part], w.T, out=empty((part.stop - first, V), h.dtype))
        if label_smoothing:
            loss += label_smoothing * _above_mean(logits, targets[part], counted[part])
        loss += _loss_and_gradient(logits, targets[part], counted[part], h.dtype.type(dloss))
        if label_smoothing:
            _smooth(logits, targets[part], (label_smoothing * dloss * counted[part]).astype(h.dtype))
        matmul(logits, w, out=dh_rows[part])
        if not frozen:
            matmul(logits.T, h_rows[part], out=dw, add=dw if first > 0 else None)
        release(height)
    return h.dtype.type(loss), int(counted.sum()), *deliver((dh, dw), out)
