"""Train one configuration at a time for a search, whatever process the worker is.

A worker gets a `FitSpec`, reports every epoch to the process of the search and waits for its
verdict. Only that process knows the study; a worker sees it as a `SearchProcess`.
"""

import dataclasses
import gc
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from optuna_integration import PyTorchLightningPruningCallback

from src.core.affinity import release_cores
from src.core.files import collecting_unwritten
from src.core.interrupt import Interrupted, Interruption
from src.data.split import TrainingData
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.history import SELECTED_ON
from src.training.spec import FitSpec
from src.training.task import CharacterTask
from src.workers.messages import Advanced, Ended, Failed, Reported, SearchGone, SearchProcess
from src.workers.verdict import Verdict

_PROGRESS_INTERVAL = 0.2
"""Seconds between two messages about one fit's progress."""

Fit = Callable[[FitSpec, TrainingData, Interruption, Sequence[pl.Callback]], Fitted]
"""Trains one configuration, as `fit` does."""

Load = Callable[[torch.device], TrainingData]
"""Gives the images, on a device; the same ones whenever it is called."""


def work(search: SearchProcess, load: Load, fit: Fit = fit) -> None:
    """Train one configuration after another until the search sends None, or a trial fails.

    After a failure the process is not to be trusted: oneDNN keeps what it could not make for want
    of memory, and a CUDA context does not outlive an error in a kernel.
    """
    while (spec := search.receive()) is not None:
        if isinstance(spec, FitSpec):  # anything else came too late for the trial before
            outcome = _train(spec, load, search, fit)
            search.send(outcome)
            if isinstance(outcome, Failed):
                return
            gc.collect()  # a fit is full of cycles, and on CUDA keeps its graph's memory


def _train(spec: FitSpec, load: Load, search: SearchProcess, fit: Fit) -> Ended | Failed:
    search.forget_interruption()
    hyperband = HyperbandCallback(
        _RemoteTrial(search),
        monitor=SELECTED_ON,
    )
    try:
        with collecting_unwritten() as unwritten:
            callbacks: list[pl.Callback] = [_Progress(search), hyperband]
            data = load(spec.compute.device)
            release_cores()  # scikit-learn, which splits the data, has an OpenMP of its own
            fitted = fit(spec, data, _AskedToStop(search), callbacks)
    except SearchGone:
        raise
    except Exception as error:
        return _describe(error)
    if not fitted.history and not fitted.interrupted:
        return Failed("no epoch", "it ended before its first epoch had")
    waits = hyperband.verdict == "pause" and not fitted.early_stopped
    if hyperband.verdict == "stop" or waits or fitted.interrupted:  # nobody will want its weights
        fitted = dataclasses.replace(fitted, weights=None)
    return Ended(fitted, hyperband.verdict, tuple(unwritten))


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

    def report(self, value: float, step: float) -> None:
        self._report = Reported(step, value)

    def verdict(self) -> Verdict:
        return self._search.ask(self._report)


class _AskedToStop(Interruption):
    def __init__(self, search: SearchProcess) -> None:
        self._search = search

    def pending(self) -> Interrupted | None:
        return self._search.interrupted()


class _Progress(pl.Callback):
    """Tells the search how far the trial is, a few times a second."""

    def __init__(self, search: SearchProcess) -> None:
        self._search = search
        self._last_sent = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if time.monotonic() - self._last_sent >= _PROGRESS_INTERVAL:
            assert isinstance(pl_module, CharacterTask)
            self._last_sent = time.monotonic()
            self._search.send(Advanced(pl_module.epochs_trained))


class HyperbandCallback(PyTorchLightningPruningCallback):
    """Reports a trial after every look, and ends it on the rung where it loses or has to wait.

    It corrects optuna-integration's callback: epochs count from 1; the value reported is the one
    the search selects on, the best epoch's so far; and the fit is asked to stop instead of being
    thrown out of, so that Lightning ends it as it ends any other.

    Args:
        trial: the trial being trained.
        monitor: name of the metric to report, the larger the better.
    """

    def __init__(self, trial: _RemoteTrial, monitor: str) -> None:
        super().__init__(trial, monitor)
        self.verdict: Verdict = "go on"
        """The last one."""
        self._best = float("-inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the stretch that has just ended and ask the pruner."""
        assert isinstance(pl_module, CharacterTask)
        if pl_module.diverged:  # it is over, and none to compare others with
            return
        stretch = pl_module.stretch
        value = round(trainer.callback_metrics[self.monitor].item(), 6)
        if stretch.ends_epoch:  # else it was validated on a part of the images
            value = self._best = max(self._best, value)
        self._trial.report(value, stretch.epochs)
        self.verdict = self._trial.verdict()
        pl_module.is_paused = self.verdict == "pause"
        trainer.should_stop = trainer.should_stop or self.verdict != "go on"

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, for an interrupted fit to go on with."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value of the epochs before the interruption."""
        self._best = state_dict["best"]
