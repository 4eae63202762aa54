"""Every twin against the text: float64 by the complex step of the text's forward, float32 to its rounding, all pairings."""

import math
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, SOME, freeze, layouts, quickly, seeds, sizes

from numpyllm import blas, kernels, ops
from numpyllm.checks import CASES, LAYERS, MODELS, OPS, Sizes, check_case
from numpyllm.gradcheck import assert_ok, check_op
from numpyllm.kernels import _jit, _math
from numpyllm.kernels.matmul import DEPTH, matmul

TWINS = sorted(name for name in vars(kernels) if callable(getattr(kernels, name)) and getattr(kernels, name) is not getattr(ops, name, None))


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """As in training: then the products are ours and not BLAS's, where those are faster."""
    with blas.limited(1):
        yield


def test_there_are_twins_of_the_memory_bound_ops():
    assert {"layernorm_forward", "residual_layernorm_backward", "bias_gelu_forward", "attention_backward", "adamw_update",
            "head_loss_forward_backward", "token_position_backward", "dropout_forward"} <= set(TWINS)


def enough(name, z):
    """Enough entries for a norm to mean something. A norm of one or two channels has 1/sqrt(eps) amplify the rounding of what is
    zero; a single entry of GELU may lie where its slope is, and a single row of a loss be all but certain."""
    if "norm" in name:
        return z._replace(C=z.C + 2)
    if "gelu" in name:
        return z._replace(F=z.F + 16)
    if "smoothed" in name:
        z = z._replace(V=z.V + 1)       # of one token nothing can be spread: all gradients are rounding
    return z._replace(T=z.T + 7, S=z.S + 7) if "head" in name or "entropy" in name else z


@pytest.mark.parametrize("name", OPS)
@quickly(0.5)
@given(z=sizes(), seed=seeds, layout=layouts)
def test_float64_backward_against_the_complex_step_of_the_text(name, z, seed, layout):
    """A twin passes complex numbers on to the text: so this is the twin's backward against the text's forward."""
    case = CASES[name](np.random.default_rng(seed), enough(name, z), kernels)
    inputs = {key: freeze(LAYOUTS[layout](value)) for key, value in case.inputs.items()}
    assert_ok(check_op(name, case.forward, case.backward, inputs, methods=("complex", "adjoint"), seed=seed, entries=SOME))


@pytest.mark.parametrize("name", [*LAYERS, *MODELS])
def test_layers_and_models_on_the_twins(name):
    assert_ok(check_case(name, ops=kernels, methods=("complex", "adjoint"), seed=2, entries=SOME))


@pytest.mark.parametrize("forward", ["text", "twin"])
@pytest.mark.parametrize("backward", ["text", "twin"])
@pytest.mark.parametrize("name", OPS)
@quickly(0.3)
@given(z=sizes(), seed=seeds)
def test_any_forward_feeds_any_backward(name, forward, backward, z, seed):
    backends, z = {"text": ops, "twin": kernels}, enough(name, z)
    make = lambda backend, dtype: _cast(CASES[name](np.random.default_rng(seed), z, backends[backend]), dtype)
    truth = make("text", np.float64)
    *ys, cache = truth.forward(**truth.inputs)
    rng = np.random.default_rng([seed, 1])
    dys = [np.asarray(rng.standard_normal(np.shape(y)))[()] for y in ys]
    expected = as_tuple(truth.backward(*dys, cache))
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        first, second = make(forward, dtype), make(backward, dtype)
        *found, cache = first.forward(**first.inputs)
        for y, true in zip(found, ys, strict=True):
            assert y.dtype == dtype and off(y, true) <= bound
        gradients = as_tuple(second.backward(*[dtype(dy) if np.ndim(dy) == 0 else dy.astype(dtype) for dy in dys], cache))
        largest = max(np.linalg.norm(g) for g in expected if g is not None)
        for g, true in zip(gradients, expected, strict=True):
            assert (g is None) == (true is None)
            assert g is None or (g.dtype == dtype and off(g, true, floor=0.1 * largest) <= bound)


def _cast(case, dtype):
    return case._replace(inputs={key: value.astype(dtype) for key, value in case.inputs.items()})


def off(found, true, floor=0.0):
    return np.linalg.norm(found - true) / max(np.linalg.norm(true), floor, 1e-2)


def as_tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPS)
def test_results_are_written_into_out_whatever_its_strides(name, layout):
    case = CASES[name](np.random.default_rng(0), Sizes(), kernels)
    *ys, cache = case.forward(**case.inputs)
    dys = [np.ones(np.shape(y)) for y in ys]
    plain = [None if g is None else g.copy() for g in as_tuple(case.backward(*dys, cache))]
    out = tuple(None if g is None else LAYOUTS[layout](np.full(g.shape, np.nan)) for g in plain)
    for offered, found, expected in zip(out, as_tuple(case.backward(*dys, cache, out=out)), plain, strict=True):
        assert found is offered
        assert expected is None or off(found, expected) < 1e-14


