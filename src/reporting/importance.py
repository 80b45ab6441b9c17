"""Estimate the importance of hyperparameters: Optuna's PED-ANOVA, with bootstrap intervals.

Watanabe, Bansal, Hutter: "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023. It asks how differently a hyperparameter is distributed among the best
trials and among all, and is not carried away by a few trials that learnt nothing.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from src.reporting.analysis import Value, is_wide, numeric

BEST = 0.25
"""Share of the trials that count as good ones (the paper's γ′)."""

LEAST = 8
"""Fewest trials for an estimate: of fewer, not even two would be good ones."""

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
    """Estimate the importance of every hyperparameter, the highest first.

    Args:
        configurations: of the trials; each hyperparameter takes at least two values.
        accuracies: theirs, after the same number of epochs.
    """
    evaluate = _ped_anova(configurations, accuracies)
    values = evaluate(np.arange(len(accuracies)))
    generator = np.random.default_rng(_SEED)
    resampled: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(_RESAMPLED):
        drawn = generator.integers(len(accuracies), size=len(accuracies))
        for name, value in evaluate(drawn).items():
            resampled[name].append(value)
    found = []
    for name, value in values.items():
        low, high = np.quantile(resampled[name], [0.1, 0.9])
        found.append(Importance(name, value, float(low), float(high)))
    return sorted(found, key=lambda importance: -importance.value)


def _ped_anova(
    configurations: Sequence[dict[str, Value]], accuracies: Sequence[float]
) -> Callable[[npt.NDArray[np.int64]], dict[str, float]]:
    """Build the PED-ANOVA evaluator: positions of trials (resampled or not) → importances."""
    import optuna  # here, as a report where nothing can be compared needs none

    def distribution(values: Sequence[Value]) -> optuna.distributions.BaseDistribution:
        if not numeric(values):
            return optuna.distributions.CategoricalDistribution(sorted(set(map(str, values))))
        numbers = [value for value in values if not isinstance(value, str)]
        low, high, log = min(numbers), max(numbers), is_wide(values)
        if all(isinstance(number, int) for number in numbers):
            return optuna.distributions.IntDistribution(int(low), int(high), log=log)
        return optuna.distributions.FloatDistribution(low, high, log=log)

    distributions = {
        name: distribution([configuration[name] for configuration in configurations])
        for name in configurations[0]
    }
    trials = [
        optuna.trial.create_trial(params=configuration, distributions=distributions, value=accuracy)
        for configuration, accuracy in zip(configurations, accuracies, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)

    def evaluate(positions: npt.NDArray[np.int64]) -> dict[str, float]:
        study = optuna.create_study(direction="maximize", storage=None)
        study.add_trials([trials[position] for position in positions])
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {name: float(found[name]) for name in distributions}

    return evaluate
