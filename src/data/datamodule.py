"""Give Lightning the chunks of one fit."""

import lightning.pytorch as pl
import torch

from src.core.seeding import SHUFFLE, derive_seed
from src.data.batches import EVALUATION_BATCH, Chunk, Chunks
from src.data.split import TrainingData


class CharacterData(pl.LightningDataModule):
    """Training and validation chunks of one fit; its Trainer must reload the former every epoch.

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

    def train_dataloader(self) -> Chunks:
        """Return the training chunks of the current epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return Chunks(self.data.train, self.batch_size, derive_seed(self.seed, SHUFFLE, epoch))

    def val_dataloader(self) -> Chunks:
        """Return one pass over the validation images in their order, in large batches."""
        images = self.data.validation
        return Chunks(images, EVALUATION_BATCH[images.labels.device.type])

    def transfer_batch_to_device(
        self, batch: Chunk, device: torch.device, dataloader_idx: int
    ) -> Chunk:
        """Return the chunk as it is: its images are on the device already."""
        return batch
