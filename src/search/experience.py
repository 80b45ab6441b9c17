"""What a search has seen of its configurations, on all rungs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from src.results.records import LOST, OUTCOME
from src.search.hyperband import Plan


@dataclass(frozen=True)
class Observation:
    """A configuration that was tried, or is being tried."""

    params: Mapping[str, Any]
    """What was searched, by name."""
    batch_size: int
    curve: Mapping[float, float]
    """Validation accuracy, 0…1, by epochs trained: on rungs. Empty: nothing is known yet."""


Observe = Callable[[FrozenTrial], Iterable[Observation]]
"""Gives what the search has seen when a trial is to be proposed: the nearest batch sizes first, of
each the latest."""


def observe(trial: FrozenTrial, batch_size: int, plan: Plan) -> Observation:
    """Return what a trial has shown on the rungs of a plan."""
    rungs = {plan.step(r.epochs): r.epochs for bracket in plan.brackets for r in bracket.rungs}
    values = trial.intermediate_values
    curve = {epochs: values[step] for step, epochs in rungs.items() if step in values}
    if trial.state == TrialState.COMPLETE and values:
        curve[plan.max_epochs] = values[max(values)]  # it would not become better any more
    reason = trial.user_attrs.get(OUTCOME, {}).get("reason", "")
    if trial.state == TrialState.PRUNED and not reason.startswith(LOST):
        curve[plan.max_epochs] = 0.0  # it diverged
    return Observation(trial.params, batch_size, curve)
