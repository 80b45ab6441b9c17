"""(g) What the storage bears: fake trials a second against workers, for each kind of storage.

The search, its samplers, pruning and storage are real, and so is the time; only the workers are
made up: they answer for as many trials as are wanted, each over after the same time, with reports
in between. Several searches at once share a PostgreSQL database as several machines would.
"""

import argparse
import contextlib
import heapq
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import RDBStorage
from rich.console import Console

from src.core.files import make_writable
from src.core.interrupt import Interrupted, Interruption
from src.data.split import TrainingData, load_training_data
from src.results.folder import ResultsFolder
from src.results.records import TrialRecord
from src.search.database import Database
from src.search.hyperband_study import open_hyperband_studies
from src.search.journal import Journal
from src.search.loop import SearchLoop
from src.search.planned_study import StartedTrial
from src.search.session import Session
from src.search.store import Store
from src.training.device import choose_compute
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.training.spec import FitSpec
from src.tune import TuneOptions
from src.workers.launch import Launcher
from src.workers.messages import Ended, Message, Reported
from src.workers.verdict import Verdict

SECONDS = 10.0
"""Of one trial, however many epochs it trains: short beside those of the published search."""
MAX_EPOCHS, FACTOR, ITERATIONS, BATCH_SIZES = 9, 3, 27, 16
"""16 studies of 459 trials: about as many as Keras Tuner counted for the published MNIST."""
MEASURED = 15.0
"""Seconds that a search is watched, from its first trial's end."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run searches with ever more workers on every kind of storage."""
    rows = []
    crowds = (1, 10) if options.quick else (10, 100)
    kinds = ["journal", "SQLite"] + (["PostgreSQL"] if options.postgresql else [])
    for kind in kinds:
        for workers in crowds:
            rows.append(_row(options, kind, "random", 1, workers))
    rows.append(_row(options, "journal", "tpe", 1, crowds[-1]))
    if not options.quick:
        rows.append(_row(options, "journal", "random", 1, 1000))
    if options.postgresql:
        for searches in (2,) if options.quick else (2, 4):
            rows.append(_row(options, "PostgreSQL", "random", searches, crowds[-1]))
    notes = [
        f"trials of {SECONDS:g} s; wanted: what so many workers would do with a storage that takes "
        "no time; ms: a search's processor and storage time for one trial"
    ]
    if not options.postgresql:
        notes.append("PostgreSQL is left out: --postgresql URL of an empty database")
    return {"rows": rows, "notes": notes}