@pytest.mark.parametrize("T, S, window", [(130, 130, None), (200, 230, None), (150, 150, 20), (70, 70, 1)])
def test_attention_over_several_blocks(T, S, window):
    """Lengths beyond one block of queries, causal and through a sliding window."""
    rng = np.random.default_rng(0)
    q, dy = rng.standard_normal((2, 2, T, 2, 3))
    k, v = rng.standard_normal((2, 2, S, 2, 3))
    spans = ops.causal_spans(T, S)
    if window:
        spans[:, 0, 0] = np.maximum(0, spans[:, 0, 1] - window)
    y, cache = ops.attention_forward(q, k, v, spans)
    twin, twin_cache = kernels.attention_forward(q, k, v, spans)
    assert off(twin, y) < 1e-13 and off(twin_cache.lse, cache.lse) < 1e-13
    expected = ops.attention_backward(dy, cache)
    largest = max(map(np.linalg.norm, expected))            # with one key a query, dq and dk are zero
    for g, true in zip(kernels.attention_backward(dy, twin_cache), expected, strict=True):
        assert off(g, true, floor=0.1 * largest) < 1e-13


@pytest.mark.parametrize("ours", [True, False])
@given(M=st.integers(1, 40), N=st.integers(1, 70), K=st.integers(1, 40), dtype=st.sampled_from([np.float32, np.float64]),
       left=layouts, right=layouts, to=layouts, add=st.sampled_from(["nothing", "row", "matrix", "out"]), seed=seeds)
def test_matmul(ours, M, N, K, dtype, left, right, to, add, seed):
    """Every rest of a tile and a panel, every layout; what lies around the result is not touched."""
    rng = np.random.default_rng(seed)
    a, b = (LAYOUTS[layout](rng.standard_normal(shape).astype(dtype)) for layout, shape in ((left, (M, K)), (right, (K, N))))
    frame = np.full((M + 2, N + 2), 7, dtype)
    out = frame[1:-1, 1:-1] if to == "contiguous" else LAYOUTS[to](np.zeros((M, N), dtype))
    out[...] = rng.standard_normal((M, N))
    added = {"nothing": None, "row": LAYOUTS[right](rng.standard_normal(N).astype(dtype)),
             "matrix": LAYOUTS[left](rng.standard_normal((M, N)).astype(dtype)), "out": out}[add]
    true = a.astype(float) @ b + (0 if added is None else added)
    with mock.patch.object(kernels.matmul, "beats_blas", lambda: ours):
        assert matmul(a, b, out=out, add=added) is out
    assert np.abs(out - true).max() <= (1e-5 if dtype == np.float32 else 1e-13) * max(1, np.abs(true).max())
    frame[1:-1, 1:-1] = 7
    assert (frame == 7).all()


def test_matmul_deeper_than_a_panel(monkeypatch):
    monkeypatch.setattr(kernels.matmul, "beats_blas", lambda: True)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((13, 2 * DEPTH + 3)), rng.standard_normal((2 * DEPTH + 3, 33))
    bias = rng.standard_normal(33)
    assert off(matmul(a, b, out=np.empty((13, 33)), add=bias), a @ b + bias) < 1e-14


def test_a_row_of_a_product_does_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr(kernels.matmul, "beats_blas", lambda: True)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((29, 50)).astype(np.float32), rng.standard_normal((50, 40)).astype(np.float32)
    whole = matmul(a, b, out=np.empty((29, 40), np.float32))
    for i in range(29):
        assert (matmul(a[i:i + 1], b, out=np.empty((1, 40), np.float32))[0] == whole[i]).all()


def test_head_loss_in_turns(monkeypatch):
    from numpyllm.kernels import cross_entropy
    rng = np.random.default_rng(0)
    h, w, targets = rng.standard_normal((3, 5, 4)), rng.standard_normal((7, 4)), rng.integers(-1, 7, (3, 5))
    expected = ops.head_loss_forward_backward(h, w, targets, 0.3)
    monkeypatch.setattr(cross_entropy, "LOGITS", 28)
    for found, true in zip(kernels.head_loss_forward_backward(h, w, targets, 0.3), expected, strict=True):
        assert off(found, true) < 1e-13


@given(seed=seeds)
def test_adamw_twin(seed):
    rng = np.random.default_rng(seed)
    p, g, m = rng.standard_normal((3, 37))
    a, b = [p.copy(), m.copy(), m * m], [p.copy(), m.copy(), m * m]
    for step in (1, 2, 30):
        settings = {"step": step, "lr": 0.1, "weight_decay": 0.3, "scale": 0.7}
        ops.adamw_update(a[0], g, a[1], a[2], **settings)
        kernels.adamw_update(b[0], g, b[1], b[2], **settings)
    assert all(off(y, x) < 1e-14 for x, y in zip(a, b, strict=True))


TRUE = {"exp": math.exp, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "tanh": math.tanh, "erfc": math.erfc}


@pytest.mark.parametrize("function, dtype, low, high, bound", [
    ("exp", np.float32, -86, 88, 4e-7), ("exp", np.float64, -700, 700, 1e-13), ("sigmoid", np.float32, -85, 90, 1e-6),
    ("sigmoid", np.float64, -700, 700, 1e-13), ("tanh", np.float32, -100, 90, 4e-7), ("tanh", np.float64, -700, 700, 1e-13), ("erfc", np.float32, -9, 6, 1e-5), ("erfc", np.float64, -9, 6, 1e-13)])
