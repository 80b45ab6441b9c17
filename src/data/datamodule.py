"""Give Lightning the chunks of one fit."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch

from src.core.seeding import SHUFFLE, derive_seed
from src.data.batches import EVALUATION_BATCH, Chunk, Chunks
from src.data.files import Images
from src.data.split import TrainingData
from src.data.stretches import Stretch, make_stretches

SLICE = 1000
"""Validation images of a look within an epoch, at least, if there are so many."""


class CharacterData(pl.LightningDataModule):
    """Training and validation chunks of one fit, whose stretches are its Trainer's epochs.

    The Trainer must reload the chunks every epoch.

    Args:
        data: images to train and validate on.
        batch_size: images a training batch.
        seed: an epoch's shuffle follows from it and the epoch, whatever ran before.
        max_epochs: epochs of the fit.
        looks: shares of the first epoch after which it is validated, too: on every n-th of the
            validation images, as many as the first look has of the training images.
    """

    def __init__(
        self,
        data: TrainingData,
        batch_size: int,
        seed: int,
        max_epochs: int,
        looks: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.max_epochs = max_epochs
        self.steps = -(-len(data.train) // batch_size)
        """Steps of an epoch."""
        self.stretches = make_stretches(max_epochs, looks, self.steps)
        self._slice = data.validation
        if looks:
            stride = max(1, min(int(1 / looks[0] + 1e-9), len(data.validation) // SLICE))
            self._slice = data.validation[torch.arange(0, len(data.validation), stride)]

    @property
    def stretch(self) -> Stretch:
        """What the Trainer trains now."""
        return self.stretches[self.trainer.current_epoch if self.trainer else 0]

    @property
    def validation(self) -> Images:
        """What the Trainer validates on now."""
        return self.data.validation if self.stretch.ends_epoch else self._slice

    def train_dataloader(self) -> Chunks:
        """Return the training chunks of the current stretch."""
        stretch = self.stretch
        seed = derive_seed(self.seed, SHUFFLE, stretch.epoch)
        return Chunks(self.data.train, self.batch_size, seed, stretch.begin, stretch.end)

    def val_dataloader(self) -> Chunks:
        """Return one pass over the validation images in their order, in large batches."""
        return Chunks(self.validation, EVALUATION_BATCH[self.validation.labels.device.type])

    def transfer_batch_to_device(
        self, batch: Chunk, device: torch.device, dataloader_idx: int
    ) -> Chunk:
        """Return the chunk as it is: its images are on the device already."""
        return batch
