import csv
import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from src import train, tune
from src.data.catalog import CLASS_NAMES, DataSpec
from src.results.folder import ResultsFolder
from src.search.journal import open_journal
from src.search.session import TIMING
from src.search.studies import load_studies
from src.search.timing import Timing
from src.training.checkpoint import load_model, save_model
from src.training.fit import fit
from src.training.task import make_task
from src.workers.worker import Fit

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY / "data"

Rows = list[dict[str, str]]


def needs_real_data(*files: str) -> pytest.MarkDecorator:
    """Skip a test where these files of the real data sets are not in data/."""
    missing = [file for file in files if not (REAL_DATA / file).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not in data/: {', '.join(missing)}")


needs_mnist = needs_real_data("MNIST/raw/train-images-idx3-ubyte")
needs_emnist = needs_real_data(
    "EMNIST/raw/emnist-digits-train-images-idx3-ubyte",
    "EMNIST/raw/emnist-letters-train-images-idx3-ubyte",
)


def children(pid: int) -> list[int]:
    """Return a process's children, the oldest first."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


ENOUGH = 300.0
"""Seconds in which anything happens that happens at all, on a busy machine too."""


def wait_until(true: Callable[[], object], seconds: float = ENOUGH) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Workplace:
    """A folder to run commands in, and what they left there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.logs = folder / "logs"

    def train_options(self, *options: str, max_epochs: int = 3) -> list[str]:
        """Options of a small fit on 100 real images."""
        return [
            "--dataset=mnist_5k",
            "--limit=100",
            f"--max_epochs={max_epochs}",
            "--device=cpu",
            "--precision=32",
            f"--results_dir={self.results}",
            f"--log_dir={self.logs}",
            *options,
        ]

    def options(self, *options: str, max_epochs: int = 3) -> list[str]:
        """Options of a small search: 5 trials, seconds."""
        of_a_search = ("--reduction_factor=3", "--tensorboard=none")
        return self.train_options(*of_a_search, *options, max_epochs=max_epochs)

    def tune(
        self, *options: str, max_epochs: int = 3, fit: Fit = fit, timing: Timing = TIMING
    ) -> int:
        """Search here; `fit` must be picklable where workers are spawned."""
        command = replace(tune.COMMAND, run=functools.partial(tune.run, fit=fit, timing=timing))
        return command.main(self.options(*options, max_epochs=max_epochs))

    def trials(self) -> list[FrozenTrial]:
        """Every trial of every batch size, also while the search goes on."""
        folder = ResultsFolder(self.results, "mnist_5k")
        if not folder.journal.exists():
            return []
        storage = open_journal(folder)
        studies = load_studies(storage, "mnist_5k").values()
        return [trial for study in studies for trial in study.trials]

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.trials()]

    def rows(self, name: str = "all.csv", dataset: str = "mnist_5k") -> Rows:
        with (self.results / dataset / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute in one thread: so small a network gains nothing by more, and loses on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One small search, for the tests that only look at what it left.

    Of the processes that run tests, the first that needs it makes it; each has a copy.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    made, copy = common / "search", tmp_path_factory.mktemp("finished") / "search"
    with filelock.FileLock(common / "search.lock"):
        if not made.exists():
            workplace = Workplace(common / "search.unfinished")
            options = ("--batch_sizes=[32,64]", "--tensorboard=all")
            assert workplace.tune(*options, max_epochs=9) == 0
            workplace.folder.rename(made)
    shutil.copytree(made, copy)
    return Workplace(copy)


@pytest.fixture(scope="session")
def small_search(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The search that `Workplace.tune()` makes, with curves, run once."""
    workplace = Workplace(tmp_path_factory.mktemp("small"))
    assert workplace.tune("--tensorboard=all") == 0
    return workplace


@pytest.fixture
def searched(small_search: Workplace, tmp_path: Path) -> Workplace:
    """A copy of a small finished search, to go on with or to damage."""
    workplace = Workplace(tmp_path)
    shutil.copytree(small_search.results, workplace.results)
    shutil.copytree(small_search.logs, workplace.logs)
    return workplace


@pytest.fixture(scope="session")
def digit_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that reads digits, trained once in seconds: its checkpoint."""
    workplace = Workplace(tmp_path_factory.mktemp("digits"))
    hyperparameters = [
        "--conv1=16", "--conv2=32", "--dense_units=64", "--dropout_rate=0.2",
        "--learning_rate=0.003", "--batch_size=32",
    ]  # fmt: skip
    options = workplace.train_options("--limit=3000", *hyperparameters, max_epochs=4)
    assert train.main(options) == 0
    (checkpoint,) = workplace.results.glob("mnist_5k/train/*/model.ckpt")
    return checkpoint


def as_letters(digit_model: Path, path: Path) -> None:
    """Write a model of letters that reads a 0 as A, a 1 as B … a 9 as J."""
    model = load_model(digit_model)
    names = CLASS_NAMES["emnist_letters"]
    weights = dict(make_task(model.hyperparameters, len(names)).state_dict())
    for name, value in model.weights.items():
        if name.startswith("model.logits."):
            weights[name] = torch.full_like(weights[name], -10.0 if name.endswith("bias") else 0.0)
            weights[name][:10] = value
        else:
            weights[name] = value
    matrix = [[0] * len(names) for _ in names]
    for row, counts in zip(matrix, model.validation_confusion, strict=False):
        row[:10] = counts
    letters = dataclasses.replace(
        model,
        data_spec=DataSpec(dataset="emnist_letters"),
        class_names=names,
        weights=weights,
        validation_confusion=matrix,
    )
    save_model(path, letters)


@pytest.fixture
def environment() -> dict[str, str]:
    """For a command in a process of its own."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_search_outlives_its_test() -> Iterator[None]:
    yield
    while _started:
        with _started.pop() as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def start_search(
    workplace: Workplace, environment: dict[str, str], *options: str
) -> subprocess.Popen[str]:
    """Start a small search in a process, and process group, of its own."""
    return start_python(["-m", "src.tune", *workplace.options(*options)], environment)


def start_python(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start Python in a process group of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _started.append(process)
    return process
