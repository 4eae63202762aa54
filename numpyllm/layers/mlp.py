"""The position-wise MLP: up to four times the width, GELU, and down again (Vaswani et al. 2017, section 3.3)."""

from typing import NamedTuple

from ..ops import BiasGeluCache, LinearCache
from ..parameters import ParamSpec, zeros
from .base import Layer
from .basic import Dropout, Linear


class MLPCache(NamedTuple):
    up: LinearCache
    gelu: BiasGeluCache
    down: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped


class MLP(Layer):
    """x (B, T, C) -> y (B, T, C). The bias of the first map is added where GELU is computed, in one pass."""

    b = None

    def __init__(self, n_embd, *, bias=True, dropout=0.0, proj_std=0.02, exact_gelu=False):
        self.n_hidden, self.bias, self.exact_gelu = 4 * n_embd, bias, exact_gelu
        self.up = Linear(n_embd, self.n_hidden, bias=False)
        self.down = Linear(self.n_hidden, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)

    def own_specs(self):
        return {"b": ParamSpec((self.n_hidden,), zeros, decay=False)} if self.bias else {}

    def forward(self, x, draws=None):
        h, c_up = self.up.forward(x)                                                    # (1)  (B, T, F)
        h, c_gelu = self.ops.bias_gelu_forward(h, self.b, exact=self.exact_gelu)        # (2)
        y, c_down = self.down.forward(h)                                                # (3)  (B, T, C)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (4)
        return y, MLPCache(c_up, c_gelu, c_down, c_dropout)

    def backward(self, dy, cache):
        dy = self.dropout.backward(dy, cache.dropout)                                   # (4)
        dh = self.down.backward(dy, cache.down)                                         # (3)
        dh, db = self.ops.bias_gelu_backward(dh, cache.gelu, out=(None, *self.slots("b")))  # (2)
        self.collect(b=db)
        return self.up.backward(dh, cache.up)                                           # (1)
