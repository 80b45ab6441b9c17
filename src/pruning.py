"""Hyperband for Optuna and Lightning: the plan's brackets and exact rungs."""

from typing import Any

import lightning.pytorch as pl
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna_integration import PyTorchLightningPruningCallback

from src.hyperband import Bracket, Plan, is_promoted

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


class HyperbandCallback(PyTorchLightningPruningCallback):
    """Reports a trial after every epoch and stops it on the rung where it loses.

    It corrects optuna-integration's callback: epochs count from 1; the value reported is the one
    the search selects on, the best so far; and the fit is asked to stop instead of being thrown
    out of, so that Lightning ends it as it ends any other.

    Args:
        trial: the trial being trained.
        monitor: name of the metric to report, the larger the better.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        super().__init__(trial, monitor)
        self.pruned = False
        self._best = float("-inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch that has just ended and ask the pruner."""
        self._best = max(self._best, round(trainer.callback_metrics[self.monitor].item(), 6))
        self._trial.report(self._best, step=trainer.current_epoch + 1)
        if self._trial.should_prune():
            self.pruned = True
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a fit that is interrupted needs to go on."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        self._best = state_dict["best"]
