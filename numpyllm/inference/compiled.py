"""A model prepared for the compiled way of a token (kernels/decode.py)."""

import numpy as np

from ..kernels._barrier import GIVEN_UP
from ..kernels.decode import ACTIVATIONS, PATTERNS, Choices, Matrices, Scales, Shared, Vectors, decode
from ..ops import alibi_slopes, rotary_angles, sinusoidal_positions
from .together import together

MATRICES = ("blocks.attn.qkv.w", "blocks.attn.proj.w", "blocks.mlp.gate.w", "blocks.mlp.up.w", "blocks.mlp.down.w", "embedding.wte")
MOST = 16                   # positions a call


class CompiledStep:
    """A call is GPT.step for few positions, by so many threads: this one, and others from a pool."""

    def __init__(self, model, stored, threads, pool):
        config = model.config
        V, C, F, qkv_width = config.vocab_size, config.n_embd, config.hidden, model.blocks[0].attn.qkv.n_out
        self.dtype, self.vocab_size, self.threads = model.parameters.dtype, V, threads
        names = [name if name in stored.rows else "blocks.mlp.up.w" for name in MATRICES]       # the one that is not read
        names.append("embedding.wte" if config.tied else "head.w")
        self._matrices = Matrices(*(stored.rows[name] for name in names))
        self._scales = Scales(*(stored.scales[name] for name in names))
        self._vectors = _vectors(model)
        self._choices = _choices(config)
        room = lambda *shape: np.empty(shape, self.dtype)
        self._shared = Shared(np.zeros(1, np.int64), room(MOST, qkv_width), room(MOST, C), room(MOST, F), room(MOST, F), room(MOST, C),
                              room(threads, 2, MOST, C), room(threads, config.block_size))
        self._pool = pool
        self._compile(model.past())

    def __call__(self, tokens, sequences, positions, past):
        """tokens, sequences, positions: int64 (N) -> logits (N, V). Positions of one sequence come in their order."""
        tokens = np.ascontiguousarray(tokens)                   # for other strides the kernel would be compiled anew
        logits = np.empty((len(tokens), self.vocab_size), self.dtype)
        for first in range(0, len(tokens), MOST):
            some = slice(first, first + MOST)
            if past.window is not None:
                for sequence in np.unique(sequences[some]):
                    own = positions[some][sequences[some] == sequence]
                    past.make_room(sequence, own[0], own[-1] + 1)
            rest = (self.threads, logits[some], tokens[some], sequences[some], positions[some], past.keys, past.values,
                    past.first[sequences[some]],
                    self._matrices, self._scales, self._vectors, self._shared, self._choices)
            together(self._pool, self.threads, lambda rank, rest=rest: decode(rank, *rest), self._give_up)
        return logits

    def _give_up(self):
        self._shared.counter[0] = GIVEN_UP
        self._shared = self._shared._replace(counter=np.zeros(1, np.int64))     # for the next call

    def _compile(self, past):
        """In this thread alone, before others call it: Numba does not bear several threads compiling one function."""
        threads, self.threads = self.threads, 1
        self(*np.zeros((3, 1), np.int64), past)
        self.threads = threads


def _choices(config):
    c = config
    return Choices(c.norm_eps, c.norm == "rmsnorm", c.pre_norm, ACTIVATIONS.index("exact_gelu" if c.exact_gelu else c.mlp), c.qk_norm,
                   (1 + c.rotary_interleaved) if c.position == "rotary" else 0, c.position == "alibi", float(c.softcap),
                   PATTERNS.index(c.attention), c.window)


def _vectors(model):
    config, parameters = model.config, model.parameters
    V, C, F, D = config.vocab_size, config.n_embd, config.hidden, config.head_size

    def vector(name, size):
        return parameters[name] if name in parameters.layout else np.zeros(size, parameters.dtype)

    def stack(local, size):
        return np.stack([vector(f"blocks.{layer}.{local}", size) for layer in range(config.n_layer)])

    up_b = "mlp.up.b" if config.mlp == "swiglu" else "mlp.b"
    positions = {"learned": lambda: parameters["embedding.wpe"],
                 "sinusoidal": lambda: sinusoidal_positions(config.block_size, C, dtype=parameters.dtype)}
    cos, sin = rotary_angles(np.arange(config.block_size), D, base=config.rotary_base, scale=config.rotary_scale,
                             trained=config.rotary_trained, dtype=parameters.dtype)
    return Vectors(stack("norm1.w", C), stack("norm1.b", C), stack("attn.qkv.b", model.blocks[0].attn.qkv.n_out),
                   stack("attn.q_norm.w", D), stack("attn.k_norm.w", D), stack("attn.proj.b", C), stack("norm2.w", C), stack("norm2.b", C),
                   stack("mlp.gate.b", F), stack(up_b, F), stack("mlp.down.b", C), vector("norm.w", C), vector("norm.b", C),
                   np.zeros(V, parameters.dtype), positions.get(config.position, lambda: np.empty((0, C), parameters.dtype))(),
                   cos, sin, alibi_slopes(config.n_head, dtype=parameters.dtype))
