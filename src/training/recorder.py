"""Record one fit: the figures of its epochs and the weights of the best one."""

from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from src.training.history import Epoch
from src.training.task import CharacterTask
from src.training.tensorboard import RunWriter


class Recorder(pl.Callback):
    """Keeps the figures of every look and the best epoch's weights; stops a fit that diverges.

    Args:
        writer: gets the figures, too.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        """The epoch of the highest validation accuracy, the earliest of equals."""
        self.weights: dict[str, Tensor] | None = None
        """State of the task at the end of the best epoch."""
        self.confusion: Tensor | None = None
        """Validation images by true and predicted class at the end of the best epoch."""
        self.diverged: str | None = None
        """Why the fit was given up: a loss that is no number."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the stretch that has just ended, validation included."""
        assert isinstance(pl_module, CharacterTask)
        stretch = pl_module.stretch
        figures = {
            name: round(trainer.callback_metrics[name].item(), 6)  # what the CSV shows
            for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        }
        epoch = Epoch(epoch=stretch.epochs, **figures)
        self.history.append(epoch)
        self._writer.add_epoch(epoch)
        if pl_module.diverged:
            self.diverged = f"diverged: {pl_module.diverged} in epoch {epoch.epoch:.4g}"
            trainer.should_stop = True
            return
        if not stretch.ends_epoch:
            return  # it was validated on a part of the images
        if self.best is None or epoch.val_accuracy > self.best.val_accuracy:
            self.best = epoch
            self.weights = pl_module.result()
            self.confusion = pl_module.confusion

    def state_dict(self) -> dict[str, Any]:
        """Return what a fit that is interrupted needs to go on."""
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best and self.best.epoch,
            "weights": self.weights,
            "confusion": self.confusion,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what an interrupted fit had recorded."""
        self.history = [Epoch(**epoch) for epoch in state_dict["history"]]
        bests = (epoch for epoch in self.history if epoch.epoch == state_dict["best"])
        self.best = next(bests, None)
        self.weights = state_dict["weights"]
        self.confusion = state_dict["confusion"]
