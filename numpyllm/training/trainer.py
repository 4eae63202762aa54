"""The training loop: batches in, a better model out, with a log, evaluations, samples and checkpoints on the way."""

import math
import platform
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from .. import __version__, blas
from ..data import Batches
from ..errors import InputError
from ..progress import clock
from ..random import Draws
from .checkpoint import load_checkpoint, restore
from .compile import compile_kernels
from .evaluate import evaluate
from .optimizer import AdamW
from .replicas import Replicas, physical_cores
from .schedule import learning_rate


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer a number."""


class StepResult(NamedTuple):
    loss: float             # mean over the step's targets, nats a token, before the update
    grad_norm: float        # of the whole gradient, before clipping
    lr: float
    seconds: float


class Trainer:
    """Trains a model on tokens. Everything is a function of the configuration and the step, so a resumed run goes on
    with the same bits.

    train and validation are tokens (n), or sources of batches: source(step, micro) -> ids, targets (batch_size, T), a pure
    function. run_folder is a RunFolder or None (nothing is written), sample(model) -> str is shown at each evaluation, facts
    is kept in the checkpoint (where the text came from, say), observers are told what happens (observer.py). Raises
    InputError if a text is shorter than one context.
    """

    def __init__(self, model, config, train, validation, tokenizer, *, run_folder=None, sample=None, facts=None,
                 observers=(), log=print):
        self.model, self.config, self.tokenizer, self.run_folder = model, config, tokenizer, run_folder
        self.sample, self.facts, self.observers, self.log = sample, facts or {}, list(observers), log
        sizes = {"batch_size": config.batch_size, "block_size": model.config.block_size, "seed": config.seed}
        self.batches = train if callable(train) else Batches(train, **sizes)
        self.validation = validation if callable(validation) else Batches(validation, **sizes, name="validation")
        self.optimizer = AdamW(model.parameters, model.ops, beta1=config.beta1, beta2=config.beta2,
                               weight_decay=config.weight_decay)
        self.replicas = Replicas(model, min(config.threads or physical_cores(), config.batch_size))
        self.step = 0
        self._saved_at = None

    def train_step(self):
        """One update from gradient_accumulation_steps micro-batches -> StepResult. Raises TrainingDiverged."""
        started = time.perf_counter()
        config, step = self.config, self.step
        micro_batches = [self.batches(step, micro) for micro in range(config.gradient_accumulation_steps)]
        lr = learning_rate(config, step)
        loss, norm = self.replicas.step(micro_batches, self.optimizer, lr=lr, grad_clip=config.grad_clip,
                                        draws=lambda micro, row: Draws(config.seed, step=step, micro=micro,
                                                                              first_row=row))
        if not math.isfinite(loss + norm):
            raise TrainingDiverged(f"loss {loss:g} with gradient norm {norm:g} at step {step}: the last update was not made; "
                                   "try a lower --learning_rate or a longer --warmup_iters")
        self.step += 1
        return StepResult(loss, norm, lr, time.perf_counter() - started)

    def evaluate(self):
        """Evaluation on eval_iters validation batches, the same ones each time."""
        batches = (self.validation(i) for i in range(self.config.eval_iters))
        return evaluate(self.model, batches, self.tokenizer.token_byte_lengths)

    def run(self):
        """Train to max_iters -> True, or False if Ctrl-C ended it; then the step was finished and saved."""
        if self.step >= self.config.max_iters:
            self.log(f"step {self.step} of {self.config.max_iters} was reached before: a larger --max_iters goes on from here")
        compile_kernels(self.model, self.log)
        config, first = self.config, self.step
        blas_threads = 1 if len(self.replicas) > 1 or config.threads == 1 else None      # threads of two kinds would fight
        try:
            with _finish_step_on_interrupt() as interrupted, blas.limited(blas_threads):
                self._tell("on_start")
                if self.step == 0 and self._saved_at is None:
                    self._report_evaluation()
                started = time.perf_counter()
                while self.step < config.max_iters and not interrupted.is_set():
                    result = self.train_step()
                    if self.step % config.log_interval == 0 or self.step == config.max_iters:
                        pace = (time.perf_counter() - started) / (self.step - first)
                        self._report_step(result, seconds_left=pace * (config.max_iters - self.step))
                    if self.step % config.eval_interval == 0 or self.step == config.max_iters:
                        self._report_evaluation()
                        self.save()
                self.save()
        finally:
            self._tell("on_end")
            if self.run_folder is not None:
                self.run_folder.close()
        if interrupted.is_set() and self.step < config.max_iters:
            self.log(f"stopped after step {self.step}")
            return False
        return True

    def save(self):
        """Write a checkpoint into the run's folder, if there is one and this step has none yet."""
        if self.run_folder is None or self._saved_at == self.step:
            return
        arrays = {"params": self.model.parameters.data, "adam_m": self.optimizer.m, "adam_v": self.optimizer.v}
        state = {"step": self.step, "model": asdict(self.model.config), "train": asdict(self.config) | {"threads": len(self.replicas)},
                 "layout": self.model.parameters.layout, "facts": self.facts,
                 "versions": {"numpyllm": __version__, "numpy": np.__version__, "python": platform.python_version()}}
        self.run_folder.save(self.step, arrays, state, self.tokenizer)
        self._saved_at = self.step

    def resume(self, folder):
        """Go on from a checkpoint: the next steps have the same bits as if there had been no break.

        Raises InputError if the checkpoint's arrays do not have this model's shape.
        """
        arrays, state, _ = load_checkpoint(folder)
        layout = {name: [offset, list(shape)] for name, (offset, shape) in self.model.parameters.layout.items()}
        if state["layout"] != layout:
            raise InputError(f"{folder} must hold the parameters of this model, it holds others: use the sizes that the run began with")
        restore(folder, arrays, {"params": self.model.parameters.data, "adam_m": self.optimizer.m,
                                 "adam_v": self.optimizer.v})
        self.step = self.optimizer.steps = self._saved_at = state["step"]
        return state

    def _report_step(self, result, seconds_left):
        config = self.config
        tokens = config.batch_size * config.gradient_accumulation_steps * self.model.config.block_size
        per_second = tokens / result.seconds
        width = len(str(config.max_iters))
        self.log(f"step {self.step:{width}}/{config.max_iters}  loss {result.loss:.4f}  lr {result.lr:.2e}  "
                 f"grad norm {result.grad_norm:6.3f}  {result.seconds * 1e3:5.0f} ms  {per_second:7,.0f} tokens/s  "
                 f"{clock(seconds_left)} left")
        self._write({"train/loss": result.loss, "train/lr": result.lr, "train/grad_norm": result.grad_norm,
                     "train/tok_per_sec": per_second})

    def _report_evaluation(self):
        found = self.evaluate()
        self.log(f"step {self.step}: validation loss {found.loss:.4f}, perplexity {found.perplexity:.2f}, "
                 f"{found.bits_per_byte:.4f} bits per byte")
        self._write({"val/loss": found.loss, "val/bpb": found.bits_per_byte})
        if self.sample is not None:
            text = self.sample(self.model)
            self._tell("on_sample", text)
            shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
            self.log("  | " + shown.replace("\n", "\n  | "))

    def _write(self, values):
        if self.run_folder is not None:
            self.run_folder.write_metrics(self.step, values)
        self._tell("on_metrics", values)

    def _tell(self, event, *what):
        for observer in self.observers:
            getattr(observer, event)(self, *what)


@contextmanager
def _finish_step_on_interrupt():
    """An Event that the first Ctrl-C sets; the second interrupts at once. Does nothing outside the main thread."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handler(number, frame):
        if seen.is_set():
            raise KeyboardInterrupt
        seen.set()
        print("\nfinishing this step and saving (Ctrl-C again: stop at once)", flush=True)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
