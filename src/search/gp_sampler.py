"""A sampler that learns from all rungs and batch sizes, by a Gaussian process of their errors."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from src.search.cube import Array, Cube
from src.search.experience import Observation, Observe
from src.search.gaussian_process import GaussianProcess, expected_improvement

_LEAST_KNOWN = 3
"""From fewer configurations nothing is learnt: after the first, those are drawn at random."""

_UNIFORM = 0.2
"""And later with this probability, because what learns late is seen by chance alone (a third in
Falkner, Klein, Hutter: "BOHB", ICML 2018)."""

_LEARNT, _FITTED = 200, 100
"""So many looks are learnt from, at most, and length scales are fitted to so many of them: the time
that it takes grows with their cube."""

_DRAWN = 1000
"""So many configurations are drawn, of which the most promising is proposed."""

_BEST, _NEAR, _SPREAD = 5, 50, 0.1
"""Around so many of the best, so many more are drawn each, so near."""

_OCTAVES = 4
"""Batch sizes from 16 to 256 are as far from each other as the ends of a range."""

_TRIPLINGS = 3
"""A 27th of the full budget and all of it are as far from each other, too."""

_LEAST = 1e-4
"""The smallest error that is told from none."""

_LIBRARIES = ThreadpoolController()
"""Linear algebra takes one thread: beside fits on all cores, two took 0.6 s for a proposal on
average, and up to 9, most of it waiting for each other; one takes 0.02 s."""


class GPSampler(optuna.samplers.RandomSampler):
    """Proposes what is expected to improve most on the best configuration of a batch size.

    A search begins in the middle of its space, because ranges are chosen around what may work.

    Expected improvement (Jones, Schonlau, Welch: "Efficient Global Optimization of Expensive
    Black-Box Functions", 1998) at the full budget, by a Gaussian process over configuration, batch
    size and epochs of the logarithm of the error: what was seen of other batch sizes, and on lower
    rungs, counts the more the nearer they are (epochs as one more direction: Kandasamy, Dasarathy,
    Schneider, Póczos: "Multi-fidelity Bayesian Optimisation with Continuous Approximations", 2017).
    What is being tried counts as if it gave what is expected of it (Ginsbourger, Le Riche, Carraro:
    "Kriging is Well-Suited to Parallelize Optimization", 2010: kriging believer).

    Expected improvement may be divided by what it costs (Snoek, Larochelle, Adams: "Practical
    Bayesian Optimization of Machine Learning Algorithms", 2012, section 3.2), or by a power of it
    below 1 (Lee, Perrone, Archambeau, Seeger: "Cost-Aware Bayesian Optimization", 2020).

    Args:
        space: what is searched.
        batch_size: for which is proposed.
        max_epochs: the full budget.
        seed: of what is drawn.
        observe: gives what was seen before a trial.
        cost: gives what an image costs, in any unit, by the parameters of a trial.
        cost_exponent: the power of it; 0: cost does not count.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        batch_size: int,
        max_epochs: int,
        seed: int,
        observe: Observe,
        cost: Callable[[Mapping[str, Any]], float],
        cost_exponent: float = 0.0,
    ) -> None:
        super().__init__(seed)
        self._cube = Cube(space)
        self._batch_size = batch_size
        self._max_epochs = max_epochs
        self._generator = np.random.default_rng(seed)
        self._observe = observe
        self._cost = cost
        self._cost_exponent = cost_exponent

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a configuration."""
        seen, looks = list[Observation](), 0
        for one in self._observe(trial):
            if one.batch_size != self._batch_size and looks >= _LEARNT:
                break
            seen.append(one)
            looks += len(one.curve)
        with _LIBRARIES.limit(limits=1, user_api="blas"):
            return self._propose(seen)

    def _propose(self, seen: Sequence[Observation]) -> dict[str, Any]:
        if not seen:
            return self._cube.configuration(self._cube.middle())
        draw, known = self._generator, [one for one in seen if one.curve]
        if len(known) < _LEAST_KNOWN or draw.random() < _UNIFORM:
            return self._cube.configuration(self._cube.draw(1, draw)[0])
        looks = [(one, epochs) for one in self._best_first(known) for epochs in one.curve][:_LEARNT]
        points = self._points(looks)
        scores = -np.log([max(1 - one.curve[epochs], _LEAST) for one, epochs in looks])
        scores = (scores - scores.mean()) / max(scores.std(), _LEAST)
        process = GaussianProcess(points[:_FITTED], scores[:_FITTED])
        process.condition(points, scores)
        if running := [one for one in seen if not one.curve]:
            theirs = self._points([(one, self._max_epochs) for one in running])
            expected, _ = process.predict(theirs)
            process.condition(np.append(points, theirs, 0), np.append(scores, expected))
        tried = np.unique(points[:, :-2], axis=0)
        means, _ = process.predict(self._in_the_end(tried))
        best = tried[np.argsort(-means)[:_BEST]]
        drawn = np.append(
            self._cube.draw(_DRAWN, draw),
            self._cube.draw_near(best.repeat(_NEAR, 0), _SPREAD, draw),
            axis=0,
        )
        there = process.predict(self._in_the_end(drawn))
        hoped = expected_improvement(*there, means.max())
        if self._cost_exponent:
            costs = [self._cost(self._cube.configuration(place)) for place in drawn]
            hoped /= np.power(costs, self._cost_exponent)
        return self._cube.configuration(drawn[hoped.argmax()])

    def _best_first(self, known: Sequence[Observation]) -> list[Observation]:
        """Return what is known with the best of this batch size, which are never forgotten, first:
        of those that have trained longest."""
        here = [one for one in known if one.batch_size == self._batch_size]
        best = heapq.nlargest(_BEST, here, key=lambda one: max(one.curve.items()))
        return sorted(known, key=lambda one: one not in best)

    def _in_the_end(self, places: Array) -> Array:
        """Place configurations, (N, D), at the batch size for which is proposed, and at the full
        budget: (N, D + 2)."""
        size, end = _octaves(self._batch_size), self._triplings(self._max_epochs)
        return np.column_stack([places, np.full(len(places), size), np.full(len(places), end)])

    def _points(self, looks: Sequence[tuple[Observation, float]]) -> Array:
        """Return (N, D + 2)."""
        places = self._cube.points([one.params for one, _ in looks])
        sizes = [_octaves(one.batch_size) for one, _ in looks]
        return np.column_stack([places, sizes, [self._triplings(epochs) for _, epochs in looks]])

    def _triplings(self, epochs: float) -> float:
        return math.log(epochs / self._max_epochs, 3) / _TRIPLINGS


def _octaves(batch_size: int) -> float:
    return math.log2(batch_size) / _OCTAVES
