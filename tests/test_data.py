import contextlib
import functools
import gzip
import hashlib
import http.server
import shutil
import signal
import socket
import struct
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from src import train
from src.core.errors import UserError
from src.core.interrupt import Interrupted, Signals
from src.data.batches import Chunks
from src.data.catalog import CATALOG, CLASS_NAMES, Dataset, DataSpec, overlap_caution
from src.data.files import Images, has_images, load_images
from src.data.split import load_training_data, split_validation
from tests.conftest import (
    ENOUGH,
    REAL_DATA,
    Workplace,
    needs_emnist,
    needs_mnist,
    start_python,
    wait_until,
)


def write_idx(folder: Path, prefix: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write images, (N, 28, 28), and labels as MNIST's authors describe the format."""
    folder.mkdir(parents=True, exist_ok=True)
    images = struct.pack(">IIII", 2051, len(pixels), 28, 28) + pixels.astype(np.uint8).tobytes()
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">II", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


# ---- what the images are


@pytest.mark.parametrize(
    ("dataset", "split"),
    [
        ("emnist_digits", "digits"),
        ("emnist_balanced", "balanced"),
        ("emnist_bymerge", "bymerge"),
        ("emnist_byclass", "byclass"),
    ],
)
def test_class_names_are_torchvisions(dataset: Dataset, split: str) -> None:
    names = torchvision.datasets.EMNIST.classes_split_dict[split]
    assert CLASS_NAMES[dataset] == tuple(names)


def test_every_data_set_has_one_entry() -> None:
    assert set(get_args(Dataset)) == set(CATALOG)
    titles = [entry.title for entry in CATALOG.values()]
    assert len(set(titles)) == len(titles)
    for entry in CATALOG.values():
        assert entry.part_of is None or entry.part_of in CATALOG
        assert (entry.training_images is None) == (not entry.sources)


def test_class_counts() -> None:
    counts = {dataset: len(names) for dataset, names in CLASS_NAMES.items()}
    assert counts == {
        "mnist_5k": 10, "mnist": 10, "emnist_digits": 10, "emnist_letters": 26,
        "emnist_letters_digits": 36, "emnist_balanced": 47, "emnist_bymerge": 47,
        "emnist_byclass": 62,
    }  # fmt: skip
    assert "".join(CLASS_NAMES["emnist_letters_digits"]) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_sample_has_400_training_and_100_test_images_a_digit() -> None:
    (train,) = load_images("mnist_5k", "train", "nowhere")
    (test,) = load_images("mnist_5k", "test", "nowhere")
    assert torch.bincount(train.labels).tolist() == 10 * [400]
    assert torch.bincount(test.labels).tolist() == 10 * [100]
    assert train.pixels.dtype == torch.uint8
    seen = {image.numpy().tobytes() for image in train.pixels}
    assert not any(image.numpy().tobytes() in seen for image in test.pixels)


@needs_emnist
def test_emnist_stands_upright_and_its_labels_are_right() -> None:
    # Read by neighbours among MNIST's digits, of which nobody doubts which way is up.
    (sample,) = load_images("mnist_5k", "train", "nowhere")
    neighbours = KNeighborsClassifier(3).fit(sample.pixels.flatten(1), sample.labels)
    digits, letters = load_images("emnist_letters_digits", "test", REAL_DATA)

    readings = {}
    for turned in range(4):
        for mirrored in (False, True):
            pixels = digits.pixels[:1000].rot90(turned, (1, 2))
            pixels = pixels.flip(2) if mirrored else pixels
            score = neighbours.score(pixels.flatten(1), digits.labels[:1000])
            readings[turned, mirrored] = float(score)
    upright = readings.pop((0, False))
    assert upright > 0.6 > 1.5 * max(readings.values())
    for letter, digit in (("O", 0), ("I", 1), ("Z", 2), ("S", 5)):
        label = CLASS_NAMES["emnist_letters_digits"].index(letter)
        read = neighbours.predict(letters.pixels[letters.labels == label].flatten(1))
        assert np.bincount(read).argmax() == digit, f"most of {letter} look like {digit}"
    assert letters.labels.min() == 10
    assert letters.labels.max() == 35


@needs_emnist
def test_letters_alone_are_the_letters_of_letters_and_digits() -> None:
    (alone,) = load_images("emnist_letters", "test", REAL_DATA)
    (_, joined) = load_images("emnist_letters_digits", "test", REAL_DATA)
    assert torch.equal(alone.pixels, joined.pixels)
    assert torch.equal(alone.labels + 10, joined.labels)
    assert alone.labels.min() == 0


@pytest.mark.parametrize("dataset", ["emnist_balanced", "emnist_bymerge", "emnist_byclass"])
def test_the_other_emnist_splits_are_read(dataset: Dataset, tmp_path: Path) -> None:
    # Real digits, in files laid out as these splits have them: every class once, on its side.
    (sample,) = load_images("mnist_5k", "train", "nowhere")
    classes = len(CLASS_NAMES[dataset])
    pixels = sample.pixels[:classes].numpy()
    split = dataset.removeprefix("emnist_")
    write_idx(
        tmp_path / "EMNIST/raw", f"emnist-{split}-train", pixels.swapaxes(1, 2), np.arange(classes)
    )
    (images,) = load_images(dataset, "train", tmp_path)
    assert torch.equal(images.pixels, sample.pixels[:classes])
    assert images.labels.tolist() == list(range(classes))


# ---- which of them validate


def test_stratified_split_takes_a_fifth_of_every_class() -> None:
    data = load_training_data(DataSpec(dataset="mnist_5k"), "nowhere")
    assert data.counts == {"train": 3200, "validation": 800}
    assert torch.bincount(data.validation.labels).tolist() == 10 * [80]
    everything = {image.numpy().tobytes() for image in data.train.pixels}
    assert not any(image.numpy().tobytes() in everything for image in data.validation.pixels)


def test_split_follows_from_the_seed_alone() -> None:
    labels = [torch.arange(1000) % 10]
    first, second, other = (
        split_validation(labels, DataSpec(dataset="mnist", seed=seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
    assert sorted(torch.cat(first).tolist()) == list(range(1000))


def test_split_is_the_one_that_scikit_learn_makes_in_one_line() -> None:
    labels = torch.arange(1000) % 10
    train, validation = train_test_split(
        range(1000), test_size=0.2, stratify=labels, random_state=7
    )
    ours = split_validation([labels[:300], labels[300:]], DataSpec(dataset="mnist", seed=7))
    assert ours[0].tolist() == sorted(train)
    assert ours[1].tolist() == sorted(validation)


def test_tail_validates_on_the_last_fifth_of_each_file() -> None:
    parts = [torch.arange(100) % 10, 10 + torch.arange(50) % 26]
    spec = DataSpec(dataset="emnist_letters_digits", validation="tail")
    train, validation = split_validation(parts, spec)
    assert validation.tolist() == [*range(80, 100), *range(140, 150)]
    assert train.tolist() == [*range(80), *range(100, 140)]


@needs_mnist
def test_tail_of_mnist_is_the_published_validation_set() -> None:
    data = load_training_data(DataSpec(dataset="mnist", validation="tail"), REAL_DATA)
    reference = torchvision.datasets.MNIST(REAL_DATA, train=True)
    assert torch.equal(data.train.pixels, reference.data[:48_000])
    assert torch.equal(data.validation.labels, reference.targets[48_000:])


@pytest.mark.parametrize("validation", ["stratified", "tail"])
def test_limit_is_the_number_of_images_used(validation: str) -> None:
    spec = DataSpec(dataset="mnist_5k", limit=500, validation=validation)  # type: ignore[arg-type]
    data = load_training_data(spec, "nowhere")
    assert data.counts == {"train": 400, "validation": 100}


@pytest.mark.parametrize(("limit", "message"), [(4001, r"=4001\) is more than the 4000"), (20, "")])
def test_limit_that_does_not_fit_is_refused(limit: int, message: str) -> None:
    with pytest.raises(UserError, match=message or r"cannot be split with `limit` \(=20\)"):
        load_training_data(DataSpec(dataset="mnist_5k", limit=limit), "nowhere")


def test_split_hash_tells_splits_and_contents_apart() -> None:
    hashes = {
        load_training_data(DataSpec(dataset="mnist_5k", seed=s, limit=limit), "nowhere").split_hash
        for s, limit in ((0, None), (0, None), (1, None), (0, 500))
    }
    assert len(hashes) == 3


# ---- how they come in batches


def test_every_image_comes_once_a_pass_and_the_last_batch_is_smaller() -> None:
    images = Images(torch.zeros(2500, 28, 28, dtype=torch.uint8), torch.arange(2500))
    for seed in (None, 3):
        chunks = list(Chunks(images, 300, seed))
        assert len(Chunks(images, 300, seed)) == len(chunks) > 1
        batches = [indices for chunk in chunks for indices in chunk.batches()]
        assert [len(batch) for batch in batches] == [300] * 8 + [100]
        assert sorted(torch.cat(batches).tolist()) == list(range(2500))


def test_batch_larger_than_a_chunk_stays_whole() -> None:
    images = Images(torch.zeros(5000, 28, 28, dtype=torch.uint8), torch.arange(5000))
    batches = [batch for chunk in Chunks(images, 2000, 0) for batch in chunk.batches()]
    assert [len(batch) for batch in batches] == [2000, 2000, 1000]


def test_order_follows_from_the_seed() -> None:
    images = Images(torch.zeros(200, 28, 28, dtype=torch.uint8), torch.arange(200))
    orders = [
        torch.cat([chunk.indices for chunk in Chunks(images, 64, seed)]).tolist()
        for seed in (1, 2, 1)
    ]
    assert orders[0] == orders[2] != orders[1]
    in_order = torch.cat([chunk.indices for chunk in Chunks(images, 64)])
    assert in_order.tolist() == list(range(200))


# ---- files that are missing or damaged


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("dataset", ["mnist", "emnist_digits", "emnist_letters_digits"])
def test_missing_files_without_network_are_one_clear_error(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        load_images(dataset, "train", tmp_path)
    message = str(caught.value)
    folder = tmp_path / ("MNIST" if dataset == "mnist" else "EMNIST") / "raw"
    for needed in (str(folder), "train-images-idx3-ubyte", "Put the files there", "mnist_5k"):
        assert needed in message
    assert "\n" not in message
    assert not list(folder.iterdir()), "nothing half-downloaded is left"
    assert not list(tmp_path.glob(".download-*"))


@pytest.fixture
def mnist_copy(tmp_path: Path) -> Path:
    shutil.copytree(REAL_DATA / "MNIST", tmp_path / "MNIST")
    return tmp_path


@needs_mnist
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", ["empty", "header only", "truncated", "one bit", "longer"])
def test_damaged_file_is_refused_by_name(name: str, damage: str, mnist_copy: Path) -> None:
    path = mnist_copy / "MNIST/raw" / name
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "header only": content[:8],
        "truncated": content[:-1],
        "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "longer": content + b"\0",
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{name} is (truncated or )?altered"):
        load_images("mnist", "train", mnist_copy)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("label", "count", "message"),
    [(10, 20, "it holds the label 10"), (3, 19, "holds 20 images and .* 19 labels")],
)
def test_labels_that_do_not_fit_are_refused(
    label: int, count: int, message: str, tmp_path: Path
) -> None:
    labels = np.full(count, 3)
    labels[5] = label
    write_idx(tmp_path / "EMNIST/raw", "emnist-digits-train", np.zeros((20, 28, 28)), labels)
    with pytest.raises(UserError, match=message):
        load_images("emnist_digits", "train", tmp_path)


@needs_mnist
def test_training_images_load_without_the_test_files(mnist_copy: Path) -> None:
    for file in (mnist_copy / "MNIST/raw").glob("t10k-*"):
        file.unlink()
    (images,) = load_images("mnist", "train", mnist_copy)
    assert len(images) == 60_000


@needs_mnist
@pytest.mark.parametrize("style", ["{}.gz", "dotted", "dotted.gz", "{0}/{0}"])
def test_files_are_found_as_they_are_published_elsewhere(
    style: str, mnist_copy: Path, no_network: None
) -> None:
    raw = mnist_copy / "MNIST/raw"
    for file in list(raw.iterdir()):
        content = file.read_bytes()
        file.unlink()
        dotted = file.with_name(file.name.replace("-idx", ".idx"))
        if style == "{0}/{0}":  # unpacked to a folder of its own, beside the file with a dot
            file.mkdir()
            (file / file.name).write_bytes(content)
            dotted.write_bytes(content)
        elif style == "dotted":
            dotted.write_bytes(content)
        else:
            packed = dotted if style == "dotted.gz" else file
            packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(content, 1))
    before = sorted(raw.iterdir())
    (images,) = load_images("mnist", "test", mnist_copy)
    assert images.sha256() == load_images("mnist", "test", REAL_DATA)[0].sha256()
    assert has_images("mnist", "train", mnist_copy)
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize("damage", ["cut short", "not packed", "longer", "one bit"])
def test_damaged_packed_file_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "EMNIST/raw"
    write_idx(folder, "emnist-digits-train", np.ones((20, 28, 28)), np.arange(20) % 10)
    path = folder / "emnist-digits-train-images-idx3-ubyte"
    content = path.read_bytes()
    path.unlink()
    packed = gzip.compress(content)
    damaged = {
        "cut short": packed[:-20],
        "not packed": content,
        "longer": gzip.compress(content + b"0" * 10_000_000),
        "one bit": packed[:-1] + bytes([packed[-1] ^ 1]),
    }[damage]
    path.with_name(f"{path.name}.gz").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{path.name}\.gz is truncated or altered"):
        load_images("emnist_digits", "train", tmp_path)


# ---- what of one data set is in another


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "caution"),
    [
        ("mnist", "mnist", None),
        ("mnist_5k", "mnist", None),  # its images are MNIST's training images
        ("mnist", "emnist_digits", "the same forms"),
        ("emnist_digits", "mnist_5k", "the same forms"),
        ("emnist_balanced", "emnist_bymerge", "both sets are of EMNIST's images"),
        ("emnist_letters", "emnist_letters", None),
    ],
)
def test_test_images_that_may_have_been_trained_on_are_pointed_out(
    trained_on: Dataset, tested_on: Dataset, caution: str | None
) -> None:
    found = overlap_caution(trained_on, tested_on)
    assert (found is None) if caution is None else (found is not None and caution in found)


def test_test_images_that_were_trained_on_are_refused() -> None:
    with pytest.raises(UserError, match=r"among MNIST's training images.*use mnist"):
        overlap_caution("mnist", "mnist_5k")


# ---- batches larger than what there is


@pytest.mark.parametrize("command", ["train", "tune"])
def test_batches_larger_than_the_training_set_are_refused(
    command: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "tune":
        assert workplace.tune("--batch_sizes=[64,81]") == 2
    else:
        options = [
            "--conv1=8", "--conv2=8", "--dense_units=8", "--dropout_rate=0.1",
            "--learning_rate=0.001", "--batch_size=81",
        ]  # fmt: skip
        options += workplace.train_options()
        assert train.main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "(=81) is more than the 80 images" in line
    assert not list(workplace.results.rglob("*.csv"))
    assert not list(workplace.results.rglob("train/*"))


# ---- downloading


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, list[str], Path]]:
    """A web server on this machine: its address, the paths it was asked for, its folder."""
    asked: list[str] = []
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked, folder
    server.shutdown()
    thread.join()
    server.server_close()


