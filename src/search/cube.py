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

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        """Draw a configuration, uniformly."""
        return {name: _value(kind, generator.random()) for name, kind in self._space.items()}

    def draw_near(
        self, configuration: Mapping[str, Any], spread: float, generator: np.random.Generator
    ) -> dict[str, Any]:
        """Draw a configuration around another: each number moves by about this share of its range,
        each choice is drawn anew with this probability."""
        drawn = {}
        for name, kind in self._space.items():
            place = _place(kind, configuration[name])
            if len(place) == 1:
                moved = place[0] + spread * generator.standard_normal()
                drawn[name] = _value(kind, min(max(moved, 0.0), 1.0))
            else:
                stays = generator.random() >= spread
                drawn[name] = configuration[name] if stays else _value(kind, generator.random())
        return drawn


def _place(kind: BaseDistribution, value: Any) -> tuple[float, ...]:
    if isinstance(kind, CategoricalDistribution):
        return tuple(float(value == choice) for choice in kind.choices)
    assert isinstance(kind, IntDistribution | FloatDistribution)
    if kind.log:
        return (math.log(value / kind.low) / math.log(kind.high / kind.low),)
    return ((value - kind.low) / (kind.high - kind.low),)


def _value(kind: BaseDistribution, place: float) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[min(int(place * len(kind.choices)), len(kind.choices) - 1)]
    assert isinstance(kind, IntDistribution | FloatDistribution)
    if kind.log:
        return kind.low * (kind.high / kind.low) ** place
    if kind.step is None:
        return kind.low + place * (kind.high - kind.low)
    last = round((kind.high - kind.low) / kind.step)
    return min(kind.low + min(int(place * (last + 1)), last) * kind.step, kind.high)
