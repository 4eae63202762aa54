"""GPT: a stack of transformer blocks that predicts the next token (Radford et al. 2018, 2019).

    ids (B, T) -> embedding (B, T, C) -> n_layer blocks (B, T, C) -> norm (B, T, C) -> head (B, T, V)

Architecture and initialisation are GPT-2's: pre-norm, learned positions, GELU, head tied to the embedding, weights
drawn with standard deviation 0.02, those that write into the residual stream with 0.02 / sqrt(2 n_layer).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..config import option, require_between, require_whole
from ..errors import InputError
from ..layers import Block, Dropout, Head, Layer, LayerNorm, Past, TokenPositionEmbedding
from ..parameters import Parameters
from ..workspace import mark, release
from .estimate import Estimate, estimate


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and choices, under nanoGPT's names. Raises InputError where they do not fit together."""

    n_layer: int = option(4, "transformer blocks")
    n_head: int = option(4, "attention heads a block")
    n_embd: int = option(128, "width: channels of the residual stream")
    block_size: int = option(64, "longest context, in tokens")
    vocab_size: int = option(50257, "tokens in the vocabulary")
    dropout: float = option(0.0, "probability of dropping an activation while training")
    bias: bool = option(True, "biases in linear maps and shifts in norms")
    tied: bool = option(True, "the output head shares its matrix with the token embedding")
    exact_gelu: bool = option(False, "GELU by the error function, not by tanh as in GPT-2")
    norm_eps: float = option(1e-5, "added to the variance in norms")

    def __post_init__(self):
        require_whole(self, 1, "n_layer", "n_head", "n_embd", "block_size", "vocab_size")
        require_between(self, 0, 1, "dropout")
        require_between(self, 1e-30, 1, "norm_eps")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd must be divisible by n_head, got n_embd={self.n_embd} and n_head={self.n_head}: "
                             f"choose n_embd={self.n_embd // self.n_head * self.n_head or self.n_head} or another n_head")


class GPTCache(NamedTuple):
    embedding: object
    dropout: object
    blocks: list            # with `recompute`, only each block's input
    norm: object
    head: object            # None when the loss was taken in the head
    draws: object           # for dropout in a block that is recomputed


