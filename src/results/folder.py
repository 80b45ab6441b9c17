"""Name the files of a results folder."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from src.core.files import remove_unfinished

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
        """Optuna's journal of all studies of the data set: a rerun resumes from it."""
        self.database = self.path / "study.database"
        """Identifies the search where the studies are in a database instead of a journal."""
        self.lock = self.path / ".lock"
        """Lock file of the running search."""
        self.all_csv = self.path / "all.csv"
        self.curves_csv = self.path / "curves.csv"
        """The learning curves of all trials."""
        self.best_json = self.path / "best.json"
        self.best_model = self.path / "best-model.ckpt"
        self.finalists_json = self.path / "finalists.json"
        """Outcome of the finals."""
        self.rematch_json = self.path / "rematch.json"
        """The search's best configurations and the published ones, trained again."""
        self.metrics_json = self.path / "metrics.json"
        """Metrics of the last `evaluate`."""
        self.mistakes = self.path / "mistakes.png"
        """Picture of the test images misread with the highest probability."""
        self.test_log = self.path / "test-log.jsonl"
        """Log of every look at the test split, a line each."""
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"
        """The report's pictures."""
        self.failure = self.path / "last-failure.txt"
        """Traceback of the last trial that failed."""
        self.states = self.path / "running"
        """Folder of the resumable states of unfinished trials."""

    def study_csv(self, batch_size: int) -> Path:
        """Return the table of one batch size's trials."""
        return self.path / f"{batch_size}-all.csv"

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint of this name."""
        return self.path / f"{name}.ckpt"

    def study_model(self, batch_size: int) -> Path:
        """Return the checkpoint of one batch size's best trial so far."""
        return self.checkpoint(f"{batch_size}-best")

    def study_figure(self, batch_size: int) -> Path:
        """Return the picture of one batch size's best trial."""
        return self.path / f"{batch_size}-best.png"

    def trial_state(self, study: str, slot: int | str) -> Path:
        """Return the resumable state of the unfinished trial in a slot."""
        return self.states / f"{study}-{slot}.ckpt"

    def drop_states(self, study: str) -> None:
        """Remove the states of a study's trials."""
        for state in self.states.glob(f"{study}-*"):
            state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            self.states.rmdir()

    def sweep(self) -> None:
        """Remove half-written files of killed processes; nobody else may be writing."""
        remove_unfinished(self.path)
        remove_unfinished(self.figures)
        for left in self.states.glob("*.partial"):
            left.unlink(missing_ok=True)

    def published(self, batch_sizes: Sequence[int]) -> list[str]:
        """List the names of the published files that exist."""
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
