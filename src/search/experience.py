"""What a search has seen of its configurations, on all rungs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from src.search.hyperband import Plan


@dataclass(frozen=True)
class Observation:
    """A configuration that was tried, or is being tried."""

    params: Mapping[str, Any]
    """What was searched, by name."""
    batch_size: int
    curve: Mapping[float, float]
    """Validation accuracy, 0…1, by epochs trained: on rungs. Empty: nothing is known yet."""


def observe(trials: Sequence[tuple[int, FrozenTrial]], plan: Plan) -> list[Observation]:
    """Return what trials have shown, in their order.

    Args:
        trials: with their batch sizes.
        plan: has the rungs at which trials are compared.
    """
    rungs = {plan.step(r.epochs): r.epochs for bracket in plan.brackets for r in bracket.rungs}
    return [
        Observation(trial.params, batch_size, _curve(trial, rungs, plan.max_epochs))
        for batch_size, trial in trials
        if trial.params and trial.state != TrialState.FAIL
    ]


def _curve(trial: FrozenTrial, rungs: Mapping[int, float], max_epochs: int) -> dict[float, float]:
    values = trial.intermediate_values
    curve = {epochs: values[step] for step, epochs in rungs.items() if step in values}
    if trial.state == TrialState.COMPLETE and values:
        curve[max_epochs] = values[max(values)]  # it would not become better any more
    if trial.state == TrialState.PRUNED and not curve:
        curve[min(rungs.values())] = 0.0  # it diverged
    return curve
