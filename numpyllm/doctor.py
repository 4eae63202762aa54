"""Is this installation healthy, and this machine, and this model? A few short checks, each with a figure.

Those of the model follow Karpathy, "A Recipe for Training Neural Networks" (2019): what he does by hand before he trusts a
new model. Each is about a defect that raises no error, but makes training worse than it should be. They use a part of a batch
and a new model of the configuration, so that nothing of the user's changes.
"""

import importlib
import math
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import NamedTuple

import numpy as np
import threadpoolctl

from . import blas
from . import ops as text
from .bench.train import GRADIENT_BOUND, LOSS_BOUND, sgemm_ceiling
from .checks import MODELS, check_case
from .errors import InputError
from .gradcheck import TOLERANCE
from .models import GPT, GPTConfig
from .models.estimate import step_flops
from .progress import Progress
from .training import TrainConfig
from .training.optimizer import OPTIMIZERS
from .training.replicas import Replicas, physical_cores

REQUIRED = {"numpy": (2, 0), "numba": (0, 61), "regex": (), "threadpoolctl": ()}    # as in setup.cfg
INIT_STD = 0.02                     # of the embedding, which is the head, too
ROWS, CONTEXT = 4, 64               # of a small batch
OVERFIT_STEPS, OVERFIT_LOSS = 300, 0.1
SPEED_SECONDS, SPEED_TOKENS = 2.0, 2048
SPEED_SHARE, SPEED_FLOPS = 0.2, 1e9 # of the products' speed, asked of steps that have so much to do


class Finding(NamedTuple):
    name: str
    found: str          # with a figure
    expected: str
    ok: bool
    remedy: str         # what to do if not


@dataclass
class Patient:
    """What is examined: a configuration on a backend, or a model that was trained."""

    config: GPTConfig
    train: TrainConfig
    ops: ModuleType
    batches: Callable               # batch number `step` -> ids, targets (B, T)
    model: GPT | None = None        # trained; None: a new one is examined

    @property
    def threads(self):
        return self.train.threads or physical_cores()

    def new_model(self, **changes):
        return GPT(replace(self.config, **changes), ops=self.ops, seed=self.train.seed, recompute=self.train.recompute)

    def batch(self, rows, context=None):
        """ids, targets (B, T) of the first batch or batches: exactly `rows` contexts, cut to so many tokens."""
        parts, n = [], 0
        while n < rows:
            parts.append(self.batches(len(parts)))
            n += len(parts[-1][0])
        return tuple(np.concatenate(arrays)[:rows, :context] for arrays in zip(*parts, strict=True))


# ---- the installation and the machine ------------------------------------------------------------------------------

def check_versions(patient, progress):
    found, wrong = {}, []
    for name, least in REQUIRED.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
        if found[name] == "missing" or numbers(found[name])[:len(least)] < least:
            wrong.append(name)
    least = ", ".join(f"{name} {'.'.join(map(str, low))}" for name, low in REQUIRED.items() if low)
    return Finding("versions", f"Python {platform.python_version()}, " + ", ".join(f"{name} {v}" for name, v in found.items()),
                   f"at least {least}", not wrong, f"pip install --upgrade {' '.join(wrong)}")


