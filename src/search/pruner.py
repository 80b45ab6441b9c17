"""Hyperband's plan as an Optuna pruner: its brackets and exact rungs."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.search.hyperband import Bracket, Plan, is_promoted

BRACKET_ATTRIBUTE = "bracket"
"""Trial user attribute: s of the trial's bracket."""


class PlannedHyperbandPruner(optuna.pruners.HyperbandPruner):
    """Optuna's Hyperband with the brackets and rungs of a plan.

    What is Optuna's: a trial is judged the moment it reaches a rung, against those of its own
    bracket that reached it before, and the sampler learns from its own bracket. What is not:
    brackets and rungs are integers from the plan (Optuna takes a floating-point logarithm), a
    trial's bracket is the one recorded with it (Optuna hashes its number, which leaves brackets
    empty and moves a retried trial), and failed trials are no competitors.

    Args:
        plan: brackets and rungs.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(max_resource=plan.max_epochs, reduction_factor=plan.reduction_factor)
        self._pruners = [  # in the order of s, which is what _get_bracket_id returns
            _RungPruner(bracket, plan.reduction_factor)
            for bracket in sorted(plan.brackets, key=lambda bracket: bracket.s)
        ]

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(trial.user_attrs[BRACKET_ATTRIBUTE])


class _RungPruner(optuna.pruners.SuccessiveHalvingPruner):
    """Asynchronous successive halving in one bracket; reports count epochs from 1."""

    def __init__(self, bracket: Bracket, reduction_factor: int) -> None:
        super().__init__(reduction_factor=reduction_factor)
        self._bracket = bracket

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch not in self._bracket.decision_epochs:
            return False
        rung_values = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if epoch in other.intermediate_values and other.state != TrialState.FAIL
        ]
        return not is_promoted(
            trial.intermediate_values[epoch], rung_values, self._reduction_factor
        )
