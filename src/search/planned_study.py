"""A study whose trials are planned: each takes a slot, and what is random in it follows from that.

A slot whose trial failed gives, when it is filled again, what it would have given, in any worker.
A trial that is interrupted is put back: WAITING, it keeps its number, configuration and reports,
and goes on after its last finished epoch when the study does.
"""

import abc
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from src.results.folder import ResultsFolder
from src.results.records import LOST, TrialRecord
from src.search.hyperband import Bracket
from src.search.spec import CurvesLevel
from src.search.store import Store
from src.search.studies import OUTCOME, SLOT, log_name, trial_record
from src.training.device import Compute
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.training.tensorboard import TensorBoardRun, write_run
from src.workers.messages import Ended

TRIES = 3
"""So often a trial may fail in a run before its slot is left empty; and so many failures in a row
with the same cause stop the run."""

_CURVES_AT_MOST, _RESULTS_AT_MOST = 300, 1000
"""Trials whose curves, and whose rows of HPARAMS, TensorBoard shows without growing sluggish."""

Shown = Literal["all", "results", "best", "none"]
"""What TensorBoard gets: the curves of all trials; those of the best and the results of the others;
those of the best alone; or nothing."""

Slot = int | str
"""Names a slot within its study."""


@dataclass(frozen=True)
class StartedTrial:
    """A trial that has begun to train."""

    number: int
    """Optuna's number within the study."""
    slot: Slot
    bracket: Bracket
    hyperparameters: Hyperparameters
    label: str
    """Its name for people."""


MakeCheckpoint = Callable[[StartedTrial, Fitted], bytes]
"""Makes a checkpoint of a trial that is better than all that compete with it."""


def what_to_show(asked: CurvesLevel, trials: int) -> Shown:
    """Return what TensorBoard gets where so many trials are planned."""
    if asked == "auto":
        asked = "all" if trials <= _CURVES_AT_MOST else "best"
    return "results" if asked == "best" and trials <= _RESULTS_AT_MOST else asked