class GPT(Layer):
    """A GPT with its parameters. ops is the backend: numpyllm.ops or anything that has the same functions.

    recompute=True keeps only the input of each block for the backward and runs the block's forward again there: less
    memory, a third more work, the same gradients to the bit (Chen et al. 2016). With seed=None all parameters are zero, for
    whoever fills them.

    seed None leaves the parameters at zero, for who loads them.

    Raises InputError for ids that are not (B, T) integers in [0, vocab_size) with 1 <= T <= block_size.
    """

    def __init__(self, config, *, ops=text, seed=0, dtype=np.float32, parameters=None, recompute=False):
        self.config, self.recompute = config, recompute
        proj_std = 0.02 / math.sqrt(2 * config.n_layer)
        self.embedding = TokenPositionEmbedding(config.vocab_size, config.block_size, config.n_embd)
        self.dropout = Dropout(config.dropout)
        self.blocks = [Block(config.n_embd, config.n_head, bias=config.bias, dropout=config.dropout, proj_std=proj_std,
                             exact_gelu=config.exact_gelu, norm_eps=config.norm_eps) for _ in range(config.n_layer)]
        self.norm = LayerNorm(config.n_embd, bias=config.bias, eps=config.norm_eps)
        self.head = Head(config.n_embd, config.vocab_size, tied_to=self.embedding if config.tied else None)
        self.parameters = Parameters(self.specs(), seed=seed, dtype=dtype) if parameters is None else parameters
        self.bind(self.parameters, ops)

    def forward(self, ids, draws=None):
        """ids (B, T) -> logits (B, T, V), GPTCache. Dropout acts only when Draws are given."""
        h, cache = self._trunk(ids, draws)
        logits, c_head = self.head.forward(h)
        return logits, cache._replace(head=c_head)

    def backward(self, dlogits, cache):
        """dlogits (B, T, V) -> nothing; contributes to parameters.grad, as loss_and_gradients does."""
        self._trunk_backward(self.head.backward(dlogits, cache.head), cache)

    def loss(self, ids, targets):
        """ids, targets (B, T), -1 where nothing is asked -> sum of the loss in nats, number of counted targets."""
        targets, height = self._checked_targets(ids, targets), mark()
        x, _ = self.embedding.forward(self.check_ids(ids))
        for block in self.blocks:
            y, _ = block.forward(x)
            x = release(height, keep=y)                                     # no backward will want what it left
        h, _ = self.norm.forward(x)
        loss = self.head.loss(h, targets)
        release(height)
        return loss

    def loss_and_gradients(self, ids, targets, *, scale=None, draws=None):
        """As loss, and contributes scale * d(sum)/d(parameters) to parameters.grad; scale None is 1 / count, the mean's.

        A step begins with parameters.clear_gradients() and ends with settle_gradients(): in between the first contribution to
        a gradient overwrites, later ones add.
        """
        targets = self._checked_targets(ids, targets)
        if scale is None:
            scale = 1 / max(1, int((targets != -1).sum()))
        h, cache = self._trunk(ids, draws)
        loss, count, dh = self.head.loss_forward_backward(h, targets, scale)
        self._trunk_backward(dh, cache)
        return loss, count

    def past(self, sequences=1):
        """Room for the keys and values of so many sequences, for `step`."""
        c = self.config
        return Past(c.n_layer, sequences, c.n_head, c.block_size, c.n_embd // c.n_head, self.parameters.dtype)

    def step(self, ids, past):
        """ids (B, T), the next T tokens of each sequence -> logits (B, T, V), those that `forward` gives for whole sequences.

        past (Past of B sequences) takes the tokens in. Raises InputError where they would not fit into block_size.
        """
        h = self.trunk_step(self.check_ids(ids), past)
        past.lengths += h.shape[1]
        return self.head.step(h, None)

    def trunk_step(self, ids, past):
        """As step, everything below the head -> h (B, T, C); past.lengths stay as they are."""
        if past.lengths.max() + ids.shape[1] > self.config.block_size:
            raise InputError(f"{past.lengths.max()} + {ids.shape[1]} positions do not fit into block_size={self.config.block_size}: "
                             "begin anew with the last of them, learned positions cannot slide")
        x = self.embedding.step(ids, past)
        for block, layer_past in zip(self.blocks, past.layers(), strict=True):
            x = block.step(x, layer_past)
        return self.norm.step(x, None)

    def astype(self, dtype):
        """An independent copy in another dtype: float64 or complex128 for checks."""
        return GPT(self.config, ops=self.ops, parameters=self.parameters.astype(dtype), recompute=self.recompute)

    @classmethod
    def from_pretrained(cls, folder, **options):
        """The GPT-2 in a folder of Hugging Face's layout; options and errors are those of numpyllm.interop.load_pretrained,
        which gives its tokenizer as well."""
        from ..interop import load_pretrained       # the one import upwards: docs/design_notes.md
        return load_pretrained(folder, **options)[0]

    def save_pretrained(self, folder, tokenizer=None, **options):
        """Write it in Hugging Face's layout; options and errors are those of numpyllm.interop.save_pretrained."""
        from ..interop import save_pretrained
        save_pretrained(folder, self, tokenizer, **options)

    def replica(self, parameters):
        """The same model on other Parameters, which may share their arrays with these: for another thread."""
        return GPT(self.config, ops=self.ops, parameters=parameters, recompute=self.recompute)

    def n_params(self, *, embedding=True):
        """Number of parameters; without `embedding`, those of the position and the token table are left out."""
        tables = 0 if embedding else self.embedding.wte.size + self.embedding.wpe.size
        return self.parameters.count() - tables

    def estimate(self, batch_size) -> Estimate:
        """Memory and FLOPs of a training step with this batch size, without running it."""
        return estimate(self.config, batch_size, itemsize=self.parameters.dtype.itemsize)

    def _trunk(self, ids, draws):
        """Everything below the head: ids (B, T) -> h (B, T, C), cache."""
        x, c_embedding = self.embedding.forward(self.check_ids(ids))     # (1)
        x, c_dropout = self.dropout.forward(x, draws)                       # (2)
        c_blocks = []
        for block in self.blocks:
            if self.recompute:
                height, c_block = mark(), x
                y, _ = block.forward(x, draws)                              # (3)  only its input is kept
                x = release(height, keep=y)
            else:
                x, c_block = block.forward(x, draws)                        # (3)
            c_blocks.append(c_block)
        h, c_norm = self.norm.forward(x)                                    # (4)
        return h, GPTCache(c_embedding, c_dropout, c_blocks, c_norm, None, draws)

    def _trunk_backward(self, dh, cache):
        height = mark()
        dx = self.norm.backward(dh, cache.norm)                             # (4)
        for block, c_block in zip(reversed(self.blocks), reversed(cache.blocks), strict=True):
            if self.recompute:
                _, c_block = block.forward(c_block, cache.draws)
            dx = release(height, keep=block.backward(dx, c_block))          # (3)
        dx = self.dropout.backward(dx, cache.dropout)                       # (2)
        self.embedding.backward(dx, cache.embedding)                        # (1)

    def check_ids(self, ids):
        """ids as an array (B, T). InputError unless they are integers that this model knows, and no more than it can see."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"ids must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
        if not 1 <= ids.shape[1] <= self.config.block_size:
            raise InputError(f"a context must have 1 to block_size={self.config.block_size} tokens, got {ids.shape[1]}")
        _check_range("ids", ids, 0, self.config.vocab_size)
        return ids

    def _checked_targets(self, ids, targets):
        targets = np.asarray(targets)
        if targets.shape != np.shape(ids) or not np.issubdtype(targets.dtype, np.integer):
            raise InputError(f"targets must be integers shaped like ids {np.shape(ids)}, got {targets.dtype} of shape {targets.shape}")
        _check_range("targets", targets, -1, self.config.vocab_size)
        return targets


def _check_range(name, values, low, high):
    if values.size and (values.min() < low or values.max() >= high):
        raise InputError(f"{name} must lie in [{low}, {high}), got {values.min()} to {values.max()}: "
                         "was the text encoded with this model's tokenizer?")
