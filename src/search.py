"""A Hyperband search: one Optuna study for each batch size, its trials trained by workers.

The plan numbers the places that trials take; a trial records its place (slot) and its bracket.
All that is random in a trial follows from the seed, the batch size and the slot, so a slot whose
trial was interrupted gives, when it is filled again, what it would have given, in any worker.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from src import space
from src.config import Hyperparameters, TuneConfig
from src.curves import Curves, write_curves
from src.data import TrainingData
from src.device import Compute
from src.errors import UserError
from src.fit import Fitted
from src.hyperband import Bracket, Plan
from src.interrupt import Interrupted, Interruption
from src.pruning import BRACKET_ATTRIBUTE
from src.results import TrialRecord
from src.seeding import SAMPLER, TRIAL, derive_seed
from src.studies import LOG_NAME, OUTCOME, SLOT, open_study, trial_record
from src.workers import Advanced, Ended, Failed, Job, Reported, Workers

_POLL = 0.2
"""Seconds between two looks at whether to stop."""


@dataclass(frozen=True)
class StartedTrial:
    """A trial that has begun to train."""

    number: int
    """Optuna's number within the study."""
    slot: int
    bracket: Bracket
    hyperparameters: Hyperparameters


class Watcher(Protocol):
    """Is told of trials as they come and go."""

    def trial_started(self, trial: StartedTrial) -> None:
        """See a trial begin."""

    def trial_advanced(self, trial: StartedTrial, epochs: float) -> None:
        """See how many epochs a trial has trained, with the part of the current one."""

    def epoch_ended(self, trial: StartedTrial, epoch: int, val_accuracy: float) -> None:
        """See the best validation accuracy of a trial so far."""

    def trial_ended(self, trial: StartedTrial, record: TrialRecord) -> None:
        """See the trial's row of the CSV."""


SaveBest = Callable[[StartedTrial, Fitted], None]
"""Keeps a trial that is better than all before it in its study."""


class TrialFailed(Exception):  # noqa: N818  # it is told with the error's own traceback
    """A trial ended with an error that nobody foresaw; its slot can be filled again."""


