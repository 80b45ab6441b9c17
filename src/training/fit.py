"""Train one configuration with Lightning."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities.exceptions import SIGTERMException

from src.core.interrupt import Interrupted, Interruption
from src.core.seeding import DROPOUT, INITIALISATION, derive_seed
from src.data.datamodule import CharacterData
from src.data.split import TrainingData
from src.training.fitted import Fitted
from src.training.history import SELECTED_ON
from src.training.recorder import Recorder
from src.training.resume import FitState, StateFile
from src.training.spec import FitSpec
from src.training.task import CharacterTask, make_task
from src.training.tensorboard import RunWriter


def fit(
    spec: FitSpec,
    data: TrainingData,
    interruption: Interruption,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Train until the last epoch, early stopping, divergence, or until it is told to stop.

    Args:
        spec: what to train, on what, and for how long.
        data: images, on the device of the spec.
        interruption: asked between chunks of batches whether to stop.
        callbacks: what else should watch; they may set `trainer.should_stop`.
    """
    hyperparameters = spec.hyperparameters
    writer = RunWriter(spec.tensorboard)
    recorder = Recorder(writer)
    watching: list[Callback] = [_DropoutSeed(spec.seed), _Stop(interruption), *callbacks, recorder]
    early_stopping = None
    if spec.patience is not None:
        early_stopping = _EarlyStopping(
            SELECTED_ON,
            mode="max",
            patience=spec.patience,
            check_finite=False,
            check_on_train_epoch_end=False,  # but before it, when the fit's state is kept
        )
        watching.append(early_stopping)

    started = time.perf_counter()
    state = None
    if spec.state is not None:
        state = FitState(spec.state, _identity(spec, data))
        watching.append(state)  # last, so that it keeps what the others know of the epoch

    torch.manual_seed(derive_seed(spec.seed, INITIALISATION))
    datamodule = CharacterData(
        data, hyperparameters.batch_size, spec.seed, spec.max_epochs, spec.looks
    )
    task = make_task(hyperparameters, len(data.class_names), spec.compute)
    trainer = pl.Trainer(
        accelerator=spec.compute.lightning_accelerator,
        devices=1,
        max_epochs=len(datamodule.stretches),
        logger=False,
        callbacks=watching,
        # One process, whatever a job scheduler's variables seem to say of others.
        plugins=[StateFile(), LightningEnvironment()],
        reload_dataloaders_every_n_epochs=1,  # each epoch has its own shuffle
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    interrupted = None
    with writer:
        try:
            trainer.fit(
                task,
                datamodule=datamodule,
                ckpt_path=state.find() if state else None,
                weights_only=True,  # nothing in the file is executed
            )
        except Interrupted as caught:
            interrupted = caught
        except SIGTERMException:  # Lightning's own, where it saw the signal first
            interrupted = interruption.pending() or Interrupted("interrupted by SIGTERM", 143)
        if recorder.best is not None and interrupted is None:
            epochs = recorder.history[-1].epoch
            writer.add_result(hyperparameters, recorder.best.val_accuracy, epochs)
    return Fitted(
        history=tuple(recorder.history),
        best=recorder.best,
        weights=recorder.weights
        and {name: value.to("cpu") for name, value in recorder.weights.items()},
        confusion=None if recorder.confusion is None else recorder.confusion.cpu(),
        seconds=state.seconds if state else time.perf_counter() - started,
        early_stopped=(
            early_stopping is not None
            and early_stopping.stopped_epoch > 0
            and recorder.history[-1].epoch < spec.max_epochs
        ),
        diverged=recorder.diverged,
        interrupted=interrupted,
    )


def _identity(spec: FitSpec, data: TrainingData) -> dict[str, Any]:
    """Return what a fit's numbers follow from, as plain values."""
    return {
        **asdict(spec.hyperparameters),
        "split_hash": data.split_hash,
        "max_epochs": spec.max_epochs,
        "patience": spec.patience,
        "seed": spec.seed,
        "looks": list(spec.looks),
        "device": spec.compute.device_type,
        "precision": spec.compute.precision,
        "versions": [str(torch.__version__), lightning.__version__],
    }


class _EarlyStopping(EarlyStopping):
    """Counts whole epochs."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CharacterTask)
        if pl_module.stretch.ends_epoch:
            super().on_validation_end(trainer, pl_module)


class _DropoutSeed(Callback):
    """Seeds an epoch's dropout from the fit's seed and the epoch, whatever ran before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CharacterTask)
        if pl_module.stretch.begin == 0:
            pl_module.seed_dropout(derive_seed(self._seed, DROPOUT, pl_module.stretch.epoch))


class _Stop(Callback):
    """Ends a fit between two chunks of batches when it is to be interrupted."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_train_batch_end(self, *_: object) -> None:
        self._interruption.check()

    def on_validation_batch_end(self, *_: object, **__: object) -> None:
        self._interruption.check()
