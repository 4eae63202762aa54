"""One contestant in a process of its own: `python -m numpyllm.bench.worker NAME SIZE THREADS`.

It reads a number of steps a line from standard input and answers with one line of JSON: seconds of each step. The first line
it writes says that it is ready, or what is missing. A step of training is batch to AdamW, with clipping at 1; one of generating is
PROMPT + NEW tokens, greedily, or a prompt of LONG_PROMPT alone. Random weights, random tokens.
"""

import functools
import json
import resource
import sys
import time
from contextlib import ExitStack

import numpy as np

from .sizes import BETAS, CLIP, LEARNING_RATE, SIZES, WEIGHT_DECAY


def numpyllm_step(size, threads, stack, *, prepare=lambda model: model):
    from .. import blas
    from ..backend import load_backend
    from ..training import AdamW
    from ..training.compile import compile_kernels
    from ..training.replicas import Replicas
    model = prepare(size.model(size.config, ops=load_backend("numba")))
    compile_kernels(model, log=lambda line: None)
    optimizer = AdamW(model.parameters, model.ops, beta1=BETAS[0], beta2=BETAS[1], weight_decay=WEIGHT_DECAY)
    replicas = Replicas(model, min(threads, size.batch_size))
    stack.enter_context(blas.limited(1 if len(replicas) > 1 else threads))
    batch = random_batch(size)
    return lambda: replicas.step([batch], optimizer, lr=LEARNING_RATE, grad_clip=CLIP, draws=lambda micro, row: None)


def with_lora(model, targets=("qkv", "proj")):
    from ..finetuning import add_lora
    from ..models import LoRA
    return add_lora(model, LoRA(rank=8, targets=targets))


def last_block(model):
    """Only the last block and the norm above it are trained."""
    frozen = type(model)(model.config, seed=None, trainable=lambda name: name.startswith((f"blocks.{model.config.n_layer - 1}.", "norm.")),
                         **model.options())
    for name in model.parameters:
        frozen.parameters[name][...] = model.parameters[name]
    return frozen


def torch_step(size, threads, stack, *, compiled=False, bf16=False):
    import torch

    from ..models import LSTMLM
    from .torch_gpt import TorchGPT
    from .torch_lstm import TorchLSTM
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = (TorchLSTM if size.model is LSTMLM else TorchGPT)(size.config)
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


def decode_step(size, threads, stack, *, weights="float32", prompt=None):
    from ..backend import load_backend
    from ..inference import Decoder, generate
    from ..models import GPT
    decoder = stack.enter_context(Decoder(GPT(size.config, ops=load_backend("numba")), weights=weights, threads=threads))
    if prompt is not None:
        return lambda: decoder.start(random_prompt(size, prompt))
    new = new_tokens(size)
    return lambda: list(generate(decoder, random_prompt(size, PROMPT), new, temperature=0))


def transformers_step(size, threads, stack, *, prompt=None):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    c = size.config
    module = GPT2LMHeadModel(GPT2Config(vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer,
                                        n_head=c.n_head, bos_token_id=0, eos_token_id=None)).eval()
    if prompt is not None:
        ids = torch.from_numpy(random_prompt(size, prompt))[None]

        def prefill():
            with torch.inference_mode():
                return module(ids, use_cache=True, logits_to_keep=1)
        return prefill
    ids, new = torch.from_numpy(random_prompt(size, PROMPT))[None], new_tokens(size)
    return lambda: module.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=new, max_new_tokens=new,
                                   pad_token_id=0)


TRAIN = {
    "numpyllm": numpyllm_step,
    "torch": torch_step,
    "torch-compile": functools.partial(torch_step, compiled=True),
    "torch-bf16": functools.partial(torch_step, bf16=True),
}
FINETUNE = {
    "full": numpyllm_step,
    "lora": functools.partial(numpyllm_step, prepare=with_lora),
    "lora-all": functools.partial(numpyllm_step, prepare=functools.partial(with_lora, targets=("qkv", "proj", "up", "down"))),
    "last-block": functools.partial(numpyllm_step, prepare=last_block),
}
PROMPT, NEW, LONG_PROMPT = 32, 96, 512
GENERATE = {
    "float32": decode_step,
    "bfloat16": functools.partial(decode_step, weights="bfloat16"),
    "int8": functools.partial(decode_step, weights="int8"),
    "transformers": transformers_step,
}
PREFILL = {
    "prefill": functools.partial(decode_step, prompt=LONG_PROMPT),
    "transformers-prefill": functools.partial(transformers_step, prompt=LONG_PROMPT),
}
CONTESTANTS = TRAIN | FINETUNE | GENERATE | PREFILL


def random_prompt(size, n):
    return np.random.default_rng(0).integers(0, size.config.vocab_size, min(n, size.config.block_size))


def new_tokens(size):
    """How many follow: within the context."""
    return min(NEW, size.config.block_size - PROMPT)


def random_batch(size):
    rng = np.random.default_rng(0)
    shape = (2, size.batch_size, size.config.block_size)
    ids, targets = rng.integers(0, size.config.vocab_size, shape)
    return ids, targets


def peak_mb():
    """The most memory that this process has had. On Linux getrusage begins with what the parent had when it forked."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
            print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
