"""The original Transformer (Vaswani et al. 2017): an encoder reads a source, a decoder writes a target, looking at
what the encoder made of it.

    sources (B, S) -> embedding (B, S, C) -> n_layer encoder blocks -> memory (B, S, C)
    ids (B, T)     -> embedding (B, T, C) -> n_layer decoder blocks, each of which reads the memory -> head (B, T, V)

In a batch, sequences are padded at the end, with -1, in sources and in targets. What stands there is never read:
sources by spans, targets because nothing is asked there and nobody looks ahead. The decoder's input is the target
moved on by one behind start_token. Two things are as in GPT, not as in the paper: GELU for ReLU, and normal
initial weights. Chapter: docs/encoder_decoder.md.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..config import option, require_between, require_whole
from ..errors import InputError
from ..layers import DecoderBlock, Dropout, EncoderBlock, Head, Layer, LayerNorm, SinusoidalEmbedding
from ..ops import causal_spans, padding_spans
from ..parameters import Parameters
from ..workspace import empty, mark, release

PADDING = -1                # in sources: nothing stands here; in targets: nothing is asked


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes and choices. Raises InputError where they do not fit together."""

    n_layer: int = option(2, "blocks in the encoder, and as many in the decoder")
    n_head: int = option(4, "attention heads a block")
    n_embd: int = option(128, "width: channels of the residual stream")
    block_size: int = option(64, "longest source and longest target, in tokens")
    vocab_size: int = option(64, "tokens in the target's vocabulary")
    source_vocab_size: int | None = option(None, "tokens in the source's vocabulary (default: vocab_size)")
    start_token: int = option(0, "what the decoder reads first")
    dropout: float = option(0.0, "probability of dropping an activation while training")
    label_smoothing: float = option(0.0, "share of each target that is spread over all tokens while training")
    pre_norm: bool = option(True, "norms before each layer and at the end of each stack; if not, after each "
                                  "residual sum")
    bias: bool = option(True, "biases in linear maps and shifts in norms")
    tied: bool = option(True, "the output head shares its matrix with the target's embedding")
    shared: bool = option(False, "source and target share one embedding")
    exact_gelu: bool = option(False, "GELU by the error function, not by tanh as in GPT-2")
    norm_eps: float = option(1e-5, "added to the variance in norms")

    def __post_init__(self):
        require_whole(self, 1, "n_layer", "n_head", "n_embd", "block_size", "vocab_size")
        require_whole(self, 0, "start_token")
        require_between(self, 0, 1, "dropout", "label_smoothing")
        require_between(self, 1e-30, 1, "norm_eps")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd must be divisible by n_head, got n_embd={self.n_embd} and "
                             f"n_head={self.n_head}: choose "
                             f"n_embd={self.n_embd // self.n_head * self.n_head or self.n_head} or another n_head")
        if self.source_vocab_size is None:
            object.__setattr__(self, "source_vocab_size", self.vocab_size)
        require_whole(self, 1, "source_vocab_size")
        if self.shared and self.source_vocab_size != self.vocab_size:
            raise InputError("a shared embedding needs one vocabulary, got "
                             f"source_vocab_size={self.source_vocab_size} and vocab_size={self.vocab_size}: make "
                             "them equal or leave shared out")
        if self.start_token >= self.vocab_size:
            raise InputError(f"start_token must be below vocab_size={self.vocab_size}, got {self.start_token}")


class EncoderCache(NamedTuple):
    embedding: object
    dropout: object
    blocks: list
    norm: object            # None if post-norm


class EncoderDecoderCache(NamedTuple):
    encoder: EncoderCache
    memory: np.ndarray      # (B, S, C)  for the shape of its gradient
    embedding: object
    dropout: object
    blocks: list
    norm: object            # None if post-norm
    head: object            # None when the loss was taken in the head


