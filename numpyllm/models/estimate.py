"""What a training step costs in memory and arithmetic, from the sizes alone."""

import os
from typing import NamedTuple

from ..errors import InputError


class Estimate(NamedTuple):
    parameters: int         # number
    parameter_bytes: int
    gradient_bytes: int
    moment_bytes: int       # AdamW's two
    activation_bytes: int   # what the forward keeps for the backward, and the largest temporaries
    flops: int              # of the matrix products of one step, forward and backward; a multiply-add counts as two

    @property
    def total_bytes(self):
        return self.parameter_bytes + self.gradient_bytes + self.moment_bytes + self.activation_bytes


def estimate(config, batch_size, *, itemsize=4):
    """Estimate for a GPTConfig and a batch of batch_size contexts of block_size tokens, on the text (the twins need less).

    Each block keeps its input, two norm outputs, q k v, the attention output, the second stream and two arrays of width 4C,
    and with dropout its masks. What passes on top, at the peak, is the largest of: three arrays of the logits' size in the
    head, six of width 4C in the backward of GELU, three of attention's scores.
    """
    L, C, T, V, H = config.n_layer, config.n_embd, config.block_size, config.vocab_size, config.n_head
    N = batch_size * T
    number = parameter_count(config)
    kept = N * C * (1 + 2 + 3 + 1 + 1 + 2 * 4) * L + N * 2 * C
    passing = max(3 * N * V, 6 * 4 * N * C, 3 * N * H * T + 8 * N * C)
    masks = (N * H * T + 2 * N * C) * L if config.dropout else 0        # one byte an entry
    return Estimate(number, number * itemsize, number * itemsize, 2 * number * itemsize,
                    (kept + passing) * itemsize + masks, step_flops(config, batch_size))


def parameter_count(config):
    """Two tables, the blocks (12 C^2 in matrices, 2 C in gains and, with biases, 11 C more), the last norm, a head of its own."""
    L, C, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    vectors = (2 + 2 + 3 + 1 + 4 + 1) * C if config.bias else 2 * C
    return V * C + T * C + L * (12 * C * C + vectors) + (2 if config.bias else 1) * C + (0 if config.tied else V * C)


def step_flops(config, batch_size):
    """FLOPs of the matrix products of one step (Kaplan et al. 2020, table 1): two a weight and token forward, four backward.

    Attention's two products over T keys come on top, and once more backward for the recomputed probabilities. No use is made
    of the causal mask: this counts the whole square.
    """
    L, C, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    N = batch_size * T
    return 3 * 2 * N * (12 * C * C * L + C * V) + (2 + 5) * 2 * N * T * C * L


def refuse_what_cannot_fit(needed):
    """InputError if these bytes are more than the memory of this machine, where the system tells it: before they are allocated."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(f"the sizes must fit into the {there / 1e9:.0f} GB of this machine, they need {needed / 1e9:,.0f} GB: "
                         "choose a smaller n_embd, n_layer, block_size, vocab_size or batch_size")
