"""What changes with the step by plan: the learning rate and the size of the batch. Formulas and sources: docs/training.md."""

import math


def constant(progress, config):
    return 1.0


def linear(progress, config):
    return 1.0 - progress


def cosine(progress, config):
    """Half a cosine (Loshchilov, Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_stable_decay(progress, config):
    """Constant, then linear over the last cooldown_fraction (Hu et al. 2024; Haegele et al. 2024)."""
    return min(1.0, (1.0 - progress) / config.cooldown_fraction)


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "wsd": warmup_stable_decay}


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
    return low + (config.learning_rate - low) * SCHEDULES[config.schedule](progress, config)


def micro_batches(config, step):
    """Micro-batches in step number `step`: from 1 up to gradient_accumulation_steps over batch_warmup_iters steps."""
    if step >= config.batch_warmup_iters:
        return config.gradient_accumulation_steps
    return 1 + (config.gradient_accumulation_steps - 1) * step // config.batch_warmup_iters