def numbers(words):
    """The leading numbers of a version: (2, 4) for 2.4rc1."""
    parts = []
    for part in words.split("."):
        digits = part[:len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def check_threads(patient, progress):
    """Threads of BLAS beside those of replicas would fight over the cores, so it has to be possible to hold it to one."""
    cores = physical_cores()
    with blas.limited(1):
        libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    name = ", ".join(f"{library['internal_api']} {library['version']}" for library in libraries) or "BLAS of unknown kind"
    held = max((library["num_threads"] for library in libraries), default=1)
    return Finding("threads", f"{patient.threads} on {cores} cores; {name} held to {held}", f"at most {cores}, BLAS held to 1",
                   patient.threads <= cores and held == 1,
                   f"--threads {cores}" if held == 1 else "set OPENBLAS_NUM_THREADS=1 (or MKL_NUM_THREADS) before it starts")


def check_cache(patient, progress):
    if patient.ops is text:
        return Finding("kernel cache", "not used: 0 kernels on this backend", "none", True, "")
    folder = importlib.import_module(".kernels._jit", __package__).CACHE
    files = sum(1 for _ in folder.rglob("*.nbc")) if folder else 0
    return Finding("kernel cache", f"{files} compiled functions in {folder}" if folder else "0 folders can be written",
                   "a folder that can be written", folder is not None and files > 0,
                   "make one for yourself and name it by XDG_CACHE_HOME: else each process compiles anew")


# ---- gradients -----------------------------------------------------------------------------------------------------

def check_kernels(patient, progress):
    """Loss and gradients by the backend against the text, in float32, on the model's own weights. Where a model has learnt so
    well that both are small, they are judged as if they were not: rounding does not shrink with them.
    """
    if patient.ops is text:
        return Finding("kernels", "0 in use: the text does the work", "none", True, "")
    model = patient.model or patient.new_model()
    ids, targets = patient.batch(ROWS, CONTEXT)
    results = []
    for ops in (patient.ops, text):
        model = GPT(patient.config, ops=ops, parameters=model.parameters.replica())
        model.parameters.clear_gradients()
        loss, count = model.loss_and_gradients(ids, targets)
        model.parameters.settle_gradients()
        results.append((float(loss) / max(1, count), model.parameters.grad))
    (loss, found), (true_loss, true) = results
    loss_error = abs(loss - true_loss) / max(abs(true_loss), 1.0)
    error = float(np.linalg.norm(found - true)) / max(float(np.linalg.norm(true)), 0.1)
    return Finding("kernels", f"off the text by {loss_error:.0e} in the loss, {error:.0e} in the gradient",
                   f"below {LOSS_BOUND:.0e} and {GRADIENT_BOUND:.0e}", loss_error < LOSS_BOUND and error < GRADIENT_BOUND,
                   "--backend numpy is right meanwhile; numpyllm gradcheck names the op if it is the text's")


def check_gradients(patient, progress):
    """Small models of every kind, with the backward of this backend: a complex step along a random direction in each tensor."""
    rows = []
    for i, name in enumerate(MODELS):
        progress(i, len(MODELS))
        rows += check_case(name, ops=patient.ops, methods=("adjoint",))
    worst = max(rows, key=lambda row: row.error if row.error == row.error else math.inf)
    return Finding("gradients", f"{len(rows)} tensors, complex step: off by {worst.error:.0e} ({worst.tensor})",
                   f"below {TOLERANCE['adjoint']:.0e}", all(row.ok for row in rows), "numpyllm gradcheck says which op is wrong")


# ---- the model -----------------------------------------------------------------------------------------------------

def check_causality(patient, progress):
    """Another token at a place must change no logit before it, and must change those at it: one place in each row."""
    model, V = patient.model or patient.new_model(), patient.config.vocab_size
    ids, _ = patient.batch(ROWS, 256)
    B, T = ids.shape
    places = [min(T - 1, 1 + b * (T - 1) // B) for b in range(B)]
    changed = ids.copy()
    changed[range(B), places] = (ids[range(B), places] + 1) % V
    differ = (model.forward(ids)[0] != model.forward(changed)[0]).any(axis=-1)      # (B, T)
    leaks = sum(int(differ[b, :place].sum()) for b, place in enumerate(places))
    blind = int((~differ[range(B), places]).sum())
    return Finding("causality", f"{leaks} of {sum(places)} predictions see a later token, {blind} of {B} miss their own", "0 and 0",
                   leaks == 0 and (blind == 0 or V == 1),
                   "attention's mask lets the future through, or the input does not arrive: the loss means nothing")


def check_initial_loss(patient, progress):
    """A new model knows nothing, so each of V tokens should get 1/V: ln V nats.

    Its logits are products of a normalised h, |h|^2 = C, with rows of standard deviation s: their variance is C s^2, and
    the loss is C s^2 / 2 more than ln V. Twice that is allowed, and 0.1 for a small batch. Targets that repeat their input
    are left out: with a tied head a token is likely to follow itself from the start.
    """
    ids, targets = patient.batch(max(4, 256 // patient.config.block_size), 256)
    targets = np.where(targets == ids, -1, targets)
    loss, count = patient.new_model().loss(ids, targets)
    loss, uniform = float(loss) / max(1, count), math.log(patient.config.vocab_size)
    slack = 0.1 + patient.config.n_embd * INIT_STD ** 2
    return Finding("initial loss", f"{loss:.3f}", f"ln {patient.config.vocab_size:,} = {uniform:.3f}, up to {slack:.2f} off",
                   abs(loss - uniform) <= slack, "the initial weights have the wrong size, or the targets are not ids")


def check_overfitting(patient, progress):
    """One small batch again and again has to be learnt by heart: whatever cannot do that cannot learn."""
    config = patient.train
    batch = patient.batch(max(ROWS, patient.threads), CONTEXT)
    model = patient.new_model(dropout=0.0)
    optimizer, replicas = OPTIMIZERS[config.optimizer](config, model.parameters, model.ops), Replicas(model, patient.threads)
    least = OVERFIT_LOSS + irreducible(*batch)
    for step in range(OVERFIT_STEPS):
        progress(step, OVERFIT_STEPS)
        loss, _, _ = replicas.step([batch], optimizer, lr=config.learning_rate, grad_clip=config.grad_clip,
                                   draws=lambda micro, row: None)
        if step == 0:
            first = loss
        if not loss > least:        # or no number
            break
    return Finding("overfitting", f"{batch[0].size} tokens, {step + 1} steps of {config.optimizer}: loss {first:.3f} to {loss:.3f}",
                   f"below {least:.2f} in {OVERFIT_STEPS}", loss <= least,
                   f"try another --learning_rate than {config.learning_rate:g}; if none helps, a layer does not learn, or the model is "
                   "too small for so many tokens")


def irreducible(ids, targets):
    """The least mean loss on a batch: 0, but for equal contexts that go on differently."""
    seen = Counter()
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        seen.update((tuple(row[:t + 1]), target) for t, target in enumerate(wanted) if target != -1)
    contexts = Counter()
    for (context, _), n in seen.items():
        contexts[context] += n
    return sum(n * math.log(contexts[context] / n) for (context, _), n in seen.items()) / max(1, seen.total())


def check_trained(patient, progress):
    """Whoever has learnt anything does better than to guess."""
    uniform = math.log(patient.config.vocab_size)
    loss, count = patient.model.loss(*patient.batch(8))
    loss = float(loss) / max(1, count)
    return Finding("loss", f"{loss:.3f} nats a token", f"below ln {patient.config.vocab_size:,} = {uniform:.3f}", loss < uniform,
                   "another text or tokenizer than it was trained with, or a run that diverged: see numpyllm report")


# ---- speed ---------------------------------------------------------------------------------------------------------

def check_speed(patient, progress):
    """Whole steps, beside what the same threads do in products of large matrices at the same time of day."""
    config = patient.config
    threads = min(patient.threads, patient.train.batch_size)
    rows = max(threads, min(patient.train.batch_size, SPEED_TOKENS // config.block_size))
    batch, model = patient.batch(rows), patient.new_model()
    optimizer, replicas = OPTIMIZERS[patient.train.optimizer](patient.train, model.parameters, model.ops), Replicas(model, threads)
    step = lambda: replicas.step([batch], optimizer, lr=1e-9, grad_clip=1.0, draws=lambda micro, row: None)
    step()                                      # memory is asked for once
    seconds, started = [], time.perf_counter()
    while not seconds or time.perf_counter() - started < SPEED_SECONDS:
        progress(min(SPEED_SECONDS, time.perf_counter() - started), SPEED_SECONDS)
        before = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - before)
    median, flops, ceiling = float(np.median(seconds)), step_flops(config, rows), sgemm_ceiling(threads)
    gflops = flops / median / 1e9
    demanding = patient.ops is not text and flops >= SPEED_FLOPS
    return Finding("speed", f"{batch[0].size / median:,.0f} tokens/s; {gflops:.0f} GF/s, {gflops / ceiling:.0%} of the {ceiling:.0f} of "
                   f"sgemm on {threads} threads", f"at least {SPEED_SHARE:.0%}" if demanding else "any (small steps, or the text)",
                   not demanding or gflops >= SPEED_SHARE * ceiling,
                   "numpyllm bench ops shows where the time goes; is the machine busy, or --threads too many?")


CHECKS = {"versions": check_versions, "threads": check_threads, "kernel cache": check_cache, "kernels": check_kernels,
          "gradients": check_gradients, "causality": check_causality, "initial loss": check_initial_loss,
          "overfitting": check_overfitting, "loss": check_trained, "speed": check_speed}


def examine(patient):
    """Yield a Finding for each of CHECKS. What a check cannot bear is a finding, too; bad input is an InputError."""
    with blas.limited(1):           # as in training
        for name, check in CHECKS.items():
            if name == "loss" and patient.model is None:
                continue
            with Progress(name) as progress:
                progress(0, 1)
                try:
                    finding = check(patient, progress)
                except (InputError, MemoryError):
                    raise
                except Exception as error:
                    finding = Finding(name, f"it ends with {type(error).__name__}: {error}", "no error", False, "look into it first")
            yield finding
