"""A sampler that learns from all rungs and batch sizes, by a Gaussian process of their scores."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from src.search.cube import Array, Cube
from src.search.experience import Observation
from src.search.gaussian_process import GaussianProcess, expected_improvement

_RANDOM = 8
"""So many configurations are drawn at random before there is something to learn from."""

_LEARNT = 100
"""From so many is learnt, at most: the time that it takes grows with their cube."""

_DRAWN = 1000
"""So many configurations are drawn, of which the most promising is proposed."""

_BEST, _NEAR, _SPREAD = 5, 50, 0.1
"""Around so many of the best, so many more are drawn each, so near."""

_OCTAVES = 4
"""Batch sizes from 16 to 256 are as far from each other as the ends of a range."""


class RankGPSampler(optuna.samplers.RandomSampler):
    """Proposes what is expected to improve most on the best configuration of a batch size.

    Expected improvement by a Gaussian process (Jones, Schonlau, Welch: "Efficient Global
    Optimization of Expensive Black-Box Functions", 1998), of scores that follow from ranks; the
    batch size is one more direction, so that what was seen of others counts the more the nearer
    they are. What is being tried counts as if it gave what is expected of it (Ginsbourger, Le
    Riche, Carraro: "Kriging is Well-Suited to Parallelize Optimization", 2010: kriging believer).

    Args:
        space: what is searched.
        batch_size: for which is proposed.
        seed: of what is drawn.
        observations: gives what was seen before a trial, the nearest batch sizes first.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        batch_size: int,
        seed: int,
        observations: Callable[[FrozenTrial], Sequence[Observation]],
    ) -> None:
        super().__init__(seed)
        self._cube = Cube(space)
        self._batch_size = batch_size
        self._generator = np.random.default_rng(seed)
        self._observations = observations

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a configuration."""
        seen, draw = self._observations(trial), self._generator
        known = [one for one in seen if one.score is not None][:_LEARNT]
        if len(known) < _RANDOM:
            return self._cube.configuration(self._cube.draw(1, draw)[0])
        points, scores = self._points(known), np.array([one.score for one in known], dtype=float)
        process = GaussianProcess(points, scores)
        if running := [one for one in seen if one.score is None]:
            theirs = self._points(running)
            expected, _ = process.predict(theirs)
            process.condition(np.append(points, theirs, 0), np.append(scores, expected))
        best = points[np.argsort(-scores)[:_BEST], :-1]
        drawn = np.append(
            self._cube.draw(_DRAWN, draw),
            self._cube.draw_near(best.repeat(_NEAR, 0), _SPREAD, draw),
            axis=0,
        )
        highest = process.predict(self._here(points[:, :-1]))[0].max()
        expected = expected_improvement(*process.predict(self._here(drawn)), highest)
        return self._cube.configuration(drawn[expected.argmax()])

    def _here(self, places: Array) -> Array:
        """Place configurations, (N, D), at the batch size for which is proposed: (N, D + 1)."""
        return np.column_stack([places, np.full(len(places), _octaves(self._batch_size))])

    def _points(self, observations: Sequence[Observation]) -> Array:
        """Return (N, D + 1)."""
        sizes = [_octaves(one.batch_size) for one in observations]
        return np.column_stack([self._cube.points([one.params for one in observations]), sizes])


def _octaves(batch_size: int) -> float:
    return math.log2(batch_size) / _OCTAVES
