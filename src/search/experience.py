"""What a search has seen of its configurations, on all rungs: each with a score."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy import stats


@dataclass(frozen=True)
class Observation:
    """A configuration that was tried, or is being tried."""

    params: Mapping[str, Any]
    """What was searched, by name."""
    batch_size: int
    score: float | None
    """How good it is among all that are known, higher is better: about normally distributed, with
    mean 0 and variance 1. None: nothing is known yet."""


def observe(trials: Sequence[tuple[int, FrozenTrial]], rungs: Collection[int]) -> list[Observation]:
    """Return what trials have shown, in their order.

    The score is that of a trial's rank in a sample from a normal distribution (Blom, "Statistical
    Estimates and Transformed Beta-Variables", 1958). All batch sizes are ranked together: among its
    own alone, half of the trials that start where another batch size did best would score below the
    mean.

    Args:
        trials: with their batch sizes.
        rungs: the steps at which trials are compared.
    """
    tried = [(s, trial) for s, trial in trials if trial.params and trial.state != TrialState.FAIL]
    curves = [_curve(trial, rungs) for _, trial in tried]
    known = [index for index, curve in enumerate(curves) if curve]
    expected = stats.norm.ppf((np.arange(len(known)) + 5 / 8) / (len(known) + 1 / 4)).tolist()
    order = rank([curves[index] for index in known])
    scores = {known[place]: score for place, score in zip(order, expected, strict=True)}
    return [
        Observation(trial.params, batch_size, scores.get(index))
        for index, (batch_size, trial) in enumerate(tried)
    ]


def _curve(trial: FrozenTrial, rungs: Collection[int]) -> dict[float, float]:
    """Return a trial's values on rungs, and in the end: it would not become better any more."""
    values = trial.intermediate_values
    curve: dict[float, float] = {step: values[step] for step in rungs if step in values}
    if trial.state == TrialState.COMPLETE and values:
        curve[math.inf] = values[max(values)]
    return curve


def rank(curves: Sequence[Mapping[float, float]]) -> list[int]:
    """Return the indices of learning curves from the worst to the best.

    An accuracy says who is better after as many epochs, not by how much, nor after all of them. So
    curves are put in order by their first values; then, rung by rung, those that reach it exchange
    their places by what they have there. One that trained longer is not better for that.

    Args:
        curves: values by step, none empty.
    """
    order = sorted(range(len(curves)), key=lambda index: curves[index][min(curves[index])])
    for step in sorted({step for curve in curves for step in curve}):
        places = [place for place, index in enumerate(order) if step in curves[index]]
        there = sorted((order[place] for place in places), key=lambda index: curves[index][step])
        for place, index in zip(places, there, strict=True):
            order[place] = index
    return order
