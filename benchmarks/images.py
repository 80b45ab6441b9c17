"""The images that every contestant gets: the same ones, split in the same way."""

import functools
from pathlib import Path

import numpy as np
import torch

from src.data.catalog import DataSpec
from src.data.files import Images, load_images
from src.data.split import TrainingData, load_training_data, split_validation


@functools.cache
def load(limit: int | None, data_dir: str) -> TrainingData:
    """Return MNIST's training images, or so many of them, with a fifth of them for validation."""
    return load_training_data(DataSpec(dataset="mnist", limit=limit), data_dir)


def load_unused(spec: DataSpec, data_dir: str | Path) -> Images:
    """Return the training images that a search with a limit neither trains on nor validates on."""
    parts = load_images(spec.dataset, "train", data_dir)
    unused = torch.ones(sum(len(part) for part in parts), dtype=torch.bool)
    unused[torch.cat(split_validation([part.labels for part in parts], spec))] = False
    return Images.joined(parts)[unused.nonzero().flatten()]


def write(path: Path, data: TrainingData) -> Path:
    """Write images for a program that knows nothing of this project."""
    np.savez(
        path,
        train_images=data.train.pixels.numpy(),
        train_labels=data.train.labels.numpy(),
        validation_images=data.validation.pixels.numpy(),
        validation_labels=data.validation.labels.numpy(),
        classes=len(data.class_names),
    )
    return path


def read(path: Path) -> tuple[Images, Images]:
    """Return the images that train and those that validate, from what `write` wrote."""
    with np.load(path) as arrays:
        train, validation = (
            Images(
                torch.from_numpy(arrays[f"{part}_images"]),
                torch.from_numpy(arrays[f"{part}_labels"]),
            )
            for part in ("train", "validation")
        )
    return train, validation
