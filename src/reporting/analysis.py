"""Analyse a search's trials: endings, rungs, ranking, and accuracies after equal epochs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from src.results.records import LOST, TrialRecord
from src.search.hyperband import Plan
from src.training.hyperparameters import Hyperparameters

Value = int | float | str

HYPERPARAMETERS = tuple(field.name for field in fields(Hyperparameters))
"""Names of all hyperparameters, in the order in which they are shown."""

Kind = Literal["lost", "finished", "early", "diverged", "failed"]

_WIDE = 30
"""Ratio of highest to lowest value from which a hyperparameter has a logarithmic axis."""


@dataclass(frozen=True, order=True)
class Ending:
    """How a trial ended: its kind, and for `lost` the rung."""

    kind: Kind
    rung: float = 0
    """Epochs of the rung that stopped it; 0 if none did."""


def ending_of(trial: TrialRecord, plan: Plan) -> Ending:
    """Classify the end of a trial by its state, its reason and its epochs."""
    if trial.state == "FAIL":
        return Ending("failed")
    if trial.state == "PRUNED":
        return Ending("lost", trial.epochs) if trial.reason.startswith(LOST) else Ending("diverged")
    return Ending("finished" if trial.epochs >= plan.max_epochs else "early")


def endings(trials: Sequence[TrialRecord], plan: Plan) -> list[Ending]:
    """List the endings that occur, from failed trials to those that trained all epochs."""
    order: tuple[Kind, ...] = ("failed", "diverged", "lost", "early", "finished")
    found = {ending_of(trial, plan) for trial in trials}
    return sorted(found, key=lambda ending: (order.index(ending.kind), ending.rung))


@dataclass(frozen=True, kw_only=True)
class RungUse:
    """Trials and epochs of one rung of one bracket, all batch sizes and iterations together."""

    bracket: int
    epochs: float
    """Epochs a trial has trained when it stands on this rung."""
    planned: int
    """Trials that an iteration sends here at one batch size when one in η is promoted."""
    entered: int
    """Trials that trained towards this rung."""
    arrived: int
    """Of those, the trials that reached it; one that failed later has another in its place."""
    promoted: int
    """Of those that arrived, the trials that trained on beyond it."""
    went_on: int
    """Of those that entered, the same."""
    ended: dict[Kind, int]
    """Of those that entered, the trials that ended here or on the way."""
    spent: float
    """Epochs that they trained between the rung before and this one."""


def rung_uses(trials: Sequence[TrialRecord], plan: Plan) -> list[RungUse]:
    """Count trials and epochs by bracket and rung, the most aggressive bracket first."""
    uses = []
    for bracket in plan.brackets:
        members = [trial for trial in trials if trial.bracket == bracket.s]
        below: float = 0
        for i, rung in enumerate(bracket.rungs):
            entered = [trial for trial in members if i == 0 or trial.epochs > below]
            here = [trial for trial in entered if trial.epochs <= rung.epochs]
            kinds = [ending_of(trial, plan).kind for trial in here]
            arrived = [t for t in entered if t.epochs >= rung.epochs and t.state != "FAIL"]
            uses.append(
                RungUse(
                    bracket=bracket.s,
                    epochs=rung.epochs,
                    planned=rung.trials,
                    entered=len(entered),
                    arrived=len(arrived),
                    promoted=sum(trial.epochs > rung.epochs for trial in arrived),
                    went_on=len(entered) - len(here),
                    ended={kind: kinds.count(kind) for kind in set(kinds)},
                    spent=sum(min(trial.epochs, rung.epochs) - below for trial in entered),
                )
            )
            below = rung.epochs
    return uses


def accuracy_of(trial: TrialRecord) -> float:
    """Return the accuracy of a trial's best epoch, 0 before the first."""
    return trial.val_accuracy or 0.0


def with_accuracy(trials: Sequence[TrialRecord]) -> list[tuple[TrialRecord, float]]:
    """Pair the trials that have one with the accuracy of their best epoch.

    Of a trial that a rung within its first epoch stopped, it is that of its last look.
    """
    found = []
    for trial in trials:
        if trial.val_accuracy is not None:
            found.append((trial, trial.val_accuracy))
        elif trial.history and trial.reason.startswith(LOST):
            found.append((trial, trial.history[-1].val_accuracy))
    return found


def ranking(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that trained to their end, the best first."""
    finished = [trial for trial in trials if trial.state == "COMPLETE"]
    return sorted(finished, key=lambda trial: -accuracy_of(trial))


def best_by_batch_size(trials: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """Return the best finished trial of each batch size, the smallest first."""
    best: dict[int, TrialRecord] = {}
    for trial in ranking(trials):
        best.setdefault(trial.batch_size, trial)
    return dict(sorted(best.items()))


def accuracy_within(trial: TrialRecord, epochs: float) -> float | None:
    """Return the best validation accuracy of the first epochs; None if the trial had fewer.

    Within the first epoch it is that of the last look there, as it is for the rungs.
    """
    looks = [look for look in trial.history if look.epoch <= epochs]
    if not looks or trial.epochs < epochs:
        return None
    whole = [look.val_accuracy for look in looks if look.is_whole]
    return max(whole, default=looks[-1].val_accuracy)


def common_budget(plan: Plan) -> float:
    """Return the epochs of the lowest rung: what all trials of all brackets train at least."""
    return min(bracket.rungs[0].epochs for bracket in plan.brackets)


def value_of(trial: TrialRecord, name: str) -> Value:
    """Return a trial's hyperparameter; true and false in words."""
    value: Value = getattr(trial.hyperparameters, name)
    return ("yes" if value else "no") if isinstance(value, bool) else value


def varying(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the hyperparameters that are not the same in all trials."""
    return [name for name in HYPERPARAMETERS if len({value_of(t, name) for t in trials}) > 1]


def numeric(values: Sequence[Value]) -> bool:
    """Return whether all values are numbers."""
    return not any(isinstance(value, str) for value in values)


def is_wide(values: Sequence[Value]) -> bool:
    """Return whether the values are positive numbers that call for a logarithmic axis."""
    numbers = [value for value in values if not isinstance(value, str)]
    return numeric(values) and min(numbers) > 0 and max(numbers) / min(numbers) >= _WIDE
