"""LSTM language model: what predicted the next token before transformers (Mikolov et al.
2010; Zaremba et al. 2014).

    ids (B, T) -> embedding (B, T, C) -> n_layer LSTM layers (B, T, C) -> dropout -> head (B, T, V)

It has the methods of a GPT, so that one trainer, one evaluation and one way to generate serve both. A context of
any length fits: what is behind is a state of fixed size. In training each context begins with a state of zeros.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..config import option, require_between, require_whole
from ..layers import Dropout, Head, LSTMBlock, LSTMState, TokenEmbedding
from ..workspace import mark
from .estimate import Estimate
from .language_model import LanguageModel
from .trunk import Trunk

EMBEDDING_STD = 0.1         # no norm will scale what a token's vector brings to the gates, as in a GPT


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes and choices, under the names of GPTConfig. Raises InputError where they mean nothing."""

    n_layer: int = option(2, "LSTM layers")
    n_embd: int = option(256, "width: of the embedding, the state and the cell")
    block_size: int = option(64, "tokens through which gradients flow back in training")
    vocab_size: int = option(50257, "tokens in the vocabulary")
    dropout: float = option(0.0, "probability of dropping an activation between layers while training")
    tied: bool = option(True, "the output head shares its matrix with the token embedding")

    def __post_init__(self):
        require_whole(self, 1, "n_layer", "n_embd", "block_size", "vocab_size")
        require_between(self, 0, 1, "dropout")


class LSTMLMCache(NamedTuple):
    embedding: object
    blocks: list            # with `recompute`, only each block's input
    dropout: object
    head: object            # None when the loss was taken in the head
    draws: object           # for dropout in a block that is recomputed


class LSTMLM(LanguageModel, Trunk):
    """An LSTM language model with its parameters; ops, seed, dtype, parameters, recompute
    and trainable as for GPT.

    Raises InputError for ids that are not (B, T) integers in [0, vocab_size) with T >= 1.
    """

    def __init__(self, config, *, ops=text, seed=0, dtype=np.float32, parameters=None, recompute=False, trainable=None):
        self.config, self.recompute = config, recompute
        self.embedding = TokenEmbedding(config.vocab_size, config.n_embd, std=EMBEDDING_STD)
        self.blocks = [LSTMBlock(config.n_embd, dropout=config.dropout) for _ in range(config.n_layer)]
        self.dropout = Dropout(config.dropout)
        self.head = Head(config.n_embd, config.vocab_size, tied_to=self.embedding if config.tied else None)
        self._complete(ops, seed, dtype, parameters, trainable)

    def past(self, sequences=1):
        """The state of so many sequences before their first token, for `step`."""
        return LSTMState(self.config.n_layer, sequences, self.config.n_embd, self.parameters.dtype)

    def trunk_step(self, ids, past):
        """LanguageModel's, past an LSTMState. There is no limit to the number of tokens."""
        x, _ = self.embedding.forward(self.check_ids(ids))
        for block, state in zip(self.blocks, past.layers(), strict=True):
            x = block.step(x, state)
        past.lengths += x.shape[1]
        return x

    def estimate(self, batch_size) -> Estimate:
        """Memory and FLOPs of a training step with this batch size, without running it."""
        return estimate_lstm(self.config, batch_size, itemsize=self.parameters.dtype.itemsize).of(self.parameters)

    def _trunk(self, ids, draws, starts=None):
        """Everything below the head: ids (B, T) -> h (B, T, C), cache."""
        x, c_embedding, _ = self._embed(ids, starts)                                    # (1)
        x, c_blocks = self._blocks_forward(x, draws, ())                                # (2)
        h, c_dropout = self.dropout.forward(x, draws)                                   # (3)
        return h, LSTMLMCache(c_embedding, c_blocks, c_dropout, None, draws)

    def _trunk_backward(self, dh, cache, dloss=0.0):
        dx = self.dropout.backward(dh, cache.dropout)                                   # (3)
        dx = self._blocks_backward(dx, cache.blocks, cache.draws, (), mark())           # (2)
        if self.embedding.trains:
            self.embedding.backward(dx, cache.embedding)                                # (1)


def estimate_lstm(config, batch_size, *, itemsize=4):
    """Estimate for an LSTMConfig and a batch of batch_size contexts of block_size tokens.

    Each layer keeps its gates, its output, its cell and with dropout its input and a mask; at the peak there are
    the gradient of the gates, and three arrays of the width, or three of the logits' size in the head. FLOPs: two
    a weight and token forward, four backward.
    """
    L, C, V, N = config.n_layer, config.n_embd, config.vocab_size, batch_size * config.block_size
    number = V * C + L * (8 * C * C + 4 * C) + (0 if config.tied else V * C)
    kept = N * C * (1 + (4 + 1 + 1 + bool(config.dropout)) * L)
    masks = N * C * (L + 1) if config.dropout else 0                    # one byte an entry
    passing = max(3 * N * V, (4 + 3) * N * C)
    return Estimate(number, number, (kept + passing) * itemsize + masks, 3 * 2 * N * (8 * C * C * L + C * V), itemsize)
