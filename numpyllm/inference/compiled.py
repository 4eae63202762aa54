"""A model prepared for the compiled way of a token (kernels/decode.py)."""

import numpy as np

from ..kernels._barrier import GIVEN_UP
from ..kernels.decode import Matrices, Scales, Shared, Vectors, decode
from .together import together

MATRICES = ("blocks.attn.qkv.w", "blocks.attn.proj.w", "blocks.mlp.up.w", "blocks.mlp.down.w", "embedding.wte")
LAYER_VECTORS = {"norm1_w": "norm1.w", "norm1_b": "norm1.b", "qkv_b": "attn.qkv.b", "proj_b": "attn.proj.b",
                 "norm2_w": "norm2.w", "norm2_b": "norm2.b", "mlp_b": "mlp.b", "down_b": "mlp.down.b"}
MOST = 16                   # positions a call


class CompiledStep:
    """A call is GPT.step for few positions, by so many threads: this one, and others from a pool."""

    def __init__(self, model, stored, threads, pool):
        config, parameters = model.config, model.parameters
        layers, C, F, V = range(config.n_layer), config.n_embd, 4 * config.n_embd, config.vocab_size
        self.dtype, self.vocab_size, self.threads = parameters.dtype, V, threads
        self._eps, self._exact = config.norm_eps, config.exact_gelu
        names = [*MATRICES, "embedding.wte" if config.tied else "head.w"]
        self._matrices = Matrices(*(stored.rows[name] for name in names))
        self._scales = Scales(*(stored.scales[name] for name in names))
        sizes = {"qkv_b": 3 * C, "mlp_b": F}

        def vector(name, size):
            return parameters[name] if name in parameters.layout else np.zeros(size, self.dtype)

        stacked = [np.stack([vector(f"blocks.{layer}.{local}", sizes.get(field, C)) for layer in layers])
                   for field, local in LAYER_VECTORS.items()]
        self._vectors = Vectors(*stacked, vector("norm.w", C), vector("norm.b", C), parameters["embedding.wpe"],
                                np.zeros(V, self.dtype))
        room = lambda *shape: np.empty(shape, self.dtype)
        self._shared = Shared(np.zeros(1, np.int64), room(MOST, 3 * C), room(MOST, C), room(MOST, F), room(MOST, C),
                              room(threads, 2, MOST, C), room(threads, config.block_size))
        self._pool = pool
        self._compile(model.past())

    def __call__(self, tokens, sequences, positions, past):
        """tokens, sequences, positions: int64 (N) -> logits (N, V). Positions of one sequence come in their order."""
        logits = np.empty((len(tokens), self.vocab_size), self.dtype)
        for first in range(0, len(tokens), MOST):
            some = slice(first, first + MOST)
            rest = (self.threads, logits[some], tokens[some], sequences[some], positions[some], past.keys, past.values,
                    self._matrices, self._scales, self._vectors, self._shared, self._eps, self._exact)
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
