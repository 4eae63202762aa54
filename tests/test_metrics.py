"""Metrics by hand, at their edges, and against scikit-learn's and SciPy's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpyllm.errors import InputError
from numpyllm.evaluation import (accuracy, confidence_interval, confusion_matrix, f1, macro_f1, matthews, pearson, ranks, spearman)

RIGHT, PREDICTED = [1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1, 0, 0]      # of ones: 2 found, 2 missed, 1 claimed in error


def test_by_hand():
    assert accuracy(RIGHT, PREDICTED) == 5 / 8
    assert confusion_matrix(RIGHT, PREDICTED).tolist() == [[3, 1], [2, 2]]
    assert f1(RIGHT, PREDICTED) == 4 / 7 and f1(RIGHT, PREDICTED, positive=0) == 6 / 9
    assert macro_f1(RIGHT, PREDICTED) == pytest.approx((4 / 7 + 6 / 9) / 2)
    assert matthews(RIGHT, PREDICTED) == pytest.approx((2 * 3 - 1 * 2) / np.sqrt(3 * 4 * 4 * 5))
    assert ranks(np.array([3.0, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]
    assert pearson([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    assert spearman([1, 2, 3, 400], [1, 8, 27, 64]) == 1 and spearman([1, 2, 3], [5, 1, 0]) == -1
    assert pearson([1, 2, 3, 400], [1, 8, 27, 64]) < 0.95


def test_at_the_edges():
    assert f1([0, 0], [0, 0]) == 0 and macro_f1([0, 0], [0, 0]) == 1
    assert matthews([0, 1, 1], [1, 1, 1]) == 0 and matthews([0, 0], [0, 0]) == 0 and matthews([2, 5, 5], [2, 5, 5]) == 1
    assert np.isnan(pearson([1.0], [2.0])) and np.isnan(pearson([1, 1, 1], [1, 2, 3])) and np.isnan(spearman([1, 2], [7, 7]))
    assert pearson([1e-200, 2e-200, 4e-200], [1, 2, 4]) == pytest.approx(1) and pearson([1e9, 1e9 + 1, 1e9 + 2], [0, 1, 2]) == pytest.approx(1)


@pytest.mark.parametrize("metric", [accuracy, f1, macro_f1, matthews, pearson, spearman])
@pytest.mark.parametrize("right, predicted", [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_what_is_no_pair_of_rows_is_refused(metric, right, predicted):
    with pytest.raises(InputError, match="as many predictions as right answers"):
        metric(np.array(right, int), np.array(predicted, int))


def test_what_is_no_class_or_no_number_is_refused():
    with pytest.raises(InputError, match="whole numbers"):
        accuracy([0.5], [1.0])
    with pytest.raises(InputError, match="from 0, got -1"):
        matthews([-1, 0], [0, 0])
    with pytest.raises(InputError, match="finite"):
        pearson([1.0, np.nan], [1.0, 2.0])


def test_an_interval_covers_as_often_as_it_says():
    """Of many samples of 200 answers that are right with probability 0.7, about 95 % give an interval with 0.7 in it."""
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        right = np.ones(200, int)
        low, high = confidence_interval(accuracy, right, (rng.random(200) < 0.7).astype(int), seed=seed, resamples=200)
        covered += low <= 0.7 <= high
        assert 0.05 < high - low < 0.2
    assert 180 <= covered <= 198


def test_an_interval_is_a_function_of_its_seed():
    x, y = np.arange(30.0), np.arange(30.0) ** 2 % 17
    first = confidence_interval(pearson, x, y, seed=1)
    assert first == confidence_interval(pearson, x, y, seed=1) != confidence_interval(pearson, x, y, seed=2)
    assert first[0] < pearson(x, y) < first[1]
    wide, narrow = confidence_interval(pearson, x, y, level=0.99), confidence_interval(pearson, x, y, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_interval_leaves_out_resamples_without_a_value():
    low, high = confidence_interval(pearson, [1.0, 2.0], [1.0, 2.0])       # half of the resamples are of one point alone
    assert (low, high) == pytest.approx((1, 1))
    assert np.isnan(confidence_interval(pearson, [1.0, 1.0], [1.0, 2.0])).all()


CLASSES = st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2))
NUMBERS = st.integers(2, 40).flatmap(lambda n: st.tuples(*[st.lists(st.one_of(
    st.integers(0, 3).map(float), st.floats(-1e3, 1e3).map(lambda x: round(x, 3))), min_size=n, max_size=n)] * 2))


@pytest.mark.oracle
@given(CLASSES)
def test_classes_against_scikit_learn(pair):
    metrics = pytest.importorskip("sklearn.metrics")
    right, predicted = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # of theirs, about classes that never occur
        assert accuracy(right, predicted) == pytest.approx(metrics.accuracy_score(right, predicted), abs=1e-12)
        assert macro_f1(right, predicted) == pytest.approx(metrics.f1_score(right, predicted, average="macro"), abs=1e-12)
        assert matthews(right, predicted) == pytest.approx(metrics.matthews_corrcoef(right, predicted), abs=1e-12)
        assert (confusion_matrix(right, predicted, 4) == metrics.confusion_matrix(right, predicted, labels=range(4))).all()
        ones = [[int(c == 1) for c in row] for row in pair]
        assert f1(*ones) == f1(right, predicted) == pytest.approx(metrics.f1_score(*ones), abs=1e-12)


@pytest.mark.oracle
@given(NUMBERS)
def test_correlations_against_scipy(pair):
    stats = pytest.importorskip("scipy.stats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # of theirs, about constant rows
        for ours, theirs in (pearson, stats.pearsonr), (spearman, stats.spearmanr):
            assert ours(*pair) == pytest.approx(float(theirs(*pair)[0]), abs=1e-9, nan_ok=True)
        assert ranks(np.array(pair[0])).tolist() == stats.rankdata(pair[0]).tolist()
