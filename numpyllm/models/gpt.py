"""GPT: a stack of transformer blocks that predicts the next token (Radford et al. 2018, 2019).

    ids (B, T) -> embedding (B, T, C) -> n_layer blocks (B, T, C) -> norm (B, T, C) -> head (B, T, V)

Architecture and initialisation are GPT-2's by default: pre-norm, learned positions, GELU, head tied to the
embedding, weights drawn with standard deviation 0.02, those that write into the residual stream with
0.02 / sqrt(2 n_layer). What later models do otherwise is a choice each; numpyllm/configs has those of GPT-2 and Llama.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from .. import ops as text
from ..config import option, require_between, require_flag, require_one_of, require_whole
from ..errors import InputError
from ..layers import (MLP, Block, CausalSelfAttention, Dropout, GatedMLP, Head, LayerNorm, MixtureOfExperts,
                      Packing, Past, RMSNorm, Rotary, TokenEmbedding, TokenPositionEmbedding)
from ..ops import causal_spans, fixed_spans, sinusoidal_positions, strided_spans, window_spans
from ..workspace import mark
from .estimate import Estimate, estimate
from .language_model import LanguageModel
from .trunk import Trunk

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")
NORMS = ("layernorm", "rmsnorm")
ACTIVATIONS = ("gelu", "relu", "squared_relu", "silu", "swiglu")
PATTERNS = {"causal": causal_spans, "window": window_spans, "strided": strided_spans, "fixed": fixed_spans}
CHOICES = ("position", "rotary_base", "rotary_scale", "rotary_trained", "rotary_interleaved", "norm", "pre_norm", "mlp",
           "n_hidden", "n_kv_head", "qk_norm", "softcap", "attention", "window", "n_expert")


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
    position: str = option("learned", f"how a token's place is told: {', '.join(POSITIONS)}")
    rotary_base: float = option(10000.0, "rotary: the slowest pair turns once in 2 pi times this many tokens")
    rotary_scale: float = option(1.0, "rotary: positions are divided by this, to read longer texts than were trained on")
    rotary_trained: int = option(0, "rotary: the context trained on; rotary_scale then slows only pairs that turn less than 4 times in it")
    rotary_interleaved: bool = option(False, "rotary: neighbouring channels are pairs, not those half a head apart")
    norm: str = option("layernorm", f"what normalises: {', '.join(NORMS)}")
    pre_norm: bool = option(True, "norms before attention and MLP, as in GPT-2, not after the sum, as in the first Transformer")
    mlp: str = option("gelu", f"the MLP's activation: {', '.join(ACTIVATIONS)}")
    n_hidden: int = option(0, "width within the MLP; 0: four times n_embd, for swiglu 8/3 times, up to a multiple "
                              "of 32")
    n_kv_head: int = option(0, "heads of keys and values, a divisor of n_head; 0: n_head")
    qk_norm: bool = option(False, "queries and keys are normalised before they meet")
    softcap: float = option(0.0, "scores are kept between plus and minus this; 0: as they are")
    attention: str = option("causal", f"which keys a query sees: {', '.join(PATTERNS)}")
    window: int = option(0, "window: that many last keys; strided, fixed: the stride")
    n_expert: int = option(0, "MLPs a block, of which each token goes through a few; 0: one, for all")
    n_expert_used: int = option(2, "n_expert: that many of them")
    balance: float = option(0.01, "n_expert: weight of the loss that spreads the tokens over them")

    def __post_init__(self):
        require_whole(self, 1, "n_layer", "n_head", "n_embd", "block_size", "vocab_size")
        require_flag(self, "bias", "tied", "exact_gelu", "rotary_interleaved", "pre_norm", "qk_norm")
        require_between(self, 0, 1, "dropout")
        require_between(self, 1e-30, 1, "norm_eps")
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd must be divisible by n_head, got n_embd={self.n_embd} and "
                             f"n_head={self.n_head}: choose "
                             f"n_embd={self.n_embd // self.n_head * self.n_head or self.n_head} or another n_head")
        for name, known in (("position", POSITIONS), ("norm", NORMS), ("mlp", ACTIVATIONS), ("attention", PATTERNS)):
            require_one_of(self, known, name)
        require_whole(self, 0, "n_hidden", "n_kv_head", "window", "n_expert", "rotary_trained")
        require_whole(self, 1, "n_expert_used")
        require_between(self, 0, 1 << 31, "window")
        require_between(self, 0, math.inf, "softcap", "balance")
        require_between(self, 1e-6, math.inf, "rotary_scale", "rotary_base")
        if self.n_head % self.kv_heads:
            raise InputError(f"n_kv_head must divide n_head={self.n_head}, got {self.n_kv_head}: each head of "
                             "keys serves as many of queries")
        if self.position == "rotary" and self.head_size % 2:
            raise InputError("rotary positions turn channels in pairs: n_embd / n_head must be even, got "
                             f"{self.head_size}")
        if (self.attention == "causal") != (self.window == 0):
            raise InputError(f"attention {self.attention} and window {self.window} do not fit together: window, "
                             "strided and fixed attention need a window of at least 1, causal has none")
        if self.exact_gelu and self.mlp != "gelu":
            raise InputError(f"exact_gelu is about GELU, got mlp={self.mlp}: leave it out")
        if self.n_expert and self.n_expert_used > self.n_expert:
            raise InputError(f"n_expert_used must be at most n_expert={self.n_expert}, got {self.n_expert_used}: "
                             "a token goes through an expert once")

    @property
    def head_size(self):
        return self.n_embd // self.n_head

    @property
    def kv_heads(self):
        return self.n_kv_head or self.n_head

    @property
    def hidden(self):
        """The MLP's width."""
        return self.n_hidden or (-(-8 * self.n_embd // 3 // 32) * 32 if self.mlp == "swiglu" else 4 * self.n_embd)

    def differing(self):
        """The choices that are not GPT-2's, {name: value}: for what knows GPT-2 alone."""
        default = GPTConfig()
        return {name: getattr(self, name) for name in CHOICES if getattr(self, name) != getattr(default, name)}


class GPTCache(NamedTuple):
    embedding: object
    dropout: object
    blocks: list            # with `recompute`, only each block's input
    norm: object
    head: object            # None when the loss was taken in the head
    draws: object           # for a block that is recomputed: for its dropout,
    told: tuple             # and the Packing, if there is one


class GPTTrunk(Trunk):
    """A GPT without its head. Raises InputError for ids that are not (B, T) integers in [0, vocab_size) with
    1 <= T <= block_size."""

    def __init__(self, config, recompute):
        self.config, self.recompute = config, recompute
        self.embedding = _embedding(config)
        self.dropout = Dropout(config.dropout)
        self.spans = _pattern(config.attention, config.window)
        self.blocks = [_block(config, self.spans) for _ in range(config.n_layer)]
        self.norm = _norm(config)

    def check_ids(self, ids):
        """As Trunk's, and no more of them than the model can see."""
        return super().check_ids(ids, self.config.block_size)

    def _embed(self, ids, starts):
        if starts is None:
            return super()._embed(ids, None)
        ids = self.check_ids(ids)
        packing = Packing.of(_checked_starts(ids, starts), self.spans)
        return *self.embedding.forward(ids, packing.positions), (packing,)

    def _trunk(self, ids, draws, starts=None):
        """Everything below the head: ids (B, T) -> h (B, T, C), cache."""
        x, c_embedding, told = self._embed(ids, starts)                     # (1)
        x, c_dropout = self.dropout.forward(x, draws)                       # (2)
        x, c_blocks = self._blocks_forward(x, draws, told)                  # (3)
        h, c_norm = self.norm.forward(x)                                    # (4)
        return h, GPTCache(c_embedding, c_dropout, c_blocks, c_norm, None, draws, told)

    def _trunk_backward(self, dh, cache, dloss=0.0):
        height = mark()
        dx = self.norm.backward(dh, cache.norm)                             # (4)
        dx = self._blocks_backward(dx, cache.blocks, cache.draws, cache.told, height, dloss)    # (3)
        if self.embedding.trains:
            dx = self.dropout.backward(dx, cache.dropout)                   # (2)
            self.embedding.backward(dx, cache.embedding)                    # (1)

    def _top(self, x):
        return self.norm.forward(x)[0]


class GPT(LanguageModel, GPTTrunk):
    """A GPT with its parameters. ops is the backend: numpyllm.ops or anything that has the same functions.

    seed None leaves the parameters at zero, for who loads them. recompute, trainable, lora:
    Trunk's. Errors: GPTTrunk's.
    """

    def __init__(self, config, *, ops=text, seed=0, dtype=np.float32, parameters=None, recompute=False, trainable=None,
                 lora=None):
        super().__init__(config, recompute)
        self.head = Head(config.n_embd, config.vocab_size, tied_to=self.embedding if config.tied else None)
        self._complete(ops, seed, dtype, parameters, trainable, lora)

    def past(self, sequences=1):
        """Room for the keys and values of so many sequences, for `step`."""
        c = self.config
        return Past(c.n_layer, sequences, c.kv_heads, c.block_size, c.head_size, self.parameters.dtype,
                    c.window if c.attention == "window" else None)

    def trunk_step(self, ids, past):
        """LanguageModel's, past a Past. InputError where ids would not fit into block_size:
        then past is what it was."""
        ids = self.check_ids(ids)
        if past.lengths.max() + ids.shape[1] > self.config.block_size:
            raise InputError(f"{past.lengths.max()} + {ids.shape[1]} positions do not fit into "
                             f"block_size={self.config.block_size}: begin anew with the last of them, learned "
                             "positions cannot slide")
        parts = [self._chunk_step(ids[:, first:first + past.chunk], past)
                 for first in range(0, ids.shape[1], past.chunk)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _chunk_step(self, ids, past):
        """As trunk_step, for as many tokens as the past takes in at once."""
        for sequence, length in enumerate(past.lengths):
            past.make_room(sequence, length, length + ids.shape[1])
        x = self.embedding.step(ids, past)
        for block, layer_past in zip(self.blocks, past.layers(), strict=True):
            x = block.step(x, layer_past)
        past.lengths += ids.shape[1]
        return self.norm.step(x, None)

    @classmethod
    def from_pretrained(cls, folder, **options):
        """The GPT-2 or Llama in a folder of Hugging Face's layout; options and errors are those of
        numpyllm.interop.load_pretrained, which gives its tokenizer as well."""
        from ..interop import load_pretrained       # the one import upwards: docs/design_notes.md
        return load_pretrained(folder, **options)[0]

    def save_pretrained(self, folder, tokenizer=None, **options):
        """Write it in Hugging Face's layout; options and errors are those of numpyllm.interop.save_pretrained."""
        from ..interop import save_pretrained
        save_pretrained(folder, self, tokenizer, **options)

    def estimate(self, batch_size) -> Estimate:
        """Memory and FLOPs of a training step with this batch size, without running it."""
        return estimate(self.config, batch_size, itemsize=self.parameters.dtype.itemsize).of(self.parameters)

    def objective(self, ids, targets):
        """As LanguageModel's. A mixture of experts adds, in each block, balance times the loss
        of ops.balance_forward."""
        loss = super().objective(ids, targets)
        return loss + self.added_loss(self.forward(ids)[1]) if self.config.n_expert else loss

    def added_loss(self, cache):
        """What the blocks add to the sum of the loss, from a forward's cache; 0 without experts."""
        if not self.config.n_expert:
            return 0.0
        kept = 0 if self.recompute else len(self.blocks) - self._lowest            # blocks with a cache, the last ones
        begun = zip(self.blocks, cache.blocks[:len(self.blocks) - kept])           # of the others there is the input
        caches = [block.forward(x, cache.draws, *cache.told)[1] for block, x in begun]
        caches += cache.blocks[len(self.blocks) - kept:]
        return sum(block.mlp.loss for block in caches)


def _checked_starts(ids, starts):
    """starts as an array. InputError unless each token's example begins at it or before it."""
    starts = np.asarray(starts)
    if starts.shape != ids.shape or not np.issubdtype(starts.dtype, np.integer):
        raise InputError(f"starts must be integers shaped like ids {ids.shape}, got {starts.dtype} of shape "
                         f"{starts.shape}")
    if (starts < 0).any() or (starts > np.arange(ids.shape[1])).any():
        raise InputError("starts must say for each token where in its row its example begins: from 0 to its own "
                         f"place, got {starts.min()} to {starts.max()}")
    return starts


def _embedding(config):
    if config.position == "learned":
        return TokenPositionEmbedding(config.vocab_size, config.block_size, config.n_embd)
    positions = sinusoidal_positions(config.block_size, config.n_embd) if config.position == "sinusoidal" else None
    return TokenEmbedding(config.vocab_size, config.n_embd, positions=positions)


def _norm(config):
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, eps=config.norm_eps)
    return LayerNorm(config.n_embd, bias=config.bias, eps=config.norm_eps)


def _block(config, spans):
    c = config
    proj_std = 0.02 / math.sqrt(2 * c.n_layer)
    rotary = Rotary(c.rotary_base, c.rotary_scale, c.rotary_interleaved, c.rotary_trained) if c.position == "rotary" else None
    attn = CausalSelfAttention(c.n_embd, c.n_head, n_kv_head=c.kv_heads, bias=c.bias, dropout=c.dropout, proj_std=proj_std,
                               qk_norm=c.qk_norm, rotary=rotary, alibi=c.position == "alibi", softcap=c.softcap,
                               spans=spans, norm_eps=c.norm_eps)
    if c.n_expert:
        mlp = MixtureOfExperts(c.n_embd, [_mlp(c, proj_std) for _ in range(c.n_expert)], n_used=c.n_expert_used,
                               balance=c.balance, dropout=c.dropout)
    else:
        mlp = _mlp(c, proj_std)
    return Block(attn, mlp, _norm(c), _norm(c), pre_norm=c.pre_norm)


def _mlp(config, proj_std):
    c = config
    if c.mlp == "swiglu":
        return GatedMLP(c.n_embd, n_hidden=c.hidden, bias=c.bias, dropout=c.dropout, proj_std=proj_std)
    return MLP(c.n_embd, n_hidden=c.hidden, bias=c.bias, dropout=c.dropout, proj_std=proj_std, activation=c.mlp,
               exact_gelu=c.exact_gelu)


@lru_cache(maxsize=16)
def _pattern(name, window):
    """(T, S) -> spans: the same function for the same choice."""
    if name == "causal":
        return causal_spans
    return partial(PATTERNS[name], **{"window" if name == "window" else "stride": window})
