"""Scores of a league: regret, images to come close to the best, and ranks."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.league.replay import Moment

Array = NDArray[np.float64]


def regret_at(moments: Sequence[Moment], best: float, images: Array) -> Array:
    """Return the regret after so many images; inf while no epoch has ended.

    Args:
        moments: of one search, whenever its best trial changed.
        best: the table's best hidden accuracy.
        images: spent by all workers, (N,).
    """
    regret = np.array([math.inf, *(best - moment.hidden_accuracy for moment in moments)])
    spent = [moment.images for moment in moments]
    return regret[np.searchsorted(spent, images, side="right")]


def images_to(moments: Sequence[Moment], best: float, regret: float) -> float:
    """Return the images after which the regret is this small for the first time; inf: never."""
    found = (m.images for m in moments if best - m.hidden_accuracy <= regret + 1e-9)
    return next((float(images) for images in found), math.inf)


@dataclass(frozen=True)
class Median:
    """The median of independent values, of which some may be inf."""

    value: float
    low: float
    high: float
    """A 95 % interval from order statistics."""


def median(values: Sequence[float]) -> Median:
    """Return the median and its interval, which holds whatever the distribution."""
    interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = (float(bound) for bound in interval)  # nan: for want of values
    return Median(
        statistics.median(values),
        0.0 if math.isnan(low) else low,
        math.inf if math.isnan(high) else high,
    )


def mean_ranks(scores: Array) -> Array:
    """Return each column's mean rank within the rows, 1 for the lowest score.

    Args:
        scores: of each block and contestant, (blocks, contestants).
    """
    return np.asarray(stats.rankdata(scores, axis=1).mean(axis=0))


def critical_difference(contestants: int, blocks: int) -> float:
    """Return by how much mean ranks must differ (Nemenyi, 5 %; Demšar, JMLR 7 (2006), 3.2.2)."""
    q = stats.studentized_range.ppf(0.95, contestants, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(contestants * (contestants + 1) / (6 * blocks)))


def friedman_p(scores: Array) -> float:
    """Return the probability of ranks this unequal if no contestant is better (Friedman)."""
    if (scores == scores[:, :1]).all():
        return math.nan
    return float(stats.friedmanchisquare(*scores.T).pvalue)
