"""The ops of one training step on one thread: time of each beside its floor."""

import time
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
from .. import blas
from ..backend import load_backend
from ..training import AdamW
from ..training.compile import compile_kernels
from ..training.replicas import Replicas
from .sizes import BETAS, CLIP, LEARNING_RATE, SIZES, WEIGHT_DECAY
from .train import sgemm_ceiling
from .worker import random_batch


def bench_ops(size_name, *, seconds, log):
    """-> {op: [calls, ms a step, ms at its floor]}. The floor is bytes over bandwidth or FLOPs over sgemm's, whichever is more.

    Bytes are those of the arrays that go in and come out, each once.
    """
    size = SIZES[size_name]
    backend, spent = load_backend("numba"), defaultdict(list)
    timed = SimpleNamespace(**{name: _timed(name, op, spent) if callable(op) else op for name, op in vars(backend).items()})
    bandwidth, ceiling = _bandwidth(), sgemm_ceiling(1)
    model = size.model(size.config, ops=backend)
    compile_kernels(model, log)
    model.bind(model.parameters, timed)
    optimizer = AdamW(model.parameters, timed, beta1=BETAS[0], beta2=BETAS[1], weight_decay=WEIGHT_DECAY)
    replicas, batch, steps = Replicas(model, 1), random_batch(size), []
    with blas.limited(1):
        started = time.perf_counter()
        while len(steps) < 6 or time.perf_counter() - started < seconds:
            if len(steps) == 3:
                spent.clear()
            before = time.perf_counter()
            replicas.step([batch], optimizer, lr=LEARNING_RATE, grad_clip=CLIP, draws=lambda micro, row: None)
            steps.append(time.perf_counter() - before)
    measured = len(steps) - 3
    log(f"one thread, {ceiling:.0f} GF/s sgemm, {bandwidth:.0f} GB/s; milliseconds a step")
    log(f"{'op':32} {'calls':>6} {'ms':>9} {'floor':>9}")
    figures = {}
    for name, calls in sorted(spent.items(), key=lambda item: -sum(c[0] for c in item[1])):
        ms = 1e3 * sum(c[0] for c in calls) / measured
        floor = 1e3 * sum(max(c[1] / bandwidth / 1e9, c[2] / ceiling / 1e9) for c in calls) / measured
        figures[name] = [len(calls) // measured, ms, floor]
        log(f"{name:32} {len(calls) // measured:6} {ms:9.3f} {floor:9.3f}")
    whole = 1e3 * float(np.median(steps[3:]))
    log(f"{'whole step (median)':32} {'':6} {whole:9.3f}")
    return figures


def _timed(name, op, spent):
    def run(*args, **kwargs):
        before = time.perf_counter()
        result = op(*args, **kwargs)
        seconds = time.perf_counter() - before
        arrays = {id(a): a for a in _arrays((args, kwargs, result))}
        spent[name].append((seconds, sum(a.nbytes for a in arrays.values()), _flops(name, args, arrays)))
        return result
    return run


def _flops(name, args, arrays):
    """FLOPs of the matrix products in an op."""
    if name.startswith("linear"):
        w = args[1] if name == "linear_forward" else args[1].w
        rows = args[0].size // args[0].shape[-1]
        return (2 if name == "linear_forward" else 4) * rows * w.size
    if name.startswith("head_loss"):
        return 6 * args[0].size // args[0].shape[-1] * args[1].size
    if name.startswith("attention"):
        q = args[0]
        B, T, H, D = q.shape
        return (2 if name == "attention_forward" else 5) * B * H * D * T * T          # half of it below the diagonal
    if name.startswith("lstm"):
        x, w_h = (args[0], args[2]) if name == "lstm_forward" else (args[2].x, args[2].w_h)
        rows = x.size // x.shape[-1]
        return (2 if name == "lstm_forward" else 4) * rows * (x.shape[-1] + w_h.shape[0]) * w_h.shape[1]
    return 0


def _arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _arrays(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays(item)


def _bandwidth(size=1 << 27):
    """GB/s of reading, one thread, the best of five sums over 128 MB."""
    a = np.ones(size // 4, np.float32)
    best = min(_seconds(lambda: np.dot(a, a)) for _ in range(5))
    return a.nbytes / best / 1e9


def _seconds(work):
    before = time.perf_counter()
    work()
    return time.perf_counter() - before
