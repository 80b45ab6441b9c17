"""The training task: loss, metrics and optimizer around the network."""

from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from src.config import Hyperparameters
from src.model import TwoConvNet, to_inputs

ADAM_EPSILON = 1e-7
"""Keras' default; PyTorch's is 1e-8."""


def task_arguments(hyperparameters: Hyperparameters, classes: int) -> dict[str, Any]:
    """Return the arguments that `CharacterTask` takes for a configuration."""
    arguments = asdict(hyperparameters)
    del arguments["batch_size"]  # the data's affair
    return {**arguments, "classes": classes}


def make_task(hyperparameters: Hyperparameters, classes: int) -> "CharacterTask":
    """Build the untrained task of a configuration."""
    return CharacterTask(**task_arguments(hyperparameters, classes))


class CharacterTask(pl.LightningModule):
    """Cross-entropy with Adam; logs train_loss, train_accuracy, val_loss, val_accuracy an epoch.

    Args:
        conv1: filters of the first convolution.
        conv2: filters of the second convolution.
        dense_units: units of the hidden dense layer.
        dropout_rate: share of the hidden dense layer's outputs dropped in training.
        learning_rate: Adam's step size.
        classes: how many classes there are.
    """

    def __init__(
        self,
        *,
        conv1: int,
        conv2: int,
        dense_units: int,
        dropout_rate: float,
        learning_rate: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.learning_rate = learning_rate
        self.model = TwoConvNet(
            conv1=conv1,
            conv2=conv2,
            dense_units=dense_units,
            dropout_rate=dropout_rate,
            classes=classes,
        )
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, (B, classes), from pixels, uint8 (B, 28, 28)."""
        logits: Tensor = self.model(to_inputs(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the batch's mean cross-entropy."""
        return self._loss("train", self.train_accuracy, batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accumulate loss and accuracy of the validation images."""
        self._loss("val", self.val_accuracy, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam as Keras sets it up."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, eps=ADAM_EPSILON)

    def _loss(
        self, stage: str, accuracy: MulticlassAccuracy, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        pixels, labels = batch
        logits = self(pixels).float()  # bf16 would lose digits in the loss
        loss = functional.cross_entropy(logits, labels)
        accuracy.update(logits, labels)
        log: dict[str, Tensor | Metric] = {f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}
        self.log_dict(log, on_step=False, on_epoch=True, logger=False, batch_size=len(labels))
        return loss
