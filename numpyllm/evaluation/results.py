"""What came out, as figures with intervals, a table, and JSON."""

import math

import numpy as np

from .metrics import accuracy, confidence_interval


def summarise(answered, metrics=None, *, scale=False, seed=0, resamples=1000):
    """Answered questions -> {"raw": {metric: {"value", "low", "high", "baseline"}}, "by_bytes": the same}.

    metrics: {name: function of right answers and predictions}, by default accuracy. low, high: 95 % of `resamples` bootstrap
    resamples. baseline: the figure for always giving the most frequent answer. scale: predictions are Answered.expected, and "raw" is
    all there is, without a baseline, for a constant correlates with nothing.
    """
    right = np.array([one.question.answer for one in answered])
    if scale:
        predictions = {"raw": np.array([one.expected for one in answered])}
    else:
        predictions = {"raw": np.array([one.raw for one in answered]), "by_bytes": np.array([one.by_bytes for one in answered])}
    found = {}
    for way, predicted in predictions.items():
        found[way] = {}
        for name, metric in (metrics or {"accuracy": accuracy}).items():
            low, high = confidence_interval(metric, right, predicted, seed=seed, resamples=resamples)
            found[way][name] = {"value": metric(right, predicted), "low": low, "high": high}
            if not scale:
                found[way][name]["baseline"] = metric(right, np.full(len(right), np.bincount(right).argmax()))
    return found


def table(summary):
    """The figures of `summarise` as lines of text."""
    words = {"raw": "", "by_bytes": ", by bytes"}
    rows = [("", "value", "95 % interval", "always the most frequent")]
    for way, metrics in summary.items():
        for name, figures in metrics.items():
            rows.append((name + words[way], number(figures["value"]), f"{number(figures['low'])} to {number(figures['high'])}",
                         number(figures["baseline"]) if "baseline" in figures else "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def number(value):
    """A figure with four digits behind the point; a word for one that has no value."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def for_json(value):
    """The same with null for numbers that are none: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: for_json(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
