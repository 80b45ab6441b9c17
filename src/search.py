"""A Hyperband search: one Optuna study for each batch size, its trials trained by workers.

The plan numbers the places that trials take; a trial records its place (slot) and its bracket.
All that is random in a trial follows from the seed, the batch size and the slot, so a slot whose
trial failed gives, when it is filled again, what it would have given, in any worker.

A trial that is interrupted is put back: WAITING, it keeps its number, configuration and reports,
and goes on after its last finished epoch when the search does.
"""

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from src import space
from src.config import Hyperparameters, TuneConfig
from src.curves import Curves, write_curves
from src.data import TrainingData
from src.device import Compute
from src.fit import Fitted
from src.hyperband import Bracket, Plan
from src.interrupt import Interrupted, Interruption
from src.pruning import BRACKET_ATTRIBUTE
from src.results import ResultsFolder, TrialRecord
from src.seeding import SAMPLER, TRIAL, derive_seed
from src.stores import Store
from src.studies import OUTCOME, SLOT, log_name, open_study, trial_record
from src.worker import Advanced, Ended, Failed, Job, Message, Reported

_POLL = 0.2
"""Seconds between two looks at whether to stop."""
_LOOK = 2.0
"""Seconds between two looks at what other searches on the same studies have done."""
_STARTING = 1.0
"""Seconds that trials are started before those that run are heard again."""
_TRIES = 3
"""So often a trial may fail in a run before its place is left empty; and so many failures in a row
with the same cause stop the search."""
_PAUSE = 2.0
"""Seconds that nothing is started after a failure, twice as many after a second one in a row: what
caused it, such as another program's hunger for memory, may pass."""
_SILENCE = 600.0
"""Seconds without a word after which a worker is given up: for want of memory a thread may wait for
ever. Workers speak after every chunk of training batches; a pass over validation images is the
longest that they are silent."""
_TENSORBOARD_SHOWS_WELL = 300
"""Trials."""


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

    def trial_ended(self, trial: StartedTrial, record: TrialRecord | None) -> None:
        """See the trial's row of the CSV; None: it was put back."""

    def slots_filled(self, number: int) -> None:
        """See how many places of the plan are filled, by whomever."""


MakeCheckpoint = Callable[[StartedTrial, Fitted], bytes]
"""Makes a checkpoint of a trial that is better than all before it in its study."""


class Workers(Protocol):
    """What trains: processes, here or elsewhere. A worker that dies is replaced."""

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do, in a list of its own."""

    def submit(self, worker: int, job: Job) -> None:
        """Give an idle worker a trial to train."""

    def answer(self, worker: int, *, stop: bool) -> None:
        """Tell a worker that has `Reported` whether its trial is to stop."""

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what busy workers have said, waiting up to so many seconds for the first."""

    def replace(self, worker: int) -> None:
        """Give up a worker, whatever it is doing, and start another in its stead."""


class SearchFailed(Exception):  # noqa: N818  # the message is for people
    """Trials failed, and failed again."""