class Search:
    """The search at one batch size. Running it again goes on where it stopped.

    Args:
        config: what the user set.
        batch_size: images a training batch, the same in every trial.
        plan: brackets, rungs and slots.
        storage: where the study is, or will be.
        data: images to train and validate on.
        compute: device and precision.
    """

    def __init__(
        self,
        config: TuneConfig,
        batch_size: int,
        plan: Plan,
        storage: BaseStorage,
        data: TrainingData,
        compute: Compute,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.plan = plan
        self.compute = compute
        self.study = open_study(storage, config, batch_size, plan, data, compute)
        self._trials: dict[int, optuna.Trial] = {}

    @property
    def open_slots(self) -> list[int]:
        """Slots that no trial has filled yet, in the order of the plan."""
        filled = {
            trial.user_attrs[SLOT]
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        }
        return [slot for slot in range(self.plan.trials) if slot not in filled]

    def start(self, slot: int) -> StartedTrial:
        """Start a trial in this slot, with the configuration of one that failed there, if any."""
        bracket = self.plan.bracket_of(slot)
        self.study.sampler = self._sampler(slot)
        failed = [
            trial.params
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if trial.user_attrs[SLOT] == slot and trial.params.keys() == space.DISTRIBUTIONS.keys()
        ]
        self.study.enqueue_trial(  # the sampler must know the bracket before it is asked
            failed[-1] if failed else {}, user_attrs={SLOT: slot, BRACKET_ATTRIBUTE: bracket.s}
        )
        trial = self.study.ask()
        self._trials[trial.number] = trial
        hyperparameters = space.suggest(trial, self.batch_size)
        return StartedTrial(trial.number, slot, bracket, hyperparameters)

    def job(self, trial: StartedTrial) -> Job:
        """Return what a worker must do for a trial."""
        return Job(
            hyperparameters=trial.hyperparameters,
            max_epochs=self.plan.max_epochs,
            patience=self.config.patience,
            seed=derive_seed(self.config.seed, TRIAL, self.batch_size, trial.slot),
            curves=self._curves(trial) if self.config.tensorboard == "all" else None,
        )

    def report(self, trial: StartedTrial, epoch: int, value: float) -> bool:
        """Record an epoch of a trial; return whether the trial has lost and is to stop."""
        running = self._trials[trial.number]
        running.report(value, step=epoch)
        return running.should_prune()

    def end(self, trial: StartedTrial, ended: Ended, save_best: SaveBest) -> TrialRecord:
        """Record a trial whose fit is over."""
        fitted = ended.fitted
        state, reason = self._judge(ended)
        outcome = {
            "reason": reason,
            "val_accuracy": fitted.best and fitted.best.val_accuracy,
            "history": [list(asdict(epoch).values()) for epoch in fitted.history],
            "device": self.compute.name,
        }
        value = None
        if state == TrialState.COMPLETE:
            assert fitted.best is not None
            value = fitted.best.val_accuracy
            if self._beats_all(value):
                save_best(trial, fitted)  # before the trial counts, so that it is never missing
                if self.config.tensorboard == "best":
                    write_curves(self._curves(trial), trial.hyperparameters, fitted.history, value)
        return self._tell(trial.number, state, outcome, value)

    def fail(self, number: int, reason: str) -> TrialRecord:
        """Record a trial that broke off, for a reason in one line."""
        return self._tell(number, TrialState.FAIL, {"reason": reason[:300]}, None)

    def fail_all(self, reason: str) -> None:
        """Record as much as possible that all running trials broke off."""
        for number in list(self._trials):
            with contextlib.suppress(Exception):  # the next run finds it abandoned
                self.fail(number, reason)

    def _tell(
        self, number: int, state: TrialState, outcome: dict[str, Any], value: float | None
    ) -> TrialRecord:
        running = self._trials[number]
        running.set_user_attr(OUTCOME, outcome)
        frozen = self.study.tell(running, value, state=state)
        del self._trials[number]
        return trial_record(frozen, self.batch_size)

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Return a sampler whose random numbers follow from the slot, whatever ran before."""
        seed = derive_seed(self.config.seed, SAMPLER, self.batch_size, slot)
        if self.config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return _KnownSpaceTPESampler(
            seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True
        )

    def _curves(self, trial: StartedTrial) -> Curves:
        study = self.study.user_attrs[LOG_NAME]
        return Curves(self.config.log_dir, study, f"trial_{trial.number:04d}")

    def _judge(self, ended: Ended) -> tuple[TrialState, str]:
        """Return how the trial ended, and why if it did not train all its epochs."""
        fitted = ended.fitted
        if fitted.interrupted is not None:
            return TrialState.FAIL, fitted.interrupted.reason
        if fitted.diverged is not None:
            return TrialState.PRUNED, fitted.diverged
        if fitted.best is None:
            return TrialState.FAIL, "ended before its first epoch"
        if ended.pruned:
            return TrialState.PRUNED, f"lost on the rung at epoch {len(fitted.history)}"
        if fitted.early_stopped:
            return TrialState.COMPLETE, f"early stopping: no better epoch in {self.config.patience}"
        return TrialState.COMPLETE, ""

    def _beats_all(self, val_accuracy: float) -> bool:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return val_accuracy > max((trial.value or 0.0 for trial in complete), default=-1.0)


class _KnownSpaceTPESampler(optuna.samplers.TPESampler):
    """TPE that does not look through all trials for what they have in common: all of the space."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return space.DISTRIBUTIONS


class SearchRun:
    """Several searches, filled by the same workers, one search after another.

    Args:
        searches: one for each batch size.
        workers: train the trials.
        interruption: asked whether to stop.
        watcher: is told what happens.
        save_best: keeps what must outlive the run.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        workers: Workers,
        interruption: Interruption,
        watcher: Watcher,
        save_best: SaveBest,
    ) -> None:
        self._workers = workers
        self._interruption = interruption
        self._watcher = watcher
        self._save_best = save_best
        self._searches = searches
        self._places = [(search, slot) for search in searches for slot in search.open_slots]
        self._running: dict[int, tuple[Search, StartedTrial]] = {}
        self._stopping: Interrupted | None = None
        self._begun: list[Search] = []
        self._failure: Exception | None = None

    def run(self) -> Generator[Search, None, None]:
        """Fill the open slots; give each search when the last of its trials has ended.

        Raises:
            Interrupted: a signal came or the time is up; what was running is FAIL, and the next
                run tries its configurations again.
            UserError: a worker died; the other trials that were running are FAIL too.
            TrialFailed: there was an error in a worker; likewise.
        """
        try:
            while True:
                self._look_for_reason_to_stop()
                self._start_trials()
                busy = {search for search, _ in [*self._running.values(), *self._places]}
                for search in [search for search in self._begun if search not in busy]:
                    self._begun.remove(search)
                    yield search
                if not self._running:
                    break
                for worker, message in self._workers.receive(_POLL):
                    self._hear(worker, message)
        except BaseException as error:
            broke_off = isinstance(error, GeneratorExit)  # whoever publishes the searches failed
            for search in self._searches:
                search.fail_all(
                    "the search broke off" if broke_off else f"{type(error).__name__}: {error}"
                )
            raise
        if self._failure is not None:
            raise self._failure
        if self._stopping is not None:
            raise self._stopping

    def _look_for_reason_to_stop(self) -> None:
        if self._stopping is None and (reason := self._interruption.pending()):
            self._stop(reason)

    def _stop(self, reason: Interrupted) -> None:
        self._stopping = reason
        self._workers.interrupt(reason)
        self._places.clear()

    def _start_trials(self) -> None:
        for worker in self._workers.idle:
            if not self._places:
                return
            search, slot = self._places.pop(0)
            if search not in self._begun:
                self._begun.append(search)
            trial = search.start(slot)
            self._running[worker] = (search, trial)
            self._watcher.trial_started(trial)
            self._workers.submit(worker, search.job(trial))

    def _hear(self, worker: int, message: Advanced | Reported | Ended | Failed) -> None:
        search, trial = self._running[worker]
        if isinstance(message, Advanced):
            self._watcher.trial_advanced(trial, message.epochs)
        elif isinstance(message, Reported):
            lost = search.report(trial, message.epoch, message.value)
            self._workers.answer(worker, stop=lost)
            self._watcher.epoch_ended(trial, message.epoch, message.value)
        else:
            if isinstance(message, Ended):
                record = search.end(trial, message, self._save_best)
            else:
                record = search.fail(trial.number, message.reason)
                self._fail(trial, message)
            del self._running[worker]
            self._watcher.trial_ended(trial, record)

    def _fail(self, trial: StartedTrial, message: Failed) -> None:
        what = f"trial {trial.number} at batch size {trial.hyperparameters.batch_size}"
        if self._stopping is None:
            if message.details:
                self._failure = TrialFailed(f"{what}: {message.details}")
            else:
                self._failure = UserError(
                    f"{what}: {message.reason}; the same command goes on from here, with fewer "
                    "`--workers` if memory ran out"
                )
            self._stop(Interrupted("another trial failed", 1))
