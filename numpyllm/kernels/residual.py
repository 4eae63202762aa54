"""Twin of numpyllm.ops.residual: the sum goes into the workspace. The backward is the text's: it copies nothing."""

import numpy as np

from .. import ops as text
from ..workspace import empty
from ._arrays import any_complex


def residual_forward(x, r):
    if any_complex(x, r):
        return text.residual_forward(x, r)
    return np.add(x, r, out=empty(x.shape, x.dtype)), None
