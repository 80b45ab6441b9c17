"""Learning curves of any configuration, by regression on those of a table.

A curve is what a Gaussian process, or a forest, of the configuration predicts, plus luck: what a
fit of one that ended alike, of which there are several, differs from the mean of these. Both are
logarithms of the error at every look. On hidden images there is no luck, so that what a search has
found is worth what another fit of that configuration would give; but where a fit diverged, its
whole curve is that of those nearby. Luck is not that of the nearest configurations, because bad
ones have far more of it, which would make good ones better than any fit was; nor that of one that
fails with one seed and not with another, which would do the same for bad ones.

The nearest configuration's curve would tell less than a regression: of 58 rows of MNIST, left out
in turn, it explained 14 % of the variance after three epochs where a polynomial explained 60 %, and
whoever learns where good configurations lie would be given the same one again and again. A cubic
polynomial of the 200 rows of mnist_32 explained 55 % at the end, where the process explains 63 %,
and promised a fifth fewer errors than any row had, in a corner that no row was near.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
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

Curves = Literal["process", "forest"]
"""What gives a configuration its curve: a Gaussian process, or a random forest."""

SPACE = Cube(space.distributions(PLAIN))
"""Where a configuration lies, and what lies there."""

_ALIKE = 10
"""Luck is that of so many configurations with several seeds: those that ended most alike."""

_APART = 1.0
"""Fits of a configuration do not only differ by luck if their errors do by more than a factor e."""

_END, _HIDDEN = -2, -1
"""Columns of a regression: the last look, and the hidden images after the best epoch."""

_LEAST = 1e-4
"""The smallest error that is told from none."""


class NotApplicable(Exception):  # noqa: N818  # no error
    """A tuner cannot do what is asked, or wants what the table does not have."""


def is_near(epochs: float, other: float) -> bool:
    """Return whether two numbers of epochs are the same one, which a table has rounded."""
    return abs(epochs - other) < 1e-5


class Process:
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
            warnings.filterwarnings("ignore", ".* close to the specified", ConvergenceWarning)
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


class Forest:
    """A random forest (Breiman: "Random Forests", 2001) of all columns.

    It has nothing in common with what any tuner here believes of the curves, unless a forest.

    Args:
        points: (N, D).
        values: (N, L).
    """

    def __init__(self, points: Array, values: Array) -> None:
        self._forest = RandomForestRegressor(oob_score=True, random_state=0).fit(points, values)
        errors = self._forest.oob_prediction_ - values
        centred = values - values.mean(axis=0)
        self.explained: Array = 1 - (errors**2).sum(axis=0) / (centred**2).sum(axis=0)
        """Share of the variance of each column that trees predict of rows they have not seen."""

    def predict(self, points: Array) -> Array:
        """Return (M, L) at points (M, D)."""
        return np.asarray(self._forest.predict(points))


_REGRESSIONS: dict[Curves, type[Process | Forest]] = {"process": Process, "forest": Forest}


class Surrogate:
    """A table that has a curve for every configuration.

    Args:
        table: real curves.
        curves: what regression of them gives a configuration its own.
    """

    def __init__(self, table: Table, curves: Curves = "process") -> None:
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
        self._firsts = [fits[0] for fits in rows.values()]
        most = max(len(curve.looks) for curve in table.curves)
        whole = [r for r in rows.values() if all(len(curve.looks) == most for curve in r)]
        self._repeated = [fits for fits in whole if len(fits) > 1 and _spread(fits) < _APART]
        if not self._repeated:
            raise UserError("a table needs configurations whose seeds end alike, `--repeated`")
        means = np.array(
            [[*_mean_errors(c), np.mean([_hidden_error(x) for x in c])] for c in whole]
        )
        self._whole_places = _places(fits[0] for fits in whole)
        self.regression = _REGRESSIONS[curves](self._whole_places, means)
        """Of the logarithm of the error at every look, and last on the hidden images after the
        epoch that validated best."""
        self._all_places = _places(self._firsts)
        self._repeated_ends = np.array([_mean_errors(fits)[-1] for fits in self._repeated])

    def curve(self, configuration: Mapping[str, float], seed: int) -> Curve:
        """Return a curve of a configuration; where the nearest one diverged, that one's.

        Args:
            configuration: what is searched, by name.
            seed: draws the luck.
        """
        place = SPACE.points([configuration])
        nearest: Curve = self._firsts[((self._all_places - place) ** 2).sum(axis=1).argmin()]
        predicted = self.regression.predict(place)[0]
        if len(nearest.looks) < len(predicted) - 1:
            return nearest
        by_end = np.argsort(abs(self._repeated_ends - predicted[_END]))
        alike = [self._repeated[i] for i in by_end[:_ALIKE]]
        drawn = [(curve, curves) for curves in alike for curve in curves]
        lucky, others = drawn[derive_seed(seed, TRIAL) % len(drawn)]
        # The mean of k fits has a k-th of their luck in it.
        grow = math.sqrt(len(others) / (len(others) - 1))
        luck = (_errors(lucky) - _mean_errors(others)) * grow
        epochs = predicted[len(self.looks) : _HIDDEN]
        hidden = predicted + predicted[_HIDDEN] - epochs.min()
        looks = (
            Look(
                look.epochs,
                _accuracy(predicted[i] + luck[i]),
                _accuracy(hidden[i]) if look.is_whole else None,
                look.seconds,
            )
            for i, look in enumerate(nearest.looks)
        )
        return Curve(-1, seed, nearest.hyperparameters, tuple(looks))

    def check_look(self, epochs: float) -> None:
        """Make sure that the curves have a look after so many epochs.

        Raises:
            NotApplicable: they have none.
        """
        looks = [*self.looks, *range(1, self.max_epochs + 1)]
        if not any(is_near(epochs, look) for look in looks):
            raise NotApplicable(f"the table has no look after {epochs:.4g} epochs")

    @property
    def best_hidden_accuracy(self) -> float:
        """What the best of the table's configurations has on hidden images after its best epoch."""
        return _accuracy(self.regression.predict(self._whole_places)[:, _HIDDEN].min())


def _places(curves: Iterable[Curve]) -> Array:
    return SPACE.points([vars(curve.hyperparameters) for curve in curves])


def _mean_errors(curves: Sequence[Curve]) -> Array:
    return np.asarray(np.mean([_errors(curve) for curve in curves], axis=0))


def _spread(curves: Sequence[Curve]) -> float:
    """Return how far the logarithms of the errors at the end are from each other."""
    return float(np.ptp([_errors(curve)[-1] for curve in curves]))


def _hidden_error(curve: Curve) -> float:
    """Return the logarithm of the error on the hidden images, after the epoch validated best."""
    accuracies = [x.hidden_accuracy for x in curve.looks if x.hidden_accuracy is not None]
    return math.log(max(1 - accuracies[-1], _LEAST))


def _errors(curve: Curve) -> Array:
    """Return the logarithm of the error at every look."""
    return np.log([max(1 - look.val_accuracy, _LEAST) for look in curve.looks])


def _accuracy(error: float) -> float:
    return round(1 - min(math.exp(error), 1.0), 6)
