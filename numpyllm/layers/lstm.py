"""One layer of an LSTM language model: dropout on what comes in, then the recurrence over time."""

from typing import NamedTuple

import numpy as np

from ..ops import LSTMCache
from ..parameters import ParamSpec, normal
from .base import Layer
from .basic import Dropout


class LSTMBlockCache(NamedTuple):
    dropout: object         # DropoutCache, or None when nothing was dropped
    lstm: LSTMCache


class LSTMBlock(Layer):
    """x (B, T, C) -> y (B, T, C), from a state of zeros. Gates lie in the order i, f, g, o.

    Dropout is on the connections between layers, not on those through time (Zaremba et al. 2014). Matrices are drawn with
    standard deviation 1 / sqrt(3 C), that of torch's uniform numbers. The forget gate's bias begins at 1, so that at first the
    cell keeps what it has (Gers et al. 2000; Jozefowicz et al. 2015), all others at 0.
    """

    def __init__(self, n_embd, *, dropout=0.0):
        self.n_embd = n_embd
        self.dropout = Dropout(dropout)

    def own_specs(self):
        C = self.n_embd
        matrix = ParamSpec((C, 4 * C), normal((3 * C) ** -0.5))
        return {"w_x": matrix, "w_h": matrix, "b": ParamSpec((4 * C,), _remember, decay=False)}

    def forward(self, x, draws=None):
        x, c_dropout = self.dropout.forward(x, draws)                                   # (1)
        y, _, c_lstm = self.ops.lstm_forward(x, self.w_x, self.w_h, self.b)             # (2)
        return y, LSTMBlockCache(c_dropout, c_lstm)

    def step(self, x, state):
        """x (B, T, C), the next T positions -> y (B, T, C). `state`, of this layer, moves on by them."""
        y, state.c[...], _ = self.ops.lstm_forward(x, self.w_x, self.w_h, self.b, state.h, state.c)
        state.h[...] = y[:, -1]
        return y

    def backward(self, dy, cache):
        dx, dw_x, dw_h, db, _, _ = self.ops.lstm_backward(dy, None, cache.lstm, frozen=self.frozen("w_x") and self.frozen("w_h"),
                                                          out=(None, *self.slots("w_x", "w_h", "b"), None, None))   # (2)
        self.collect(w_x=dw_x, w_h=dw_h, b=db)
        return self.dropout.backward(dx, cache.dropout)                                 # (1)


class LSTMState:
    """What an LSTM remembers of some sequences: as much after a thousand tokens as after one.

    h, c (n_layer, sequences, C), zeros at first; lengths (sequences): tokens that were read.
    """

    def __init__(self, n_layer, sequences, n_embd, dtype):
        self.h, self.c = np.zeros((2, n_layer, sequences, n_embd), dtype)
        self.lengths = np.zeros(sequences, np.int64)

    def layers(self):
        """One LayerState a layer, views."""
        return [LayerState(h, c) for h, c in zip(self.h, self.c, strict=True)]

    def of(self, sequences):
        """A copy of the states of these sequences (numbers), to go on from."""
        part = object.__new__(LSTMState)
        part.h, part.c, part.lengths = self.h[:, sequences], self.c[:, sequences], self.lengths[sequences]
        return part

    def put(self, sequences, part):
        """Take in what `of` gave, and somebody moved on."""
        self.h[:, sequences], self.c[:, sequences], self.lengths[sequences] = part.h, part.c, part.lengths


class LayerState(NamedTuple):
    h: np.ndarray           # (B, C)
    c: np.ndarray           # (B, C)


def _remember(rng, shape):
    b = np.zeros((4, shape[0] // 4))
    b[1] = 1
    return b.reshape(shape)
