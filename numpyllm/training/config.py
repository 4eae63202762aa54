"""How to train: nanoGPT's names, with the values of its Shakespeare recipe on a CPU as defaults."""

from dataclasses import dataclass

from ..config import option, require_between, require_whole
from ..errors import InputError
from .schedule import SCHEDULES


@dataclass(frozen=True)
class TrainConfig:
    """Raises InputError for values that mean nothing."""

    batch_size: int = option(12, "contexts in one micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in one step")
    max_iters: int = option(2000, "steps in all")
    learning_rate: float = option(1e-3, "highest learning rate")
    schedule: str = option("cosine", f"after the warm-up: {', '.join(SCHEDULES)}")
    warmup_iters: int = option(100, "steps over which the learning rate rises to its highest")
    lr_decay_iters: int | None = option(None, "step at which min_lr is reached (default: max_iters)")
    min_lr: float | None = option(None, "learning rate at the end of the decay (default: a tenth of learning_rate)")
    weight_decay: float = option(0.1, "decay of matrices; gains and biases have none")
    beta1: float = option(0.9, "AdamW: memory of the mean gradient")
    beta2: float = option(0.99, "AdamW: memory of the mean squared gradient")
    grad_clip: float = option(1.0, "largest norm of the whole gradient; 0 for no limit")
    eval_interval: int = option(250, "steps between evaluations, samples and checkpoints")
    eval_iters: int = option(20, "validation batches of one evaluation, always the same")
    log_interval: int = option(10, "steps between two log lines")
    recompute: bool = option(False, "keep only each block's input and compute the rest again in the backward: less memory")
    threads: int | None = option(None, "replicas of the model, each with a thread (default: one a core)")
    seed: int = option(1337, "all randomness follows from it")

    def __post_init__(self):
        require_whole(self, 1, "batch_size", "gradient_accumulation_steps", "max_iters", "eval_interval", "eval_iters",
                      "log_interval")
        require_whole(self, 0, "warmup_iters", "seed")
        require_whole(self, 1, *(name for name in ("lr_decay_iters", "threads") if getattr(self, name) is not None))
        require_between(self, 0, 1e6, "learning_rate", "weight_decay", "grad_clip",
                        *(["min_lr"] if self.min_lr is not None else []))
        require_between(self, 0, 1, "beta1", "beta2")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
