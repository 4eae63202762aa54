"""Compile all kernels that training needs, in one thread and with a word about it, before replicas begin to share them."""

import time
from dataclasses import replace

from .. import blas
from .. import ops as text
from ..random import Draws
from .config import TrainConfig
from .optimizer import OPTIMIZERS


def compile_kernels(model, log=print, config=TrainConfig(), *, objective=None, batch=None):
    """Run one step and one evaluation of a toy model with the same choices, ops and optimiser. Does nothing for the text.

    An objective, if there is one, runs its gradients on the first rows of a batch: it may need other kernels.

    Sizes are at least two, so that its arrays have the memory layouts of real ones. Compiled code is kept on disk.
    """
    if model.ops is text:
        return
    from ..kernels._jit import count_compilations
    started = time.perf_counter()
    announce = lambda: log("compiling kernels for this machine (some seconds, the first time only)")
    with count_compilations(announce) as compiled, blas.limited(1):
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 3, "vocab_size": 5,
                 "n_kv_head": min(1, getattr(model.config, "n_kv_head", 0))}
        sizes = {name: size for name, size in sizes.items() if hasattr(model.config, name)}
        options = model.options()
        if "lora" in options:
            options["lora"] = replace(options["lora"], rank=2)
        for trainable in (None, _lowest) if model.parameters.n_trainable < model.parameters.data.size else (None,):
            toy = type(model)(replace(model.config, **sizes), dtype=model.parameters.dtype, trainable=trainable, **options)
            toy.loss(*toy.toy_batch())
            toy.loss_and_gradients(*toy.toy_batch(), draws=Draws(0))
            OPTIMIZERS[config.optimizer](config, toy.parameters, toy.ops).update(1e-3)
        if objective is not None:
            objective.loss_and_gradients(*(part[:2] for part in batch), scale=1.0, draws=Draws(0))
    if compiled.count:
        log(f"compiled {compiled.count} kernels in {time.perf_counter() - started:.0f} s")


def _lowest(name):
    """With this alone trained, the backward goes through all that is frozen above."""
    return name == "embedding.wte"
