"""Compute 95 % confidence intervals with SciPy.

`scipy.stats` takes most of a second to import: only what needs an interval imports this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_Numbers = Sequence[float] | NDArray[np.float64]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Compute the 95 % score interval of a proportion (Wilson 1927, JASA 22:209–212)."""
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Spread:
    """Mean of repeated measurements, their standard deviation and the mean's 95 % interval."""

    mean: float
    std: float
    """Standard deviation of one measurement, estimated with n - 1."""
    low: float
    high: float
    """The 95 % interval of the mean, as Student's t has it with n - 1 degrees of freedom."""


def spread(values: Sequence[float]) -> Spread:
    """Estimate mean, standard deviation and Student's t interval of two measurements or more."""
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    # `t.interval` would give nan where all measurements are equal.
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Spread(mean, std, mean - half, mean + half)


def difference(values: _Numbers, others: _Numbers) -> tuple[float, float, float]:
    """Return by how much the mean of some exceeds that of others, with its 95 % interval.

    Whatever the two variances (Welch: "The Generalization of Student's Problem when Several
    Different Population Variances are Involved", Biometrika 34 (1947)); nan of a single value.
    """
    mean = float(np.mean(values) - np.mean(others))
    if not np.ptp(values) and not np.ptp(others):
        return mean, mean, mean
    interval = stats.ttest_ind(values, others, equal_var=False).confidence_interval()
    return mean, float(interval.low), float(interval.high)
