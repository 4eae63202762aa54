"""How an op hands over its results: into the caller's arrays where some were given."""

import numpy as np


def deliver(results, out):
    """Return `results`, copied into the arrays of `out` where there are any.

    `out` is None or a tuple in the order of `results`, with None where the caller has no array to offer.
    A lone result comes back as itself, several as a tuple.
    """
    if out is not None:
        results = tuple([result if target is None or target is result or result is None else _copy(result, target)
                         for result, target in zip(results, out, strict=True)])
    return results[0] if len(results) == 1 else results


def _copy(result, target):
    np.copyto(target, result)
    return target
