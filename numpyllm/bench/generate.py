"""Decoding: validated against the whole context without a cache, then timed in turns with a peer and with the memory."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import blas
from ..backend import load_backend
from ..errors import InputError
from ..inference import KINDS, Decoder, StoredWeights
from ..models import GPT
from .sizes import SIZES
from .train import compete, log_table
from .worker import GENERATE, LONG_PROMPT, PROMPT, new_tokens, random_prompt

BOUND = 1e-4            # of a float32 logit


def validate(size_name):
    """The largest error of a cached logit, for each way of storing weights: {kind: error}. InputError if one is beyond the bound."""
    size = SIZES[size_name]
    model, errors = GPT(size.config, ops=load_backend("numba")), {}
    ids = random_prompt(size, 12)
    for kind in KINDS:
        with Decoder(model, weights=kind) as decoder:
            found = [decoder.start(ids[:8]), *(decoder.step([token])[0] for token in ids[8:])]
            true, _ = decoder.model.forward(ids[None])
        errors[kind] = float(np.abs(np.array(found) - true[0, 7:]).max())
        if not errors[kind] < BOUND:
            raise InputError(f"cached logits must be those of the whole context, got an error of {errors[kind]:.1e} with {kind} "
                             "weights: nothing was timed")
    return errors


def read_bandwidth(threads, megabytes=256, seconds=0.5):
    """GB/s at which BLAS's inner product goes through memory, one in each of `threads` threads."""
    arrays = [np.ones(megabytes * 2**18, np.float32) for _ in range(threads)]

    def work(array):
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            np.dot(array, array)
            done += 1
        return done * array.nbytes / (time.perf_counter() - started) / 1e9

    with blas.limited(1), ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, arrays))


def bench_generate(size_name, *, peer, threads, seconds, log):
    """-> the figures as a dictionary."""
    size = SIZES[size_name]
    errors = validate(size_name)
    log("validated against the whole context: " + ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items()))
    bandwidths = [read_bandwidth(threads)]
    names = [name for name in GENERATE if name != "transformers" or peer]
    contestants = compete(names, size_name, threads, seconds)
    bandwidths.append(read_bandwidth(threads))
    log(f"{PROMPT} + {new_tokens(size)} tokens")
    log_table(contestants, log)
    by_name = {contestant.name: contestant for contestant in contestants}
    speeds = {name: new_tokens(size) / contestant.ms * 1e3 for name, contestant in by_name.items()}
    log("tokens/s: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items()))
    read = StoredWeights(GPT(size.config, seed=None)).nbytes()
    share = read * speeds["float32"] / 1e9 / np.mean(bandwidths)
    log(f"float32 reads {read * speeds['float32'] / 1e9:.1f} GB/s, {share:.0%} of {np.mean(bandwidths):.1f} GB/s measured; bfloat16 "
        f"{speeds['bfloat16'] / speeds['float32']:.2f} and int8 {speeds['int8'] / speeds['float32']:.2f} times as fast")
    figures = {"size": size_name, "tokens_per_s": speeds, "bandwidth_gb": float(np.mean(bandwidths)), "bandwidth_share": float(share),
               "ratio": None, "prefill_ratio": None, "peak_mb": {name: c.peak_mb for name, c in by_name.items()}}
    if peer:
        figures["ratio"] = speeds["float32"] / speeds["transformers"]
        log(f"{figures['ratio']:.2f} times as fast as transformers")
    prefill = compete(["prefill", *(["transformers-prefill"] if peer else [])], size_name, threads, seconds / 3)
    log(f"prompts of {min(LONG_PROMPT, size.config.block_size)} tokens")
    log_table(prefill, log)
    if peer:
        figures["prefill_ratio"] = prefill[1].ms / prefill[0].ms
        log(f"{figures['prefill_ratio']:.2f} times as fast as transformers")
    return figures
