"""The search space as a cube: every configuration is a point of [0, 1]^D."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Array = NDArray[np.float64]


class Cube:
    """Places configurations; of a choice that has no order, each option has a direction.

    Args:
        space: what is searched, by name.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._space = space

    def points(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        """Return where N configurations lie, (N, D)."""
        return np.array(
            [
                [x for name, kind in self._space.items() for x in _place(kind, configuration[name])]
                for configuration in configurations
            ]
        )

    def middle(self) -> Array:
        """Return where the middle of all ranges lies, with the first option of each choice: (D,).

        Of a range with an even number of values, it is the upper one of the two in the middle.
        """
        return np.concatenate([_middle(kind) for kind in self._space.values()])

    def draw(self, count: int, generator: np.random.Generator) -> Array:
        """Draw configurations, uniformly; return where they lie, (count, D)."""
        return np.column_stack([_draw(kind, count, generator) for kind in self._space.values()])

    def draw_near(self, points: Array, spread: float, generator: np.random.Generator) -> Array:
        """Draw a configuration around each of N others: each number moves by about this share of
        its range, each choice is drawn anew with this probability; return (N, D)."""
        columns, first = [], 0
        for kind in self._space.values():
            drawn = _draw(kind, len(points), generator)
            stay = points[:, first : first + drawn.shape[1]]
            first += drawn.shape[1]
            if isinstance(kind, CategoricalDistribution):
                anew = generator.random((len(points), 1)) < spread
                columns.append(np.where(anew, drawn, stay))
            else:
                moved = stay + spread * generator.standard_normal(stay.shape)
                columns.append(_snap(kind, moved.clip(0, 1)))
        return np.column_stack(columns)

    def configuration(self, point: Array) -> dict[str, Any]:
        """Return what lies at a point, (D,), of those that were drawn."""
        values, rest = {}, point.tolist()
        for name, kind in self._space.items():
            width = _width(kind)
            values[name], rest = _value(kind, rest[:width]), rest[width:]
        return values


def _width(kind: BaseDistribution) -> int:
    return len(kind.choices) if isinstance(kind, CategoricalDistribution) else 1


def _steps(kind: BaseDistribution) -> int | None:
    """Return how many steps lead from one end of a range to the other; None: it has none."""
    assert isinstance(kind, IntDistribution | FloatDistribution)
    return None if kind.step is None else round((kind.high - kind.low) / kind.step)


def _draw(kind: BaseDistribution, count: int, generator: np.random.Generator) -> Array:
    if isinstance(kind, CategoricalDistribution):
        return np.eye(len(kind.choices))[generator.integers(len(kind.choices), size=count)]
    if (steps := _steps(kind)) is None:
        return generator.random((count, 1))
    return generator.integers(steps + 1, size=(count, 1)) / steps


def _middle(kind: BaseDistribution) -> Array:
    if isinstance(kind, CategoricalDistribution):
        return np.eye(1, len(kind.choices)).ravel()
    if (steps := _steps(kind)) is None:
        return np.array([0.5])
    return np.array([(steps + 1) // 2 / steps])


def _snap(kind: BaseDistribution, places: Array) -> Array:
    steps = _steps(kind)
    return places if steps is None else np.round(places * steps) / steps


def _place(kind: BaseDistribution, value: Any) -> tuple[float, ...]:
    if isinstance(kind, CategoricalDistribution):
        return tuple(float(value == choice) for choice in kind.choices)
    assert isinstance(kind, IntDistribution | FloatDistribution)
    if kind.log:
        return (math.log(value / kind.low) / math.log(kind.high / kind.low),)
    return ((value - kind.low) / (kind.high - kind.low),)


def _value(kind: BaseDistribution, place: Sequence[float]) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[place.index(max(place))]
    assert isinstance(kind, IntDistribution | FloatDistribution)
    if kind.log:
        return kind.low * (kind.high / kind.low) ** place[0]
    if kind.step is None:
        return kind.low + place[0] * (kind.high - kind.low)
    return min(
        kind.low + round(place[0] * (kind.high - kind.low) / kind.step) * kind.step, kind.high
    )
