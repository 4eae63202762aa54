"""The learning rate as a function of the step. All schedules begin with a linear warm-up."""

import math


def constant(progress):
    return 1.0


def linear(progress):
    return 1.0 - progress


def cosine(progress):
    """Half a cosine (Loshchilov, Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear}


def learning_rate(config, step):
    """Learning rate of step number `step`, counted from 0.

    It rises over warmup_iters steps, then falls from learning_rate to min_lr at lr_decay_iters and stays there; a
    constant schedule does not fall.
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    end = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    low = config.learning_rate / 10 if config.min_lr is None else config.min_lr
    progress = min(1.0, (step - config.warmup_iters) / max(1, end - config.warmup_iters))
    return low + (config.learning_rate - low) * SCHEDULES[config.schedule](progress)
