"""One configuration → one fitted model."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from src.core.interrupt import Interrupted, Interruption
from src.core.seeding import DROPOUT, INITIALISATION, derive_seed
from src.data.datamodule import CharacterData
from src.data.split import TrainingData
from src.training.device import Compute
from src.training.history import SELECTED_ON, Epoch
from src.training.hyperparameters import Hyperparameters
from src.training.recorder import Recorder
from src.training.resume import FitState, StateFile
from src.training.task import CharacterTask, make_task
from src.training.tensorboard import Curves, log_result


@dataclass(frozen=True)
class Fitted:
    """A fit that has ended, one way or another."""

    history: tuple[Epoch, ...]
    """Every epoch trained to its end."""
    best: Epoch | None
    """The epoch of the highest validation accuracy; None when the first one did not end well."""
    weights: dict[str, Tensor] | None
    """State of the `CharacterTask` at the end of the best epoch, on the CPU."""
    confusion: Tensor | None
    """Validation images by true and predicted class at that epoch, int64 (classes, classes)."""
    seconds: float
    """Wall time, that before an interruption included."""
    early_stopped: bool
    """Whether it ended because validation accuracy had stopped rising."""
    diverged: str | None
    """Why it was given up, if a loss was no number."""
    interrupted: Interrupted | None
    """Why it was stopped from outside, if it was."""


def fit(
    hyperparameters: Hyperparameters,
    data: TrainingData,
    *,
    max_epochs: int,
    patience: int | None,
    seed: int,
    compute: Compute,
    interruption: Interruption,
    curves: Curves | None = None,
    state: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Train until `max_epochs`, early stopping, divergence, or a callback or person stops it.

    Args:
        hyperparameters: the configuration.
        data: images on the device of `compute`.
        max_epochs: epochs at most.
        patience: epochs without a better validation accuracy before stopping; None: never.
        seed: initial weights, shuffling and dropout follow from it alone.
        compute: device and precision.
        interruption: asked between chunks of batches whether to stop.
        curves: where to write the curves and, at the end, the configuration with its result.
        state: where to keep the state after every epoch; if that of this very fit is there, it
            goes on from it, and on CPU ends with the numbers of a fit that was not interrupted.
        callbacks: what else should watch; they may set `trainer.should_stop`.
    """
    recorder = Recorder()
    watching: list[Callback] = [_DropoutSeed(seed), _Stop(interruption), *callbacks, recorder]
    early_stopping = None
    if patience is not None:
        early_stopping = EarlyStopping(
            SELECTED_ON,
            mode="max",
            patience=patience,
            check_finite=False,
            check_on_train_epoch_end=False,  # but before it, when the fit's state is kept
        )
        watching.append(early_stopping)
    if curves is not None:
        watching.append(_HyperparameterLog(hyperparameters, curves.same, recorder))

    started = time.perf_counter()
    kept = None
    if state is not None:
        kept = FitState(
            state, _identity(hyperparameters, data, max_epochs, patience, seed, compute)
        )
        watching.append(kept)  # last, so that it keeps what the others know of the epoch

    torch.manual_seed(derive_seed(seed, INITIALISATION))
    task = make_task(hyperparameters, len(data.class_names), compute)
    trainer = pl.Trainer(
        accelerator=compute.lightning_accelerator,
        devices=1,
        max_epochs=max_epochs,
        logger=curves.open() if curves else False,
        callbacks=watching,
        plugins=[StateFile()],
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own shuffle
        num_sanity_val_steps=0,
        log_every_n_steps=0,  # the recorder logs every epoch
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    interrupted = None
    try:
        trainer.fit(
            task,
            datamodule=CharacterData(data, hyperparameters.batch_size, seed),
            ckpt_path=kept.find() if kept else None,
            weights_only=True,  # nothing in the file is executed
        )
    except Interrupted as caught:
        interrupted = caught
    except SIGTERMException:  # Lightning's own, where it saw the signal first
        interrupted = interruption.pending() or Interrupted("interrupted by SIGTERM", 143)
    return Fitted(
        history=tuple(recorder.history),
        best=recorder.best,
        weights=recorder.weights
        and {name: value.to("cpu") for name, value in recorder.weights.items()},
        confusion=None if recorder.confusion is None else recorder.confusion.cpu(),
        seconds=kept.seconds if kept else time.perf_counter() - started,
        early_stopped=(
            early_stopping is not None
            and early_stopping.stopped_epoch > 0
            and len(recorder.history) < max_epochs
        ),
        diverged=recorder.diverged,
        interrupted=interrupted,
    )


def _identity(
    hyperparameters: Hyperparameters,
    data: TrainingData,
    max_epochs: int,
    patience: int | None,
    seed: int,
    compute: Compute,
) -> dict[str, Any]:
    """Return what a fit follows from."""
    return {
        **asdict(hyperparameters),
        "split_hash": data.split_hash,
        "max_epochs": max_epochs,
        "patience": patience,
        "seed": seed,
        "device": compute.device.type,
        "precision": compute.precision,
        "versions": [str(torch.__version__), lightning.__version__],
    }


class _DropoutSeed(Callback):
    """Seeds an epoch's dropout from the fit's seed and the epoch, whatever ran before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CharacterTask)
        pl_module.seed_dropout(derive_seed(self._seed, DROPOUT, trainer.current_epoch))


class _Stop(Callback):
    """Ends a fit between two chunks of batches when it is to be interrupted."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_train_batch_end(self, *_: object) -> None:
        self._interruption.check()

    def on_validation_batch_end(self, *_: object, **__: object) -> None:
        self._interruption.check()


class _HyperparameterLog(Callback):
    """Writes the configuration and its result to TensorBoard's HPARAMS when a fit ends."""

    def __init__(
        self, hyperparameters: Hyperparameters, same: frozenset[str], recorder: Recorder
    ) -> None:
        self._hyperparameters = hyperparameters
        self._same = same
        self._recorder = recorder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._recorder.best is not None and isinstance(trainer.logger, TensorBoardLogger):
            val_accuracy, epochs = self._recorder.best.val_accuracy, len(self._recorder.history)
            log_result(trainer.logger, self._hyperparameters, val_accuracy, epochs, self._same)