@needs_mnist
def test_missing_files_are_downloaded_once(
    mirror: tuple[str, list[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, asked, folder = mirror
    resources = []
    for file in sorted((REAL_DATA / "MNIST/raw").iterdir()):
        packed = gzip.compress(file.read_bytes(), compresslevel=1)
        (folder / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)

    (images,) = load_images("mnist", "train", tmp_path / "data")
    assert len(images) == 60_000
    assert set(asked) == {f"/{name}" for name, _ in resources}
    asked.clear()
    load_images("mnist", "test", tmp_path / "data")
    assert asked == []
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for results"
    assert "100%" in captured.err, "a progress bar"
    assert not list((tmp_path / "data").glob(".download-*"))


@needs_emnist
def test_emnists_one_archive_is_downloaded_once_for_all_its_splits(
    mirror: tuple[str, list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked, folder = mirror
    archive = folder / "gzip.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (REAL_DATA / "EMNIST/raw").glob("*-test-*"):
            packed.writestr(f"gzip/{file.name}.gz", gzip.compress(file.read_bytes(), 1))
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", f"{address}gzip.zip")
    monkeypatch.setattr(
        torchvision.datasets.EMNIST, "md5", hashlib.md5(archive.read_bytes()).hexdigest()
    )
    data = tmp_path / "data"
    mine = data / "EMNIST/raw/emnist-letters-test-labels-idx1-ubyte"
    mine.parent.mkdir(parents=True)
    shutil.copy(REAL_DATA / "EMNIST/raw" / mine.name, mine)
    before = mine.stat().st_mtime_ns
    load_images("emnist_digits", "test", data)
    assert set(asked) == {"/gzip.zip"}
    asked.clear()
    load_images("emnist_letters_digits", "test", data)
    assert asked == []
    assert mine.stat().st_mtime_ns == before, "a file that was there is kept"


@pytest.fixture
def endless_mirror() -> Iterator[str]:
    """A web server on this machine that sends a little, for ever: its address."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2**30))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with contextlib.suppress(OSError):
                while not over.wait(0.1):
                    self.wfile.write(b"x" * 2**12)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def start_download(
    command: str, mirror: str, workplace: Workplace, environment: dict[str, str], *options: str
) -> subprocess.Popen[str]:
    """Start a command that must download MNIST first, and wait until it does."""
    data = workplace.folder / "data"
    script = (
        f"import sys, torchvision; torchvision.datasets.MNIST.mirrors = [{mirror!r}]\n"
        f"from src import {command}; sys.exit({command}.main(sys.argv[1:]))"
    )
    before = set(data.glob(".download-*"))
    arguments = ("-c", script, "--dataset=mnist", "--device=cpu", f"--data_dir={data}")
    folders = (f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}")
    process = start_python([*arguments, *folders, *options], environment)

    def has_begun() -> bool:
        assert process.poll() is None
        new = set(data.glob(".download-*")) - before
        return any(any(folder.glob("MNIST/raw/*")) for folder in new)

    wait_until(has_begun)
    return process


TRAIN = (
    "--conv1=8", "--conv2=8", "--dense_units=8", "--dropout_rate=0.1", "--learning_rate=0.001",
    "--batch_size=32",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "options", "number", "code", "said"),
    [
        ("tune", (), signal.SIGTERM, 143, "interrupted by SIGTERM"),
        ("tune", (), signal.SIGINT, 130, "interrupted by Ctrl-C"),
        ("train", TRAIN, signal.SIGTERM, 143, "interrupted by SIGTERM"),
    ],
)
def test_download_that_is_stopped_ends_and_leaves_nothing(
    command: str,
    options: tuple[str, ...],
    number: signal.Signals,
    code: int,
    said: str,
    endless_mirror: str,
    workplace: Workplace,
    environment: dict[str, str],
) -> None:
    process = start_download(command, endless_mirror, workplace, environment, *options)
    process.send_signal(number)
    _, err = process.communicate(timeout=ENOUGH)
    assert process.returncode == code
    assert err.splitlines()[-1] == said
    assert "Traceback" not in err
    assert not list((workplace.folder / "data").glob(".download-*"))


def test_download_ends_when_the_time_is_up(
    endless_mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [endless_mirror])
    with Signals(timeout=2.0) as interruption:
        with pytest.raises(Interrupted, match="time is up") as caught:
            load_images("mnist", "train", tmp_path, interruption)
        assert caught.value.exit_code == 0
    assert not list(tmp_path.glob(".download-*"))


@pytest.mark.long
def test_next_download_removes_what_a_killed_one_left_and_spares_one_that_runs(
    endless_mirror: str, workplace: Workplace, environment: dict[str, str]
) -> None:
    data = workplace.folder / "data"
    (data / ".download-of-the-version-before/MNIST/raw").mkdir(parents=True)
    killed = start_download("tune", endless_mirror, workplace, environment)
    (left,) = data.glob(".download-*")
    killed.kill()
    killed.communicate()
    assert left.exists()
    running = start_download("tune", endless_mirror, workplace, environment)
    (first,) = data.glob(".download-*")
    assert first != left
    other = Workplace(workplace.folder)
    other.results = workplace.folder / "other"
    second = start_download("train", endless_mirror, other, environment, *TRAIN)
    assert first.exists()
    for process in (running, second):
        process.terminate()
        process.communicate(timeout=ENOUGH)
    assert not list(data.glob(".download-*"))
