"""The elementary layers: linear map, norms, dropout, and the embedding of tokens and positions."""

import numpy as np

from ..parameters import ParamSpec, normal, ones, zeros
from .base import Layer


class Linear(Layer):
    """y = x w + b, with w (n_in, n_out) drawn with this standard deviation and b zero."""

    b = None

    def __init__(self, n_in, n_out, *, bias=True, std=0.02):
        self.n_in, self.n_out, self.bias, self.std = n_in, n_out, bias, std

    def own_specs(self):
        specs = {"w": ParamSpec((self.n_in, self.n_out), normal(self.std))}
        if self.bias:
            specs["b"] = ParamSpec((self.n_out,), zeros, decay=False)
        return specs

    def forward(self, x, draws=None):
        """draws are for what may stand in its place: LoRALinear drops something."""
        return self.ops.linear_forward(x, self.w, self.b)

    def backward(self, dy, cache):
        if self.frozen("b"):
            cache = cache._replace(b=None)
        dx, dw, db = self.ops.linear_backward(dy, cache, out=(None, *self.slots("w", "b")), frozen=self.frozen("w"))
        self.collect(w=dw, b=db)
        return dx


class LayerNorm(Layer):
    """Layer normalisation with gain w = 1 and shift b = 0; alone, or of the sum of a stream and what is added to it."""

    b = None

    def __init__(self, n_embd, *, bias=True, eps=1e-5):
        self.n_embd, self.bias, self.eps = n_embd, bias, eps

    def own_specs(self):
        specs = {"w": ParamSpec((self.n_embd,), ones, decay=False)}
        if self.bias:
            specs["b"] = ParamSpec((self.n_embd,), zeros, decay=False)
        return specs

    def forward(self, x):
        return self.ops.layernorm_forward(x, self.w, self.b, eps=self.eps)

    def backward(self, dy, cache):
        dx, dw, db = self.ops.layernorm_backward(dy, cache, out=(None, *self.slots("w", "b")))
        self.collect(w=dw, b=db)
        return dx

    def stream_backward(self, ds, dy, cache):
        """As backward, where what was normalised (x, or x + r) also went on along the stream and has the gradient ds from
        there. Their sum is the gradient of x, and of r."""
        dx, _, dw, db = self.ops.residual_layernorm_backward(ds, dy, cache, out=(None, None, *self.slots("w", "b")))
        self.collect(w=dw, b=db)
        return dx

    def residual_forward(self, x, r):
        """s = x + r, y = norm(s) -> s, y, cache."""
        return self.ops.residual_layernorm_forward(x, r, self.w, self.b, eps=self.eps)


class RMSNorm(Layer):
    """RMS normalisation with gain w = 1, with LayerNorm's methods: a model takes the one or the other."""

    def __init__(self, n_embd, *, eps=1e-5):
        self.n_embd, self.eps = n_embd, eps

    def own_specs(self):
        return {"w": ParamSpec((self.n_embd,), ones, decay=False)}

    def forward(self, x):
        return self.ops.rmsnorm_forward(x, self.w, eps=self.eps)

    def backward(self, dy, cache):
        dx, dw = self.ops.rmsnorm_backward(dy, cache, out=(None, *self.slots("w")))
        self.collect(w=dw)
        return dx

    def stream_backward(self, ds, dy, cache):
        dx, _, dw = self.ops.residual_rmsnorm_backward(ds, dy, cache, out=(None, None, *self.slots("w")))
        self.collect(w=dw)
        return dx

    def residual_forward(self, x, r):
        return self.ops.residual_rmsnorm_forward(x, r, self.w, eps=self.eps)


class Dropout(Layer):
    """Dropout with probability p while training, that is, when given Draws; nothing otherwise."""

    def __init__(self, p):
        self.p = p

    def mask(self, shape, draws):
        """The mask for this micro-batch, or None where nothing is dropped."""
        return draws.keep(self.name, shape, self.p) if draws is not None and self.p > 0 else None

    def step(self, x, past):
        return x

    def forward(self, x, draws):
        keep = self.mask(x.shape, draws)
        return (x, None) if keep is None else self.ops.dropout_forward(x, keep, p=self.p)

    def backward(self, dy, cache):
        return dy if cache is None else self.ops.dropout_backward(dy, cache)


class TokenPositionEmbedding(Layer):
    """A learned vector for each token and each position, added (GPT-2's wte and wpe)."""

    def __init__(self, vocab_size, block_size, n_embd):
        self.vocab_size, self.block_size, self.n_embd = vocab_size, block_size, n_embd

    def own_specs(self):
        return {"wte": ParamSpec((self.vocab_size, self.n_embd), normal(0.02)),
                "wpe": ParamSpec((self.block_size, self.n_embd), normal(0.02))}

    def forward(self, ids, positions=None):
        """ids (B, T), positions (B, T) where they do not count up from 0 -> x (B, T, C), cache."""
        return self.ops.token_position_forward(ids, self.wte, self.wpe, positions=positions)

    def step(self, ids, past):
        """ids (B, T), the next T tokens of sequences with past.lengths (B) tokens before."""
        positions = past.lengths[:, None] + np.arange(ids.shape[1])
        return self.ops.embedding_forward(ids, self.wte)[0] + self.ops.embedding_forward(positions, self.wpe)[0]

    def backward(self, dy, cache):
        """Returns nothing: ids have no gradient. A tied head has written wte's gradient before: then it is added to."""
        if self.frozen("wte"):
            _, dwpe = self.ops.token_position_backward(dy, cache, out=(None, *self.slots("wpe")))
        else:
            with self._parameters.contribution(self._names["wte"]) as (target, add):
                _, dwpe = self.ops.token_position_backward(dy, cache, out=(target, *self.slots("wpe")), add=add)
        self.collect(wpe=dwpe)


class TokenEmbedding(Layer):
    """A learned vector for each token; positions, if the model is told them here, are a table that is not learned."""

    def __init__(self, vocab_size, n_embd, *, positions=None, std=0.02):
        self.vocab_size, self.n_embd, self.positions, self.std = vocab_size, n_embd, positions, std     # positions (T_max, C) or None

    def own_specs(self):
        return {"wte": ParamSpec((self.vocab_size, self.n_embd), normal(self.std))}

    def forward(self, ids, positions=None):
        """As TokenPositionEmbedding's."""
        x, cache = self.ops.embedding_forward(ids, self.wte)
        places = np.arange(ids.shape[1]) if positions is None else positions
        return x if self.positions is None else x + self._positions(places, x), cache

    def step(self, ids, past):
        x, _ = self.ops.embedding_forward(ids, self.wte)
        return x if self.positions is None else x + self._positions(past.lengths[:, None] + np.arange(ids.shape[1]), x)

    def backward(self, dy, cache):
        """As TokenPositionEmbedding's."""
        if self.frozen("wte"):
            return
        with self._parameters.contribution(self._names["wte"]) as (target, add):
            self.ops.embedding_backward(dy, cache, out=(target,), add=add)

    def _positions(self, places, x):
        return self.positions[places].astype(x.real.dtype)