def test_largest_relative_errors_of_the_polynomials(function, dtype, low, high, bound):
    """The bounds that kernels/_math.py states."""
    x = np.concatenate([np.linspace(low, high, 200_001), np.linspace(-1, 1, 200_001)]).astype(dtype)
    found = np.empty_like(x)
    evaluate(function)(found, x)
    true = np.array([TRUE[function](float(v)) for v in x])
    assert (np.abs(found - true) / np.maximum(np.abs(true), 1e-300)).max() < bound


def evaluate(function):
    scalar = getattr(_math, function)

    @_jit.numba.jit(**_jit.OPTIONS)
    def loop(y, x):
        for i in range(x.size):
            y[i] = scalar(x[i])
    return loop


def test_no_float64_variable_in_a_float32_kernel():
    """One silent promotion halves the speed of a loop. Every kernel that the models use is compiled, or loaded,
    and its types are read, and those of all its helpers."""
    for name in (*OPS, "GPT, tied, dropout"):
        case = CASES[name](np.random.default_rng(0), Sizes(), kernels)
        if name in OPS:
            *ys, cache = case.forward(**{key: value.astype(np.float32) for key, value in case.inputs.items()})
            case.backward(*[np.ones(y.shape, np.float32)[()] for y in ys], cache)
    flat = np.ones(8, np.float32)
    kernels.adamw_update(flat, flat, flat.copy(), flat.copy(), step=1, lr=0.1)
    kernels.head_loss_forward_backward(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.array([0, 1]), 0.5)
    seen = set()
    for kernel in dict.fromkeys(getattr(value, "kernel", value) for module in list(vars(kernels).values()) if hasattr(module, "__file__")
                                for value in vars(module).values() if hasattr(getattr(value, "kernel", value), "signatures")):
        for signature in {*kernel.signatures, *signatures_on_disk(kernel)}:
            if "float32" in str(signature) and "float64" not in str(signature):
                seen.add((kernel.__module__.rpartition(".")[2], kernel.__name__))
                if signature not in kernel.overloads:                           # load a helper, when its kernel came from disk
                    open_to_all = kernel._can_compile                           # not if jit_any_layout made it
                    kernel.disable_compile(False)
                    kernel.compile(signature)
                    kernel.disable_compile(not open_to_all)
                wide = wide_variables(kernel.overloads[signature].type_annotation)
                assert not wide, (kernel.__name__, wide)
    assert seen >= {("attention", "_backward"), ("matmul", "multiply"), ("matmul", "_multiply"), ("gelu", "_bias_gelu")} and len(seen) >= 10


def test_attention_and_products_are_compiled_once_whatever_their_arrays_layouts():
    """Numba would do it again for each combination: forty of them, in these tests, and a minute."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((2, 5, 3, 2, 8)).astype(np.float32)
    strided = whole[:, :, 0]
    results = []
    for q in (strided, np.ascontiguousarray(strided), strided.swapaxes(1, 2).copy().swapaxes(1, 2)):
        for may_be_written in (True, False):
            q = q.view()
            q.flags.writeable = may_be_written
            with _jit.count_compilations(lambda: None) as compiled:
                y, cache = kernels.attention_forward(q, q, q)
                gradients = kernels.attention_backward(y, cache)
                x = q[0, 0]
                product = matmul(x, np.asfortranarray(x).T, out=np.empty((2, 2), np.float32))
            results.append((y, *gradients, product))
            assert compiled.count == 0 or len(results) == 1
    assert all(np.array_equal(a, b) for later in results for a, b in zip(later, results[0]))


def signatures_on_disk(kernel):
    return [key[0] for key in kernel._cache._cache_file._load_index()] if _jit.CACHE else []


def wide_variables(annotation):
    """The named variables of float64 in the types of a kernel: Numba keeps them on disk as text, a line for each assignment."""
    return re.findall(r"#\s+(\w[\w.]*) = .*  :: (?:.* -> )?float64$", str(annotation), re.MULTILINE)


@pytest.mark.parametrize("cached", [False, True])
def test_a_promotion_is_seen_in_what_was_compiled_and_in_what_comes_from_disk(cached, tmp_path, monkeypatch):
    def promotes(x):
        half = np.float64(0.5)
        total = x[0] * half
        for value in x:
            total += value
        return np.float32(total)

    monkeypatch.setattr(_jit.numba.config, "CACHE_DIR", str(tmp_path))
    for _ in range(1 + cached):
        kernel = _jit.numba.jit(cache=True, **_jit.OPTIONS)(promotes)
        kernel(np.ones(3, np.float32))
    (signature,) = kernel.signatures
    annotation = kernel.overloads[signature].type_annotation
    assert isinstance(annotation, str) == cached
    assert {"half", "total"} <= {name.partition(".")[0] for name in wide_variables(annotation)} <= {"half", "total"}
