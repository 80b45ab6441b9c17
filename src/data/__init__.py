"""Data sets: torchvision's files → one fixed split → batches that live on the device."""

from src.data.batches import EVALUATION_BATCH, CharacterData, Chunk, Chunks
from src.data.files import CLASS_NAMES, Images, has_images, load_images
from src.data.split import TrainingData, load_training_data, split_validation

__all__ = [
    "CLASS_NAMES",
    "EVALUATION_BATCH",
    "CharacterData",
    "Chunk",
    "Chunks",
    "Images",
    "TrainingData",
    "has_images",
    "load_images",
    "load_training_data",
    "split_validation",
]
