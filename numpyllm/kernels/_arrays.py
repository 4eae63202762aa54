"""Where kernels put their results."""

import numpy as np

from ..workspace import empty


def any_complex(*arrays):
    """Whether any of these arrays (or None) is complex: then the text is asked."""
    return any(a is not None and a.dtype.kind == "c" for a in arrays)


def target(out, i, like=None, shape=None, strided=False):
    """The array to compute result i in: the caller's, if `out` offers one, else memory shaped like `like` (or of this shape).

    Unless the computation takes any strides, the caller's must be contiguous; else `deliver` copies the result there.
    """
    if out is not None and out[i] is not None and (strided or out[i].flags.c_contiguous):
        return out[i]
    return empty(like.shape if shape is None else shape, like.dtype)


def rows(x):
    """x with its leading axes flattened, contiguous: (N, C)."""
    if not x.flags.c_contiguous:
        x = np.ascontiguousarray(x)
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def writable_rows(x):
    """A view of a contiguous x with its leading axes flattened."""
    return x.reshape(-1, x.shape[-1])