class EncoderDecoder(Layer):
    """An encoder-decoder with its parameters. ops is the backend: numpyllm.ops or anything that has the same
    functions. With seed=None all parameters are zero, for whoever fills them.

    Raises InputError for sources and targets that are not integers (B, S) and (B, T) of at most block_size tokens,
    -1 behind the end of each, at least one token a source.
    """

    lora = None         # its linear maps get no adapters

    def __init__(self, config, *, ops=text, seed=0, dtype=np.float32, parameters=None):
        self.config = c = config
        block = {"pre_norm": c.pre_norm, "bias": c.bias, "dropout": c.dropout, "exact_gelu": c.exact_gelu,
                 "norm_eps": c.norm_eps}
        if not c.shared:
            self.source_embedding = SinusoidalEmbedding(c.source_vocab_size, c.block_size, c.n_embd)
        self.embedding = SinusoidalEmbedding(c.vocab_size, c.block_size, c.n_embd)
        self.source_dropout, self.dropout = Dropout(c.dropout), Dropout(c.dropout)
        self.encoder = [EncoderBlock(c.n_embd, c.n_head, proj_std=_proj_std(c, 2), **block) for _ in range(c.n_layer)]
        self.decoder = [DecoderBlock(c.n_embd, c.n_head, proj_std=_proj_std(c, 3), **block) for _ in range(c.n_layer)]
        if c.pre_norm:
            self.encoder_norm, self.norm = (LayerNorm(c.n_embd, bias=c.bias, eps=c.norm_eps) for _ in range(2))
        self.head = Head(c.n_embd, c.vocab_size, tied_to=self.embedding if c.tied else None)
        self.parameters = Parameters(self.specs(), seed=seed, dtype=dtype) if parameters is None else parameters
        self.bind(self.parameters, ops)

    def forward(self, sources, ids, draws=None):
        """sources (B, S), ids (B, T) the decoder's input -> logits (B, T, V), cache. Dropout acts only
        when Draws are given."""
        sources, lengths = self.check_sources(sources)
        ids = self.check_targets(sources, ids)
        h, cache = self._trunk(sources, lengths, np.where(ids == PADDING, 0, ids), draws)
        logits, c_head = self.head.forward(h)
        return logits, cache._replace(head=c_head)

    def backward(self, dlogits, cache):
        """dlogits (B, T, V) -> nothing; contributes to parameters.grad, as loss_and_gradients does."""
        self._trunk_backward(self.head.backward(dlogits, cache.head), cache)

    def loss(self, sources, targets, *, label_smoothing=0.0):
        """sources (B, S), targets (B, T) -> sum of the loss in nats, number of counted targets. Plain
        cross-entropy unless told otherwise, whatever the training minimises."""
        (sources, lengths), targets, height = self.check_sources(sources), self.check_targets(sources, targets), mark()
        h, _ = self._trunk(sources, lengths, self.shifted(targets), None)
        loss = self.head.loss(h, targets, label_smoothing=label_smoothing)
        release(height)
        return loss

    def count(self, sources, targets):
        """How many targets are counted: what the sum of the loss is divided by."""
        return int((targets != -1).sum())

    def loss_and_gradients(self, sources, targets, *, scale=None, draws=None):
        """The loss with the config's label_smoothing, and contributes scale * d(sum)/d(parameters) to
        parameters.grad; scale None is 1 / count, the mean's. A step begins with parameters.clear_gradients() and
        ends with settle_gradients().
        """
        (sources, lengths), targets = self.check_sources(sources), self.check_targets(sources, targets)
        if scale is None:
            scale = 1 / max(1, int((targets != PADDING).sum()))
        h, cache = self._trunk(sources, lengths, self.shifted(targets), draws)
        loss, count, dh = self.head.loss_forward_backward(h, targets, scale,
                                                          label_smoothing=self.config.label_smoothing)
        self._trunk_backward(dh, cache)
        return loss, count

    def encode(self, sources, lengths, draws=None):
        """Checked sources (B, S), of these lengths (B) -> memory (B, S, C), EncoderCache."""
        spans = padding_spans(lengths, sources.shape[1])
        x, c_embedding = self._source_embedding.forward(sources)                        # (1)
        x, c_dropout = self.source_dropout.forward(x, draws)                            # (2)
        c_blocks, c_norm = [], None
        for block in self.encoder:
            x, c_block = block.forward(x, spans, draws)                                 # (3)
            c_blocks.append(c_block)
        if self.config.pre_norm:
            x, c_norm = self.encoder_norm.forward(x)                                    # (4)
        return x, EncoderCache(c_embedding, c_dropout, c_blocks, c_norm)

    def begin(self, sources):
        """Read the sources (B, S) once -> DecoderPast, for `step`."""
        sources, lengths = self.check_sources(sources)
        memory, _ = self.encode(sources, lengths)
        spans = padding_spans(lengths, 1)
        return DecoderPast([LayerPast((*block.cross.f.keys_values(memory), spans)) for block in self.decoder])

    def step(self, ids, past):
        """ids (B), the next token of each target, start_token first -> logits (B, V), those that
        `forward` gives for the whole.

        past takes the tokens in. Raises InputError when block_size tokens are in it.
        """
        if past.length >= self.config.block_size:
            raise InputError(f"a target has at most block_size={self.config.block_size} tokens: the model cannot "
                             "write a longer one")
        x, _ = self.embedding.forward(np.asarray(ids)[:, None], past.length)
        for block, layer_past in zip(self.decoder, past.layers, strict=True):
            x = block.step(x, layer_past)
        past.length += 1
        if self.config.pre_norm:
            x = self.norm.step(x, None)
        return self.head.step(x, None)[:, 0]

    def astype(self, dtype):
        """An independent copy in another dtype: float64 or complex128 for checks."""
        return EncoderDecoder(self.config, ops=self.ops, parameters=self.parameters.astype(dtype))

    def replica(self, parameters):
        """The same model on other Parameters, which may share their arrays with these: for another thread."""
        return EncoderDecoder(self.config, ops=self.ops, parameters=parameters)

    def n_params(self):
        """Number of parameters."""
        return self.parameters.count()

    def shifted(self, targets):
        """What the decoder reads to say `targets` (B, T): start_token, then all but the last. Padding becomes
        token 0: no token before it sees it."""
        ids = np.empty_like(targets)
        ids[:, 0] = self.config.start_token
        ids[:, 1:] = targets[:, :-1]
        return np.where(ids == PADDING, 0, ids)

    @property
    def _source_embedding(self):
        return self.embedding if self.config.shared else self.source_embedding

    def _trunk(self, sources, lengths, ids, draws):
        """Everything below the head: -> h (B, T, C), cache."""
        memory, c_encoder = self.encode(sources, lengths, draws)                        # (1)
        spans, memory_spans = causal_spans(ids.shape[1]), padding_spans(lengths, ids.shape[1])
        x, c_embedding = self.embedding.forward(ids)                                    # (2)
        x, c_dropout = self.dropout.forward(x, draws)                                   # (3)
        c_blocks, c_norm = [], None
        for block in self.decoder:
            x, c_block = block.forward(x, memory, spans, memory_spans, draws)           # (4)
            c_blocks.append(c_block)
        if self.config.pre_norm:
            x, c_norm = self.norm.forward(x)                                            # (5)
        return x, EncoderDecoderCache(c_encoder, memory, c_embedding, c_dropout, c_blocks, c_norm, None)

    def _trunk_backward(self, dx, cache):
        dmemory = empty(cache.memory.shape, dx.dtype)
        dmemory[...] = 0
        if self.config.pre_norm:
            dx = self.norm.backward(dx, cache.norm)                                     # (5)
        height = mark()
        for block, c_block in zip(reversed(self.decoder), reversed(cache.blocks), strict=True):
            dx, part = block.backward(dx, c_block)                                      # (4)
            dmemory += part                                                     # every block has read the memory
            dx = release(height, keep=dx)
        dx = self.dropout.backward(dx, cache.dropout)                                   # (3)
        self.embedding.backward(dx, cache.embedding)                                    # (2)
        self._encoder_backward(dmemory, cache.encoder)                                  # (1)

    def _encoder_backward(self, dx, cache):
        if self.config.pre_norm:
            dx = self.encoder_norm.backward(dx, cache.norm)                             # (4)
        height = mark()
        for block, c_block in zip(reversed(self.encoder), reversed(cache.blocks), strict=True):
            dx = release(height, keep=block.backward(dx, c_block))                      # (3)
        dx = self.source_dropout.backward(dx, cache.dropout)                            # (2)
        self._source_embedding.backward(dx, cache.embedding)                            # (1)

    def check_sources(self, sources):
        """sources (B, S) as the encoder reads them, token 0 in place of padding, and their lengths (B)."""
        ids, lengths = _checked(sources, "sources", self.config.source_vocab_size, self.config.block_size)
        if (lengths == 0).any():
            raise InputError(f"each source must have at least one token, number {int((lengths == 0).argmax())} "
                             "has none")
        return np.where(ids == PADDING, 0, ids), lengths

    def check_targets(self, sources, targets):
        """targets as an array (B, T), one row a source."""
        targets, _ = _checked(targets, "targets", self.config.vocab_size, self.config.block_size)
        if len(targets) != len(sources):
            raise InputError(f"there must be one target a source, got {len(targets)} for {len(sources)}")
        return targets


