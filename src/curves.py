"""Curves and configurations of fits, for TensorBoard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lightning.pytorch.loggers import TensorBoardLogger

from src.config import Hyperparameters
from src.results import SELECTED_ON, Epoch


@dataclass(frozen=True)
class Curves:
    """Where one fit's curves go: <log_dir>/<study>/<fit>."""

    log_dir: str
    study: str
    fit: str

    def open(self) -> TensorBoardLogger:
        """Return a logger that writes there, and makes the folder when it first does."""
        return TensorBoardLogger(
            self.log_dir, name=self.study, version=self.fit, default_hp_metric=False
        )


def log_epoch(logger: TensorBoardLogger, epoch: Epoch) -> None:
    """Write an epoch's figures, with the epoch as their step."""
    logger.log_metrics(
        {
            "loss/train": epoch.train_loss,
            "loss/validation": epoch.val_loss,
            "accuracy/train": epoch.train_accuracy,
            "accuracy/validation": epoch.val_accuracy,
        },
        step=epoch.epoch,
    )


def log_result(
    logger: TensorBoardLogger, hyperparameters: Hyperparameters, val_accuracy: float
) -> None:
    """Write a configuration and its result to TensorBoard's HPARAMS."""
    logger.log_hyperparams(asdict(hyperparameters), {SELECTED_ON: val_accuracy})


def write_curves(
    curves: Curves,
    hyperparameters: Hyperparameters,
    history: Sequence[Epoch],
    val_accuracy: float,
) -> None:
    """Write at once what a fit would have written while it ran."""
    logger = curves.open()
    for epoch in history:
        log_epoch(logger, epoch)
    log_result(logger, hyperparameters, val_accuracy)
    logger.finalize("success")
