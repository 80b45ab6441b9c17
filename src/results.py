"""What a search leaves in its results folder: typed records, written atomically."""

import contextlib
import errno
import itertools
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from src.config import RECIPE, Hyperparameters
from src.errors import UserError

SELECTED_ON = "val_accuracy"
"""The metric that early stopping, the search and the choice of the best epoch look at."""

LOST = "lost on the rung"
"""How the reason of a trial begins that a rung stopped."""

_TOKEN = 4
"""Random bytes in the name of a file that is being written."""

COLUMNS = [
    # as published
    *("val_accuracy", "conv1", "conv2", "dense_units", "dropout_rate", "learning_rate"),
    *("epochs", "batch_size"),
    # and beyond
    *("trial", "state", "bracket", "seconds", "reason"),
    *RECIPE,
]
"""The columns of a search's CSV."""

CURVE_COLUMNS = [
    *("batch_size", "trial", "epoch"),
    *("train_loss", "train_accuracy", "val_loss", "val_accuracy"),
]
"""The columns of the table of learning curves."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial that has ended: one row of a search's CSV."""

    val_accuracy: float | None
    """The best epoch's share of validation images read correctly, 0…1; None before epoch 1."""
    hyperparameters: Hyperparameters
    epochs: int
    """Epochs trained."""
    trial: int
    """Optuna's number within the batch size's study."""
    state: str
    """Optuna's: COMPLETE, PRUNED (lost on a rung, diverged) or FAIL (an error, a lost worker)."""
    bracket: int
    """s of the trial's bracket: how often it cuts its trials."""
    seconds: float | None
    """Wall time of training."""
    reason: str
    """Why the trial ended when it did, if not by training all its epochs."""


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch; training values are taken while the weights change."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Cross-entropy in nats."""
    train_accuracy: float
    """Share of the images, 0…1."""
    val_loss: float
    """Cross-entropy in nats."""
    val_accuracy: float
    """Share of the images, 0…1."""


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """One look at a test split: a line of the test log."""

    __test__ = False  # pytest would take it for tests

    date: str
    """In UTC, as ISO 8601 has it."""
    checkpoint: str
    checkpoint_sha256: str
    """Of the model's file."""
    dataset: str
    n_test: int
    """Images in the test split."""
    test_accuracy: float
    """Share of them that was read correctly, 0…1."""


@dataclass(frozen=True)
class Opened:
    """How often a test split was looked at, this time included."""

    times: int
    models: int
    """Different ones, by their files."""


