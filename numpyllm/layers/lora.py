"""A linear map that is frozen, and beside it one of low rank that is trained (Hu et al. 2021)."""

from typing import NamedTuple

from ..ops import LinearCache, LoRACache
from ..parameters import ParamSpec, normal, zeros
from .basic import Dropout, Linear

PARAMETERS = ("lora_a", "lora_b")       # beside w and b


class LoRALinearCache(NamedTuple):
    linear: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped
    lora: LoRACache


class LoRALinear(Linear):
    """y = x w + b + scale (x A) B, with w (n_in, n_out) and b frozen, A (n_in, rank) and B (rank, n_out) trained.

    B begins at zero, so that at first this is the map without it; A with the standard deviation 1 / sqrt(3 n_in), that of the uniform
    numbers in the authors' code. Dropout is on the x that A reads.
    """

    def __init__(self, n_in, n_out, *, rank, scale, dropout=0.0, bias=True, std=0.02):
        super().__init__(n_in, n_out, bias=bias, std=std)
        self.rank, self.scale = rank, scale
        self.dropout = Dropout(dropout)

    def own_specs(self):
        return {name: ParamSpec(spec.shape, spec.init, spec.decay, trainable=False) for name, spec in super().own_specs().items()} | {
            "lora_a": ParamSpec((self.n_in, self.rank), normal((3 * self.n_in) ** -0.5)),
            "lora_b": ParamSpec((self.rank, self.n_out), zeros)}

    def forward(self, x, draws=None):
        y, c_linear = super().forward(x)                                                            # (1)
        h, c_dropout = self.dropout.forward(x, draws)                                               # (2)
        y, c_lora = self.ops.lora_forward(h, y, self.lora_a, self.lora_b, scale=self.scale, out=(y,))   # (3)
        return y, LoRALinearCache(c_linear, c_dropout, c_lora)

    def backward(self, dy, cache):
        dx, slots = super().backward(dy, cache.linear), self.slots("lora_a", "lora_b")              # (1)
        if cache.dropout is None:                                                                   # x was read twice
            dx, _, da, db = self.ops.lora_backward(dy, cache.lora, out=(dx, None, *slots), add=True)    # (3)
        else:
            dh, _, da, db = self.ops.lora_backward(dy, cache.lora, out=(None, None, *slots))        # (3)
            dx, _ = self.ops.residual_forward(dx, self.dropout.backward(dh, cache.dropout))         # (2)
        self.collect(lora_a=da, lora_b=db)
        return dx