def _row(
    options: argparse.Namespace, kind: str, sampler: str, searches: int, workers: int
) -> dict[str, Any]:
    """Run so many searches at once, with so many workers in all."""
    seconds = 4.0 if options.quick else MEASURED
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        if kind == "PostgreSQL":
            _clear(options.postgresql)
        each = (kind, options.postgresql, Path(folder), sampler, workers // searches, seconds)
        with ProcessPoolExecutor(searches, context) as pool:
            futures = [pool.submit(_search, *each) for _ in range(searches)]
            ended = [future.result() for future in futures]
    trials, busy = (sum(numbers) for numbers in zip(*ended, strict=True))
    rate = trials / seconds
    row = {
        "storage": kind,
        "sampler": sampler,
        "searches": searches,
        "workers": workers,
        "trials": trials,
        "trials/s": round(rate, 2),
        "wanted/s": round(workers / SECONDS, 2),
        "workers busy %": round(100 * min(1.0, rate * SECONDS / workers), 1),
        "ms a trial": round(1000 * busy / max(1, trials), 1),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _search(
    kind: str, url: str, folder: Path, sampler: Any, workers: int, seconds: float
) -> tuple[int, float]:
    """Search for a while; return how many trials ended, and the seconds that the search worked."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = TuneOptions(
        dataset="mnist_5k",
        limit=100,
        batch_sizes=tuple(range(1, BATCH_SIZES + 1)),
        max_epochs=MAX_EPOCHS,
        reduction_factor=FACTOR,
        iterations=ITERATIONS,
        sampler=sampler,
        tensorboard="none",
        log_dir=folder,
    )
    results = ResultsFolder(folder, "mnist_5k")
    make_writable(results.path, "")
    data = load_training_data(options.data_spec, "")
    compute = choose_compute("cpu", "32", threads=1)
    fake = _FakeWorkers(workers, seconds, data)
    with _store(kind, url, results) as store:
        session = Session(
            data=data,
            launcher=Launcher(compute, workers, lambda count: contextlib.nullcontext(fake)),
            store=store,
            folder=results,
            logs=options.logs,
            interruption=fake,
            console=Console(quiet=True),
        )
        spec, plan = options.search_spec(session), options.make_plan()
        studies = open_hyperband_studies(spec, options.batch_sizes, plan, session)
        with (
            SearchLoop(
                studies, fake, session, watcher=_Nobody(), make_checkpoint=lambda *_: b""
            ) as loop,
            contextlib.suppress(Interrupted),
        ):
            loop.run()
    return fake.ended, fake.busy


class _Nobody:
    def trial_started(self, trial: StartedTrial) -> None: ...
    def trial_advanced(self, trial: StartedTrial, epochs: float) -> None: ...
    def epoch_ended(self, trial: StartedTrial, epoch: float, val_accuracy: float) -> None: ...
    def trial_ended(self, trial: StartedTrial, record: TrialRecord | None) -> None: ...
    def places_filled(self, count: int) -> None: ...


class _FakeWorkers(Interruption):
    """Any number of workers that sleep; also says when the measurement is over."""

    def __init__(self, number: int, seconds: float, data: TrainingData) -> None:
        self.ended = 0
        """Trials, while it was measured."""
        self.busy = 0.0
        """Seconds that the search did not wait for these workers, while it was measured."""
        self._number = number
        self._seconds = seconds
        self._idle = set(range(number))
        self._due: list[tuple[float, int, Message]] = []
        self._jobs: dict[int, tuple[FitSpec, float, list[Epoch]]] = {}
        self._begun: float | None = None
        self._returned: float | None = None
        self._stopping = False

    @property
    def idle(self) -> list[int]:
        return sorted(self._idle)

    def pending(self) -> Interrupted | None:
        if self._begun is not None and time.monotonic() > self._begun + self._seconds:
            self._stopping = True
            return Interrupted("measured", 0)
        return None

    def submit(self, worker: int, job: FitSpec) -> None:
        self._idle.discard(worker)
        self._jobs[worker] = (job, time.monotonic(), [])
        self._next(worker, "go on")

    def answer(self, worker: int, verdict: Verdict) -> None:
        self._next(worker, verdict)

    def _next(self, worker: int, verdict: Verdict) -> None:
        job, started, history = self._jobs[worker]
        if verdict != "go on" or len(history) == job.max_epochs:
            fitted = Fitted(
                tuple(history), history[-1], {}, torch.eye(10), SECONDS, False, None, None
            )
            # All the time that an epoch did not take passes at the end.
            self._at(started + SECONDS, worker, Ended(fitted, verdict))
            return
        limit = (job.seed % 1000) / 1000
        accuracy = round(limit * (1 - 0.5 ** (len(history) + 1)), 6)
        history.append(Epoch(len(history) + 1, 0.1, accuracy, 0.1, accuracy))
        due = started + SECONDS * len(history) / (job.max_epochs + 1)
        self._at(due, worker, Reported(len(history), accuracy))

    def _at(self, due: float, worker: int, message: Message) -> None:
        heapq.heappush(self._due, (due, worker, message))

    def interrupt(self, reason: Interrupted) -> None:
        self._due = []
        for worker in set(range(self._number)) - self._idle:
            history = tuple(self._jobs[worker][2])
            fitted = Fitted(history, None, None, None, 0.0, False, None, reason)
            self._at(0.0, worker, Ended(fitted, "go on"))

    def replace(self, worker: int) -> None: ...

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        now = time.monotonic()
        if self._returned is not None and self._begun is not None and not self._stopping:
            self.busy += now - self._returned
        end = now + timeout
        if self._due:
            end = min(end, self._due[0][0])
        time.sleep(max(0.0, end - now))
        messages = []
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, worker, message = heapq.heappop(self._due)
            if isinstance(message, Ended):
                self._idle.add(worker)
                if self._begun is None and not self._stopping:
                    self._begun = now
                elif not self._stopping:
                    self.ended += 1
            messages.append((worker, message))
        self._returned = time.monotonic()
        return messages


class _SQLite(Journal):
    """Optuna's SQLite storage, which the project does not offer, for one search at a time."""

    def __enter__(self) -> "_SQLite":
        self._lock.__enter__()
        self.storage = RDBStorage(f"sqlite:///{self._folder.path}/study.db")
        return self


@contextlib.contextmanager
def _store(kind: str, url: str, folder: ResultsFolder) -> Iterator[Store]:
    store: Store
    if kind == "PostgreSQL":
        store = Database(url, folder, heartbeat=15)
    else:
        store = _SQLite(folder) if kind == "SQLite" else Journal(folder)
    with store:
        yield store


def _clear(url: str) -> None:
    """Remove what a measurement has left in the database."""
    import psycopg  # an extra

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
