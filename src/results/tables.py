"""Write and read the tables of a search: all.csv (trials) and curves.csv (epochs)."""

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from src.core.decode import build, check_count, check_seconds, check_share, reading
from src.core.files import replacing
from src.results.records import TrialRecord
from src.training.history import Epoch
from src.training.hyperparameters import RECIPE, Hyperparameters

COLUMNS = [
    # as published
    *("val_accuracy", "conv1", "conv2", "dense_units", "dropout_rate", "learning_rate"),
    *("epochs", "batch_size"),
    # and beyond
    *("trial", "state", "bracket", "seconds", "reason"),
    *RECIPE,
]
"""The columns of a search's CSV."""

CURVE_COLUMNS = ["batch_size", "trial", *(field.name for field in fields(Epoch))]
"""The columns of the table of learning curves."""

STATES = ("COMPLETE", "PRUNED", "FAIL")
"""Optuna's states of trials that have ended."""

_HYPERPARAMETERS: dict[str, Any] = get_type_hints(Hyperparameters)
"""Types of the columns that are a trial's configuration."""

_Number = TypeVar("_Number", int, float)

_SPREADSHEET = "a spreadsheet has saved it"

DECIMALS = 4
"""Of epochs that are no whole number."""


def write_trials(path: Path, records: Iterable[TrialRecord]) -> None:
    """Write a row for each trial; what is not known is left empty."""
    rows = (
        {**vars(record), **vars(record.hyperparameters), "epochs": round(record.epochs, DECIMALS)}
        for record in records
    )
    _write(path, COLUMNS, rows)


def write_epochs(path: Path, records: Iterable[TrialRecord]) -> None:
    """Write a row for each look at each trial; a loss that is no number stays nan or inf."""
    rows = (
        {
            **{"batch_size": record.batch_size, "trial": record.trial},
            **{**asdict(epoch), "epoch": round(epoch.epoch, DECIMALS)},
        }
        for record in records
        for epoch in record.history
    )
    _write(path, CURVE_COLUMNS, rows)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_trials(path: Path) -> list[TrialRecord]:
    """Read the table of trials, without their learning curves.

    Raises:
        UserError: the table is damaged, or a spreadsheet has changed it.
        FileNotFoundError: there is none.
    """
    with reading(path):
        return [_trial(row) for row in _rows(path, set(COLUMNS) - set(RECIPE))]


def _trial(row: dict[str, str]) -> TrialRecord:
    state = row["state"]
    if state not in STATES:
        raise ValueError(f"a trial's state is {state}")
    val_accuracy = _number(float, row["val_accuracy"]) if row["val_accuracy"] else None
    if state == "COMPLETE" or val_accuracy is not None:
        check_share(val_accuracy)
    return TrialRecord(
        val_accuracy=val_accuracy,
        hyperparameters=build(
            Hyperparameters,
            {
                name: _cell(row[name], kind)
                for name, kind in _HYPERPARAMETERS.items()
                if name in row
            },
        ),
        epochs=_epochs(row["epochs"]),
        trial=_count(row["trial"]),
        state=state,
        bracket=_count(row["bracket"]),
        seconds=check_seconds(_number(float, row["seconds"])) if row["seconds"] else None,
        reason=row["reason"],
    )


def read_epochs(path: Path) -> dict[tuple[int, int], tuple[Epoch, ...]]:
    """Read learning curves by batch size and trial; none where the table was not written.

    Raises:
        UserError: the table is damaged, or a spreadsheet has changed it.
    """
    curves: dict[tuple[int, int], list[Epoch]] = {}
    if not path.exists():
        return {}
    with reading(path):
        for row in _rows(path, CURVE_COLUMNS):
            curve = curves.setdefault((_count(row["batch_size"]), _count(row["trial"])), [])
            figures = {name: _number(float, row[name]) for name in CURVE_COLUMNS[3:]}
            epoch = Epoch(epoch=_epochs(row["epoch"]), **figures)
            check_share(epoch.train_accuracy)
            check_share(epoch.val_accuracy)
            if not _follows(epoch.epoch, curve[-1].epoch if curve else 0):
                raise ValueError(f"epochs of trial {row['trial']} do not count from 1")
            curve.append(epoch)
    return {key: tuple(curve) for key, curve in curves.items()}


def _follows(epoch: float, before: float) -> bool:
    """Return whether a look may come next: looks within the first epoch rise, then epochs count."""
    return before < epoch < 1 or epoch == int(before) + 1


def _rows(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Give the rows of a table that has these columns, and maybe more."""
    with path.open("rb") as binary:
        first = binary.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{_SPREADSHEET}, as UTF-16")
    for separator, name in ((b";", "semicolons"), (b"\t", "tabs")):
        if separator in first:
            raise ValueError(f"{_SPREADSHEET}: {name} separate its columns, not commas")
    # Spreadsheets begin a file with a byte order mark, which changes nothing.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"it has no column {min(missing)}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"a row has not the columns of the first: {row}")
            yield row


def _cell(text: str, kind: Any) -> Any:
    """Return a hyperparameter as the type of its field."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)  # a spreadsheet's are capital
    return _number(kind, text) if kind in (int, float) else text


def _count(text: str) -> int:
    return check_count(_number(int, text))


def _epochs(text: str) -> float:
    """Return a whole number, or a part of the first epoch."""
    epochs = _number(float, text)
    return epochs if 0 < epochs < 1 else _count(text)


def _number(kind: Callable[[str], _Number], text: str) -> _Number:
    try:
        return kind(text)
    except ValueError:
        if re.fullmatch(r"[-+]?\d+,\d+(E[-+]?\d+)?", text):
            raise ValueError(f"{_SPREADSHEET}: {text} has a decimal comma") from None
        raise