class ResultsFolder:
    """results/<dataset>/: where a search writes, and what it calls its files.

    Args:
        results_dir: the folder for all data sets.
        dataset: name of the data set.
    """

    def __init__(self, results_dir: str | Path, dataset: str) -> None:
        self.path = Path(results_dir) / dataset
        self.journal = self.path / "study.journal"
        """All studies of the data set: what a rerun goes on from."""
        self.database = self.path / "study.database"
        """Instead of the journal: names the search, whose studies are in a database."""
        self.lock = self.path / ".lock"
        """Held by the search that is running."""
        self.all_csv = self.path / "all.csv"
        self.curves_csv = self.path / "curves.csv"
        """The learning curves of all trials."""
        self.best_json = self.path / "best.json"
        self.best_model = self.path / "best-model.ckpt"
        self.finalists_json = self.path / "finalists.json"
        """The best configurations, trained again with several seeds."""
        self.metrics_json = self.path / "metrics.json"
        """What `evaluate` measured last."""
        self.mistakes = self.path / "mistakes.png"
        """Test images that the model was surest about, and wrong."""
        self.test_log = self.path / "test-log.jsonl"
        """A line for every time that the test split was opened."""
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"
        """The report's pictures."""
        self.failure = self.path / "last-failure.txt"
        """Traceback of the last trial that failed."""
        self.states = self.path / "running"
        """States of unfinished trials."""

    def study_csv(self, batch_size: int) -> Path:
        """Return the file with a row for every trial of one batch size."""
        return self.path / f"{batch_size}-all.csv"

    def checkpoint(self, name: str) -> Path:
        """Return where a best trial's model of this name is kept."""
        return self.path / f"{name}.ckpt"

    def study_model(self, batch_size: int) -> Path:
        """Return the checkpoint of one batch size's best trial so far."""
        return self.checkpoint(f"{batch_size}-best")

    def study_figure(self, batch_size: int) -> Path:
        """Return the picture of one batch size's best trial."""
        return self.path / f"{batch_size}-best.png"

    def trial_state(self, study: str, slot: int | str) -> Path:
        """Return where the trial in a slot keeps its state while it is unfinished."""
        return self.states / f"{study}-{slot}.ckpt"

    def drop_states(self, study: str) -> None:
        """Remove the states of a study's trials."""
        for state in self.states.glob(f"{study}-*"):
            state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            self.states.rmdir()

    def sweep(self) -> None:
        """Remove what a killed process has left half written; nobody else may be writing."""
        unfinished = f".*.{'?' * 2 * _TOKEN}.*"
        for left in (
            *self.path.glob(unfinished),
            *self.figures.glob(unfinished),
            *self.states.glob("*.partial"),
        ):
            left.unlink(missing_ok=True)

    def published(self, batch_sizes: Sequence[int]) -> list[str]:
        """Return the names of the files that people read, those that are there."""
        files = [self.best_json, self.best_model, self.finalists_json]
        files += [self.all_csv, self.curves_csv]
        for batch_size in batch_sizes:
            files += [
                self.study_csv(batch_size),
                self.study_figure(batch_size),
                self.rungs_figure(batch_size),
            ]
        return [file.name for file in files if file.exists()]

    def rungs_figure(self, batch_size: int) -> Path:
        """Return the picture of one batch size's learning curves and rungs."""
        return self.path / f"{batch_size}-rungs.png"


def make_writable(path: Path, option: str) -> None:
    """Make the folder and make sure that files can be written to it.

    Raises:
        UserError: they cannot; the message names the option that chooses another folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {path} ({error.strerror}); "
            f"make it writable or choose another folder with `{option}`"
        ) from error


def free_name(folder: Path, name: str) -> str:
    """Return `name`, or `name-2`, `name-3`, …: the first that the folder has nothing of."""
    names = (name if i == 1 else f"{name}-{i}" for i in itertools.count(1))
    return next(free for free in names if not (folder / free).exists())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there becomes `path` when the block ends well.

    A crash at any moment leaves the old file or the new one, never a part of one.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(_TOKEN)}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_trials(path: Path, records: Sequence[TrialRecord]) -> None:
    """Write one row for each trial."""
    rows = [asdict(record) | asdict(record.hyperparameters) for record in records]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(temporary, index=False)


def write_epochs(path: Path, trials: Iterable[tuple[TrialRecord, Sequence[Epoch]]]) -> None:
    """Write one row for each epoch of each trial; a loss that is no number stays nan or inf."""
    rows = [
        {"batch_size": record.hyperparameters.batch_size, "trial": record.trial, **asdict(epoch)}
        for record, history in trials
        for epoch in history
    ]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=CURVE_COLUMNS).to_csv(temporary, index=False, na_rep="nan")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def record_test(folder: ResultsFolder, record: TestRecord) -> Opened:
    """Add a line to the test log, before anybody sees what it says.

    Raises:
        UserError: the log is damaged.
    """
    with folder.test_log.open("a+b", buffering=0) as file:

        def read() -> bytes:
            file.seek(0)
            return file.read()

        before = read()
        _tested_models(folder, before)
        whole = not before or before.endswith(b"\n")
        line = b"\n" * (not whole) + json.dumps(asdict(record)).encode() + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.test_log))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(len(before))  # half a line would be in the way of the next
            raise
        hashes = _tested_models(folder, read())  # others' lines of meanwhile, too
    return Opened(len(hashes), len(set(hashes)))


def _tested_models(folder: ResultsFolder, log: bytes) -> list[str]:
    """Return the hashes of the models that a test log's lines are about."""
    try:
        return [str(json.loads(line)["checkpoint_sha256"]) for line in log.splitlines() if line]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder.test_log} is damaged: a line is no record of a test; mend or move it"
        ) from error
