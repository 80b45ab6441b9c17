"""Which hyperparameters set good trials apart: PED-ANOVA, as Optuna has it, and its uncertainty.

Watanabe, Bansal, Hutter: "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023. It asks how differently a hyperparameter is distributed among the best
trials and among all, and is not carried away by a few trials that learnt nothing.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from src.reporting.analysis import Value, is_wide, numeric

BEST = 0.25
"""The best of all trials that are compared with all: this share of them."""

LEAST = 8
"""Trials below which nothing is said: fewer than two would be the best."""

_RESAMPLED = 20
"""Bootstrap samples behind an interval."""

_SEED = 0


@dataclass(frozen=True)
class Importance:
    """The importance of one hyperparameter; over all, they add up to 1."""

    name: str
    value: float
    low: float
    """10 % quantile when the trials are drawn anew, with replacement; `value` may lie outside."""
    high: float
    """90 % quantile."""


def importances(
    configurations: Sequence[dict[str, Value]], accuracies: Sequence[float]
) -> list[Importance]:
    """Return every hyperparameter's importance, the highest first.

    Args:
        configurations: of the trials; each hyperparameter takes at least two values.
        accuracies: theirs, after the same number of epochs.
    """
    distributions = {
        name: _distribution([configuration[name] for configuration in configurations])
        for name in configurations[0]
    }
    values = _evaluate(configurations, accuracies, distributions)
    generator = np.random.default_rng(_SEED)
    resampled: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(_RESAMPLED):
        drawn = generator.integers(len(accuracies), size=len(accuracies))
        again = _evaluate(
            [configurations[i] for i in drawn], [accuracies[i] for i in drawn], distributions
        )
        for name, value in again.items():
            resampled[name].append(value)
    found = []
    for name, value in values.items():
        low, high = np.quantile(resampled[name], [0.1, 0.9])
        found.append(Importance(name, value, float(low), float(high)))
    return sorted(found, key=lambda importance: -importance.value)


def _distribution(values: Sequence[Value]) -> BaseDistribution:
    if not numeric(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    numbers = [value for value in values if not isinstance(value, str)]
    low, high, log = min(numbers), max(numbers), is_wide(values)
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _evaluate(
    configurations: Sequence[dict[str, Value]],
    accuracies: Sequence[float],
    distributions: dict[str, BaseDistribution],
) -> dict[str, float]:
    """Return Optuna's answer for these trials; the same ones give the same answer."""
    study = optuna.create_study(direction="maximize", storage=None)
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={
                    name: str(configuration[name])
                    if isinstance(distributions[name], CategoricalDistribution)
                    else configuration[name]
                    for name in configuration
                },
                distributions=distributions,
                value=accuracy,
            )
            for configuration, accuracy in zip(configurations, accuracies, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found[name]) for name in distributions}
