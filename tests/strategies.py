"""What hypothesis draws: sizes, memory layouts and seeds; never the floats themselves."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from numpyllm.checks import Sizes


@st.composite
def sizes(draw, most=5):
    """Sizes down to one: one sequence, one token, one channel a head, a vocabulary of one (so ids repeat)."""
    T = draw(st.integers(1, most))
    return Sizes(B=draw(st.integers(1, 3)), T=T, S=T + draw(st.integers(0, 3)), H=draw(st.integers(1, 3)),
                 D=draw(st.integers(1, 4)), C=draw(st.integers(1, 7)), F=draw(st.integers(1, 7)), V=draw(st.integers(1, 5)))


def fewer(share):
    """Settings for costly cases: a share of the profile's examples, at least two."""
    return settings(max_examples=max(2, int(settings().max_examples * share)), suppress_health_check=list(HealthCheck))


def quickly(share):
    """Settings for tests of very many cases: a share of the quick profile's examples, all of the thorough one's."""
    return fewer(share if settings().max_examples <= 30 else 1)


# Beside an adjoint test, which sees every entry of a tensor, a complex step need not visit each of them (None: it does).
# Each entry of every case is visited by the test of `numpyllm gradcheck` in test_cli.py.
SOME = 4 if settings().max_examples <= 30 else None

seeds = st.integers(0, 2**32 - 1)

LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
}
layouts = st.sampled_from(sorted(LAYOUTS))


def freeze(value):
    """Make every array in a cache (or dict, or tuple) read-only, so that mutating one raises."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, dict):
        for item in value.values():
            freeze(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            freeze(item)
    return value
