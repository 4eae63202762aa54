"""The training loop: batches in, a better model out, with a log, evaluations, samples and checkpoints on the way.

What is written when, and what a resumed run promises: docs/training.md. What is done about spikes: docs/loss_spikes.md.
"""

import math
import platform
import re
import time
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from .. import __version__, blas
from ..data import Batches
from ..errors import InputError
from ..models import architecture_of
from ..progress import clock
from ..random import Draws
from .checkpoint import load_checkpoint, newest_checkpoint, restore
from .compile import compile_kernels
from .evaluate import evaluate
from .interrupt import finish_step_on_interrupt
from .monitor import SpikeMonitor
from .optimizer import OPTIMIZERS, group_norms
from .replicas import Replicas, physical_cores
from .schedule import learning_rate, micro_batches


class TrainingDiverged(RuntimeError):
    """Losses or gradients are no numbers, or spikes come again and again."""


class StepResult(NamedTuple):
    loss: float             # mean over the step's targets, nats a token, before the update
    grad_norm: float        # of the whole gradient, before clipping
    lr: float
    seconds: float
    tokens: int
    updated: bool           # False for a spike: the model is what it was


class Trainer:
    """Trains a model on tokens. Everything is a function of the configuration and the step, so a resumed run goes on
    with the same bits.

    train and validation are tokens (n), or sources of batches: source(step, micro) -> ids, targets (batch_size, T) and what else the
    objective takes, a pure function. The objective is what is minimised, by default the model's own loss (Replicas says what it
    must have). A source that has metrics() is asked for more to log of a step. evaluate() -> something with a loss, metrics() and a
    text, by default evaluate.py's. run_folder is a RunFolder or None (nothing is written), sample(model) -> str is shown at each
    evaluation, facts is kept in the checkpoint (where the text came from, say), observers are told what happens (observer.py). Raises
    InputError if a text is shorter than one context.
    """

    def __init__(self, model, config, train, validation, tokenizer, *, run_folder=None, sample=None, facts=None,
                 observers=(), objective=None, evaluate=None, log=print):
        self.model, self.config, self.tokenizer, self.run_folder = model, config, tokenizer, run_folder
        self.sample, self.facts, self.observers, self.log = sample, facts or {}, list(observers), log
        sizes = {"batch_size": config.batch_size, "block_size": model.config.block_size, "seed": config.seed}
        self.batches = train if callable(train) else Batches(train, **sizes)
        self._evaluate, self._objective = evaluate, objective
        own = evaluate is not None or callable(validation)
        self.validation = validation if own else Batches(validation, **sizes, name="validation")
        self.optimizer = OPTIMIZERS[config.optimizer](config, model.parameters, model.ops)
        self.replicas = Replicas(objective or model, min(config.threads or physical_cores(), config.batch_size))
        self.monitor = SpikeMonitor(threshold=config.spike_zscore, window=config.spike_window)
        self.step = 0                   # steps taken, with or without an update
        self.position = 0               # of the next batch among all batches: ahead of step by what was skipped
        self.skipped = []               # [first, last] positions of batches that the model has not learnt from
        self.rollbacks, self.lr_factor = 0, 1.0
        self.best = None                # [validation loss, step] of the best evaluation
        self.stopped_by = None          # number of the signal that ended run(): the exit code is 128 more
        self._saved_at = None

    def train_step(self):
        """One step from some micro-batches -> StepResult. No update is made from a spike (monitor.py).

        Raises TrainingDiverged for a loss or gradient that is no number, if such are not to be skipped.
        """
        started = time.perf_counter()
        config, step, position = self.config, self.step, self.position
        batches = [self.batches(position, micro) for micro in range(micro_batches(config, step))]
        lr = learning_rate(config, step) * self.lr_factor
        loss, norm, updated = self.replicas.step(
            batches, self.optimizer, lr=lr, grad_clip=config.grad_clip, allow=self.monitor.allows,
            draws=lambda micro, row: Draws(config.seed, step=position, micro=micro, first_row=row))
        if not (config.skip_nonfinite or math.isfinite(loss + norm)):
            raise _diverged(f"loss {loss:g} with gradient norm {norm:g} at step {step}")
        if not updated:
            self._skip(position, position)
        self.monitor.record(step, loss, updated)
        self.step, self.position = step + 1, position + 1
        return StepResult(loss, norm, lr, time.perf_counter() - started, sum(batch[0].size for batch in batches), updated)

    def evaluate(self):
        """Evaluation on eval_iters validation batches, the same ones each time, or what `evaluate` says."""
        if self._evaluate is not None:
            return self._evaluate()
        batches = (self.validation(i) for i in range(self.config.eval_iters))
        return evaluate(self.model, batches, self.tokenizer.token_byte_lengths)

    def run(self):
        """Train to max_iters -> True, or False if a signal ended it; then the step was finished and saved."""
        if self.step >= self.config.max_iters:
            self.log(f"step {self.step} of {self.config.max_iters} was reached before: a larger --max_iters goes on from here")
        first = self.batches(self.position)
        other = self._objective or (self.model if len(first) > 2 else None)     # packed examples have kernels of their own
        compile_kernels(self.model, self.log, self.config, objective=other, batch=first)
        blas_threads = 1 if len(self.replicas) > 1 or self.config.threads == 1 else None    # threads of two kinds would fight
        try:
            with finish_step_on_interrupt() as interruption, blas.limited(blas_threads):
                self._tell("on_start")
                self._loop(interruption)
                self.save()
        finally:
            self._tell("on_end")
            if self.run_folder is not None:
                self.run_folder.close()
        if self._out_of_patience():
            self.log(f"the validation loss has not fallen for {self.config.patience} evaluations: it was lowest, {self.best[0]:.4f}, after "
                     f"step {self.best[1]}")
        elif self.step < self.config.max_iters:
            self.stopped_by = interruption.number
            self.log(f"stopped after step {self.step}")
        return self.stopped_by is None

    def _loop(self, interruption):
        config, taken, started = self.config, 0, time.perf_counter()
        if self.step == 0 and self._saved_at is None:
            self._report_evaluation()
            self.save()             # something to go back to, and a full disk shows now
        while self.step < config.max_iters and interruption.number is None and not self._out_of_patience():
            result = self.train_step()
            taken += 1
            due = self.step % config.log_interval == 0 or self.step == config.max_iters
            if due or not result.updated:
                pace = (time.perf_counter() - started) / taken
                self._report_step(result, seconds_left=pace * (config.max_iters - self.step))
            if self.monitor.in_a_row >= config.spike_patience:
                self._go_back()
            elif self.step % config.eval_interval == 0 or self.step == config.max_iters:
                self._report_evaluation()
                self.save()

    def save(self):
        """Write a checkpoint into the run's folder, if there is one and this step has none yet.

        Raises InputError where it cannot be written, TrainingDiverged rather than save a model that is of no use.
        """
        if self.run_folder is None or self._saved_at == self.step:
            return
        if not np.isfinite(self.model.parameters.data).all():
            raise _diverged(f"the parameters after step {self.step} are no numbers, so they were not saved")
        arrays = {"params": self.model.parameters.data} | self.optimizer.state
        progress = {"updates": self.optimizer.steps, "position": self.position, "skipped": self.skipped,
                    "rollbacks": self.rollbacks, "lr_factor": self.lr_factor, "best": self.best, "monitor": self.monitor.state()}
        state = {"step": self.step, "architecture": architecture_of(self.model), "model": asdict(self.model.config),
                 "train": asdict(self.config) | {"threads": len(self.replicas)}, "layout": self.model.parameters.layout,
                 "lora": asdict(self.model.lora) if self.model.lora else None,
                 "facts": self.facts, "progress": progress,
                 "versions": {"numpyllm": __version__, "numpy": np.__version__, "python": platform.python_version()}}
        self.run_folder.save(self.step, arrays, state, self.tokenizer, keep=self.config.keep_checkpoints,
                             every=self.config.eval_interval, best=self.best[1] if self.best and self.config.keep_best else None)
        self._saved_at = self.step

    def resume(self, folder):
        """Go on from a checkpoint: the next steps have the same bits as if there had been no break.

        Raises InputError if the checkpoint's arrays do not have this model's shape, or are those of another optimiser.
        """
        arrays, state, _ = load_checkpoint(folder)
        layout = {name: [offset, list(shape)] for name, (offset, shape) in self.model.parameters.layout.items()}
        if state["layout"] != layout:
            raise InputError(f"{folder} must hold the parameters of this model, it holds others: use the sizes that the run began with")
        before = state["train"].get("optimizer", "adamw")
        if before != self.config.optimizer:
            raise InputError(f"{folder} holds the state of the optimizer {before}, got {self.config.optimizer}: leave the option "
                             "out, or train into another --out_dir")
        step = state["step"]
        progress = state.get("progress", {"updates": step, "position": step, "skipped": [], "rollbacks": 0, "lr_factor": 1.0,
                                          "best": None, "monitor": {"losses": [], "in_a_row": 0, "first": None}})
        restore(folder, arrays, {"params": self.model.parameters.data} | self.optimizer.state)
        try:
            self.optimizer.steps, self.position, self.rollbacks = (int(progress[k]) for k in ("updates", "position", "rollbacks"))
            self.skipped = [[int(first), int(last)] for first, last in progress["skipped"]]
            self.best = progress["best"] and [float(progress["best"][0]), int(progress["best"][1])]
            self.lr_factor = float(progress["lr_factor"])
            self.monitor.restore(progress["monitor"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{folder / 'state.json'} describes no run of this version ({error})") from None
        self.step = self._saved_at = step
        return state

    def _out_of_patience(self):
        patience = self.config.patience * self.config.eval_interval
        return bool(patience and self.best and self.step - self.best[1] >= patience)

    def _go_back(self):
        """Return to the last checkpoint before the present spikes, with a lower learning rate, and go on with the data after
        them. One that was due: an interruption saves others, which must not change the way.
        """
        spikes, first, position = self.monitor.in_a_row, self.monitor.first, self.position
        rollbacks, lr_factor = self.rollbacks + 1, self.lr_factor * self.config.spike_lr_factor
        what = f"{spikes} spikes in a row from step {first} on"
        if self.run_folder is None:
            raise _diverged(f"{what}, and no run folder with a checkpoint to go back to")
        if rollbacks > self.config.spike_rollbacks:
            raise _diverged(f"{what}, after going back {self.rollbacks} times")
        folder = newest_checkpoint(self.run_folder.path,
                                   suits=lambda step: step < first and step % self.config.eval_interval == 0)
        state = self.resume(folder)
        self.run_folder.go_back(folder, state["metrics_bytes"])
        self._skip(self.position, position - 1)
        self.position, self.rollbacks, self.lr_factor = position, rollbacks, lr_factor
        self.monitor.in_a_row, self.monitor.first = 0, None
        self._saved_at = None           # the checkpoint does not know that it has been gone back to
        self._tell("on_start")
        self.log(f"{what}: going back to step {self.step}, without the batches {self.skipped[-1][0]} to {position - 1}, "
                 f"the learning rate times {lr_factor:g}")
        self._write({"train/rollbacks": rollbacks, "train/lr_factor": lr_factor})

    def _skip(self, first, last):
        if self.skipped and self.skipped[-1][1] == first - 1:
            first = self.skipped.pop()[0]
        self.skipped.append([first, last])

    def _report_step(self, result, seconds_left):
        width = len(str(self.config.max_iters))
        per_second = result.tokens / result.seconds
        more = self.batches.metrics() if hasattr(self.batches, "metrics") else {}
        self.log(f"step {self.step:{width}}/{self.config.max_iters}  loss {result.loss:.4f}  lr {result.lr:.2e}  "
                 f"grad norm {result.grad_norm:6.3f}  {result.seconds * 1e3:5.0f} ms  {per_second:7,.0f} tokens/s  "
                 f"{clock(seconds_left)} left" + "".join(f"  {name.rpartition('/')[2]} {value:.3f}" for name, value in more.items())
                 + ("" if result.updated else "  skipped: a spike"))
        values = {"train/loss": result.loss, "train/lr": result.lr, "train/grad_norm": result.grad_norm,
                  "train/tok_per_sec": per_second} | more
        if not result.updated:
            values["train/skipped"] = 1.0
        if math.isfinite(result.grad_norm):
            values |= {f"grad_norm/{group}": norm for group, norm in group_norms(self.model.parameters).items()}
        self._write({name: value for name, value in values.items() if math.isfinite(value)})     # JSON knows no NaN

    def _report_evaluation(self):
        found = self.evaluate()
        if self.best is None or found.loss < self.best[0]:
            self.best = [found.loss, self.step]
        self.log(f"step {self.step}: {found}")
        self._write(found.metrics())
        if self.sample is not None:
            text = self.sample(self.model)
            self._tell("on_sample", text)
            shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
            self.log("  | " + re.sub(r"\n{3,}", "\n\n", shown).replace("\n", "\n  | "))

    def _write(self, values):
        if self.run_folder is not None:
            self.run_folder.write_metrics(self.step, values)
        self._tell("on_metrics", values)

    def _tell(self, event, *what):
        for observer in self.observers:
            getattr(observer, event)(self, *what)


def _diverged(what):
    return TrainingDiverged(f"{what}: try a lower --learning_rate or a longer --warmup_iters")
