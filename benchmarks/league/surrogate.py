"""Learning curves of any configuration, by regression on those of a table.

A curve is what a Gaussian process of the configuration predicts, plus luck: what a fit of one that
should end alike, of which there are several, differs from the mean of these. Both are logarithms of
the error at every look. Luck is not that of the nearest configurations, because bad ones have far
more of it, which would make good ones better than any fit was. The nearest configuration's curve
would tell less than a regression: of 58 rows of MNIST, left out in turn, it explained 14 % of the
variance after three epochs where a polynomial explained 60 %, and whoever learns where good
configurations lie would be given the same one again and again. A cubic polynomial of the 200 rows
of mnist_32 explained less than the process (at the end 55 % where it explains 63 %), and promised
2.1 % of error fewer in a corner of the space than any row had, which nothing supports.
"""

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from benchmarks.league.record import Curve, Look, Table
from benchmarks.league.table import PLAIN
from src.core.errors import UserError
from src.core.seeding import TRIAL, derive_seed
from src.search import space
from src.search.cube import Cube

Array = NDArray[np.float64]

SPACE = Cube(space.distributions(PLAIN))
"""Where a configuration lies, and what lies there."""

_ALIKE = 10
"""Luck is that of so many configurations with several seeds: those that should end most alike."""

_SEARCHES, _MANY = 20, 500
"""So often so many configurations are drawn to find the best."""

_LEAST = 1e-4
"""The smallest error that is told from none."""


class NotApplicable(Exception):  # noqa: N818  # no error
    """A tuner cannot do what is asked, or wants what the table does not have."""


def is_near(epochs: float, other: float) -> bool:
    """Return whether two numbers of epochs are the same one, which a table has rounded."""
    return abs(epochs - other) < 1e-5


class Regression:
    """A Gaussian process of each column, whose length scales and noise are those of all.

    Args:
        points: (N, D).
        values: (N, L).
    """

    def __init__(self, points: Array, values: Array) -> None:
        scales = np.full(points.shape[1], 1.0)
        kernel = ConstantKernel() * Matern(scales, (0.05, 50), nu=2.5) + WhiteKernel(0.1)
        self._process = GaussianProcessRegressor(kernel, normalize_y=True)
        with warnings.catch_warnings():  # a direction that does not matter has no length scale
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(points, values)
        inverse = np.linalg.inv(self._process.kernel_(points))
        # What each row differs from a prediction without it (Rasmussen, Williams: "Gaussian
        # Processes for Machine Learning", 2006, eq. 5.12).
        centred = values - values.mean(axis=0)
        errors = inverse @ centred / np.diag(inverse)[:, None]
        self.explained: Array = 1 - (errors**2).sum(axis=0) / (centred**2).sum(axis=0)
        """Share of the variance of each column that is predicted of rows left out."""

    def predict(self, points: Array) -> Array:
        """Return (M, L) at points (M, D)."""
        return np.asarray(self._process.predict(points)).reshape(len(points), -1)


class Surrogate:
    """A table that has a curve for every configuration.

    Args:
        table: real curves.
    """

    def __init__(self, table: Table) -> None:
        self.max_epochs: int = table.about["max_epochs"]
        self.looks: tuple[float, ...] = tuple(table.about["looks"])
        """Shares of the first epoch after which the curves have a look."""
        self.images: int = table.about["images"]["train"]
        """Of one epoch."""
        self.dataset: str = table.about["dataset"]
        self.batch_size = table.batch_size
        rows: dict[int, list[Curve]] = {}
        for curve in table.curves:
            rows.setdefault(curve.configuration, []).append(curve)
        self._firsts = [curves[0] for curves in rows.values()]
        most = max(len(curve.looks) for curve in table.curves)
        whole = [r for r in rows.values() if all(len(curve.looks) == most for curve in r)]
        self._repeated = [curves for curves in whole if len(curves) > 1]
        means = np.array([_mean_errors(curves) for curves in whole])
        if not self._repeated:
            raise UserError("a table needs configurations with several seeds, `--repeated`")
        self.regression = Regression(_places(curves[0] for curves in whole), means)
        self._all_places = _places(self._firsts)
        self._repeated_ends = self.regression.predict(
            _places(curves[0] for curves in self._repeated)
        )[:, -1]

    def curve(self, configuration: Mapping[str, float], seed: int) -> Curve:
        """Return a curve of a configuration; where the nearest one diverged, that one's.

        Args:
            configuration: what is searched, by name.
            seed: draws the luck.
        """
        place = SPACE.points([configuration])
        nearest: Curve = self._firsts[_nearest(self._all_places, place)[0]]
        if len(nearest.looks) < len(self.regression.explained):
            return nearest
        predicted = self.regression.predict(place)[0]
        by_end = np.argsort(abs(self._repeated_ends - predicted[-1]))
        alike = [self._repeated[i] for i in by_end[:_ALIKE]]
        drawn = [(curve, curves) for curves in alike for curve in curves]
        lucky, others = drawn[derive_seed(seed, TRIAL) % len(drawn)]
        theirs = _errors(lucky)
        # The mean of k fits has a k-th of their luck in it.
        luck = (theirs - _mean_errors(others)) * math.sqrt(len(others) / (len(others) - 1))
        ours = predicted + luck
        looks, harder = [], 0.0
        took = (look.seconds for look in nearest.looks)
        for look, error, their, seconds in zip(lucky.looks, ours, theirs, took, strict=True):
            if look.hidden_accuracy is not None:
                harder = math.log(max(1 - look.hidden_accuracy, _LEAST)) - their
            hidden = _accuracy(error + harder) if look.is_whole else None
            looks.append(Look(look.epochs, _accuracy(error), hidden, seconds))
        return Curve(-1, seed, nearest.hyperparameters, tuple(looks))

    def check_look(self, epochs: float) -> None:
        """Make sure that the curves have a look after so many epochs.

        Raises:
            NotApplicable: they have none.
        """
        looks = [*self.looks, *range(1, self.max_epochs + 1)]
        if not any(is_near(epochs, look) for look in looks):
            raise NotApplicable(f"the table has no look after {epochs:.4g} epochs")

    @functools.cached_property
    def best_hidden_accuracy(self) -> float:
        """What is found, on average, by who trains many configurations to the end, and keeps the
        epoch that validates best: nearly the best that there is, with as much luck as is usual."""
        found = []
        for search in range(_SEARCHES):
            generator = np.random.default_rng(search)
            drawn = map(SPACE.configuration, SPACE.draw(_MANY, generator))
            curves = [self.curve(one, search * _MANY + i) for i, one in enumerate(drawn)]
            looks = [look for curve in curves for look in curve.looks if look.is_whole]
            found.append(max(looks, key=lambda look: look.val_accuracy).hidden_accuracy or 0.0)
        return float(np.mean(found))


def _places(curves: Iterable[Curve]) -> Array:
    return SPACE.points([vars(curve.hyperparameters) for curve in curves])


def _nearest(places: Array, place: Array) -> NDArray[np.int64]:
    """Return the indices of places, the nearest first."""
    return np.argsort(((places - place) ** 2).sum(axis=1))


def _mean_errors(curves: Sequence[Curve]) -> Array:
    return np.asarray(np.mean([_errors(curve) for curve in curves], axis=0))


def _errors(curve: Curve) -> Array:
    """Return the logarithm of the error at every look."""
    return np.log([max(1 - look.val_accuracy, _LEAST) for look in curve.looks])


def _accuracy(error: float) -> float:
    return round(1 - min(math.exp(error), 1.0), 6)
