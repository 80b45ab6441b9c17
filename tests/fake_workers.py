"""Workers that train nothing: what each epoch validates follows a script, and time is counted."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path

import torch
from rich.console import Console

from src.core.files import make_writable
from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.results.folder import ResultsFolder
from src.search import space
from src.search.hyperband import Plan
from src.search.logs import Logs
from src.search.promotion import Promotion
from src.search.session import Session
from src.search.spec import Sampler, SearchSpec
from src.search.store import Store
from src.search.timing import Timing
from src.training.device import PLAIN_CPU
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.training.hyperparameters import RECIPE, Hyperparameters
from src.training.network import TwoConvNet
from src.training.spec import FitSpec
from src.workers.launch import Launcher
from src.workers.messages import Ended, Failed, Message, Reported
from src.workers.verdict import Verdict

Script = Callable[[FitSpec], Sequence[float] | Failed | None]
"""A trial → what it validates at each look, NaN where it diverges, fewer where it stops early; or
how it fails; or None: its worker falls silent."""

IMAGES, CLASSES = 20, 10
NEVER = Interruption()


class FakeWorkers:
    """So many workers; each turn, the one that has waited longest says its next word.

    Args:
        count: how many.
        script: what becomes of a trial.
    """

    def __init__(self, count: int, script: Script) -> None:
        self.seconds = 0.0
        """A clock: it moves when somebody listens."""
        self.jobs: list[FitSpec] = []
        """All that were given, in order."""
        self._idle = list(range(count))
        self._script = script
        self._turns: list[tuple[int, FitSpec, list[Epoch]]] = []
        self._asked: dict[int, tuple[FitSpec, list[Epoch]]] = {}
        self._stopped: dict[int, tuple[FitSpec, list[Epoch], Verdict | Interrupted]] = {}

    def __enter__(self) -> "FakeWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def clock(self) -> float:
        return self.seconds

    @property
    def idle(self) -> list[int]:
        return sorted(self._idle)

    def submit(self, worker: int, job: FitSpec) -> None:
        self._idle.remove(worker)
        self.jobs.append(job)
        self._turns.append((worker, job, _load_state(job)))

    def answer(self, worker: int, verdict: Verdict) -> None:
        job, history = self._asked.pop(worker)
        if verdict == "go on":
            self._turns.append((worker, job, history))
        else:
            self._stopped[worker] = (job, history, verdict)

    def interrupt(self, reason: Interrupted) -> None:
        running = {worker: (job, history) for worker, job, history in self._turns} | self._asked
        self._turns.clear()
        self._asked.clear()
        self._stopped |= {worker: (*of, reason) for worker, of in running.items()}

    def replace(self, worker: int) -> None:
        self._turns = [turn for turn in self._turns if turn[0] != worker]
        self._idle.append(worker)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        self.seconds += timeout
        if self._stopped:
            worker, (job, history, reason) = self._stopped.popitem()
            self._idle.append(worker)
            if isinstance(reason, Interrupted):
                return [(worker, Ended(_fitted(job, history, reason), "go on"))]
            if reason == "pause":
                _save_state(job, history)
            fitted = _fitted(job, history, None, early=self._has_learnt_all(job, history))
            if reason == "stop" or not fitted.early_stopped:
                fitted = replace(fitted, weights=None)
            return [(worker, Ended(fitted, reason))]
        if not self._turns:
            return []
        worker, job, history = self._turns.pop(0)
        curve = self._script(job)
        if curve is None:
            self._turns.append((worker, job, history))
            return []
        if isinstance(curve, Failed):
            self._idle.append(worker)
            return [(worker, curve)]
        looks = [*job.looks, *range(1, job.max_epochs + 1)]
        early = self._has_learnt_all(job, history)
        if early or len(history) == len(looks):
            self._idle.append(worker)
            return [(worker, Ended(_fitted(job, history, None, early), "go on"))]
        accuracy = curve[len(history)]
        if math.isnan(accuracy):
            self._idle.append(worker)
            diverged = replace(_fitted(job, history, None), diverged="diverged: on purpose")
            return [(worker, Ended(diverged, "go on"))]
        history.append(Epoch(looks[len(history)], 0.1, accuracy, 0.1, accuracy))
        self._asked[worker] = (job, history)
        whole = [epoch.val_accuracy for epoch in history if epoch.is_whole]
        value = max(whole) if history[-1].is_whole else accuracy
        return [(worker, Reported(history[-1].epoch, value))]

    def _has_learnt_all(self, job: FitSpec, history: Sequence[Epoch]) -> bool:
        curve = self._script(job)
        assert curve is not None and not isinstance(curve, Failed)
        return len(history) == len(curve) < len(job.looks) + job.max_epochs


def _save_state(job: FitSpec, history: Sequence[Epoch]) -> None:
    assert job.state is not None
    job.state.parent.mkdir(exist_ok=True)
    job.state.write_text(json.dumps([astuple(epoch) for epoch in history]))


def _load_state(job: FitSpec) -> list[Epoch]:
    if job.state is None or not job.state.exists():
        return []
    return [Epoch(*epoch) for epoch in json.loads(job.state.read_text())]


def _fitted(
    job: FitSpec, history: list[Epoch], interrupted: Interrupted | None, early: bool = False
) -> Fitted:
    whole = (epoch for epoch in history if epoch.is_whole)
    best = max(whole, key=lambda epoch: epoch.val_accuracy, default=None)
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    confusion[0, 0] = IMAGES
    hp = job.hyperparameters
    network = TwoConvNet(
        conv1=hp.conv1,
        conv2=hp.conv2,
        dense_units=hp.dense_units,
        dropout_rate=hp.dropout_rate,
        classes=CLASSES,
    )
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    return Fitted(tuple(history), best, weights, confusion, 1.0, early, None, interrupted)


@contextmanager
def open_session(
    store: Store, folder: ResultsFolder, workers: FakeWorkers, interruption: Interruption = NEVER
) -> Iterator[Session]:
    """Open a session on 100 real images that these workers train."""
    make_writable(folder.path, "--results_dir")
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=100), Path("nowhere"))
    with store:
        yield Session(
            data=data,
            launcher=Launcher(PLAIN_CPU, len(workers.idle), lambda count: workers),
            store=store,
            folder=folder,
            logs=Logs(folder.path.parent / "logs", "none"),
            interruption=interruption,
            console=Console(quiet=True),
            timing=Timing(clock=workers.clock),
        )


def plain_spec(
    session: Session,
    plan: Plan,
    sampler: Sampler = "random",
    promotion: Promotion = "stopping",
    cost_exponent: float = 0.0,
) -> SearchSpec:
    """Return what a search by the plain recipe is begun with."""
    return SearchSpec(
        data=session.data.spec,
        max_epochs=plan.max_epochs,
        reduction_factor=plan.reduction_factor,
        promotion=promotion,
        sampler=sampler,
        cost_exponent=cost_exponent,
        patience=None,
        precision="32",
        recipe={name: [getattr(Hyperparameters, name)] for name in RECIPE},
        search_space=space.describe(),
        split_hash=session.data.split_hash,
    )
