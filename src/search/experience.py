"""What a search has seen of its configurations, on all rungs: each with a score."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """How good it is among those of its batch size, higher is better: in all about normally
    distributed, with mean 0 and variance 1. None: nothing is known yet."""


def observe(
    batch_size: int, trials: Iterable[FrozenTrial], rungs: Collection[int]
) -> list[Observation]:
    """Return what the trials of one batch size have shown, the latest first.

    The score is that of a trial's rank in a sample from a normal distribution (Blom, "Statistical
    Estimates and Transformed Beta-Variables", 1958).

    Args:
        batch_size: of all of them.
        trials: of one study.
        rungs: the steps at which trials are compared.
    """
    tried = [trial for trial in trials if trial.params and trial.state != TrialState.FAIL]
    curves = {trial.number: _curve(trial, rungs) for trial in tried}
    known = [number for number, curve in curves.items() if curve]
    expected = stats.norm.ppf((np.arange(len(known)) + 5 / 8) / (len(known) + 1 / 4)).tolist()
    order = rank([curves[number] for number in known])
    scores = {known[index]: score for index, score in zip(order, expected, strict=True)}
    seen = [Observation(trial.params, batch_size, scores.get(trial.number)) for trial in tried]
    return seen[::-1]


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
