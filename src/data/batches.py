"""Batches indexed out of tensors that stay on the device: no per-sample Python."""

from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from torch import Tensor

from src.data.files import Images
from src.data.split import TrainingData
from src.seeding import SHUFFLE, derive_seed

EVALUATION_BATCH = 1000
"""Images a validation or test batch: large, since nothing is kept for a backward pass."""


class Batches:
    """The batches of one pass over images; the last one may be smaller.

    Args:
        images: what to iterate over, on any device.
        batch_size: images a batch.
        seed: shuffles the images; without one they keep their order.

    Iterating gives pixels, uint8 (B, 28, 28), and labels, int64 (B,).
    """

    def __init__(self, images: Images, batch_size: int, seed: int | None = None) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels, labels = self.images.pixels, self.images.labels
        if self.seed is None:
            for start in range(0, len(labels), self.batch_size):
                batch = slice(start, start + self.batch_size)
                yield pixels[batch], labels[batch]
            return
        # Drawn on the CPU, so that every device sees the same order.
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        for start in range(0, len(labels), self.batch_size):
            indices = order[start : start + self.batch_size]
            yield pixels[indices], labels[indices]


class CharacterData(pl.LightningDataModule):
    """The batches of one fit. Its Trainer must reload the training batches every epoch.

    Args:
        data: images to train and validate on.
        batch_size: images a training batch.
        seed: an epoch's shuffle follows from it and the epoch, whatever ran before.
    """

    def __init__(self, data: TrainingData, batch_size: int, seed: int) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> Batches:
        """Return the training batches of the current epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return Batches(self.data.train, self.batch_size, derive_seed(self.seed, SHUFFLE, epoch))

    def val_dataloader(self) -> Batches:
        """Return the validation batches."""
        return Batches(self.data.validation, EVALUATION_BATCH)

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Leave the batch where it is: on the device already."""
        return batch
