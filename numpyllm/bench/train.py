"""Full training steps: validated against the text, then timed in turns with a peer."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import blas
from .. import ops as text
from ..backend import load_backend
from ..errors import InputError
from .sizes import SIZES
from .worker import random_batch

LOSS_BOUND, GRADIENT_BOUND = 1e-5, 1e-4     # float32 against the float32 text, relative


def validate(size_name, model=None):
    """Loss and gradients of the twins (or of this model on them) against the text, for two sequences -> their relative errors.

    Raises InputError if they are beyond the bounds: then there is nothing to time.
    """
    size = SIZES[size_name]
    ids, targets = (a[:2] for a in random_batch(size))
    model = model or size.model(size.config, ops=load_backend("numba"))
    with blas.limited(1):                       # as in replicas: then the products are ours, too
        loss, _ = model.loss_and_gradients(ids, targets)
    found = model.parameters.grad.copy()
    reference = size.model(size.config, parameters=model.parameters, **model.options() | {"ops": text})
    model.parameters.clear_gradients()
    true_loss, _ = reference.loss_and_gradients(ids, targets)
    true = model.parameters.grad
    loss_error = abs(float(loss) - float(true_loss)) / float(true_loss)
    gradient_error = float(np.linalg.norm(found - true) / np.linalg.norm(true))
    if not (loss_error < LOSS_BOUND and gradient_error < GRADIENT_BOUND):
        raise InputError(f"the kernels must agree with the text, got a loss off by {loss_error:.1e} and gradients off by "
                         f"{gradient_error:.1e}: nothing was timed")
    return loss_error, gradient_error


class Contestant:
    """A worker process that waits until it is asked for some steps."""

    def __init__(self, name, size, threads):
        command = [sys.executable, "-m", "numpyllm.bench.worker", name, size, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.seconds, self.peak_mb = name, [], 0.0
        answer = self._answer()
        if "missing" in answer:
            raise InputError(f"{answer['missing']} is not installed: pip install 'numpyllm[oracle]', or leave --peer out")

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds += answer["seconds"]
        self.peak_mb = answer["peak_mb"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"the process that runs {self.name} ended early (see its message above)")
        return json.loads(line)

    @property
    def ms(self):
        return 1e3 * float(np.median(self.seconds))

    @property
    def spread(self):
        """First and last quartile, in ms."""
        return tuple(1e3 * np.percentile(self.seconds, (25, 75)))


def sgemm_ceiling(threads, n=1024, seconds=0.5):
    """GF/s of float32 matrix products, one BLAS thread in each of `threads` threads."""
    a = [np.ones((n, n), np.float32) for _ in range(threads)]
    c = [np.empty((n, n), np.float32) for _ in range(threads)]

    def work(i):
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            np.matmul(a[i], a[i], out=c[i])
            done += 1
        return done * 2 * n ** 3 / (time.perf_counter() - started) / 1e9

    with blas.limited(1), ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def compete(names, size_name, threads, seconds):
    """Contestants that took turns for so long, at least three each."""
    contestants = []
    try:
        for name in names:
            contestants.append(Contestant(name, size_name, threads))
        started, rounds = time.perf_counter(), 0
        while rounds < 3 or time.perf_counter() - started < seconds:
            for contestant in contestants:
                steps = max(1, min(20, round(0.5e3 / contestant.ms))) if contestant.seconds else 1
                contestant.run(steps)
            rounds += 1
    finally:
        for contestant in contestants:
            contestant.close()
    return contestants


def log_table(contestants, log):
    log(f"{'':21} {'median':>10} {'quartiles':>22} {'peak':>9}")
    for contestant in contestants:
        low, high = contestant.spread
        log(f"{contestant.name:21} {contestant.ms:7.2f} ms {low:9.2f} to {high:7.2f} ms {contestant.peak_mb:6.0f} MB")


def bench_train(size_name, *, peer, threads, seconds, log):
    """-> the figures as a dictionary."""
    size = SIZES[size_name]
    loss_error, gradient_error = validate(size_name)
    log(f"validated against the text: loss off by {loss_error:.1e}, gradients by {gradient_error:.1e}")
    ceiling = sgemm_ceiling(threads)
    contestants = compete(("numpyllm", *([peer] if peer else [])), size_name, threads, seconds)
    ours = contestants[0]
    gflops = size.model(size.config, seed=None).estimate(size.batch_size).flops / ours.ms / 1e6
    figures = {"size": size_name, "ms": ours.ms, "peer_ms": None, "ratio": None,
               "tokens_per_s": size.batch_size * size.config.block_size / ours.ms * 1e3, "gflops": gflops,
               "ceiling_share": gflops / ceiling, "peak_mb": ours.peak_mb, "peer_peak_mb": None}
    log_table(contestants, log)
    log(f"{figures['tokens_per_s']:,.0f} tokens/s, {gflops:.0f} GF/s, {gflops / ceiling:.0%} of sgemm's {ceiling:.0f} GF/s")
    if peer:
        figures |= {"peer_ms": contestants[1].ms, "ratio": contestants[1].ms / ours.ms, "peer_peak_mb": contestants[1].peak_mb}
        log(f"{figures['ratio']:.2f} times as fast as {peer}")
    return figures
