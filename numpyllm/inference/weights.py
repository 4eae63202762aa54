"""Weights as decoding reads them: row by row in the order of memory, and on request in fewer bytes.

float32     as trained (float64 in a float64 model)
bfloat16    the upper half of a float32, rounded to nearest even: 8 bits of exponent, 7 of fraction
int8        q = round(w / s) with s = max |w| / 127 for each output row; the weight is read as q s

Only matrices are stored in fewer bytes (99 % of a GPT-2 and more); norms, biases and positions stay as they are, and
so does the arithmetic. So do routers, small and easily tipped: rounded, they would send tokens to other experts.
Derivation and measured errors: docs/quantisation.md.
"""

import numpy as np

from ..errors import InputError

KINDS = {"float32": 4, "bfloat16": 2, "int8": 1}        # bytes a weight
TABLES = ("embedding.wte", "head.w")                    # (V, C): a row is an output already; other matrices are (n_in, n_out)


def check_kind(kind):
    """Raise InputError unless this is a way to store weights."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"weights must be stored as one of {', '.join(KINDS)}, got {kind!r}")


class StoredWeights:
    """A model's matrices as they are stored: rows[name] (n_out, n_in) times scales[name] (n_out) is the weight.

    Matrices of the same name in each block lie in one array, rows["blocks.attn.qkv.w"] (n_layer, n_out, n_in). kind is one of KINDS.
    Raises InputError for another one, and for weights that are not finite, which int8 cannot hold.
    """

    def __init__(self, model, kind="float32"):
        check_kind(kind)
        model = model.merged()
        self.kind, self.rows, self.scales = kind, {}, {}
        stored_type = {"float32": model.parameters.dtype, "bfloat16": np.uint16, "int8": np.int8}[kind]
        for name, shape in matrix_shapes(model).items():
            self.rows[name], self.scales[name] = np.empty(shape, stored_type), np.ones(shape[:-1], np.float32)
        for rows, scale, parameter, w in self._matrices(model):
            if kind == "int8":
                if not np.isfinite(w).all():
                    raise InputError(f"{parameter} has weights that are not finite, int8 cannot hold them: take another checkpoint")
                rows[...], scale[...] = to_int8(w)
            else:
                rows[...] = to_bfloat16(w) if kind == "bfloat16" else w

    def write_into(self, model):
        """Give the model the weights that are stored here, as decoding reads them."""
        for rows, scale, _, w in self._matrices(model):
            w[...] = (from_bfloat16(rows) if self.kind == "bfloat16" else rows) * scale.astype(w.dtype)[:, None]

    def nbytes(self):
        """Bytes of all matrices and their scales."""
        return sum(array.nbytes for arrays in (self.rows, self.scales) for array in arrays.values())

    def _matrices(self, model):
        """(stored rows, their scales, name, the model's own matrix as rows) of each matrix."""
        for name in self.rows:
            if name in TABLES:
                yield self.rows[name], self.scales[name], name, model.parameters[name]
                continue
            for layer in range(model.config.n_layer):
                parameter = name.replace("blocks.", f"blocks.{layer}.", 1)
                yield self.rows[name][layer], self.scales[name][layer], parameter, model.parameters[parameter].T


def matrix_shapes(model):
    """{name: shape as rows} of the matrices that tokens are multiplied by, or looked up in."""
    shapes = {}
    for name, (_, shape) in model.parameters.layout.items():
        if name in TABLES:
            shapes[name] = shape
        elif name.startswith("blocks.0.") and len(shape) == 2 and not name.endswith(".router.w"):
            shapes[name.replace("blocks.0.", "blocks.", 1)] = (model.config.n_layer, *shape[::-1])
    return shapes


def to_bfloat16(w):
    """float -> bfloat16's bits as uint16, rounded to the nearest, ties to even. NaN stays NaN."""
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(w), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits):
    """uint16 -> float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_int8(w):
    """w (rows, n) -> int8 (rows, n), float32 scale (rows). |w - q scale| is at most half a scale; a row of zeros has scale 0."""
    w = np.ascontiguousarray(w)
    scale = (np.abs(w).max(axis=1) / 127).astype(np.float32)
    steps = w / np.where(scale > 0, scale, 1)[:, None]
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scale
