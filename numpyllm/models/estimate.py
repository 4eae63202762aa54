"""What a training step costs in memory and arithmetic, from the sizes alone."""

import os
from typing import NamedTuple

from ..errors import InputError


class Estimate(NamedTuple):
    parameters: int         # number
    trained: int            # number of those that are not frozen
    activation_bytes: int   # kept from forward to backward, and the largest temporaries; as if nothing were frozen
    flops: int              # of a step's matrix products; a multiply-add counts as two; as if nothing were frozen
    itemsize: int           # bytes a number

    def of(self, parameters):
        """The same step of a model with these Parameters, of which some may be frozen and others LoRA's."""
        return self._replace(parameters=parameters.count(), trained=parameters.count(trained=True))

    @property
    def parameter_bytes(self):
        return self.parameters * self.itemsize

    @property
    def gradient_bytes(self):
        return self.trained * self.itemsize

    @property
    def moment_bytes(self):
        """AdamW's two."""
        return 2 * self.trained * self.itemsize

    @property
    def total_bytes(self):
        return self.parameter_bytes + self.gradient_bytes + self.moment_bytes + self.activation_bytes


def estimate(config, batch_size, *, itemsize=4):
    """Estimate for a GPTConfig and a batch of batch_size contexts of block_size tokens, on the
    text (the twins need less).

    Each block keeps its input, two norm outputs, q k v (and q k once more where they are turned or normalised),
    the attention output, the second stream and two arrays of the MLP's width (swiglu: three), and with dropout its
    masks. A mixture of experts keeps the MLP's arrays, its input and its output for each expert that a token goes
    through, and five numbers an expert. What passes on top, at the peak, is the largest of: three arrays of the
    logits' size in the head, six of the MLP's width in its backward, three of attention's scores.
    """
    L, C, T, V, H, F = config.n_layer, config.n_embd, config.block_size, config.vocab_size, config.n_head, config.hidden
    N = batch_size * T
    number = parameter_count(config)
    wide = F * (3 if config.mlp == "swiglu" else 2)
    mlp = config.n_expert_used * (wide + 2 * C) + 5 * config.n_expert if config.n_expert else wide
    kept = N * (C * (1 + 2 + 1 + 1) + _qkv_width(config) + mlp) * L + N * 2 * C
    if config.position == "rotary" or config.qk_norm:
        kept += N * (_qkv_width(config) - config.kv_heads * config.head_size) * L
    passing = max(3 * N * V, 6 * N * F, 3 * N * H * T + 8 * N * C)
    masks = (N * H * T + 2 * N * C) * L if config.dropout else 0        # one byte an entry
    return Estimate(number, number, (kept + passing) * itemsize + masks, step_flops(config, batch_size), itemsize)


def parameter_count(config):
    """Tables, the blocks' matrices and vectors, the last norm, a head of its own."""
    c = config
    L, C, T, V = c.n_layer, c.n_embd, c.block_size, c.vocab_size
    norm = C if c.norm == "rmsnorm" or not c.bias else 2 * C
    experts = c.n_expert or 1
    biases = _qkv_width(c) + C + experts * (c.hidden * (2 if c.mlp == "swiglu" else 1) + C) if c.bias else 0
    block = _matrices(c, experts) + biases + 2 * norm + (2 * c.head_size if c.qk_norm else 0)
    return V * C + (T * C if c.position == "learned" else 0) + L * block + norm + (0 if c.tied else V * C)


def step_flops(config, batch_size):
    """FLOPs of the matrix products of one step (Kaplan et al. 2020, table 1): two a weight and
    token forward, four backward.

    Attention's two products over T keys come on top, and once more backward for the recomputed probabilities. No
    use is made of masks: this counts the whole square. Of experts, those count that a token goes through.
    """
    L, C, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    N = batch_size * T
    weights = _matrices(config, config.n_expert_used if config.n_expert else 1) * L + C * V
    return 3 * 2 * N * weights + (2 + 5) * 2 * N * T * C * L


def _qkv_width(config):
    return (config.n_head + 2 * config.kv_heads) * config.head_size


def _matrices(config, n_mlp):
    """Weights in the matrices of one block with so many MLPs, and their router."""
    C = config.n_embd
    mlp = C * config.hidden * (3 if config.mlp == "swiglu" else 2)
    return C * (_qkv_width(config) + C + config.n_expert) + n_mlp * mlp


def refuse_what_cannot_fit(needed):
    """InputError if these bytes are more than the memory of this machine, where the system tells it:
    before they are allocated."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        much = f"{needed / 1e9:,.0f} GB" if needed < 1 << 90 else "far more"         # an integer may be more than any float
        raise InputError(f"the sizes must fit into the {there / 1e9:.0f} GB of this machine, they need {much}: "
                         "choose a smaller n_embd, n_layer, block_size, vocab_size or batch_size")
