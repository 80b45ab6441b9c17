"""The CSV tables of a search."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from src.core.files import replacing
from src.results.records import TrialRecord
from src.training.history import Epoch
from src.training.hyperparameters import RECIPE

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


def write_trials(path: Path, records: Iterable[TrialRecord]) -> None:
    """Write one row for each trial; what is not known is left empty."""
    _write(path, COLUMNS, (asdict(record) | asdict(record.hyperparameters) for record in records))


def write_epochs(path: Path, trials: Iterable[tuple[TrialRecord, Sequence[Epoch]]]) -> None:
    """Write one row for each epoch of each trial; a loss that is no number stays nan or inf."""
    rows = (
        {"batch_size": record.hyperparameters.batch_size, "trial": record.trial, **asdict(epoch)}
        for record, history in trials
        for epoch in history
    )
    _write(path, CURVE_COLUMNS, rows)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
