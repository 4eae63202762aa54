"""One contestant in a process of its own: `python -m numpyllm.bench.worker NAME SIZE THREADS`.

It reads a number of steps a line from standard input and answers with one line of JSON: seconds of each step. The first line
it writes says that it is ready, or what is missing. A step is batch to AdamW, with clipping at 1; random tokens.
"""

import functools
import json
import resource
import sys
import time
from contextlib import ExitStack

import numpy as np

from .sizes import BETAS, CLIP, LEARNING_RATE, SIZES, WEIGHT_DECAY


def numpyllm_step(size, threads, stack):
    from .. import blas
    from ..backend import load_backend
    from ..models import GPT
    from ..training import AdamW
    from ..training.compile import compile_kernels
    from ..training.replicas import Replicas
    model = GPT(size.config, ops=load_backend("numba"))
    compile_kernels(model, log=lambda line: None)
    optimizer = AdamW(model.parameters, model.ops, beta1=BETAS[0], beta2=BETAS[1], weight_decay=WEIGHT_DECAY)
    replicas = Replicas(model, min(threads, size.batch_size))
    stack.enter_context(blas.limited(1 if len(replicas) > 1 else threads))
    batch = random_batch(size)
    return lambda: replicas.step([batch], optimizer, lr=LEARNING_RATE, grad_clip=CLIP, draws=lambda micro, row: None)


def torch_step(size, threads, stack, *, compiled=False, bf16=False):
    import torch

    from .torch_gpt import TorchGPT
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = TorchGPT(size.config)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    forward = torch.compile(module) if compiled else module
    ids, targets = (torch.from_numpy(a) for a in random_batch(size))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = forward(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        return loss.item()
    return step


CONTESTANTS = {
    "numpyllm": numpyllm_step,
    "torch": torch_step,
    "torch-compile": functools.partial(torch_step, compiled=True),
    "torch-bf16": functools.partial(torch_step, bf16=True),
}


def random_batch(size):
    rng = np.random.default_rng(0)
    shape = (2, size.batch_size, size.config.block_size)
    ids, targets = rng.integers(0, size.config.vocab_size, shape)
    return ids, targets


def main(name, size, threads):
    with ExitStack() as stack:
        try:
            step = CONTESTANTS[name](SIZES[size], int(threads), stack)
            for _ in range(3):
                step()
        except ImportError as error:
            print(json.dumps({"missing": error.name}), flush=True)
            return
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"seconds": seconds, "peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
