import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from src.core.intervals import Spread, difference, spread, wilson_interval
from src.core.metrics import ConfusionMatrix, count_confusion


@pytest.fixture
def readings() -> tuple[np.ndarray, np.ndarray]:
    """Random labels and readings; class 4 never occurs, class 3 is never read."""
    generator = np.random.default_rng(0)
    true = generator.choice([0, 1, 2, 3], size=500, p=[0.4, 0.3, 0.2, 0.1])
    predicted = np.where(generator.random(500) < 0.7, true, generator.integers(0, 5, 500))
    predicted[predicted == 3] = 4
    return true, predicted


def test_figures_are_scikit_learns(readings: tuple[np.ndarray, np.ndarray]) -> None:
    true, predicted = readings
    labels = range(5)
    counts = confusion_matrix(true, predicted, labels=labels)
    np.testing.assert_array_equal(count_confusion(true, predicted, 5), counts)
    matrix = ConfusionMatrix(counts, "abcde")
    expected = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    metrics = matrix.per_class()
    ours = [[m.precision, m.recall, m.f1, m.support] for m in metrics]
    np.testing.assert_allclose(ours, np.transpose(expected))
    assert matrix.accuracy == np.mean(true == predicted)
    seen = predicted != 4  # scikit-learn warns of classes that are read but do not occur
    matrix = ConfusionMatrix(confusion_matrix(true[seen], predicted[seen], labels=labels), "abcde")
    assert matrix.macro_accuracy == pytest.approx(
        balanced_accuracy_score(true[seen], predicted[seen])
    )


def test_most_confused_pairs_come_commonest_first() -> None:
    matrix = ConfusionMatrix([[5, 2, 0], [4, 10, 1], [0, 0, 3]], "abc")
    pairs = [(c.true, c.predicted, c.count) for c in matrix.most_confused()]
    assert pairs == [("b", "a", 4), ("a", "b", 2), ("b", "c", 1)]
    assert matrix.most_confused(1)[0].share == pytest.approx(4 / 15)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_wilsons_as_newcombe_tabulates_it(
    successes: int, trials: int, low: float, high: float
) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857–872, table I, method 3
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_equal_measurements_have_an_interval_without_width() -> None:
    assert spread([0.5, 0.5, 0.5]) == Spread(0.5, 0.0, 0.5, 0.5)


def test_matrix_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 3 classes"):
        ConfusionMatrix([[1, 0], [0, 1]], "abc")


def test_difference_of_means_is_students_where_both_vary_alike() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found, low, high = difference(values + 3, values)
    off = 2.447 * math.sqrt(2 * np.var(values, ddof=1) / 4)  # t of 6 degrees of freedom, by table
    assert (found, low, high) == pytest.approx((3, 3 - off, 3 + off), rel=1e-3)
    assert difference(values[:1].repeat(2), values[2:3].repeat(2)) == (-3, -3, -3)


def test_difference_of_means_is_welchs_where_they_vary_otherwise() -> None:
    values, others = [3.0, 4.0, 1.0, 2.1], [490.0, 340.0, 433.0]
    found, low, high = difference(values, others)
    shares = [np.var(sample, ddof=1) / len(sample) for sample in (values, others)]
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / 3 + shares[1] ** 2 / 2)  # Satterthwaite's
    off = stats.t.ppf(0.975, freedom) * math.sqrt(sum(shares))
    assert freedom == pytest.approx(2.0, abs=0.01)
    assert (found, low, high) == pytest.approx((2.525 - 421, 2.525 - 421 - off, 2.525 - 421 + off))
