"""The data sets by name: classes, files, sizes."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torchvision

from src.core import checks

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
    """Which images are trained on and which validate: the same spec gives the same split."""

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


TRAINING_IMAGES = {
    "mnist": 60_000,
    "emnist_digits": 240_000,
    "emnist_letters": 124_800,
    "emnist_letters_digits": 364_800,
    "emnist_balanced": 112_800,
    "emnist_bymerge": 697_932,
    "emnist_byclass": 697_932,
}
"""Images in the official training files: LeCun et al. 1998; Cohen et al. 2017, table II."""

_DIGITS = tuple(string.digits)

_LETTERS = tuple(string.ascii_uppercase)

# Cohen et al. 2017, section II: where both cases of a letter look alike, one class holds both.
_MERGED = (*_DIGITS, *_LETTERS, *"abdefghnqrt")

CLASS_NAMES: dict[Dataset, tuple[str, ...]] = {
    "mnist_5k": _DIGITS,
    "mnist": _DIGITS,
    "emnist_digits": _DIGITS,
    "emnist_letters": _LETTERS,
    "emnist_letters_digits": _DIGITS + _LETTERS,
    "emnist_balanced": _MERGED,
    "emnist_bymerge": _MERGED,
    "emnist_byclass": _DIGITS + _LETTERS + tuple(string.ascii_lowercase),
}

Split = Literal["train", "test"]


@dataclass(frozen=True)
class _Source:
    """A part of a data set: one torchvision data set and how its labels become ours."""

    emnist_split: str | None
    """EMNIST's name for the part; None is MNIST."""
    label_offset: int = 0
    """Added to the file's label to give the position in the class names."""

    @property
    def kind(self) -> Any:
        """The torchvision class, whose name is the folder's too."""
        return torchvision.datasets.EMNIST if self.emnist_split else torchvision.datasets.MNIST

    def download(self, split: Split, folder: str) -> None:
        """Fetch and unpack the whole torchvision data set; `split` must be in it."""
        chosen = {"split": self.emnist_split} if self.emnist_split else {}
        self.kind(folder, train=split == "train", download=True, **chosen)

    def folder(self, data_dir: Path) -> Path:
        """Return where the files are."""
        return data_dir / str(self.kind.__name__) / "raw"

    def files(self, split: Split) -> tuple[str, str]:
        """Return the names of the image file and the label file."""
        if self.emnist_split:
            prefix = f"emnist-{self.emnist_split}-{split}"
        else:
            prefix = {"train": "train", "test": "t10k"}[split]
        return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


_SOURCES: dict[Dataset, tuple[_Source, ...]] = {
    "mnist": (_Source(None),),
    "emnist_digits": (_Source("digits"),),
    "emnist_letters": (_Source("letters", -1),),  # the file's labels are 1…26
    "emnist_letters_digits": (_Source("digits"), _Source("letters", 10 - 1)),
    "emnist_balanced": (_Source("balanced"),),
    "emnist_bymerge": (_Source("bymerge"),),
    "emnist_byclass": (_Source("byclass"),),
}

# Bytes and SHA-256 of the original MNIST files, unpacked. EMNIST's are checked against
# torchvision's digest of the archive when it is downloaded, and by their structure from then on.
_ORIGINAL = {
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
}
