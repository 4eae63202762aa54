"""Every gradient of every op, layer and model against the complex step, for drawn sizes, layouts and seeds."""

import numpy as np
import pytest
from hypothesis import given
from strategies import LAYOUTS, SOME, fewer, freeze, layouts, quickly, seeds, sizes

from numpyllm import ops
from numpyllm.checks import CASES, LAYERS, MODELS, OPS, Sizes, check_case
from numpyllm.gradcheck import assert_ok, check_op


def drawn_case(name, z, seed, layout):
    case = CASES[name](np.random.default_rng(seed), z, ops)
    return case._replace(inputs={key: freeze(LAYOUTS[layout](value)) for key, value in case.inputs.items()})


@pytest.mark.parametrize("name", OPS)
@quickly(0.5)
@given(z=sizes(), seed=seeds, layout=layouts)
def test_op_complex_step_and_adjoint(name, z, seed, layout):
    case = drawn_case(name, z, seed, layout)
    assert_ok(check_op(name, case.forward, case.backward, case.inputs, methods=("complex", "adjoint"), seed=seed, entries=SOME))


@pytest.mark.parametrize("name", LAYERS)
@fewer(0.2)
@given(z=sizes(most=4), seed=seeds)
def test_layer_complex_step_and_adjoint(name, z, seed):
    z = z._replace(D=z.D + 3, C=z.C + 3)        # a norm of one or two channels has no gradient to check
    assert_ok(check_case(name, sizes=z, seed=seed, methods=("complex", "adjoint"), entries=SOME))


@pytest.mark.parametrize("name", MODELS)
@fewer(0.04)
@given(z=sizes(most=3), seed=seeds)
def test_model_complex_step_and_adjoint(name, z, seed):
    z = z._replace(H=min(z.H, 2), D=max(3, z.D))
    assert_ok(check_case(name, sizes=z, seed=seed, methods=("complex", "adjoint"), entries=SOME))


@pytest.mark.parametrize("name", CASES)
def test_central_difference_agrees(name):
    """An independent method: it needs no complex forward."""
    assert_ok(check_case(name, methods=("central", "central adjoint"), seed=1, entries=SOME))


@pytest.mark.parametrize("name", OPS)
@quickly(0.5)
@given(z=sizes(), seed=seeds, layout=layouts)
def test_backward_changes_nothing_and_repeats_to_the_bit(name, z, seed, layout):
    case = drawn_case(name, z, seed, layout)
    *ys, cache = case.forward(**case.inputs)
    freeze(cache)
    rng = np.random.default_rng([seed, 1])
    dys = [freeze(np.asarray(rng.standard_normal(np.shape(y)))) for y in ys]
    once, again = case.backward(*dys, cache), case.backward(*dys, cache)
    for a, b in zip(as_tuple(once), as_tuple(again), strict=True):
        assert a is None and b is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", OPS)
def test_results_are_written_into_out(name):
    case = CASES[name](np.random.default_rng(0), Sizes(), ops)
    *ys, cache = case.forward(**case.inputs)
    dys = [np.ones(np.shape(y)) for y in ys]
    plain = as_tuple(case.backward(*dys, cache))
    out = tuple(None if g is None else np.full(g.shape, np.nan) for g in plain)
    for given_array, result, expected in zip(out, as_tuple(case.backward(*dys, cache, out=out)), plain, strict=True):
        assert result is given_array
        assert expected is None or np.array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("name", OPS)
def test_dtype_is_kept(name, dtype):
    """float32 stays float32 (NumPy 2 promotes at the first float64 scalar); complex passes every forward."""
    case = CASES[name](np.random.default_rng(0), Sizes(), ops)
    *ys, cache = case.forward(**{key: value.astype(dtype) for key, value in case.inputs.items()})
    assert [y.dtype for y in ys] == [dtype] * len(ys)
    assert {a.dtype for a in arrays_in(cache) if a.dtype.kind in "fc"} <= {np.dtype(dtype), dtype(0).real.dtype}
    if dtype != np.complex128:
        gradients = case.backward(*[np.ones(y.shape, dtype)[()] for y in ys], cache)
        assert {g.dtype for g in as_tuple(gradients) if g is not None} == {np.dtype(dtype)}


def as_tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)
