"""This project's own search, with workers that replay a table."""

import contextlib
import functools
import math
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage
from rich.console import Console

from benchmarks.league.replay import BudgetSpent, Replay
from benchmarks.league.surrogate import Surrogate, is_near
from benchmarks.league.table import PLAIN
from src.core.errors import UserError
from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.results.folder import ResultsFolder
from src.results.records import TrialRecord
from src.search import space
from src.search.hyperband import Plan, make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.logs import Logs
from src.search.loop import SearchLoop
from src.search.planned_study import StartedTrial
from src.search.promotion import Promotion
from src.search.session import Session
from src.search.spec import Sampler, SearchSpec
from src.search.store import Store
from src.search.timing import Timing
from src.training.device import PLAIN_CPU
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.training.spec import FitSpec
from src.tune import TuneOptions
from src.workers.launch import Launcher
from src.workers.messages import Ended, Message, Reported
from src.workers.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Ours:
    """What the search is asked for: by itself, promotion, sampler and lowest rung are those of
    `tune`."""

    promotion: Promotion = TuneOptions.promotion
    sampler: Sampler = TuneOptions.sampler
    cost_exponent: float = TuneOptions.cost_exponent
    min_epochs: float = TuneOptions.min_epochs
    factor: int = 3
    brackets: int | None = None
    iterations: int = 0
    """0: as many as the budget lasts."""
    after: str = ""
    """The table, of another batch size, that was searched before with as many images."""

    def plan(self, surrogate: Surrogate, budget: int) -> Plan:
        """Return the plan; by itself it lasts for so many images, whatever the rungs decide.

        Raises:
            UserError: there is no such plan.
        """
        make = functools.partial(
            make_plan,
            surrogate.max_epochs,
            self.factor,
            min_epochs=self.min_epochs,
            brackets=self.brackets,
        )
        try:
            plan = make()
        except ValueError as error:
            raise UserError(str(error)) from None
        least = sum(bracket.trials * bracket.rungs[0].epochs for bracket in plan.brackets)
        iterations = self.iterations or math.ceil(budget / surrogate.images / least) + 1
        return make(iterations)

    def spec(self, plan: Plan, session: Session) -> SearchSpec:
        """Return what all trials have in common."""
        return SearchSpec(
            data=session.data.spec,
            max_epochs=plan.max_epochs,
            reduction_factor=plan.reduction_factor,
            min_epochs=self.min_epochs,
            brackets=self.brackets,
            promotion=self.promotion,
            sampler=self.sampler,
            cost_exponent=self.cost_exponent,
            patience=None,
            precision=session.launcher.compute.precision,
            recipe=PLAIN,
            search_space=space.describe(),
            split_hash=session.data.split_hash,
        )


