"""A mixture of experts in place of an MLP: each token goes through k of E of them (Shazeer et al. 2017; Jiang et al. 2024)."""

from typing import NamedTuple

import numpy as np

from ..ops import LinearCache
from ..workspace import empty
from .base import Layer
from .basic import Dropout, Linear


class MixtureCache(NamedTuple):
    router: LinearCache
    route: object           # RouteCache
    gates: np.ndarray       # (B, T, E)
    outputs: list           # an array (tokens of this expert, C) for each expert: the gates' gradient is made of them
    experts: list           # each expert's own cache
    balance: object         # BalanceCache
    loss: object            # balance's weight times its loss: a scalar to be added to the sum of the model's loss
    dropout: object         # DropoutCache, or None when nothing was dropped


class MixtureOfExperts(Layer):
    """x (B, T, C) -> y (B, T, C), the sum of gate_e(x) expert_e(x) over the k experts that a linear router scores highest.

    experts   layers (N, C) -> (N, C). They get no Draws: dropout's masks belong to the batch, not to the tokens of an expert
    n_used    k
    balance   weight of the loss that spreads the tokens (ops/routing.py)

    No expert refuses a token, however many it has. Beside y there is a second result, cache.loss, and `backward` takes its
    gradient as well.
    """

    def __init__(self, n_embd, experts, *, n_used, balance=0.0, dropout=0.0):
        self.router = Linear(n_embd, len(experts), bias=False)
        self.experts = experts
        self.dropout = Dropout(dropout)
        self.n_used, self.balance = n_used, balance

    def forward(self, x, draws=None):
        scores, c_router = self.router.forward(x)                                       # (1)  (B, T, E)
        gates, c_route = self.ops.route_forward(scores, self.n_used)                    # (2)  (B, T, E)
        balance, c_balance = self.ops.balance_forward(scores, c_route.chosen)           # (3)
        y = empty(x.shape, gates.dtype)
        y[...] = 0
        x_rows, y_rows, gate_rows = flat(x), flat(y), flat(gates)
        outputs, caches = [], []
        for e, tokens in enumerate(tokens_of_experts(c_route.chosen)):
            h, cache = self.experts[e].forward(x_rows[tokens])                          # (4)  also of no tokens
            y_rows[tokens] += gate_rows[tokens, e, None] * h                            # (5)
            outputs.append(h)
            caches.append(cache)
        y, c_dropout = self.dropout.forward(y, draws)                                   # (6)
        return y, MixtureCache(c_router, c_route, gates, outputs, caches, c_balance, self.balance * balance, c_dropout)

    def backward(self, dy, cache, dloss=0.0):
        """dy (B, T, C), dloss (a scalar: of cache.loss) -> dx (B, T, C). An expert without tokens contributes zeros: other
        replicas may be waiting for its turn."""
        dy = self.dropout.backward(dy, cache.dropout)                                   # (6)
        dx = empty(dy.shape, dy.dtype)
        dx[...] = 0
        dgates = np.zeros(cache.gates.shape, dy.dtype)
        dy_rows, dx_rows, gate_rows, dgate_rows = flat(dy), flat(dx), flat(cache.gates), flat(dgates)
        for e, tokens in enumerate(tokens_of_experts(cache.route.chosen)):
            d = dy_rows[tokens]
            dgate_rows[tokens, e] = (d * cache.outputs[e]).sum(axis=-1)                 # (5)
            dh = gate_rows[tokens, e, None] * d                                         # (5)
            dx_rows[tokens] += self.experts[e].backward(dh, cache.experts[e])           # (4)
        dscores = self.ops.route_backward(dgates, cache.route)                          # (2)
        if self.balance and dloss:
            dscores = dscores + self.ops.balance_backward(dloss * self.balance, cache.balance)      # (3)
        return self.ops.residual_forward(dx, self.router.backward(dscores, cache.router))[0]        # (1)  x was read twice

    def step(self, x, past):
        """As forward; experts that got no token are not asked, which of one token are most."""
        gates, route = self.ops.route_forward(self.router.step(x, past), self.n_used)
        y = np.zeros(x.shape, x.dtype)
        x_rows, y_rows, gate_rows = flat(x), flat(y), flat(gates)
        for e, tokens in enumerate(tokens_of_experts(route.chosen)):
            if tokens.size:
                y_rows[tokens] += gate_rows[tokens, e, None] * self.experts[e].step(x_rows[tokens], past)
        return y


def tokens_of_experts(chosen):
    """chosen (..., E) -> for each expert the places, in the flattened leading axes, of the tokens that go through it."""
    return [np.flatnonzero(column) for column in flat(chosen).T]


def flat(x):
    """A view (N, channels) of a contiguous array."""
    return x.reshape(-1, x.shape[-1])
