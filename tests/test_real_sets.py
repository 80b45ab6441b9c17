import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src import evaluate, tune
from src.data.catalog import CLASS_NAMES
from src.data.files import load_images
from tests.conftest import REAL_DATA, Workplace, needs_emnist, needs_mnist
from tests.test_data import write_idx


@pytest.fixture
def opened() -> Iterator[set[str]]:
    """Names of all files that this process opens during the test."""
    names: set[str] = set()
    active = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open":
            names.add(Path(str(arguments[0])).name)

    sys.addaudithook(note)  # can never be removed
    yield names
    active = False


def test_search_needs_no_test_files_and_opens_none(
    workplace: Workplace, tmp_path: Path, opened: set[str]
) -> None:
    # Runs everywhere: real digits, in files laid out as EMNIST's, and no test split at all.
    (sample,) = load_images("mnist_5k", "train", "nowhere")
    pixels, labels = sample.pixels.numpy(), sample.labels.numpy()
    write_idx(tmp_path / "EMNIST/raw", "emnist-digits-train", pixels, labels)
    assert workplace.tune("--dataset=emnist_digits", f"--data_dir={tmp_path}") == 0
    assert {name for name in opened if name.endswith("-ubyte")} == {
        "emnist-digits-train-images-idx3-ubyte",
        "emnist-digits-train-labels-idx1-ubyte",
    }


@needs_mnist
@needs_emnist
@pytest.mark.long
@pytest.mark.parametrize("dataset", ["mnist", "emnist_letters_digits"])
def test_search_on_real_images_does_not_open_the_test_split(
    dataset: str, workplace: Workplace, opened: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        f"--dataset={dataset}", f"--data_dir={REAL_DATA}", "--batch_sizes=[128]",
        "--max_epochs=2", "--reduction_factor=2", "--limit=2000", "--tensorboard=none",
        f"--results_dir={workplace.results}", f"--log_dir={workplace.logs}",
    ]  # fmt: skip
    assert tune.main(options) == 0
    prefixes = {"mnist": ["train"]}.get(dataset, ["emnist-digits-train", "emnist-letters-train"])
    assert {name for name in opened if name.endswith("-ubyte")} == {
        f"{prefix}-{kind}-ubyte" for prefix in prefixes for kind in ("images-idx3", "labels-idx1")
    }

    checkpoint = workplace.results / dataset / "best-model.ckpt"
    capsys.readouterr()
    folders = [f"--data_dir={REAL_DATA}", f"--results_dir={workplace.results}"]
    assert evaluate.main([str(checkpoint), "--json", *folders]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["n_test"] == {"mnist": 10_000}.get(dataset, 30_400)
    assert len(metrics["per_class"]) == len(CLASS_NAMES[dataset])  # type: ignore[index]
    assert metrics["test_accuracy"] > {"mnist": 0.8}.get(dataset, 0.4)


@needs_mnist
def test_model_is_tested_on_another_set_of_the_same_classes_only(
    finished_search: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished_search.results / "mnist_5k/best-model.ckpt")
    data = [f"--data_dir={REAL_DATA}", f"--results_dir={finished_search.results}"]
    assert evaluate.main([checkpoint, "--dataset=mnist", "--json", *data]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 10_000
    assert (finished_search.results / "mnist_5k/metrics-on-mnist.json").exists()
    assert evaluate.main([checkpoint, "--dataset=emnist_letters", *data]) == 2
    assert "`dataset` (=emnist_letters) has other classes" in capsys.readouterr().err


@needs_mnist
@needs_emnist
def test_test_images_that_were_trained_on_are_refused_or_pointed_out(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"--data_dir={REAL_DATA}", f"--results_dir={workplace.results}"]
    assert workplace.tune("--dataset=mnist", *data) == 0
    checkpoint = str(workplace.results / "mnist/best-model.ckpt")
    assert evaluate.main([checkpoint, "--dataset=mnist_5k", *data]) == 2
    assert "among MNIST's training images" in capsys.readouterr().err
    assert evaluate.main([checkpoint, "--dataset=emnist_digits", "--json", *data]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["caution"] in captured.err
    assert "come from the same forms" in captured.err


@needs_mnist
def test_model_is_tested_where_only_the_test_files_are(
    finished_search: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (REAL_DATA / "MNIST/raw").glob("t10k-*"):
        shutil.copy(file, raw)
    checkpoint = str(finished_search.results / "mnist_5k/best-model.ckpt")
    folders = [f"--{name}_dir={tmp_path}" for name in ("data", "output", "results")]
    assert evaluate.main([checkpoint, "--dataset=mnist", "--json", *folders]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 10_000