def search(ours: Ours, replays: Sequence[Replay], seed: int) -> None:
    """Search each table until its budget is spent, learning from those before."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name, _Memory() as store:
        for replay in replays:
            _search(ours, replay, seed, Path(name), store)


def _search(ours: Ours, replay: Replay, seed: int, folder: Path, store: Store) -> None:
    plan, workers = ours.plan(replay.surrogate, replay.budget), _Workers(replay)
    data = replace(_load_images(), spec=DataSpec(dataset="mnist_5k", seed=seed))
    session = Session(
        data=data,
        launcher=Launcher(PLAIN_CPU, replay.workers, lambda count: contextlib.nullcontext(workers)),
        store=store,
        folder=ResultsFolder(folder, data.spec.dataset),
        logs=Logs(folder, "none"),
        interruption=Interruption(),
        console=Console(quiet=True),
        timing=Timing(clock=lambda: 0.0),
    )
    studies = open_hyperband_studies(
        ours.spec(plan, session), [replay.surrogate.batch_size], plan, session
    )
    with (
        contextlib.suppress(BudgetSpent),
        SearchLoop(
            studies, workers, session, watcher=_Nobody(), make_checkpoint=lambda *_: b""
        ) as loop,
    ):
        loop.run()


@functools.cache
def _load_images() -> TrainingData:
    """Load a few images, because a session has some; nothing trains on them."""
    return load_training_data(DataSpec(dataset="mnist_5k", limit=100), "")


class _Workers:
    """Workers of a search, whose fits are replayed.

    Args:
        replay: the clock, and how many there are.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._jobs: dict[int, tuple[FitSpec, list[Epoch]]] = {}
        self._over: set[int] = set()
        """Workers whose fits have no further look."""
        self._ended: list[tuple[int, Message]] = []
        self._states: dict[int, list[Epoch]] = {}
        """What trials that wait have trained, by their seeds."""

    @property
    def idle(self) -> list[int]:
        ended = [worker for worker, _ in self._ended]
        return [worker for worker in self._replay.idle if worker not in ended]

    def submit(self, worker: int, spec: FitSpec) -> None:
        history = self._states.pop(spec.seed, [])
        self._jobs[worker] = (spec, history)
        self._replay.begin(
            worker,
            vars(spec.hyperparameters),
            spec.seed,
            begin=history[-1].epoch if history else 0,
            end=spec.max_epochs,
            looks=spec.looks,
        )

    def answer(self, worker: int, verdict: Verdict) -> None:
        if verdict == "go on" and worker not in self._over:
            self._replay.go_on(worker)
            return
        self._replay.stop(worker)
        spec, history = self._jobs[worker]
        if verdict == "pause":
            self._states[spec.seed] = history
        self._end(worker, verdict)

    def _end(self, worker: int, verdict: Verdict, diverged: str | None = None) -> None:
        _, history = self._jobs.pop(worker)
        self._over.discard(worker)
        best = max(_whole(history), key=lambda epoch: epoch.val_accuracy, default=None)
        fitted = Fitted(tuple(history), best, None, None, 0.0, False, diverged, None)
        self._ended.append((worker, Ended(fitted, verdict)))

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        if not self._ended and (event := self._replay.next()) is not None:
            worker, look, is_last = event
            spec, history = self._jobs[worker]
            if look is None:
                self._end(worker, "go on", "diverged")
            else:
                if is_last:
                    self._over.add(worker)
                epochs = next((x for x in spec.looks if is_near(x, look.epochs)), look.epochs)
                history.append(Epoch(epochs, 0.0, 0.0, 0.0, look.val_accuracy))
                of_epochs = [epoch.val_accuracy for epoch in _whole(history)]
                value = max(of_epochs) if history[-1].is_whole else look.val_accuracy
                return [(worker, Reported(epochs, value))]
        ended, self._ended = self._ended, []
        return ended

    def interrupt(self, reason: Interrupted) -> None:
        raise AssertionError("unreachable: nobody interrupts")

    def replace(self, worker: int) -> None:
        raise AssertionError("unreachable: no worker is silent")


def _whole(history: list[Epoch]) -> list[Epoch]:
    return [epoch for epoch in history if epoch.is_whole]


class _Memory(Store):
    """Studies of one search that nobody goes on with."""

    shared = False

    def __enter__(self) -> "_Memory":
        self.storage = InMemoryStorage()
        return self

    def __exit__(self, *_: object) -> None: ...

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def release_abandoned(self, study: optuna.Study, ours: Collection[int]) -> None: ...
    def _record_heartbeat(self, trial_id: int) -> None: ...
    def keep_model(self, name: str, content: bytes) -> None: ...
    def fetch_models(self) -> None: ...


class _Nobody:
    def trial_started(self, trial: StartedTrial) -> None: ...
    def trial_advanced(self, trial: StartedTrial, epochs: float) -> None: ...
    def epoch_ended(self, trial: StartedTrial, epoch: float, val_accuracy: float) -> None: ...
    def trial_ended(self, trial: StartedTrial, record: TrialRecord | None) -> None: ...
    def places_filled(self, count: int) -> None: ...
