"""Which ops do the work: the text (numpyllm.ops) or its Numba twins (numpyllm.kernels)."""

import warnings

from . import ops

BACKENDS = ("numba", "numpy")


def load_backend(name="numba"):
    """The module with the ops of this name. Where Numba is missing, the text, with one line of warning."""
    if name == "numba":
        try:
            from . import kernels
            return kernels
        except ImportError:
            warnings.warn("Numba is not installed, so everything runs on plain NumPy, several times slower: pip install numba",
                          stacklevel=2)
    return ops
