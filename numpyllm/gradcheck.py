"""Is this gradient right? Three numerical answers that share nothing with the backward pass they judge.

complex step        f(x + ih) = f(x) + ih f'(x) - ..., so f'(x) = Im f(x + ih) / h. Nothing is subtracted, so h = 1e-30 loses
                    nothing: the result is exact to rounding (Squire, Trapp 1998). Needs a forward that takes complex
                    numbers and is analytic in them: no abs, no conj, maxima and masks decided on the real part.
central difference  (f(x + h) - f(x - h)) / 2h. Ten digits at best, but it asks nothing of the forward.
adjoint test        <u, J v> = <J^T u, v> for random u and v, J v by one complex step: one forward whatever the size. A wrong
                    gradient passes only if its error is orthogonal to v. "central adjoint": J v by a central difference.

The scalar that is differentiated is <u, y> with a random u, never a plain sum: sum(softmax(x)) is 1 whatever x is, so
a backward that returns zeros would pass.

    from numpyllm.gradcheck import check_op, assert_ok
    assert_ok(check_op("square", lambda x: (x * x, x), lambda dy, x: 2 * x * dy, {"x": x}))
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STEP = {"complex": 1e-30, "central": 1e-5, "adjoint": 1e-30, "central adjoint": 3e-6}   # a direction is longer than an entry
TOLERANCE = {"complex": 1e-12, "central": 1e-7, "adjoint": 1e-12, "central adjoint": 1e-7}
COTANGENTS = 0x6379 # a stream of its own: inputs from default_rng(seed) must not come out equal to the cotangents
FLOOR = 1e-2        # a tensor is judged against its own norm plus this share of the largest gradient in the check


class Row(NamedTuple):
    """What one check of one tensor found."""

    op: str
    tensor: str
    shape: tuple
    method: str         # complex, central, adjoint or central adjoint
    error: float        # |analytic - numeric| / (|numeric| + FLOOR max(1, largest |analytic|)), norms over the tensor
    ok: bool            # error <= TOLERANCE[method]
    detail: str         # the entry that is off the most


def check_op(name, forward, backward, inputs, *, methods=("complex",), seed=0, entries=None):
    """Check the backward of an op against numerical gradients -> list of Row, one for each tensor and method.

    forward(**inputs) returns (y, cache) or (y1, y2, ..., cache); backward(dy, cache) or backward(dy1, dy2, ..., cache)
    returns the gradients of the floating-point inputs in their order: an array, or a tuple with None for inputs that
    are None. inputs maps argument names to arrays. entries: as for check_gradients. Raises ValueError for floating-point
    inputs other than float64.
    """
    wrt = [key for key, value in inputs.items() if _is_float(value)]
    for key in wrt:
        if inputs[key].dtype != np.float64:
            raise ValueError(f"gradients are checked in float64: {name} got {key} as {inputs[key].dtype}; convert it with astype")
    *ys, cache = forward(**inputs)
    rng = np.random.default_rng([seed, COTANGENTS])
    dys = [rng.standard_normal(np.shape(y)) for y in ys]
    gradients = backward(*dys, cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    analytic = dict(zip(wrt, (g for g in gradients if g is not None), strict=True))

    def scalar(**changed):
        *ys, _ = forward(**{**inputs, **changed})
        return sum((dy * y).sum() for dy, y in zip(dys, ys, strict=True))

    return check_gradients(name, scalar, {key: inputs[key] for key in wrt}, analytic, methods=methods, seed=seed,
                           entries=entries)


def check_gradients(name, scalar, inputs, analytic, *, methods=("complex",), seed=0, entries=None):
    """Check analytic gradients of a scalar function -> list of Row.

    scalar(**changed) is the function with some of the inputs replaced; inputs and analytic map the same names to
    float64 arrays of the same shapes. entries: the methods complex and central look at so many entries of a tensor, drawn at
    random, as a second opinion beside an adjoint test, which sees all of them; None: at every entry.
    """
    largest = max([1.0, *(float(np.linalg.norm(g)) for g in analytic.values())])
    rows = []
    for key, x in inputs.items():
        for method in methods:
            f = lambda value, key=key: scalar(**{key: value})
            if method.endswith("adjoint"):
                rows.append(_adjoint(name, key, f, x, analytic[key], method, seed, largest))
            else:
                rows.append(_entrywise(name, key, f, x, analytic[key], method, seed, largest, entries))
    return rows


def numeric_gradient(f: Callable, x, *, method="complex", places=None):
    """df/dx of a scalar function f of one float64 array, entry by entry -> float64 array like x.

    method "complex" calls f once an entry with a complex128 array, "central" twice with float64 arrays. With places, indices
    into the flat array, only of those entries: (len(places),).
    """
    h = STEP[method]
    z = np.array(x, np.complex128 if method == "complex" else np.float64, order="C")    # a copy, so that flat is a view
    flat = z.reshape(-1)
    indices = range(x.size) if places is None else places
    gradient = np.empty(len(indices))
    for n, i in enumerate(indices):
        kept = flat[i]
        if method == "complex":
            flat[i] = kept + 1j * h
            gradient[n] = np.imag(f(z)) / h
        else:
            flat[i] = kept + h
            above = f(z)
            flat[i] = kept - h
            gradient[n] = (above - f(z)) / (2 * h)
        flat[i] = kept
    return gradient.reshape(x.shape) if places is None else gradient


def directional_derivative(f: Callable, x, v, *, method="adjoint"):
    """The derivative of f (to a scalar or an array) at x along v: J v, by one complex step or (central adjoint) a difference."""
    h = STEP[method]
    if method == "central adjoint":
        return (f(x + h * v) - f(x - h * v)) / (2 * h)
    return np.imag(f(x + 1j * h * v)) / h


def compare(name, tensor, analytic, numeric, *, method, largest=1.0):
    """One Row: analytic against numeric. largest is the largest gradient norm of the whole check, or 1 if below."""
    if np.shape(analytic) != np.shape(numeric):
        return Row(name, tensor, np.shape(numeric), method, float("inf"), False,
                   f"analytic gradient has shape {np.shape(analytic)}")
    difference = np.atleast_1d(analytic - numeric)
    size = float(np.linalg.norm(numeric)) + FLOOR * max(1.0, largest)
    error = float(np.linalg.norm(difference)) / size
    detail = ""
    if difference.size:
        index = np.unravel_index(np.argmax(np.nan_to_num(np.abs(difference), nan=np.inf)), difference.shape)
        a, n = float(np.atleast_1d(analytic)[index]), float(np.atleast_1d(numeric)[index])
        detail = f"worst at {tuple(map(int, index))}: analytic {a:.17g}, numeric {n:.17g}, ratio {_ratio(a, n):.6g}"
    return Row(name, tensor, np.shape(numeric), method, error, bool(error <= TOLERANCE[method]), detail)


def _entrywise(name, key, f, x, analytic, method, seed, largest, entries):
    """Every entry, or some of them: a row of these alone, judged by their own norm."""
    if entries is None or x.size <= entries or np.shape(analytic) != x.shape:
        return compare(name, key, analytic, numeric_gradient(f, x, method=method), method=method, largest=largest)
    places = np.random.default_rng([seed, x.size]).choice(x.size, entries, replace=False)
    row = compare(name, key, np.ravel(analytic)[places], numeric_gradient(f, x, method=method, places=places),
                  method=method, largest=largest)
    return row._replace(shape=x.shape, detail=f"of entries {places.tolist()} of the flat array: {row.detail}")


def _adjoint(name, key, f, x, analytic, method, seed, largest):
    """<u, J v> = <J^T u, v>: f is <u, .> already, so its derivative along v must be <analytic, v>."""
    if np.shape(analytic) != x.shape:
        return compare(name, key, analytic, x, method=method)
    v = np.random.default_rng([seed, x.size]).standard_normal(x.shape)
    numeric = directional_derivative(f, x, v, method=method)
    projected = float((analytic * v).sum())
    error = abs(projected - numeric) / (float(np.linalg.norm(analytic)) + FLOOR * largest)
    return Row(name, key, x.shape, method, error, bool(error <= TOLERANCE[method]),
               f"along a random direction: analytic {projected:.17g}, numeric {numeric:.17g}, ratio {_ratio(projected, numeric):.6g}")


def _ratio(analytic, numeric):
    return analytic / numeric if numeric else float("inf")


class GradientError(AssertionError):
    """An analytic gradient that the numbers contradict."""


def assert_ok(rows):
    """Raise GradientError with a line for every failed row (tensor, index, analytic, numeric, ratio); else return rows."""
    bad = [f"{r.op}: gradient of {r.tensor} {r.shape} is wrong by {r.error:.2e} ({r.method}); {r.detail}"
           for r in rows if not r.ok]
    if bad:
        raise GradientError("\n".join(bad))
    if not rows:
        raise GradientError("nothing was checked")
    return rows


def _is_float(value):
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
