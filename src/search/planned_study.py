"""A study whose trials are planned: each takes a place, and what is random in it follows from that.

A place whose trial failed gives, when it is filled again, what it would have given, in any worker.
A trial that is interrupted, or that has to wait on a rung, is requeued: WAITING, it keeps its
number, configuration and reports, and goes on where it stopped. Who may go on follows from the
trials alone, so that no rung need be recorded.
"""

import abc
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.results.records import LOST, OUTCOME, TrialOutcome, TrialRecord
from src.search import space
from src.search.guesses import Guess
from src.search.logs import Shown
from src.search.pruner import BRACKET_ATTRIBUTE
from src.search.session import Session
from src.search.spec import SearchSpec
from src.search.studies import SLOT, log_name, trial_record
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.training.tensorboard import TensorBoardRun, write_run
from src.workers.messages import Ended
from src.workers.verdict import Verdict

TRIES = 3
"""So often a trial may fail in a run before its place is left empty; and so many failures in a row
with the same cause stop the run."""

FIXED = "fixed_params"
"""Optuna's name for parameters that no sampler proposes; see `Study.enqueue_trial`."""

Key = int | str
"""Names a place within its study; recorded with its trials as the attribute `slot`."""


@dataclass(frozen=True)
class Place:
    """A place in the plan of a study."""

    key: Key
    bracket: int
    """s of the bracket: how often it cuts its trials."""
    seed: int
    """All that is random in training follows from it."""
    batch_size: int
    label: str
    """Names its trial for people; `{number}` stands for the trial's number."""
    model: str
    """Names the checkpoint that its trial competes for with others of the same name."""
    order: int
    """Tie-break: of two equal accuracies the lower order wins."""


class Places(abc.ABC):
    """The places of a study."""

    keys: Sequence[Key]
    """Of all places, in the order in which they are to be filled."""
    looks: tuple[float, ...] = ()
    """Shares of its first epoch after which a trial reports, too."""

    @abc.abstractmethod
    def place(self, key: Key) -> Place:
        """Return a place, also one of an earlier, larger plan."""

    @abc.abstractmethod
    def configured_like(self, key: Key) -> FrozenTrial | None:
        """Return the trial whose configuration a place is given; None: the sampler proposes it."""

    def guess(self, trials: Iterable[FrozenTrial]) -> Guess | None:
        """Return the user's guess that is to be tried next; None: all have been.

        Args:
            trials: of the study.
        """
        return None

    def step(self, epochs: float) -> int:
        """Return epochs as Optuna counts the steps of a trial."""
        return round(epochs)

    def judge(
        self, keys: Iterable[Key], trials: Iterable[FrozenTrial], given_up: Collection[Key]
    ) -> Mapping[Key, Verdict]:
        """Return what becomes of the trials that stand on rungs where trials wait.

        Args:
            keys: places whose trials, and all that compete with them, are judged.
            trials: of the study.
            given_up: places that will not be filled.
        """
        return {}


@dataclass(frozen=True)
class StartedTrial:
    """A trial that has begun to train."""

    number: int
    """Optuna's number within the study."""
    place: Place
    hyperparameters: Hyperparameters
    max_epochs: int

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.place.label.format(number=self.number)


MakeCheckpoint = Callable[[StartedTrial, Fitted], bytes]
"""Makes a checkpoint of a trial that is better than all that compete with it."""


