"""What a search leaves in its results folder: typed records, written atomically."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from src.core.files import _TOKEN

RESULTS_DIR = "results"
"""Where results go if nothing else is said: a folder in it for each data set."""


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
