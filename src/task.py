"""The training task around the network, as Lightning runs it: chunks of optimizer steps."""

from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from src.config import Hyperparameters
from src.data import Chunk
from src.device import PLAIN_CPU, Compute
from src.inference import add_counts, no_counts
from src.model import TwoConvNet, to_inputs
from src.step import PlainStep, autocast, make_optimizer, make_step, read_pixels


def task_arguments(hyperparameters: Hyperparameters, classes: int) -> dict[str, Any]:
    """Return the arguments that `CharacterTask` takes for a configuration."""
    arguments = asdict(hyperparameters)
    del arguments["batch_size"]  # the data's affair
    return {**arguments, "classes": classes}


def make_task(
    hyperparameters: Hyperparameters, classes: int, compute: Compute = PLAIN_CPU
) -> "CharacterTask":
    """Build the untrained task of a configuration."""
    return CharacterTask(**task_arguments(hyperparameters, classes), compute=compute)


class CharacterTask(pl.LightningModule):
    """Cross-entropy with Adam; logs train_loss, train_accuracy, val_loss, val_accuracy an epoch.

    What Lightning takes for a batch is a chunk of many: optimization is manual, and the
    Trainer's `global_step` counts optimizer steps.

    Args:
        conv1: filters of the first convolution.
        conv2: filters of the second convolution.
        dense_units: units of the hidden dense layer.
        dropout_rate: share of the hidden dense layer's outputs dropped in training.
        learning_rate: Adam's step size.
        classes: how many classes there are.
        compute: device and precision; the Trainer's must be this device and float32, as the task
            sees to the precision itself.
    """

    automatic_optimization = False

    def __init__(
        self,
        *,
        conv1: int,
        conv2: int,
        dense_units: int,
        dropout_rate: float,
        learning_rate: float,
        classes: int,
        compute: Compute = PLAIN_CPU,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["compute"])
        self.compute = compute
        self.learning_rate = learning_rate
        self.model = TwoConvNet(
            conv1=conv1,
            conv2=conv2,
            dense_units=dense_units,
            dropout_rate=dropout_rate,
            classes=classes,
        )
        self.confusion: Tensor
        """Of the last validation, int64 (classes, classes): true by predicted class."""
        self._step: PlainStep
        self._validation_loss: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, (B, classes), from pixels, uint8 (B, 28, 28)."""
        logits: Tensor = self.model(to_inputs(images))
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam as Keras sets it up."""
        return make_optimizer(self.model, self.learning_rate)

    def on_fit_start(self) -> None:
        """Set up the step for this device."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Adam)
        batch_size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]  # of CharacterData
        self._step = make_step(self.model, optimizer, self.compute, batch_size)

    def seed_dropout(self, seed: int) -> None:
        """Make the dropout that comes follow from this seed."""
        self._step.generator.manual_seed(seed)

    def on_train_epoch_start(self) -> None:
        """Begin to count anew."""
        self._step.totals.zero_()

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Take an optimizer step for each batch of the chunk."""
        batches = chunk.batches()
        for indices in batches:
            self._step(chunk.images, indices)
        # Lightning counts the steps of its own wrapper around the optimizer only.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in batches:
            progress.increment_ready()
            progress.increment_completed()

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew."""
        self.confusion = no_counts(self.model, self.compute.device)
        self._validation_loss = torch.zeros((), dtype=torch.float64, device=self.compute.device)

    def validation_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Count loss and confusions of validation images."""
        for indices in chunk.batches():
            batch = chunk.images[indices]
            with autocast(self.compute):
                logits = read_pixels(self.model, batch.pixels).float()
            loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
            self._validation_loss += loss
            add_counts(self.confusion, batch.labels, logits)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's figures; this is the one time an epoch that the device is waited for."""
        read = self.confusion.trace()
        sums = torch.stack([*self._step.totals, self._validation_loss, read]).cpu()
        data = self.trainer.datamodule.data  # type: ignore[attr-defined]  # of CharacterData
        images = torch.tensor([len(data.train)] * 2 + [len(data.validation)] * 2)
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        figures = dict(zip(names, sums / images, strict=True))
        self.log_dict(figures, logger=False)
