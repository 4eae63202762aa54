"""The flat array, its views, and the rule that the first to write a gradient overwrites."""

import numpy as np
import pytest

from numpyllm.parameters import Parameters, ParamSpec, normal, ones
from numpyllm.random import generator

SPECS = {"a.w": ParamSpec((3, 5), normal(1.0)), "a.b": ParamSpec((5,), ones, decay=False),
         "frozen": ParamSpec((7,), normal(1.0), trainable=False), "c.w": ParamSpec((17, 2), normal(2.0))}


def test_layout_is_decayed_then_undecayed_then_frozen():
    p = Parameters(SPECS)
    assert list(p) == ["a.w", "c.w", "a.b", "frozen"]
    assert p.n_decayed == 16 + 48 and p.n_trainable == p.n_decayed + 16
    assert p.grad.size == p.n_trainable and p.data.size == p.n_trainable + 16
    assert p.count() == 15 + 5 + 7 + 34


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_views_are_aligned_and_share_the_flat_array(dtype):
    p = Parameters(SPECS, dtype=dtype)
    for name in p:
        assert p[name].ctypes.data % 64 == 0 and np.shares_memory(p[name], p.data)
    p["a.b"][...] = 9
    assert (p.data == 9).sum() == 5
    assert p.gradient("frozen") is None


def test_gaps_between_views_stay_zero():
    p = Parameters(SPECS)
    inside = np.zeros(p.data.size, bool)
    for offset, shape in p.layout.values():
        inside[offset:offset + int(np.prod(shape))] = True
    assert not p.data[~inside].any() and (~inside).sum() == p.data.size - p.count()


def test_initial_values_depend_on_seed_and_name_only():
    a, b, c = Parameters(SPECS, seed=1), Parameters(dict(reversed(SPECS.items())), seed=1), Parameters(SPECS, seed=2)
    for name in a:
        assert np.array_equal(a[name], b[name])
    assert not np.array_equal(a["c.w"], c["c.w"])
    assert np.array_equal(a["c.w"], 2 * generator(1, "init/c.w").standard_normal((17, 2)).astype(np.float32))


def test_astype_is_an_independent_copy():
    p = Parameters(SPECS, seed=1)
    q = p.astype(np.float64)
    assert np.array_equal(p.data, q.data) and q.dtype == np.float64
    q["a.w"][...] = 0
    assert p["a.w"].any()


def test_first_contribution_overwrites_later_ones_add_and_the_rest_becomes_zero():
    p = Parameters(SPECS)
    p.grad[...] = np.nan
    p.collect("a.w", np.full((3, 5), 2.0))
    p.collect("a.w", np.full((3, 5), 3.0))
    p.collect("frozen", np.ones(7))
    slot = p.slot("c.w")
    slot[...] = 4
    p.collect("c.w", slot)
    assert p.slot("c.w") is None and p.slot("a.b") is not None
    p.settle_gradients()
    assert (p.gradient("a.w") == 5).all() and (p.gradient("c.w") == 4).all() and (p.gradient("a.b") == 0).all()
    p.clear_gradients()
    p.collect("a.w", np.ones((3, 5)))
    assert (p.gradient("a.w") == 1).all()
