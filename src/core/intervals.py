"""Confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927, JASA 22:209–212)."""
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Spread:
    """What several measurements of one thing say of it."""

    mean: float
    std: float
    """Standard deviation of one measurement, estimated with n - 1."""
    low: float
    high: float
    """The 95 % interval of the mean, as Student's t has it with n - 1 degrees of freedom."""


def spread(values: Sequence[float]) -> Spread:
    """Sum up two measurements or more."""
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, mean - half, mean + half)
