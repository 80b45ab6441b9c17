"""What TensorBoard gets: curves and configurations of fits, pictures of the best model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from src.training.history import SELECTED_ON, Epoch
from src.training.hyperparameters import Hyperparameters

WINNER = "winner"
"""The run of a data set's best model."""


@dataclass(frozen=True)
class Curves:
    """Where one fit's curves go: <log_dir>/<study>/<fit>."""

    log_dir: Path
    study: str
    fit: str
    same: frozenset[str] = frozenset()
    """Hyperparameters that all fits have in common: TensorBoard shows the first few columns."""

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
    logger: TensorBoardLogger,
    hyperparameters: Hyperparameters,
    val_accuracy: float,
    epochs: int,
    same: frozenset[str],
) -> None:
    """Write a configuration and its result to TensorBoard's HPARAMS.

    Trials that a rung stopped cannot be compared with those that trained on: with the epochs, those
    of one rung can be filtered out. What is the `same` in all is left out.
    """
    shown = {k: v for k, v in asdict(hyperparameters).items() if k not in same}
    logger.log_hyperparams(shown, {SELECTED_ON: val_accuracy, "epochs": epochs})


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
    log_result(logger, hyperparameters, val_accuracy, len(history), curves.same)
    logger.finalize("success")


def write_result(
    curves: Curves, hyperparameters: Hyperparameters, val_accuracy: float, epochs: int
) -> None:
    """Write a fit's row of HPARAMS alone."""
    logger = curves.open()
    log_result(logger, hyperparameters, val_accuracy, epochs, curves.same)
    logger.finalize("success")


def write_pictures(
    log_dir: str | Path, dataset: str, name: str, which: str, pictures: Mapping[str, Figure]
) -> None:
    """Write pictures of how a model reads to the run <log_dir>/<dataset>/<name>.

    Args:
        log_dir: the folder for TensorBoard.
        dataset: the model's.
        name: the model's; `WINNER` for the best one.
        which: the images that the pictures are about, "validation" or "test".
        pictures: by name. Those of earlier models go: a new model's validation pictures replace
            all, those of its test join them.
    """
    run = Path(log_dir) / dataset / name
    suffix = f".{which}"
    for old in run.glob(f"events.out.tfevents.*{'' if which == 'validation' else suffix}"):
        old.unlink()
    with SummaryWriter(str(run), filename_suffix=suffix) as writer:
        for title, figure in pictures.items():
            figure.set_dpi(110)
            writer.add_figure(f"{which}/{title}", figure)