class Slots(abc.ABC):
    """A study's slots. Filling them again goes on where it stopped.

    Args:
        name: of the study among those of its data set, for files.
        study: what holds the trials.
        slots: the names of all slots, in the order in which they are to be filled.
        max_epochs: epochs of a trial at most.
        patience: epochs without a better one after which a trial stops; None: never.
        store: where the study is; exclusively ours meanwhile.
        folder: where unfinished trials keep their states.
        compute: device and precision.
        log_dir: folder for TensorBoard.
        shown: what TensorBoard gets.
    """

    def __init__(
        self,
        name: str,
        study: optuna.Study,
        slots: Sequence[Slot],
        *,
        max_epochs: int,
        patience: int | None,
        store: Store,
        folder: ResultsFolder,
        compute: Compute,
        log_dir: str,
        shown: Shown,
    ) -> None:
        self.study = study
        self.slots = slots
        self._name = name
        self._max_epochs = max_epochs
        self._patience = patience
        self._store = store
        self._folder = folder
        self._compute = compute
        self._log_dir = log_dir
        self._log_name = log_name(study)
        self._shown = shown
        self._storage = study._storage
        self._trials: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}
        self._failures = Counter[Slot]()

    # ---- what kind of study it is

    @abc.abstractmethod
    def bracket(self, slot: Slot) -> Bracket:
        """Return the bracket of the trial in a slot."""

    @abc.abstractmethod
    def seed(self, slot: Slot) -> int:
        """Return what all that is random in a slot's trial follows from."""

    @abc.abstractmethod
    def label(self, slot: Slot, number: int) -> str:
        """Name the trial in a slot, which has this number, for people."""

    @abc.abstractmethod
    def planned(self, slot: Slot) -> FrozenTrial:
        """Return a WAITING trial to add in a slot."""

    @abc.abstractmethod
    def sampler(self, slot: Slot) -> optuna.samplers.BaseSampler:
        """Return what proposes the configuration of a slot's trial."""

    @abc.abstractmethod
    def configuration(self, trial: optuna.Trial, slot: Slot) -> Hyperparameters:
        """Return the configuration of a trial that begins or goes on."""

    @abc.abstractmethod
    def model_name(self, slot: Slot) -> str:
        """Name the checkpoint that a slot's trial competes for with others of the same name."""

    @abc.abstractmethod
    def turn(self, slot: Slot) -> int:
        """Return a number by which of two equal trials the lower is the better one."""

    # ---- what is left to do

    @property
    def done(self) -> int:
        """Slots that a trial has filled."""
        return len(self._filled())

    @property
    def given_up(self) -> list[Slot]:
        """Slots whose trials failed too often in this run, and that nobody else has filled."""
        tired = [slot for slot, failures in self._failures.items() if failures >= TRIES]
        done = self._filled() if tired else set()
        return [slot for slot in tired if slot not in done]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, here or in another search."""
        return len(self._filled().union(self.given_up)) == len(self.slots)

    def drop_states(self) -> None:
        """Remove what unfinished trials have left, when all slots are filled."""
        self._folder.drop_states(self._name)

    # ---- what happens to trials

    def recover(self) -> None:
        """Put right the trials that nobody runs any more."""
        with self._store.exclusive():
            self._store.recover(self.study)

    def beat(self) -> None:
        """Give a sign of life of every running trial."""
        for trial in self._trials.values():
            self._store.beat(trial._trial_id)

    def start(self) -> StartedTrial | None:
        """Start a trial in the first slot that nobody has taken; None: there is none.

        One that was interrupted goes on; where one failed, its configuration is tried again.
        """
        with self._store.exclusive():
            slot = self._open_slot()
            if slot is None:
                return None
            waiting = self._in_slot(slot, TrialState.WAITING)
            if not waiting:
                self.study.add_trial(self.planned(slot))
                waiting = self._in_slot(slot, TrialState.WAITING)
            frozen = waiting[0]
            self._store.beat(frozen._trial_id)  # first: one without a heartbeat is never stale
            self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING)
        self.study.sampler = self.sampler(slot)
        trial = optuna.Trial(self.study, frozen._trial_id)
        self._trials[trial.number] = trial
        self._reported[trial.number] = frozen.last_step or 0
        return StartedTrial(
            number=trial.number,
            slot=slot,
            bracket=self.bracket(slot),
            hyperparameters=self.configuration(trial, slot),
            label=self.label(slot, trial.number),
        )

    def job(self, trial: StartedTrial) -> FitSpec:
        """Return what a worker must do for a trial."""
        return FitSpec(
            hyperparameters=trial.hyperparameters,
            max_epochs=self._max_epochs,
            patience=self._patience,
            seed=self.seed(trial.slot),
            tensorboard=self._tensorboard(trial) if self._shown == "all" else None,
            state=self._state(trial),
        )

    def report(self, trial: StartedTrial, epoch: int, value: float) -> bool:
        """Record an epoch of a trial; return whether the trial has lost and is to stop.

        An epoch that was reported before an interruption is not judged again.
        """
        running = self._trials[trial.number]
        if epoch < self._reported[trial.number]:
            return False
        try:
            if epoch > self._reported[trial.number]:
                running.report(value, step=epoch)
            return running.should_prune()
        except UpdateFinishedTrialError:  # others thought it dead, and have taken its slot
            return True

    def end(
        self, trial: StartedTrial, ended: Ended, make_checkpoint: MakeCheckpoint
    ) -> TrialRecord | None:
        """Record a trial whose fit is over; None: it is not, and waits to be gone on with."""
        fitted = ended.fitted
        if fitted.interrupted is not None:
            self.put_back(trial.number)
            return None
        state, reason = self._judge(ended)
        outcome = {
            "reason": reason,
            "val_accuracy": fitted.best and fitted.best.val_accuracy,
            "history": [list(asdict(epoch).values()) for epoch in fitted.history],
            "device": self._compute.name,
            "seconds": fitted.seconds,
        }
        with self._store.exclusive():
            if not self._is_ours(trial):
                return None
            value, best = None, False
            if state == TrialState.COMPLETE:
                assert fitted.best is not None
                value = fitted.best.val_accuracy
                best = self._beats_all(trial, value)
                if best:
                    # Kept before the trial counts, lest it ever be missing.
                    name = self.model_name(trial.slot)
                    self._store.keep_model(name, make_checkpoint(trial, fitted))
            record = self._tell(trial, state, outcome, value)
        if fitted.best is not None and (
            self._shown == "results" or (self._shown == "best" and best)
        ):
            run, accuracy = self._tensorboard(trial), fitted.best.val_accuracy
            write_run(run, trial.hyperparameters, fitted.history, accuracy, curves=best)
        self._state(trial).unlink(missing_ok=True)
        return record

    def fail(self, trial: StartedTrial, reason: str) -> TrialRecord | None:
        """Record a trial that broke off, for a reason in one line."""
        self._failures[trial.slot] += 1
        if self._failures[trial.slot] > 1:  # should the state that it goes on from be the cause
            self._state(trial).unlink(missing_ok=True)
        with self._store.exclusive():
            if not self._is_ours(trial):
                return None
            return self._tell(trial, TrialState.FAIL, {"reason": reason[:300]}, None)

    def put_back(self, number: int) -> None:
        """Let a trial wait to be gone on with."""
        with contextlib.suppress(UpdateFinishedTrialError):  # others thought it dead
            self._storage.set_trial_state_values(
                self._trials[number]._trial_id, state=TrialState.WAITING
            )
        del self._trials[number]

    def put_all_back(self) -> None:
        """Let the running trials wait, as far as the storage can be reached."""
        with contextlib.suppress(Exception):  # the next run finds them abandoned
            for number in list(self._trials):
                self.put_back(number)

    def _is_ours(self, trial: StartedTrial) -> bool:
        """Return whether nobody has thought a trial dead; if so, forget it."""
        trial_id = self._trials[trial.number]._trial_id
        if self._storage.get_trial(trial_id).state == TrialState.RUNNING:
            return True
        del self._trials[trial.number]
        return False

    def _tell(
        self, trial: StartedTrial, state: TrialState, outcome: dict[str, Any], value: float | None
    ) -> TrialRecord:
        running = self._trials[trial.number]
        running.set_user_attr(OUTCOME, outcome)
        frozen = self.study.tell(running, value, state=state)
        del self._trials[trial.number]
        return trial_record(frozen, trial.hyperparameters)

    def _filled(self) -> set[Slot]:
        return self._slots(TrialState.COMPLETE, TrialState.PRUNED)

    def _slots(self, *states: TrialState) -> set[Slot]:
        """Return the slots that have a trial in one of these states."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        found = {trial.user_attrs[SLOT] for trial in trials}
        return found.intersection(self.slots)  # there may have been more of them

    def _open_slot(self) -> Slot | None:
        """Return a slot that nobody has taken; those whose trials failed in this run come last."""
        taken = self._slots(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        taken.update(self.given_up)
        free = (slot for slot in self.slots if slot not in taken)
        return min(free, key=lambda slot: self._failures[slot], default=None)  # the first of equals

    def _in_slot(self, slot: Slot, state: TrialState) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=(state,))
        return [trial for trial in trials if trial.user_attrs[SLOT] == slot]

    def _state(self, trial: StartedTrial) -> Path:
        return self._folder.trial_state(self._name, trial.slot)

    def _tensorboard(self, trial: StartedTrial) -> TensorBoardRun:
        return TensorBoardRun(self._log_dir, self._log_name, f"trial_{trial.number:04d}")

    def _judge(self, ended: Ended) -> tuple[TrialState, str]:
        """Return how the trial ended, and why if it did not train all its epochs."""
        fitted = ended.fitted
        if fitted.diverged is not None:
            return TrialState.PRUNED, fitted.diverged
        if ended.pruned:
            return TrialState.PRUNED, f"{LOST} at epoch {len(fitted.history)}"
        if fitted.early_stopped:
            return TrialState.COMPLETE, f"early stopping: no better epoch in {self._patience}"
        return TrialState.COMPLETE, ""

    def _beats_all(self, trial: StartedTrial, val_accuracy: float) -> bool:
        """Return whether a trial is better than all that compete for the same checkpoint.

        Whoever is done first does not win for that, or it would depend on the workers.
        """
        name = self.model_name(trial.slot)
        rivals = [
            (other.value or 0.0, -self.turn(other.user_attrs[SLOT]))
            for other in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if self.model_name(other.user_attrs[SLOT]) == name
        ]
        return all((val_accuracy, -self.turn(trial.slot)) > rival for rival in rivals)