class DecoderPast:
    """What a decoder remembers while it writes: of each layer the memory's keys and values, made once,
    and those of the target's tokens so far. All its targets have the same length; `layers` has one
    LayerPast a decoder block."""

    def __init__(self, layers):
        self.layers, self.length = layers, 0

    def select(self, rows):
        """Go on with these of its targets, in this order; one may be there several times."""
        for layer in self.layers:
            layer.select(rows)


class LayerPast:
    """memory: keys, values (B, S, H, D) and spans (B, 1, 1, 2) of one layer; keys, values (B, T, H, D)
    of the target so far."""

    def __init__(self, memory):
        self.memory, self.keys, self.values = memory, None, None

    def extend(self, k, v):
        """Take in those of the next position, (B, 1, H, D) -> all keys and values of the target so far."""
        if self.keys is not None:
            k, v = np.concatenate([self.keys, k], axis=1), np.concatenate([self.values, v], axis=1)
        self.keys, self.values = k, v
        return k, v

    def select(self, rows):
        self.memory = tuple(part[rows] for part in self.memory)
        self.keys, self.values = self.keys[rows], self.values[rows]


def _checked(ids, name, vocab_size, block_size):
    """ids as an array (B, T), and their lengths (B). InputError unless they are tokens, padding behind them."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{name} must be integers of shape (batch, time), got {ids.dtype} of shape {ids.shape}")
    if not 1 <= ids.shape[1] <= block_size:
        raise InputError(f"{name} must have 1 to block_size={block_size} tokens, got {ids.shape[1]}")
    if ids.size and (ids.min() < PADDING or ids.max() >= vocab_size):
        raise InputError(f"{name} must lie in [0, {vocab_size}), or be {PADDING} for padding, got {ids.min()} to "
                         f"{ids.max()}")
    there = ids != PADDING
    if (there[:, 1:] > there[:, :-1]).any():
        raise InputError(f"{name} must have their padding ({PADDING}) at the end, number "
                         f"{int((there[:, 1:] > there[:, :-1]).any(axis=1).argmax())} has tokens behind it")
    return ids, there.sum(axis=1)


def _proj_std(config, layers_a_block):
    """As in GPT, the sum of all that is added to a pre-norm stream is to have the same size at any
    depth. After a norm it has."""
    return 0.02 / math.sqrt(layers_a_block * config.n_layer) if config.pre_norm else 0.02
