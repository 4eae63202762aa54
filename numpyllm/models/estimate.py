"""What a training step costs in memory and arithmetic, from the sizes alone."""

from typing import NamedTuple


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


def estimate(config, parameters, batch_size):
    """Estimate for a GPTConfig, its Parameters and a batch of batch_size contexts of block_size tokens.

    Matrix products (Kaplan et al. 2020, table 1): 12 C^2 weights a layer and C V in the head, two FLOPs a weight and
    token forward, twice that backward. Attention's two products over T keys come on top, and once more backward for
    the recomputed probabilities. Activations: each block keeps its input, two norm outputs, q k v, the attention
    output, the second stream and two arrays of width 4C. What passes on top, at the peak: three arrays of the logits' size in the head, or six of width 4C in the
    backward of GELU.
    """
    L, C, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    N, item = batch_size * T, parameters.dtype.itemsize
    kept = N * C * (1 + 2 + 3 + 1 + 1 + 2 * 4) * L + N * 2 * C
    passing = max(3 * N * V, 6 * 4 * N * C)
    return Estimate(parameters.count(), parameters.data.size * item, parameters.grad.size * item,
                    2 * parameters.n_trainable * item, (kept + passing) * item, step_flops(config, batch_size))


def step_flops(config, batch_size):
    """FLOPs of the matrix products of one step; the causal mask is not made use of, so this counts the whole square."""
    L, C, T, V = config.n_layer, config.n_embd, config.block_size, config.vocab_size
    N = batch_size * T
    dense = 3 * 2 * N * (12 * C * C * L + C * V)
    attention = (2 + 5) * 2 * N * T * C * L
    return dense + attention