class Search:
    """The search at one batch size. Running it again goes on where it stopped.

    Args:
        config: what the user set.
        batch_size: images a training batch, the same in every trial.
        plan: brackets, rungs and slots.
        store: where the study is, or will be; exclusively ours meanwhile.
        folder: where unfinished trials keep their states.
        data: images to train and validate on.
        compute: device and precision.
    """

    def __init__(
        self,
        config: TuneConfig,
        batch_size: int,
        plan: Plan,
        store: Store,
        folder: ResultsFolder,
        data: TrainingData,
        compute: Compute,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.plan = plan
        self.compute = compute
        self._store = store
        self._folder = folder
        self.study = open_study(store.storage, config, batch_size, plan, data, compute)
        self._storage = self.study._storage
        self._log_name = log_name(self.study)
        self._recipe = config.recipe_choices
        self._searched = space.distributions(self._recipe)
        self._trials: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}
        self._failures = Counter[int]()
        trials = len(config.batch_sizes) * plan.trials
        self._curves_level = config.tensorboard
        if config.tensorboard == "auto":
            self._curves_level = "all" if trials <= _TENSORBOARD_SHOWS_WELL else "best"

    @property
    def done(self) -> int:
        """Slots that a trial has filled."""
        return len(self._slots(TrialState.COMPLETE, TrialState.PRUNED))

    @property
    def given_up(self) -> list[int]:
        """Slots whose trials failed too often in this run, and that nobody else has filled."""
        tired = [slot for slot, failures in self._failures.items() if failures >= _TRIES]
        done = self._slots(TrialState.COMPLETE, TrialState.PRUNED) if tired else set()
        return [slot for slot in tired if slot not in done]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, here or in another search."""
        done = self._slots(TrialState.COMPLETE, TrialState.PRUNED)
        return len(done.union(self.given_up)) == self.plan.trials

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
            bracket = self.plan.bracket_of(slot)
            waiting = self._in_slot(slot, TrialState.WAITING)
            if not waiting:
                self.study.add_trial(self._planned(slot))
                waiting = self._in_slot(slot, TrialState.WAITING)
            frozen = waiting[0]
            self._store.beat(frozen._trial_id)  # first: one without a heartbeat is never stale
            self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING)
        self.study.sampler = self._sampler(slot)
        trial = optuna.Trial(self.study, frozen._trial_id)
        self._trials[trial.number] = trial
        self._reported[trial.number] = frozen.last_step or 0
        hyperparameters = space.suggest(trial, self.batch_size, self._recipe)
        return StartedTrial(trial.number, slot, bracket, hyperparameters)

    def job(self, trial: StartedTrial) -> Job:
        """Return what a worker must do for a trial."""
        return Job(
            hyperparameters=trial.hyperparameters,
            max_epochs=self.plan.max_epochs,
            patience=self.config.patience,
            seed=derive_seed(self.config.seed, TRIAL, self.batch_size, trial.slot),
            curves=self._curves(trial) if self._curves_level == "all" else None,
            state=self._folder.trial_state(self.batch_size, trial.slot),
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
            "device": self.compute.name,
            "seconds": fitted.seconds,
        }
        with self._store.exclusive():
            if not self._is_ours(trial):
                return None
            value = None
            if state == TrialState.COMPLETE:
                assert fitted.best is not None
                value = fitted.best.val_accuracy
                if self._beats_all(value):  # kept before the trial counts, lest it ever be missing
                    self._store.keep_model(self.batch_size, make_checkpoint(trial, fitted))
                    if self._curves_level == "best":
                        curves = self._curves(trial)
                        write_curves(curves, trial.hyperparameters, fitted.history, value)
            record = self._tell(trial, state, outcome, value)
        self._folder.trial_state(self.batch_size, trial.slot).unlink(missing_ok=True)
        return record

    def fail(self, trial: StartedTrial, reason: str) -> TrialRecord | None:
        """Record a trial that broke off, for a reason in one line."""
        self._failures[trial.slot] += 1
        if self._failures[trial.slot] > 1:  # should the state that it goes on from be the cause
            self._folder.trial_state(self.batch_size, trial.slot).unlink(missing_ok=True)
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

    def drop_states(self) -> None:
        """Remove what unfinished trials have left, when the search is over."""
        self._folder.drop_states(self.batch_size)

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
        return trial_record(frozen, self.batch_size, self._recipe)

    def _slots(self, *states: TrialState) -> set[int]:
        """Return the plan's slots that have a trial in one of these states."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        slots = {int(trial.user_attrs[SLOT]) for trial in trials}
        return {slot for slot in slots if slot < self.plan.trials}  # it may have been longer

    def _open_slot(self) -> int | None:
        """Return a slot that nobody has taken; those whose trials failed in this run come last."""
        taken = self._slots(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        taken.update(self.given_up)
        slots = (slot for slot in range(self.plan.trials) if slot not in taken)
        return min(slots, key=lambda slot: (self._failures[slot], slot), default=None)

    def _in_slot(self, slot: int, state: TrialState) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=(state,))
        return [trial for trial in trials if trial.user_attrs[SLOT] == slot]

    def _planned(self, slot: int) -> FrozenTrial:
        """Return a trial to add in a slot, which the sampler must find there when it is asked.

        Where one has failed, it has that one's configuration, and its reports: it may go on from
        the other's state, beyond rungs on which it must stand.
        """
        planned = create_trial(
            state=TrialState.WAITING,
            user_attrs={SLOT: slot, BRACKET_ATTRIBUTE: self.plan.bracket_of(slot).s},
        )
        for failed in reversed(self._in_slot(slot, TrialState.FAIL)):
            if failed.params.keys() == self._searched.keys():
                planned.params, planned.distributions = failed.params, failed.distributions
                planned.intermediate_values = failed.intermediate_values
                break
        return planned

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Return a sampler whose random numbers follow from the slot, whatever ran before."""
        seed = derive_seed(self.config.seed, SAMPLER, self.batch_size, slot)
        if self.config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return _KnownSpaceTPESampler(
            self._searched, seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True
        )

    def _curves(self, trial: StartedTrial) -> Curves:
        return Curves(self.config.log_dir, self._log_name, f"trial_{trial.number:04d}")

    def _judge(self, ended: Ended) -> tuple[TrialState, str]:
        """Return how the trial ended, and why if it did not train all its epochs."""
        fitted = ended.fitted
        if fitted.diverged is not None:
            return TrialState.PRUNED, fitted.diverged
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

    def __init__(self, searched: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._searched = searched

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._searched


class _Streak:
    """Failures in a row with the same cause, each of a trial that began after the one before."""

    def __init__(self) -> None:
        self.length = 0
        self._cause = ""
        self._last = 0.0

    def add(self, cause: str, started: float) -> None:
        """Count a failure; several at once, of one crash, count as one."""
        if cause != self._cause:
            self.length = 1
        elif started > self._last:
            self.length += 1
        self._cause, self._last = cause, time.monotonic()

    def end(self) -> None:
        """See a trial that did not fail."""
        self.length = 0
        self._cause = ""


class SearchRun:
    """Several searches, filled by the same workers, one search after another.

    A context manager: at its end no trial is running, however it ends.

    Args:
        searches: one for each batch size.
        workers: train the trials.
        interruption: asked whether to stop.
        watcher: is told what happens.
        make_checkpoint: makes what is kept of a best trial.
        store: where the studies are.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        workers: Workers,
        interruption: Interruption,
        watcher: Watcher,
        make_checkpoint: MakeCheckpoint,
        store: Store,
    ) -> None:
        self.last_failure: Failed | None = None
        """Of all trials of this run."""
        self._workers = workers
        self._interruption = interruption
        self._watcher = watcher
        self._make_checkpoint = make_checkpoint
        self._store = store
        self._searches = searches
        self._unfinished = [search for search in searches if not search.is_over]
        self._filled = {search: search.done for search in searches}
        self._running: dict[int, tuple[Search, StartedTrial, float]] = {}
        self._stopping: Interrupted | None = None
        self._failure: SearchFailed | None = None
        self._streak = _Streak()
        self._next_beat = 0.0
        self._next_look = 0.0
        self._pause_ends = 0.0
        self._silent: defaultdict[int, float] = defaultdict(float)
        self._unused: list[int] = []

    def __enter__(self) -> "SearchRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for search in self._searches:
            search.put_all_back()

    def run(self) -> Generator[Search, None, None]:
        """Fill the open slots; give each search when it is over.

        Raises:
            Interrupted: a signal came or the time is up; what was running waits for the next run.
            SearchFailed: several trials in a row failed with the same cause; likewise.
        """
        while True:
            self._look_for_reason_to_stop()
            self._give_signs_of_life()
            if self._stopping is None and self._may_have_something_to_start():
                yield from self._look()
            if not self._running and (self._stopping or not self._unfinished):
                break
            self._listen()
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

    def _give_signs_of_life(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._store.heartbeat
            for search in self._unfinished:
                search.beat()
                search.recover()

    def _may_have_something_to_start(self) -> bool:
        # A worker that had to wait for room is idle one day, though no trial has ended.
        now = time.monotonic()
        due = now >= self._next_look or self._workers.idle != self._unused
        return due and now >= self._pause_ends

    def _look(self) -> Generator[Search, None, None]:
        """Start what trials can be started; give the searches that are over."""
        # Without others nothing changes until a trial ends.
        self._next_look = time.monotonic() + _LOOK if self._store.shared else float("inf")
        idle = self._workers.idle
        until = time.monotonic() + _STARTING
        for search in list(self._unfinished):
            while idle and time.monotonic() < until and (trial := search.start()) is not None:
                worker = idle.pop(0)
                self._running[worker] = (search, trial, time.monotonic())
                self._watcher.trial_started(trial)
                self._workers.submit(worker, search.job(trial))
            self._filled[search] = search.done
            if search.is_over:
                self._unfinished.remove(search)
                search.drop_states()
                yield search
            if not idle:
                break
        self._unused = idle
        if time.monotonic() >= until:
            self._next_look = 0.0
        self._watcher.slots_filled(sum(self._filled.values()))

    def _listen(self) -> None:
        """Hear the workers; give up those that have said nothing for too long."""
        started = time.monotonic()
        messages = self._workers.receive(_POLL)
        # Time in which this process did not listen, or was stopped itself, is not theirs.
        waited = min(time.monotonic() - started, 2 * _POLL)
        for worker, message in messages:
            self._silent[worker] = 0.0
            self._hear(worker, message)
        for worker in list(self._running):
            self._silent[worker] += waited
            if self._silent[worker] > _SILENCE:
                self._silent[worker] = 0.0
                self._workers.replace(worker)
                reason = f"its worker was silent for {_SILENCE:g} seconds"
                self._hear(worker, Failed(cause=reason, reason=reason))

    def _hear(self, worker: int, message: Message) -> None:
        search, trial, started = self._running[worker]
        if isinstance(message, Advanced):
            self._watcher.trial_advanced(trial, message.epochs)
        elif isinstance(message, Reported):
            lost = search.report(trial, message.epoch, message.value)
            self._workers.answer(worker, stop=lost)
            self._watcher.epoch_ended(trial, message.epoch, message.value)
        else:
            if isinstance(message, Ended):
                record = search.end(trial, message, self._make_checkpoint)
                if message.fitted.interrupted is None:
                    self._streak.end()
            else:
                record = search.fail(trial, message.reason)
                self._fail(trial, message, started)
            del self._running[worker]
            self._next_look = 0.0
            self._watcher.trial_ended(trial, record)

    def _fail(self, trial: StartedTrial, message: Failed, started: float) -> None:
        self.last_failure = message
        self._streak.add(message.cause, started)
        self._pause_ends = time.monotonic() + _PAUSE * self._streak.length
        if self._stopping is None and self._streak.length >= _TRIES:
            self._failure = SearchFailed(
                f"{self._streak.length} trials in a row failed with the same cause, the last of "
                f"them trial {trial.number} at batch size {trial.hyperparameters.batch_size}: "
                f"{message.reason}"
            )
            self._stop(Interrupted("other trials failed", 1))
