"""How to train: nanoGPT's names, with the values of its Shakespeare recipe on a CPU as defaults."""

from dataclasses import dataclass

from ..config import option, require_between, require_whole
from ..errors import InputError
from .optimizer import OPTIMIZERS
from .schedule import SCHEDULES


@dataclass(frozen=True)
class TrainConfig:
    """Raises InputError for values that mean nothing."""

    batch_size: int = option(12, "contexts in one micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in one step")
    batch_warmup_iters: int = option(0, "steps over which these rise from 1 to their number")
    max_iters: int = option(2000, "steps in all")
    learning_rate: float = option(1e-3, "highest learning rate")
    schedule: str = option("cosine", f"after the warm-up: {', '.join(SCHEDULES)}")
    warmup_iters: int = option(100, "steps over which the learning rate rises to its highest")
    lr_decay_iters: int | None = option(None, "step at which min_lr is reached (default: max_iters)")
    min_lr: float | None = option(None, "learning rate at the end of the decay (default: a tenth of learning_rate)")
    cooldown_fraction: float = option(0.2, "wsd: the part of the steps after the warm-up over which the rate falls")
    optimizer: str = option("adamw", f"update rule: {', '.join(OPTIMIZERS)}")
    weight_decay: float = option(0.1, "adamw, sgd: decay of matrices; gains and biases have none (adam: none at all)")
    beta1: float = option(0.9, "adamw, adam: memory of the mean gradient")
    beta2: float = option(0.99, "adamw, adam: memory of the mean squared gradient")
    momentum: float = option(0.9, "sgd: memory of the velocity")
    grad_clip: float = option(1.0, "largest norm of the whole gradient; 0 for no limit")
    eval_interval: int = option(250, "steps between evaluations, samples and checkpoints")
    eval_iters: int = option(20, "validation batches of one evaluation, always the same")
    log_interval: int = option(10, "steps between two log lines")
    keep_checkpoints: int = option(2, "newest checkpoints that are kept")
    patience: int = option(0, "evaluations in a row without a lower validation loss after which training ends; 0: never")
    keep_best: bool = option(True, "keep the checkpoint of the lowest validation loss as well")
    skip_nonfinite: bool = option(True, "a loss or gradient that is no number is skipped like a spike; if not, training stops")
    spike_zscore: float = option(6.0, "skip a step whose loss is so many standard deviations above the last ones; 0: never")
    spike_window: int = option(128, "steps that a loss is compared with")
    spike_patience: int = option(3, "spikes in a row after which training goes back to the last good checkpoint")
    spike_rollbacks: int = option(5, "times that it goes back before it gives up")
    spike_lr_factor: float = option(0.5, "the learning rate is multiplied by it each time; 1: it stays")
    recompute: bool = option(False, "keep only each block's input and compute the rest again in the backward: less memory")
    threads: int | None = option(None, "replicas of the model, each with a thread (default: one a core)")
    seed: int = option(1337, "all randomness follows from it")

    def __post_init__(self):
        require_whole(self, 1, "batch_size", "gradient_accumulation_steps", "max_iters", "eval_interval", "eval_iters",
                      "log_interval", "keep_checkpoints", "spike_window", "spike_patience")
        require_whole(self, 0, "warmup_iters", "batch_warmup_iters", "spike_rollbacks", "patience", "seed")
        require_whole(self, 1, *(name for name in ("lr_decay_iters", "threads") if getattr(self, name) is not None))
        require_between(self, 0, 1e6, "learning_rate", "weight_decay", "grad_clip", "spike_zscore",
                        *(["min_lr"] if self.min_lr is not None else []))
        require_between(self, 0, 1, "beta1", "beta2", "momentum")
        if not 0 < self.cooldown_fraction <= 1:
            raise InputError(f"cooldown_fraction must be above 0 and at most 1, got {self.cooldown_fraction!r}")
        if not 0 < self.spike_lr_factor <= 1:
            raise InputError(f"spike_lr_factor must be above 0 and at most 1, got {self.spike_lr_factor!r}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
