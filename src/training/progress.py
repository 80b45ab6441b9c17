"""What a person sees of training: what is trained on, and the live progress of one fit."""

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import Progress

from src.core.console import say
from src.data.split import TrainingData
from src.training.device import Compute


def print_data(console: Console, data: TrainingData, compute: Compute, workers: int = 1) -> None:
    """Print how many images there are, and on what they are trained."""
    text = (
        f"{data.spec.dataset}: {len(data.train):,} images train, {len(data.validation):,} "
        f"validate. {compute.name}, {compute.precision}"
    )
    say(console, text + (f", {workers} workers." if workers > 1 else "."))


class FitDisplay(pl.Callback):
    """Shows one fit: a bar over its batches, and a line for every epoch.

    Args:
        progress: the live display to add the bar to.
        max_epochs: epochs at most.
    """

    def __init__(self, progress: Progress, max_epochs: int) -> None:
        self._progress = progress
        self._max_epochs = max_epochs
        self._bar = progress.add_task("train", total=None, status="")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the bar's length to the number of batches."""
        total = self._max_epochs * trainer.num_training_batches
        self._progress.update(self._bar, total=total)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Advance the bar."""
        self._progress.advance(self._bar)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch that has just ended."""
        epoch = f"epoch {trainer.current_epoch + 1}/{self._max_epochs}"
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._progress.update(self._bar, status=f"{epoch} · val {figures['val_accuracy']:.4f}")
        say(
            self._progress.console,
            f"{epoch}: loss {figures['train_loss']:.4f}, accuracy "
            f"{figures['train_accuracy']:.4f}; validation loss {figures['val_loss']:.4f}, "
            f"accuracy {figures['val_accuracy']:.4f}",
        )
