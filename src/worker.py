"""What a worker does, wherever it runs: trains one configuration at a time for a search.

A worker knows a `Job`, and says what comes of it; it asks on after every epoch. The study is the
affair of the search's process, which a worker sees as a `SearchProcess`.
"""

import abc
import dataclasses
import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from src.config import Hyperparameters
from src.curves import Curves
from src.data import TrainingData
from src.device import Compute
from src.fit import Fitted, fit
from src.interrupt import Interrupted, Interruption
from src.pruning import HyperbandCallback
from src.results import SELECTED_ON

_PROGRESS_INTERVAL = 0.2
"""Seconds between two messages about one fit's progress."""


@dataclass(frozen=True)
class Job:
    """A trial to train."""

    hyperparameters: Hyperparameters
    max_epochs: int
    """Epochs at most."""
    patience: int | None
    """Epochs without a better validation accuracy before stopping; None: never."""
    seed: int
    """All that is random follows from it."""
    curves: Curves | None
    """Where to write the curves while it trains, if they are wanted."""
    state: Path | None
    """Where its state is kept, and found if it was interrupted."""


@dataclass(frozen=True)
class Advanced:
    """A trial goes on."""

    epochs: float
    """Epochs trained so far, with the part of the current one."""


@dataclass(frozen=True)
class Reported:
    """A trial has ended an epoch, and waits for the answer: whether to stop."""

    epoch: int
    """Counted from 1."""
    value: float
    """The best validation accuracy so far."""


@dataclass(frozen=True)
class Ended:
    """A trial's fit is over, one way or another."""

    fitted: Fitted
    pruned: bool
    """Whether it was told to stop."""


@dataclass(frozen=True)
class Failed:
    """A trial broke off with an error, or with its worker; another worker takes its place."""

    cause: str
    """What kind of failure: the same for those that one thing explains."""
    reason: str
    """In one line."""
    details: str = ""
    """The error's traceback, if there is one."""


Message = Advanced | Reported | Ended | Failed


class SearchProcess(abc.ABC):
    """The process of the search, as a worker sees it."""

    def __init__(self) -> None:
        self._interrupted: Interrupted | None = None

    @abc.abstractmethod
    def send(self, message: Message) -> None:
        """Say something of the job.

        Raises:
            SearchGone: there is nobody to hear it.
        """

    @abc.abstractmethod
    def receive(self) -> Any:
        """Wait for what the search says next: a `Job`, an answer, `Interrupted`; None: go home.

        Raises:
            SearchGone: nothing will come any more.
        """

    @abc.abstractmethod
    def has_spoken(self) -> bool:
        """Tell whether `receive` would return at once.

        Raises:
            SearchGone: nothing will come any more.
        """

    def ask(self, report: Reported) -> bool:
        """Report an epoch; return whether to stop."""
        self.send(report)
        while not isinstance(answer := self.receive(), bool):
            self._interrupted = answer
        return answer

    def interrupted(self) -> Interrupted | None:
        """Return why to end the job, if it was asked for."""
        if self.has_spoken() and self._interrupted is None:
            self._interrupted = self.receive()
        return self._interrupted

    def forget_interruption(self) -> None:
        """Begin another job, for which nothing has been asked yet."""
        self._interrupted = None


class SearchGone(Exception):  # noqa: N818  # no error of ours
    """The process of the search is gone: there is nobody to work for."""


def work(search: SearchProcess, load: Callable[[], TrainingData], compute: Compute) -> None:
    """Train what comes until nothing more does, or a job fails.

    After a failure the process is not to be trusted: oneDNN keeps what it could not make for want
    of memory, and a CUDA context does not outlive an error in a kernel.
    """
    while (job := search.receive()) is not None:
        if isinstance(job, Job):  # anything else came too late for the job before
            outcome = train(job, load, compute, search)
            search.send(outcome)
            if isinstance(outcome, Failed):
                return
            gc.collect()  # a fit is full of cycles, and on CUDA keeps its graph's memory


def train(
    job: Job, load: Callable[[], TrainingData], compute: Compute, search: SearchProcess
) -> Ended | Failed:
    """Train one job; tell the search of every epoch."""
    search.forget_interruption()
    hyperband = HyperbandCallback(
        _RemoteTrial(search),  # type: ignore[arg-type]  # has what the callback asks of a trial
        monitor=SELECTED_ON,
    )
    try:
        fitted = fit(
            job.hyperparameters,
            load(),
            max_epochs=job.max_epochs,
            patience=job.patience,
            seed=job.seed,
            compute=compute,
            interruption=_AskedToStop(search),
            curves=job.curves,
            state=job.state,
            callbacks=[_Progress(search), hyperband],
        )
    except SearchGone:
        raise
    except Exception as error:
        return _describe(error)
    if not fitted.history and not fitted.interrupted:
        return Failed("no epoch", "it ended before its first epoch had")
    if hyperband.pruned or fitted.interrupted:  # nobody will want its weights
        fitted = dataclasses.replace(fitted, weights=None)
    return Ended(fitted, hyperband.pruned)


def _describe(error: Exception) -> Failed:
    message = " ".join(str(error).split())
    wanted_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)  # so say PyTorch's allocator on CPU, cuDNN and cuBLAS
        and any(sign in message for sign in ("allocate memory", "out of memory", "ALLOC_FAILED"))
    )
    kind = "out of memory" if wanted_memory else type(error).__name__
    return Failed(kind, f"{kind}: {message}" if message else kind, traceback.format_exc())


class _RemoteTrial:
    """Stands for the Optuna trial, which the process of the search has."""

    def __init__(self, search: SearchProcess) -> None:
        self._search = search
        self._report: Reported

    def report(self, value: float, step: int) -> None:
        self._report = Reported(step, value)

    def should_prune(self) -> bool:
        return self._search.ask(self._report)


class _AskedToStop(Interruption):
    def __init__(self, search: SearchProcess) -> None:
        self._search = search

    def pending(self) -> Interrupted | None:
        return self._search.interrupted()


class _Progress(pl.Callback):
    """Tells how far the trial is, now and then."""

    def __init__(self, search: SearchProcess) -> None:
        self._search = search
        self._told = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if time.monotonic() - self._told >= _PROGRESS_INTERVAL:
            self._told = time.monotonic()
            part = (batch_idx + 1) / trainer.num_training_batches
            self._search.send(Advanced(trainer.current_epoch + part))
