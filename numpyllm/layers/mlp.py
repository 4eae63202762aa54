"""The position-wise MLP: up to a wider space, an activation, and down again (Vaswani et al. 2017, section 3.3)."""

from typing import NamedTuple

from ..ops import BiasGeluCache, LinearCache
from ..parameters import ParamSpec, zeros
from .base import Layer
from .basic import Dropout, Linear


class MLPCache(NamedTuple):
    up: LinearCache
    activation: BiasGeluCache
    down: LinearCache
    dropout: object         # DropoutCache, or None when nothing was dropped


class MLP(Layer):
    """x (B, T, C) -> y (B, T, C), by default with GELU and four times as wide inside.

    activation: gelu, relu, squared_relu, silu. GELU's bias is added where GELU is computed, in one pass.
    exact_gelu: GELU by the error function (ops/gelu.py).
    """

    b = None

    def __init__(self, n_embd, *, n_hidden=None, bias=True, dropout=0.0, proj_std=0.02, activation="gelu", exact_gelu=False):
        self.n_hidden, self.bias, self.activation, self.exact_gelu = n_hidden or 4 * n_embd, bias, activation, exact_gelu
        self.up = Linear(n_embd, self.n_hidden, bias=False)
        self.down = Linear(self.n_hidden, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)

    def own_specs(self):
        return {"b": ParamSpec((self.n_hidden,), zeros, decay=False)} if self.bias else {}

    def forward(self, x, draws=None):
        h, c_up = self.up.forward(x, draws)                                             # (1)  (B, T, F)
        h, c_activation = self._activate(h)                                             # (2)
        y, c_down = self.down.forward(h, draws)                                         # (3)  (B, T, C)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (4)
        return y, MLPCache(c_up, c_activation, c_down, c_dropout)

    def backward(self, dy, cache):
        dy = self.dropout.backward(dy, cache.dropout)                                   # (4)
        dh = self.down.backward(dy, cache.down)                                         # (3)
        dh = self._activation_backward(dh, cache.activation)                            # (2)
        return self.up.backward(dh, cache.up)                                           # (1)

    def _activate(self, h):
        if self.activation == "gelu":
            return self.ops.bias_gelu_forward(h, self.b, exact=self.exact_gelu)
        return getattr(self.ops, f"{self.activation}_forward")(h if self.b is None else h + self.b)

    def _activation_backward(self, dh, cache):
        if self.activation == "gelu":
            dh, db = self.ops.bias_gelu_backward(dh, cache, out=(None, *self.slots("b")))
        else:
            dh = getattr(self.ops, f"{self.activation}_backward")(dh, cache)
            db = None if self.b is None else dh.reshape(-1, self.n_hidden).sum(axis=0)
        self.collect(b=db)
        return dh


class GatedMLPCache(NamedTuple):
    gate: LinearCache
    up: LinearCache
    swiglu: object
    down: LinearCache
    dropout: object


class GatedMLP(Layer):
    """x (B, T, C) -> y (B, T, C) = (silu(x w_gate) * (x w_up)) w_down (Shazeer 2020, eq. 6)."""

    def __init__(self, n_embd, *, n_hidden, bias=False, dropout=0.0, proj_std=0.02):
        self.gate = Linear(n_embd, n_hidden, bias=bias)
        self.up = Linear(n_embd, n_hidden, bias=bias)
        self.down = Linear(n_hidden, n_embd, bias=bias, std=proj_std)
        self.dropout = Dropout(dropout)

    def forward(self, x, draws=None):
        g, c_gate = self.gate.forward(x, draws)                                         # (1)
        h, c_up = self.up.forward(x, draws)                                             # (2)
        h, c_swiglu = self.ops.swiglu_forward(g, h)                                     # (3)
        y, c_down = self.down.forward(h, draws)                                         # (4)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (5)
        return y, GatedMLPCache(c_gate, c_up, c_swiglu, c_down, c_dropout)

    def backward(self, dy, cache):
        dy = self.dropout.backward(dy, cache.dropout)                                   # (5)
        dh = self.down.backward(dy, cache.down)                                         # (4)
        dg, dh = self.ops.swiglu_backward(dh, cache.swiglu)                             # (3)
        dx = self.up.backward(dh, cache.up)                                             # (2)
        return self.ops.residual_forward(dx, self.gate.backward(dg, cache.gate))[0]     # (1)  x was read twice
