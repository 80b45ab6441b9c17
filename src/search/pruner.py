"""Hyperband's plan as an Optuna pruner: its brackets and exact rungs."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.search.hyperband import Plan, is_promoted
from src.search.promotion import Promotion

BRACKET_ATTRIBUTE = "bracket"
"""Trial user attribute: s of the trial's bracket."""


class PlannedHyperbandPruner(optuna.pruners.HyperbandPruner):
    """Optuna's Hyperband with the brackets and rungs of a plan.

    What is Optuna's: a trial is judged the moment it reaches a rung, against those of its own
    bracket that reached it before, and TPE learns from all brackets. What is not: brackets and
    rungs are integers from the plan (Optuna takes a floating-point logarithm), a trial's
    bracket is the one recorded with it (Optuna hashes its number, which leaves brackets empty and
    moves a retried trial), and failed trials are no competitors.

    Where trials wait on their rungs, it stops none: the study ends those that have lost.

    Args:
        plan: brackets and rungs.
        promotion: how rungs decide.
    """

    def __init__(self, plan: Plan, promotion: Promotion = "stopping") -> None:
        most = plan.step(plan.max_epochs)
        super().__init__(max_resource=most, reduction_factor=plan.reduction_factor)
        self._waits = promotion != "stopping"
        self._lowest = plan.brackets[-1].s
        self._pruners = [  # in the order of s, by which _get_bracket_id counts
            _RungPruner(
                [plan.step(rung) for rung in bracket.decision_epochs], plan.reduction_factor
            )
            for bracket in reversed(plan.brackets)
        ]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial has lost on the rung that it has just reached."""
        return not self._waits and super().prune(study, trial)

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(trial.user_attrs[BRACKET_ATTRIBUTE]) - self._lowest


class _RungPruner(optuna.pruners.SuccessiveHalvingPruner):
    """Asynchronous successive halving in one bracket, whose rungs are given in Optuna's steps."""

    def __init__(self, rungs: Sequence[int], reduction_factor: int) -> None:
        super().__init__(reduction_factor=reduction_factor)
        self._rungs = rungs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step not in self._rungs:
            return False
        rung_values = [
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if step in other.intermediate_values and other.state != TrialState.FAIL
        ]
        return not is_promoted(trial.intermediate_values[step], rung_values, self._reduction_factor)
