"""The LightningModule around the network: optimizer steps in chunks, figures of an epoch."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from src.data.batches import Chunk
from src.data.datamodule import CharacterData
from src.data.stretches import Stretch
from src.training.augment import Distortion
from src.training.device import PLAIN_CPU, Compute, autocast
from src.training.hyperparameters import Augmentation, Hyperparameters, task_arguments
from src.training.network import TwoConvNet, to_inputs
from src.training.schedule import Schedule, learning_rate_share
from src.training.step import PlainStep, Recipe, logits_from_pixels, make_optimizer, make_step

_AVERAGES = "averaged_weights"
"""Key in the checkpoint of an unfinished fit."""

_EPOCH = "unfinished_epoch"
"""The same: what is known of an epoch that is not whole."""


def make_task(
    hyperparameters: Hyperparameters, classes: int, compute: Compute = PLAIN_CPU
) -> "CharacterTask":
    """Build the untrained task of a configuration."""
    return CharacterTask(**task_arguments(hyperparameters, classes), compute=compute)


class CharacterTask(pl.LightningModule):
    """Trains with cross-entropy and Adam; logs loss and accuracy of training and validation.

    What Lightning takes for a batch is a chunk of many: optimization is manual, and the
    Trainer's `global_step` counts optimizer steps.

    Args:
        conv1: filters of the first convolution.
        conv2: filters of the second convolution.
        dense_units: units of the hidden dense layer.
        dropout_rate: share of the hidden dense layer's outputs dropped in training.
        learning_rate: Adam's step size; with a schedule, the highest.
        schedule: how it goes over the fit's epochs.
        label_smoothing: share of every label that is spread over all classes in training.
        augmentation: how training images are distorted.
        weight_averaging: whether an average of the weights over about the last epoch is what
            validates and what is kept.
        weight_decay: share, times the learning rate, by which each step shrinks all weights.
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
        schedule: Schedule = "constant",
        label_smoothing: float = 0.0,
        augmentation: Augmentation = "none",
        weight_averaging: bool = False,
        weight_decay: float = 0.0,
        classes: int,
        compute: Compute = PLAIN_CPU,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["compute"])
        self.compute = compute
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.augmentation = augmentation
        self.weight_averaging = weight_averaging
        self.weight_decay = weight_decay
        self.model = TwoConvNet(
            conv1=conv1,
            conv2=conv2,
            dense_units=dense_units,
            dropout_rate=dropout_rate,
            classes=classes,
        )
        self.is_paused = False
        """Whether it stops at this look to go on later."""
        self.diverged: str | None = None
        """Which loss is no number since the last look."""
        self.confusion: Tensor
        """Confusion matrix of the last validation, int64 (classes, classes): true by predicted."""
        self._step: PlainStep
        self._validation_loss: Tensor
        self._averages: dict[str, Tensor] | None = None
        self._begun: dict[str, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, (B, classes), from pixels, uint8 (B, 28, 28)."""
        logits: Tensor = self.model(to_inputs(images))
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with Keras' defaults."""
        return make_optimizer(self.model, self.learning_rate, self.weight_decay)

    def on_fit_start(self) -> None:
        """Set up the step for this device."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Adam)
        batch_size = self._data.batch_size
        self._step = make_step(self.model, optimizer, self.compute, batch_size, self._recipe())
        if self._averages is not None and self._step.averaged is not None:
            self._step.averaged.load_state_dict(self._averages)
            self._averages = None
        if self._begun is not None:
            self._step.totals.copy_(self._begun["totals"])
            self._step.generator.set_state(self._begun["generator"])
            self._begun = None

    @property
    def stretch(self) -> Stretch:
        """What it is training now."""
        return self._data.stretch

    @property
    def epochs_trained(self) -> float:
        """Epochs trained so far, with the part of the current one."""
        return self._step.steps / self._data.steps

    @property
    def _data(self) -> CharacterData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # of every Trainer
        assert isinstance(data, CharacterData)
        return data

    def _recipe(self) -> Recipe:
        """Build the recipe of the steps from the hyperparameters."""
        rate = distort = None
        if self.schedule != "constant":
            steps = self._data.max_epochs * self._data.steps

            def rate(step: int) -> float:
                return self.learning_rate * learning_rate_share(self.schedule, step, steps)

        if self.augmentation != "none":
            distort = Distortion(
                affine="affine" in self.augmentation,
                elastic="elastic" in self.augmentation,
                device=self.compute.device,
            )
        average_over = self._data.steps if self.weight_averaging else None
        return Recipe(rate, self.label_smoothing, distort, average_over)

    def result(self) -> dict[str, Tensor]:
        """Return the validated weights as a state dict of this task."""
        weights = self._step.result.state_dict()
        return {f"model.{name}": value.detach().clone() for name, value in weights.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the averaged weights, and what was summed and drawn of an epoch that goes on."""
        if self._step.averaged is not None:
            checkpoint[_AVERAGES] = self._step.averaged.state_dict()
        if not self.stretch.ends_epoch:
            checkpoint[_EPOCH] = {
                "totals": self._step.totals,
                "generator": self._step.generator.get_state(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self._averages = checkpoint.get(_AVERAGES)
        self._begun = checkpoint.get(_EPOCH)

    def seed_dropout(self, seed: int) -> None:
        """Seed the generator of dropout and distortions."""
        self._step.generator.manual_seed(seed)

    def on_train_epoch_start(self) -> None:
        """Reset the sums of an epoch that begins, and set the number of steps before."""
        stretch = self.stretch
        if stretch.begin == 0:
            self._step.totals.zero_()
        self._step.steps = stretch.epoch * self._data.steps + stretch.begin

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
        """Reset the confusion matrix and the sum of losses."""
        self.confusion = no_counts(self.model, self.compute.device)
        self._validation_loss = torch.zeros((), dtype=torch.float64, device=self.compute.device)

    def validation_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Add the chunk to the validation loss and the confusion matrix."""
        for indices in chunk.batches():
            batch = chunk.images[indices]
            with autocast(self.compute):
                logits = logits_from_pixels(self._step.result, batch.pixels).float()
            loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
            self._validation_loss += loss
            add_counts(self.confusion, batch.labels, logits)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the epoch so far: the only synchronisation with the device."""
        read = self.confusion.trace()
        sums = torch.stack([*self._step.totals, self._validation_loss, read]).cpu()
        data = self._data
        trained = min(data.stretch.end * data.batch_size, len(data.data.train))
        images = torch.tensor([trained] * 2 + [len(data.validation)] * 2)
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        figures = dict(zip(names, sums / images, strict=True))
        for which, name in (("training", "train_loss"), ("validation", "val_loss")):
            if not self.diverged and not figures[name].isfinite():
                self.diverged = f"{which} loss is {figures[name].item()}"
        self.log_dict(figures, logger=False)


def no_counts(model: TwoConvNet, device: torch.device) -> Tensor:
    """Return a confusion matrix of zeros, int64 (classes, classes)."""
    classes = model.logits.out_features
    return torch.zeros(classes, classes, dtype=torch.int64, device=device)


def add_counts(counts: Tensor, labels: Tensor, logits: Tensor) -> None:
    """Add a batch, labels (B,) and logits (B, classes), without synchronising with the device."""
    cells = labels * len(counts) + logits.argmax(dim=1)
    counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
