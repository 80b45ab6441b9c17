"""Learning curves of any configuration: those of the table's nearest one."""

from collections.abc import Mapping

import numpy as np

from benchmarks.league.record import SEARCHED, Curve, Table
from src.core.seeding import TRIAL, derive_seed
from src.search import space

BOUNDS = {
    **dict.fromkeys(("conv1", "conv2", "dense_units"), space.UNITS[:2]),
    "dropout_rate": space.DROPOUT_RATE[:2],
    "learning_rate": space.LEARNING_RATE,
}
"""Lowest and highest value of what is searched."""


def unit_cube(configuration: Mapping[str, float]) -> list[float]:
    """Return where a configuration lies in the search space: from 0 to 1 in each direction."""
    place = []
    for name in SEARCHED:
        low, high, value = *BOUNDS[name], configuration[name]
        if name == "learning_rate":
            low, high, value = np.log(low), np.log(high), np.log(value)
        place.append(float((value - low) / (high - low)))
    return place


class NotApplicable(Exception):  # noqa: N818  # no error
    """A tuner cannot do what is asked, or wants what the table does not have."""


def is_near(epochs: float, other: float) -> bool:
    """Return whether two numbers of epochs are the same one, which a table has rounded."""
    return abs(epochs - other) < 1e-5


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
        self.batch_size = table.batch_size
        by_configuration: dict[int, list[Curve]] = {}
        for curve in table.curves:
            by_configuration.setdefault(curve.configuration, []).append(curve)
        self._curves = list(by_configuration.values())
        self._places = np.array(
            [unit_cube(vars(curves[0].hyperparameters)) for curves in self._curves]
        )

    def curve(self, configuration: Mapping[str, float], seed: int) -> Curve:
        """Return a curve of the configuration that is nearest in the unit cube.

        Args:
            configuration: what is searched, by name.
            seed: draws one of the curves where the table has several.
        """
        distances = ((self._places - unit_cube(configuration)) ** 2).sum(axis=1)
        curves = self._curves[int(distances.argmin())]
        return curves[derive_seed(seed, TRIAL) % len(curves)]

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
        """What is found, on average, by who trains every configuration to the end with one of its
        seeds, and keeps the epoch that validates best.

        It is not the highest hidden accuracy of the table: that one is due to luck, and whoever
        goes by validation would not find it.
        """
        bests = [
            [(*best_epoch(curve), -number) for curve in curves]
            for number, curves in enumerate(self._curves)
        ]
        expected = 0.0
        for fits in bests:
            for val_accuracy, hidden_accuracy, order in fits:
                # The probability that no other configuration has drawn a better seed.
                rest = (others for others in bests if others is not fits)
                below = [np.mean([(v, o) < (val_accuracy, order) for v, _, o in r]) for r in rest]
                expected += float(np.prod(below)) / len(fits) * hidden_accuracy
        return expected


def best_epoch(curve: Curve) -> tuple[float, float]:
    """Return validation and hidden accuracy after the epoch that validates best; 0 for none."""
    whole = [look for look in curve.looks if look.hidden_accuracy is not None]
    best = max(whole, key=lambda look: look.val_accuracy, default=None)
    return (0.0, 0.0) if best is None else (best.val_accuracy, best.hidden_accuracy or 0.0)
