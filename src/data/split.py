"""Split the official training images into training and validation, once for all trials."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.interrupt import Interruption
from src.data.catalog import CATALOG, DataSpec
from src.data.files import Images, load_images

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class TrainingData:
    """The part of a data set that a search may see: never the official test split."""

    spec: DataSpec
    """The choice of images."""
    class_names: tuple[str, ...]
    """What each label stands for."""
    train: Images
    """Images to train on."""
    validation: Images
    """Images to select on: the same in every trial and every process."""
    split_hash: str
    """SHA-256 over the indices of both subsets and the content of all training images."""

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of training and validation images."""
        return {"train": len(self.train), "validation": len(self.validation)}


def load_training_data(
    spec: DataSpec,
    data_dir: str | Path,
    device: torch.device | str = "cpu",
    interruption: Interruption | None = None,
) -> TrainingData:
    """Read the training images, split them, and put both parts on the device as uint8.

    Raises:
        UserError: they are missing, damaged, or too few.
        Interrupted: while they were downloaded.
    """
    parts = load_images(spec.dataset, "train", data_dir, interruption)
    images = Images.joined(parts)
    train, validation = split_validation([part.labels for part in parts], spec)
    digest = hashlib.sha256()
    for tensor in (train, validation, images.pixels, images.labels):
        digest.update(tensor.numpy().data)
    return TrainingData(
        spec=spec,
        class_names=CATALOG[spec.dataset].class_names,
        train=images[train].to(device),
        validation=images[validation].to(device),
        split_hash=digest.hexdigest(),
    )


def split_validation(parts: list[Tensor], spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Choose the training and the validation images.

    Args:
        parts: labels of each file, int64 (N_i,); image indices count through the files in order.
        spec: the rule, its seed and the limit. The `tail` rule takes the tail of each file, since
            the tail of digits followed by letters would hold no digit.

    Returns:
        Sorted indices of the training and of the validation images, int64. Without a limit, the
        stratified ones are scikit-learn's `train_test_split(range(N), test_size=0.2,
        stratify=labels, random_state=seed)`, so that anybody can make the same split.

    Raises:
        UserError: there are fewer images than the limit, or too few of a class to split.
    """
    from sklearn.model_selection import train_test_split  # 2 s that not every command needs

    labels = torch.cat(parts).numpy()
    indices = np.arange(len(labels))
    if spec.limit is not None and spec.limit > len(labels):
        raise UserError(
            f"`limit` (={spec.limit}) is more than the {len(labels)} training images "
            f"of `{spec.dataset}`"
        )
    try:
        if spec.limit is not None and spec.limit < len(labels):
            indices, _ = train_test_split(
                indices, train_size=spec.limit, stratify=labels, random_state=spec.seed
            )
            indices.sort()
        if spec.validation == "stratified":
            train, validation = train_test_split(
                indices,
                test_size=VALIDATION_SHARE,
                stratify=labels[indices],
                random_state=spec.seed,
            )
        else:
            ends = np.cumsum([len(part) for part in parts])[:-1]
            files = np.split(indices, np.searchsorted(indices, ends))
            heads, tails = zip(
                *(np.split(file, [round(len(file) * (1 - VALIDATION_SHARE))]) for file in files),
                strict=True,
            )
            train, validation = np.concatenate(heads), np.concatenate(tails)
    except ValueError as error:  # scikit-learn says which count is too small
        raise UserError(
            f"the training images of `{spec.dataset}` cannot be split with "
            f"`limit` (={spec.limit}): {error}"
        ) from error
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(validation))


def refuse_large_batches(option: str, batch_sizes: Iterable[int], data: TrainingData) -> None:
    """Make sure that no batch is larger than the training set.

    Args:
        option: that the user set.
        batch_sizes: what it was set to.
        data: what is trained on.

    Raises:
        UserError: one is.
    """
    images = len(data.train)
    for batch_size in batch_sizes:
        if batch_size > images:
            raise UserError(
                f"`{option}` (={batch_size}) is more than the {images:,} images of "
                f"`{data.spec.dataset}` that train; choose at most {images}"
            )