class PlannedStudy:
    """A study and its places. Filling them again goes on where it stopped.

    Args:
        name: of the study among those of its data set, for files.
        study: what holds the trials; its sampler proposes what the places leave open.
        places: what is to be filled.
        spec: what its trials have in common.
        session: where the study is stored, and where trials keep their states and curves.
        shown: what TensorBoard gets.
    """

    def __init__(
        self,
        name: str,
        study: optuna.Study,
        places: Places,
        spec: SearchSpec,
        session: Session,
        shown: Shown,
    ) -> None:
        self.name = name
        self.study = study
        self.keys = places.keys
        self._places = places
        self._place = functools.cache(places.place)
        self._spec = spec
        self._session = session
        self._store = session.store
        self._log_name = log_name(study)
        self._shown = shown
        self._trials: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}
        self._failures = Counter[Key]()

    # ---- what is left to do

    @property
    def done(self) -> int:
        """Places that a trial has filled."""
        return len(self._filled())

    @property
    def given_up(self) -> list[Key]:
        """Places whose trials failed too often in this run, and that nobody else has filled."""
        tired = [key for key, failures in self._failures.items() if failures >= TRIES]
        filled = self._filled() if tired else set()
        return [key for key in tired if key not in filled]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do, here or in another search."""
        return len(self._filled().union(self.given_up)) == len(self.keys)

    def drop_states(self) -> None:
        """Remove what unfinished trials have left, when all places are filled."""
        self._session.folder.drop_states(self.name)

    # ---- what happens to trials

    def release_abandoned(self) -> None:
        """Requeue (journal) or fail (database) RUNNING trials whose process is gone."""
        with self._store.exclusive():
            self._store.release_abandoned(self.study, self._trials)

    def heartbeat(self) -> None:
        """Record that this process lives, with every running trial."""
        for trial in self._trials.values():
            self._store.heartbeat(trial)

    def end_lost(self) -> list[tuple[StartedTrial, TrialRecord]]:
        """End the trials that wait on a rung and can no longer be promoted."""
        with self._store.exclusive():
            paused = {key: trial for key, trial in self._waiting().items() if self._paused(trial)}
            verdicts = self._judge(paused)
            lost = [key for key in paused if verdicts[key] == "stop"]
            return [self._end_lost(self._place(key), paused[key]) for key in lost]

    def _end_lost(self, place: Place, paused: FrozenTrial) -> tuple[StartedTrial, TrialRecord]:
        trial = self._started(place, self._store.start(self.study, paused))
        outcome = TrialOutcome.from_attribute(paused.user_attrs[OUTCOME])
        outcome = replace(outcome, reason=_lost(outcome.epochs))
        record = self._record_outcome(trial, TrialState.PRUNED, outcome, None)
        self._show(trial, outcome)
        self._state(trial).unlink(missing_ok=True)
        return trial, record

    def start(self) -> StartedTrial | None:
        """Start a trial in a place where one can; None: there is none.

        One that was promoted or interrupted goes on, the one that is furthest first; else the first
        place is filled that nobody has taken; last come those whose states other machines have, who
        may go on with them meanwhile. Where a trial failed, its configuration is tried again.
        """
        with self._store.exclusive():
            key = self._next_place()
            if key is None:
                return None
            place = self._place(key)
            if key not in self._waiting():
                self.study.add_trial(self._waiting_trial(place))
            waiting = self._waiting()[key]
            if self._judge([key]).get(key, "go on") != "go on":
                # It was killed on its rung before it could wait, and has to come there again.
                self._state_of(key).unlink(missing_ok=True)
            # What others propose meanwhile follows from what this one tries.
            trial = self._started(place, self._store.start(self.study, waiting))
        self._reported[trial.number] = waiting.last_step or 0
        return trial

    def _started(self, place: Place, trial: optuna.Trial) -> StartedTrial:
        self._trials[trial.number] = trial
        return StartedTrial(
            number=trial.number,
            place=place,
            hyperparameters=space.suggest(trial, place.batch_size, self._spec.recipe),
            max_epochs=self._spec.max_epochs,
        )

    def job(self, trial: StartedTrial) -> FitSpec:
        """Return what a worker must do for a trial."""
        return FitSpec(
            hyperparameters=trial.hyperparameters,
            max_epochs=self._spec.max_epochs,
            patience=self._spec.patience,
            seed=trial.place.seed,
            compute=self._session.launcher.compute,
            looks=self._places.looks,
            tensorboard=self._tensorboard(trial) if self._shown == "all" else None,
            state=self._state(trial),
        )

    def report(self, trial: StartedTrial, epoch: float, value: float) -> Verdict:
        """Record a look at a trial; return what becomes of it.

        Of looks that were reported before an interruption, only the last is judged again.
        """
        running, key, step = self._trials[trial.number], trial.place.key, self._places.step(epoch)
        if step < self._reported[trial.number]:
            return "go on"
        try:
            if step > self._reported[trial.number]:
                running.report(value, step=step)
            if running.should_prune():
                return "stop"
        except UpdateFinishedTrialError:  # others thought it dead, and have taken its place
            return "stop"
        return self._judge([key]).get(key, "go on")

    def end(
        self, trial: StartedTrial, ended: Ended, make_checkpoint: MakeCheckpoint
    ) -> TrialRecord | None:
        """Record a trial whose fit is over.

        None: it waits, or another search has given it up.
        """
        fitted = ended.fitted
        if fitted.interrupted is not None:
            self._requeue(trial.number)
            return None
        state, reason = self._how_it_ended(ended)
        outcome = TrialOutcome(
            reason=reason,
            val_accuracy=None if fitted.best is None else fitted.best.val_accuracy,
            history=fitted.history,
            device=self._session.launcher.compute.name,
            seconds=fitted.seconds,
        )
        with self._store.exclusive():
            if not self._is_ours(trial):
                return None
            if state == TrialState.WAITING:
                self._trials[trial.number].set_user_attr(OUTCOME, outcome.to_attribute())
                self._requeue(trial.number)
                return None
            value, best = None, False
            if state == TrialState.COMPLETE:
                assert fitted.best is not None
                value = fitted.best.val_accuracy
                best = self._beats_all(trial.place, value)
                if best:  # kept before the trial counts, lest it ever be missing
                    self._store.keep_model(trial.place.model, make_checkpoint(trial, fitted))
            record = self._record_outcome(trial, state, outcome, value)
        self._show(trial, outcome, best)
        self._state(trial).unlink(missing_ok=True)
        return record

    def fail(self, trial: StartedTrial, reason: str) -> TrialRecord | None:
        """Record a trial that broke off, for a reason in one line.

        None: another search has given it up.
        """
        key = trial.place.key
        self._failures[key] += 1
        if self._failures[key] > 1:  # should the state that it goes on from be the cause
            self._state(trial).unlink(missing_ok=True)
        with self._store.exclusive():
            if not self._is_ours(trial):
                return None
            return self._record_outcome(
                trial, TrialState.FAIL, TrialOutcome(reason=reason[:300]), None
            )

    def requeue_all(self) -> None:
        """Let the running trials wait to be gone on with, as far as the storage can be reached."""
        with contextlib.suppress(Exception):  # the next run finds them abandoned
            for number in list(self._trials):
                self._requeue(number)

    def _requeue(self, number: int) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # others thought it dead
            self._store.requeue(self._trials[number])
        del self._trials[number]

    def _is_ours(self, trial: StartedTrial) -> bool:
        """Return whether nobody has thought a trial dead; if so, forget it."""
        if self._store.is_running(self._trials[trial.number]):
            return True
        del self._trials[trial.number]
        return False

    def _record_outcome(
        self, trial: StartedTrial, state: TrialState, outcome: TrialOutcome, value: float | None
    ) -> TrialRecord:
        running = self._trials[trial.number]
        running.set_user_attr(OUTCOME, outcome.to_attribute())
        frozen = self.study.tell(running, value, state=state)
        del self._trials[trial.number]
        return trial_record(frozen, trial.hyperparameters, self._places.step(1))

    def _waiting_trial(self, place: Place) -> FrozenTrial:
        """Return a trial to add in a place, which the sampler must find there when it is asked.

        Where one has failed, it has that one's configuration, and its reports: it may go on from
        the other's state, beyond rungs on which it must stand.
        """
        waiting = create_trial(
            state=TrialState.WAITING,
            user_attrs={SLOT: place.key, BRACKET_ATTRIBUTE: place.bracket},
        )
        whole = space.distributions(self._spec.recipe).keys()
        failed = [t for t in self._in_place(place.key, TrialState.FAIL) if t.params.keys() == whole]
        like = failed[-1] if failed else self._places.configured_like(place.key)
        if like is not None:
            waiting.params, waiting.distributions = like.params, like.distributions
        elif guess := self._places.guess(self.study.get_trials(deepcopy=False)):
            waiting.system_attrs = {FIXED: dict(guess)}
        if failed:
            waiting.intermediate_values = failed[-1].intermediate_values
        return waiting

    def _filled(self) -> set[Key]:
        return self._taken(TrialState.COMPLETE, TrialState.PRUNED)

    def _taken(self, *states: TrialState) -> set[Key]:
        """Return the places that have a trial in one of these states."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        found = {trial.user_attrs[SLOT] for trial in trials}
        return found.intersection(self.keys)  # there may have been more of them

    def _next_place(self) -> Key | None:
        """Return the place to fill next; those whose trials failed in this run come last."""
        taken = self._taken(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        taken.update(self.given_up)
        waiting = self._waiting()
        paused = [key for key, trial in waiting.items() if self._paused(trial)]
        verdicts = self._judge(paused)
        taken.update(key for key in paused if verdicts[key] != "go on")

        def rank(key: Key) -> tuple[int, bool, int]:
            step = (waiting[key].last_step or 0) if key in waiting else 0
            elsewhere = self._store.shared and step > 0 and not self._state_of(key).exists()
            return self._failures[key], elsewhere, -step

        return min((key for key in self.keys if key not in taken), key=rank, default=None)

    def _waiting(self) -> dict[Key, FrozenTrial]:
        """Return the trials that wait, by place."""
        # Asked for WAITING alone, Optuna's storage in memory forgets those that have run before.
        trials = self.study.get_trials(deepcopy=False)
        found = {t.user_attrs[SLOT]: t for t in reversed(trials) if t.state == TrialState.WAITING}
        return {key: found[key] for key in self.keys if key in found}

    def _paused(self, waiting: FrozenTrial) -> bool:
        """Return whether a trial waits on a rung; else it was interrupted, or has not begun."""
        if OUTCOME not in waiting.user_attrs:
            return False
        outcome = TrialOutcome.from_attribute(waiting.user_attrs[OUTCOME])
        return self._places.step(outcome.epochs) == waiting.last_step

    def _judge(self, keys: Iterable[Key]) -> Mapping[Key, Verdict]:
        trials = self.study.get_trials(deepcopy=False)
        return self._places.judge(keys, trials, self.given_up)

    def _in_place(self, key: Key, state: TrialState) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=(state,))
        return [trial for trial in trials if trial.user_attrs[SLOT] == key]

    def _state(self, trial: StartedTrial) -> Path:
        return self._state_of(trial.place.key)

    def _state_of(self, key: Key) -> Path:
        return self._session.folder.trial_state(self.name, key)

    def _show(self, trial: StartedTrial, outcome: TrialOutcome, best: bool = False) -> None:
        """Show TensorBoard a trial that has ended, if not the fit itself has done so."""
        shown = self._shown == "results" or (self._shown == "best" and best)
        if shown and outcome.val_accuracy is not None:
            run, history = self._tensorboard(trial), outcome.history or ()
            write_run(run, trial.hyperparameters, history, outcome.val_accuracy, curves=best)

    def _tensorboard(self, trial: StartedTrial) -> TensorBoardRun:
        folder = self._session.logs.folder
        return TensorBoardRun(folder, self._log_name, f"trial_{trial.number:04d}")

    def _how_it_ended(self, ended: Ended) -> tuple[TrialState, str]:
        """Return how the trial ended, and why if it did not train all its epochs."""
        fitted = ended.fitted
        if fitted.diverged is not None:
            return TrialState.PRUNED, fitted.diverged
        if ended.verdict == "stop":
            return TrialState.PRUNED, _lost(fitted.history[-1].epoch)
        if fitted.early_stopped:
            return TrialState.COMPLETE, f"early stopping: no better epoch in {self._spec.patience}"
        if ended.verdict == "pause":
            return TrialState.WAITING, ""
        return TrialState.COMPLETE, ""

    def _beats_all(self, place: Place, val_accuracy: float) -> bool:
        """Return whether a trial is better than all that compete for the same checkpoint.

        Whoever is done first does not win for that, or it would depend on the workers.
        """
        rivals = [
            (other.value or 0.0, -rival.order)
            for other in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if (rival := self._place(other.user_attrs[SLOT])).model == place.model
        ]
        return all((val_accuracy, -place.order) > rival for rival in rivals)


def _lost(epochs: float) -> str:
    return f"{LOST} at epoch {epochs:.4g}"
