"""The loop of a search: workers fill the open places of several studies, one after another.

What fails is tried again; several failures in a row with one cause stop the loop. Whatever ends it,
no trial is left running.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from src.core.interrupt import Interrupted
from src.results.records import TrialRecord
from src.search.planned_study import TRIES, MakeCheckpoint, PlannedStudy, StartedTrial
from src.search.session import Session
from src.workers.launch import Workers
from src.workers.messages import Advanced, Ended, Failed, Message, Reported


class Watcher(Protocol):
    """Is told of trials as they come and go."""

    def trial_started(self, trial: StartedTrial) -> None:
        """See a trial begin."""

    def trial_advanced(self, trial: StartedTrial, epochs: float) -> None:
        """See how many epochs a trial has trained, with the part of the current one."""

    def epoch_ended(self, trial: StartedTrial, epoch: float, val_accuracy: float) -> None:
        """See the best validation accuracy of a trial so far, or that of a look within an epoch."""

    def trial_ended(self, trial: StartedTrial, record: TrialRecord | None) -> None:
        """See the trial's record; None: it waits, or another search has given it up."""

    def places_filled(self, count: int) -> None:
        """See how many places of the plan are filled, by whomever."""


class SearchFailed(Exception):  # noqa: N818  # the message is for people
    """Trials failed, and failed again."""


class FailureStreak:
    """Failures in a row with the same cause, each of a trial that began after the last one counted.

    Args:
        clock: tells when a failure is counted, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.length = 0
        self._clock = clock
        self._cause = ""
        self._last = 0.0

    def add(self, cause: str, started: float) -> None:
        """Count a failure; several at once, of one crash, count as one."""
        if cause == self._cause and started <= self._last:
            return
        self.length = self.length + 1 if cause == self._cause else 1
        self._cause, self._last = cause, self._clock()

    def end(self) -> None:
        """See a trial that did not fail."""
        self.length = 0
        self._cause = ""


class SearchLoop:
    """Several studies, filled by the same workers, one after another.

    A context manager: at its end no trial is running, however it ends.

    Args:
        studies: what to fill, in this order.
        workers: train the trials.
        session: where the studies are stored, how long to wait for what, whether to stop.
        watcher: is told what happens.
        make_checkpoint: makes what is kept of a best trial.
        on_complete: called with each study that is complete now.
    """

    def __init__(
        self,
        studies: Sequence[PlannedStudy],
        workers: Workers,
        session: Session,
        *,
        watcher: Watcher,
        make_checkpoint: MakeCheckpoint,
        on_complete: Callable[[PlannedStudy], None] = lambda study: None,
    ) -> None:
        self.last_failure: Failed | None = None
        """Of all trials of this run."""
        self._workers = workers
        self._interruption = session.interruption
        self._watcher = watcher
        self._make_checkpoint = make_checkpoint
        self._on_complete = on_complete
        self._store = session.store
        self._timing = session.timing
        self._now = session.timing.clock
        self._studies = studies
        self._unfinished = [study for study in studies if not study.is_complete]
        self._filled = {study: study.done for study in studies}
        self._running: dict[int, tuple[PlannedStudy, StartedTrial, float]] = {}
        self._stopping: Interrupted | None = None
        self._failure: SearchFailed | None = None
        self._streak = FailureStreak(session.timing.clock)
        self._next_heartbeat = 0.0
        self._next_look = 0.0
        self._pause_ends = 0.0
        self._silent: defaultdict[int, float] = defaultdict(float)
        self._unused: list[int] = []

    def __enter__(self) -> "SearchLoop":
        return self

    def __exit__(self, *_: object) -> None:
        for study in self._studies:
            study.requeue_all()

    def run(self) -> None:
        """Fill the open places.

        Raises:
            Interrupted: a signal came or the time is up; what was running waits for the next run.
            SearchFailed: several trials in a row failed with the same cause; likewise.
        """
        while True:
            self._look_for_reason_to_stop()
            self._give_signs_of_life()
            if self._stopping is None and self._may_have_something_to_start():
                self._start_trials()
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
        if self._now() >= self._next_heartbeat:
            self._next_heartbeat = self._now() + self._store.heartbeat_interval
            for study in self._unfinished:
                study.heartbeat()
                study.release_abandoned()

    def _may_have_something_to_start(self) -> bool:
        # A worker that had to wait for room is idle one day, though no trial has ended.
        now = self._now()
        due = now >= self._next_look or self._workers.idle != self._unused
        return due and now >= self._pause_ends

    def _start_trials(self) -> None:
        """Start what trials can be started; hand on the studies that are complete."""
        # Without others nothing changes until a trial ends.
        self._next_look = self._now() + self._timing.look if self._store.shared else float("inf")
        idle = self._workers.idle
        until = self._now() + self._timing.starting
        for study in list(self._unfinished):
            for lost, record in study.end_lost():
                self._watcher.trial_ended(lost, record)
            while idle and self._now() < until and (trial := study.start()) is not None:
                worker = idle.pop(0)
                self._running[worker] = (study, trial, self._now())
                self._watcher.trial_started(trial)
                self._workers.submit(worker, study.job(trial))
            self._filled[study] = study.done
            if study.is_complete:
                self._unfinished.remove(study)
                study.drop_states()
                self._on_complete(study)
            if not idle:
                break
        self._unused = idle
        if self._now() >= until:
            self._next_look = 0.0
        self._watcher.places_filled(sum(self._filled.values()))

    def _listen(self) -> None:
        """Hear the workers; give up those that have said nothing for too long."""
        started = self._now()
        messages = self._workers.receive(self._timing.poll)
        # Time in which this process did not listen, or was stopped itself, is not theirs.
        waited = min(self._now() - started, 2 * self._timing.poll)
        for worker, message in messages:
            self._silent[worker] = 0.0
            self._hear(worker, message)
        for worker in list(self._running):
            self._silent[worker] += waited
            if self._silent[worker] > self._timing.silence:
                self._silent[worker] = 0.0
                self._workers.replace(worker)
                reason = f"its worker was silent for {self._timing.silence:g} seconds"
                self._hear(worker, Failed(cause=reason, reason=reason))

    def _hear(self, worker: int, message: Message) -> None:
        study, trial, started = self._running[worker]
        if isinstance(message, Advanced):
            self._watcher.trial_advanced(trial, message.epochs)
        elif isinstance(message, Reported):
            self._workers.answer(worker, study.report(trial, message.epoch, message.value))
            self._watcher.epoch_ended(trial, message.epoch, message.value)
        else:
            if isinstance(message, Ended):
                record = study.end(trial, message, self._make_checkpoint)
                if message.fitted.interrupted is None:
                    self._streak.end()
            else:
                record = study.fail(trial, message.reason)
                self._fail(trial, message, started)
            del self._running[worker]
            self._next_look = 0.0
            self._watcher.trial_ended(trial, record)

    def _fail(self, trial: StartedTrial, message: Failed, started: float) -> None:
        self.last_failure = message
        self._streak.add(message.cause, started)
        self._pause_ends = self._now() + self._timing.pause * self._streak.length
        if self._stopping is None and self._streak.length >= TRIES:
            self._failure = SearchFailed(
                f"{self._streak.length} trials in a row failed with the same cause, the last of "
                f"them {trial.label}: "
                f"{message.reason}"
            )
            self._stop(Interrupted("other trials failed", 1))
