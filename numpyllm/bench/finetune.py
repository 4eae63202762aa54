"""Fine-tuning: a step in which everything is trained, and steps in which LoRA is, or the last block, timed in turns."""

from ..backend import load_backend
from .sizes import SIZES
from .train import compete, log_table, validate
from .worker import FINETUNE, with_lora


def bench_finetune(size_name, *, threads, seconds, log):
    """-> the figures as a dictionary: of each way the median in ms and the peak of memory in MB, and both as shares of "full"."""
    size = SIZES[size_name]
    loss_error, gradient_error = validate(size_name, with_lora(size.model(size.config, ops=load_backend("numba"))))
    log(f"LoRA validated against the text: loss off by {loss_error:.1e}, gradients by {gradient_error:.1e}")
    contestants = compete(FINETUNE, size_name, threads, seconds)
    log_table(contestants, log)
    full = contestants[0]
    ways = {c.name: {"ms": c.ms, "peak_mb": c.peak_mb, "time_share": c.ms / full.ms, "memory_share": c.peak_mb / full.peak_mb}
            for c in contestants}
    for name, found in ways.items():
        if name != full.name:
            log(f"{name}: {found['time_share']:.0%} of the time and {found['memory_share']:.0%} of the memory of {full.name}")
    return {"size": size_name, "ways": ways}
