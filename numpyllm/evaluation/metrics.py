"""How predictions compare with what was right, and how sure that figure is.

Shapes: right, predicted (N), class numbers for accuracy, F1 and Matthews, any numbers for the correlations. What has no value is NaN.
"""

import numpy as np

from ..errors import InputError
from ..random import generator


def accuracy(right, predicted):
    """The share of predictions that are right."""
    right, predicted = _pair(right, predicted)
    return float((right == predicted).mean())


def confusion_matrix(right, predicted, n=None):
    """Counts (n, n): row the right class, column the predicted one. n: classes, by default up to the highest that occurs."""
    right, predicted = _pair(right, predicted)
    n = int(max(right.max(), predicted.max())) + 1 if n is None else n
    return np.bincount(right * n + predicted, minlength=n * n).reshape(n, n)


def f1(right, predicted, positive=1):
    """2 TP / (2 TP + FP + FN) for one class: the harmonic mean of precision and recall. 0 where the class never occurs."""
    right, predicted = _pair(right, predicted)
    hits = int(((right == positive) & (predicted == positive)).sum())
    claims = int((right == positive).sum()) + int((predicted == positive).sum())
    return 2 * hits / claims if claims else 0.0


def macro_f1(right, predicted):
    """The mean of F1 over the classes that occur, as right or predicted ones: a rare class counts as much as a frequent one."""
    right, predicted = _pair(right, predicted)
    return float(np.mean([f1(right, predicted, c) for c in np.union1d(right, predicted)]))


def matthews(right, predicted):
    """Matthews' correlation coefficient for any number of classes (Gorodkin 2004): 1 all right, 0 no better than guessing.

    0 where it has no value, as when all predictions are of one class.
    """
    counts = confusion_matrix(right, predicted).astype(np.float64)
    of_right, of_predicted, N = counts.sum(1), counts.sum(0), counts.sum()
    covariance = N * counts.trace() - of_right @ of_predicted
    square = (N * N - of_right @ of_right) * (N * N - of_predicted @ of_predicted)
    return float(covariance / np.sqrt(square)) if square else 0.0


def pearson(x, y):
    """The correlation of two rows of numbers, from -1 to 1. NaN if there are fewer than two, or one row is constant."""
    x, y = _pair(x, y, np.float64)
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()         # squares of tiny numbers would vanish
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(x, y):
    """Pearson's correlation of the ranks; equal numbers share the mean of theirs."""
    x, y = _pair(x, y, np.float64)
    return pearson(ranks(x), ranks(y))


def ranks(x):
    """1 for the smallest number, N for the largest; equal ones get the mean of the ranks that they take up."""
    _, group, sizes = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[group]


def confidence_interval(metric, *rows, seed=0, resamples=1000, level=0.95):
    """(low, high): the percentile bootstrap (Efron 1979). rows: arrays (N, ...), of which metric(*rows) makes the figure.

    N records are drawn with replacement from the N that there are, `resamples` times; between low and high lie the middle `level`
    of the figures that they give. It tells what other questions of the same kind might have given, not what another prompt,
    another model or another kind of question would. Resamples in which the metric has no value are left out; NaN if none has one.
    """
    rows = [np.asarray(row) for row in rows]
    N = len(rows[0])
    rng = generator(seed, "bootstrap")
    figures = np.array([metric(*(row[chosen] for row in rows)) for chosen in (rng.integers(0, N, N) for _ in range(resamples))])
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return float("nan"), float("nan")
    low, high = np.percentile(figures, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _pair(right, predicted, dtype=None):
    """Both as arrays (N). InputError unless they are of one length, at least 1, and whole numbers from 0 where they are classes."""
    right, predicted = np.asarray(right, dtype), np.asarray(predicted, dtype)
    if right.ndim != 1 or right.shape != predicted.shape or not len(right):
        raise InputError(f"a metric needs as many predictions as right answers, at least one, got {predicted.shape} and {right.shape}")
    if dtype is None:
        if not (np.issubdtype(right.dtype, np.integer) and np.issubdtype(predicted.dtype, np.integer)):
            raise InputError(f"classes must be whole numbers, got {right.dtype} and {predicted.dtype}")
        if min(right.min(), predicted.min()) < 0:
            raise InputError(f"classes must be numbers from 0, got {min(right.min(), predicted.min())}")
    elif not (np.isfinite(right).all() and np.isfinite(predicted).all()):
        raise InputError("a correlation needs finite numbers")
    return right, predicted
