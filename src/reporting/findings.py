"""What a results folder holds, read for a report; every file is checked, whatever is in it."""

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from src.core.decode import build
from src.core.errors import UserError
from src.core.metrics import ConfusionMatrix
from src.results.folder import ResultsFolder
from src.results.tables import CURVE_COLUMNS
from src.search.hyperband import Plan, make_plan
from src.training.history import Epoch

_ABOUT_A_TRIAL = ("val_accuracy", "epochs", "trial", "state", "bracket", "seconds", "reason")
"""Columns of all.csv that are no hyperparameters."""

_BUDGET_AT_MOST = 2**31

_HUGE = 1e300
"""Larger figures are no numbers to compute with."""

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_SHORTEST = 67
"""Bytes of a picture of one pixel."""

Value = int | float | str

_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial that has ended, as the tables tell it."""

    trial: int
    """Number within the batch size's study."""
    batch_size: int
    hyperparameters: dict[str, Value]
    """In the order of the table's columns; the batch size among them."""
    val_accuracy: float | None
    """Of the best epoch, 0…1; None before epoch 1."""
    epochs: int
    """Epochs trained."""
    state: str
    """COMPLETE, PRUNED or FAIL."""
    bracket: int
    """s: how often its bracket cuts its trials."""
    seconds: float | None
    """Wall time of training."""
    reason: str
    """Why it ended when it did, if not by training all its epochs."""
    curve: tuple[Epoch, ...]
    """Every epoch, or nothing where none was kept."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the search."""

    host: str
    started: str
    """Date and time, ISO 8601."""
    ended: str | None
    """The same; None if it was killed, or is still going on."""
    how: str | None
    """How it ended."""

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        if self.ended is None:
            return None
        return (
            datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)
        ).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Search:
    """What best.json tells of the search as a whole."""

    plan: Plan
    settings: dict[str, Any]
    runs: tuple[Run, ...]
    images: dict[str, int]
    """How many trained, and how many validated."""
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A configuration trained again with several seeds."""

    rank: int
    batch_size: int
    trial: int
    hyperparameters: dict[str, Any]
    search_val_accuracy: float
    """What the search had measured, once."""
    seeds: list[int]
    diverged: list[int]
    """Seeds with which it did not learn; they count in nothing else."""
    val_accuracies: list[float]
    """One a seed, as are epochs and seconds."""
    epochs: list[int]
    """Epochs trained."""
    seconds: list[float]
    """Wall time of training."""
    mean: float
    std: float | None
    ci95: list[float] | None
    """95 % interval of the mean."""
    optimism: float
    """How much higher the search's figure was than the mean."""


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """The best configurations, trained again."""

    max_epochs: int
    finalists: tuple[Finalist, ...]
    """The winner first; one at least."""
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What `evaluate` measured last on the data set's own test images."""

    test_accuracy: float
    n_test: int
    ci95: list[float]
    macro_accuracy: float
    val_accuracy: float
    """What the tested checkpoint had on the validation images."""
    checkpoint: str
    checkpoint_sha256: str
    matrix: ConfusionMatrix
    mistakes: bytes | None
    """The picture of its worst mistakes, a PNG."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One opening of the test images."""

    date: str
    checkpoint: str
    checkpoint_sha256: str
    test_accuracy: float
    n_test: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a results folder holds."""

    dataset: str
    trials: tuple[Trial, ...]
    search: Search | None
    """None until a trial has finished."""
    finalists: Finalists | None
    tested: Tested | None
    openings: tuple[Opening, ...]
    best_model_sha256: str | None


def read_findings(folder: ResultsFolder) -> Findings:
    """Read a results folder.

    Raises:
        UserError: there is no search in it, or a file is damaged.
    """
    if not folder.all_csv.exists():
        raise UserError(
            f"there is no search in {folder.path} ({folder.all_csv.name} is missing); "
            f"python -m src.tune --dataset {folder.path.name} makes one"
        )
    trials = tuple(_read_trials(folder))
    if not trials:
        raise UserError(
            f"no trial has ended in {folder.path} yet; the same `tune` command goes on with it"
        )
    search = _read_search(folder.best_json)
    if search is not None:
        least = len(search.plan.brackets)
        for trial in trials:
            if not 0 <= trial.bracket < least:
                _refuse(folder.all_csv, f"it has a bracket {trial.bracket} of {least}")
        if not any(trial.state == "COMPLETE" for trial in trials):
            _refuse(folder.all_csv, f"it has no finished trial, though {folder.best_json} has")
    return Findings(
        dataset=folder.path.name,
        trials=trials,
        search=search,
        finalists=_read_finalists(folder.finalists_json),
        tested=_read_tested(folder),
        openings=tuple(_read_openings(folder.test_log)),
        best_model_sha256=(
            hashlib.sha256(folder.best_model.read_bytes()).hexdigest()
            if folder.best_model.exists()
            else None
        ),
    )


def _refuse(path: Path, cause: object) -> NoReturn:
    raise UserError(
        f"{path} is damaged, or of another version ({str(cause)[:120]}); delete it, and the "
        "command that wrote it writes it anew"
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file when what is in it makes no sense."""
    try:
        yield
    except KeyError as error:
        _refuse(path, f"it has no {error}")
    except (
        *(ArithmeticError, AttributeError, IndexError, RecursionError, TypeError, ValueError),
        csv.Error,
    ) as error:
        _refuse(path, error)


def _read_trials(folder: ResultsFolder) -> Iterator[Trial]:
    curves = _read_curves(folder.curves_csv)
    with _reading(folder.all_csv), folder.all_csv.open(newline="") as file:
        for row in _rows(file, ("batch_size", *_ABOUT_A_TRIAL)):
            if None in row or None in row.values():
                raise ValueError(f"a row has not the columns of the first: {row}")
            state = row["state"]
            if state not in ("COMPLETE", "PRUNED", "FAIL"):
                raise ValueError(f"a trial's state is {state}")
            val_accuracy = float(row["val_accuracy"]) if row["val_accuracy"] else None
            if state == "COMPLETE" or val_accuracy is not None:
                val_accuracy = _share(val_accuracy)
            trial, batch_size, epochs = (
                _count(row[name]) for name in ("trial", "batch_size", "epochs")
            )
            curve = tuple(curves.get((batch_size, trial), ()))
            if curve and len(curve) != epochs:
                _refuse(
                    folder.curves_csv,
                    f"trial {trial} at batch size {batch_size} has {len(curve)} epochs there and "
                    f"{epochs} in {folder.all_csv.name}",
                )
            yield Trial(
                trial=trial,
                batch_size=batch_size,
                hyperparameters={
                    name: _value(text) for name, text in row.items() if name not in _ABOUT_A_TRIAL
                },
                val_accuracy=val_accuracy,
                epochs=epochs,
                state=state,
                bracket=_count(row["bracket"]),
                seconds=_seconds(float(row["seconds"])) if row["seconds"] else None,
                reason=row["reason"],
                curve=curve,
            )


def _read_curves(path: Path) -> dict[tuple[int, int], list[Epoch]]:
    """Return curves by batch size and trial; none where the table was not written."""
    curves: dict[tuple[int, int], list[Epoch]] = {}
    if not path.exists():
        return curves
    with _reading(path), path.open(newline="") as file:
        for row in _rows(file, CURVE_COLUMNS):
            curve = curves.setdefault((_count(row["batch_size"]), _count(row["trial"])), [])
            figures = {name: float(row[name]) for name in CURVE_COLUMNS[3:]}
            for name in ("train_accuracy", "val_accuracy"):
                _share(figures[name])
            curve.append(Epoch(epoch=_count(row["epoch"]), **figures))
            if curve[-1].epoch != len(curve):
                raise ValueError(f"epochs of trial {row['trial']} do not count from 1")
    return curves


def _rows(file: TextIO, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Give the rows of a table that has these columns, and maybe more."""
    reader = csv.DictReader(file, strict=True)
    missing = set(columns) - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"it has no column {sorted(missing)[0]}")
    yield from reader


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _BUDGET_AT_MOST:
        raise ValueError(f"{value} is no count")
    return value


def _share(value: float | None) -> float:
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"{value} is no accuracy")
    return value


def _seconds(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no number of seconds")
    return value


def _value(text: str) -> Value:
    """Return a hyperparameter as the number that it is, if it is one; true and false in words."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if abs(value) < _HUGE:
            return value
    return {"True": "yes", "False": "no"}.get(text, text)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None where there is no file."""
    if not path.exists():
        return None
    return _object(path.read_bytes())


def _object(content: bytes) -> dict[str, Any]:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    found = json.loads(content.decode(), parse_constant=no_number)
    if not isinstance(found, dict):
        raise TypeError("it holds no JSON object")
    return found


def _pick(kind: type[_Record], values: Any) -> _Record:
    """Build a dataclass of those values that it has fields for."""
    if not isinstance(values, dict):
        raise TypeError(f"{str(values)[:60]} is no JSON object")
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    return build(kind, {name: value for name, value in values.items() if name in wanted})


@dataclass(frozen=True, kw_only=True)
class _Budget:
    max_epochs: int
    reduction_factor: int
    iterations: int


def _read_search(path: Path) -> Search | None:
    with _reading(path):
        best = _read_json(path)
        if best is None:
            return None
        settings = best["search"]["settings"]
        budget = _pick(_Budget, settings)
        if budget.max_epochs > _BUDGET_AT_MOST:
            raise ValueError(f"max_epochs is {budget.max_epochs}")
        images = {name: _count(count) for name, count in best["data"]["images"].items()}
        if not images["train"] or not images["validation"]:
            raise ValueError("no image trained, or none validated")
        return Search(
            plan=make_plan(budget.max_epochs, budget.reduction_factor, budget.iterations),
            settings=dict(settings),
            runs=_runs(best["search"]["runs"]),
            images=images,
            provenance=dict(best["search"]["provenance"]),
        )


def _runs(told: Any) -> tuple[Run, ...]:
    runs = tuple(_pick(Run, run) for run in told)
    for run in runs:
        _ = run.seconds  # or its dates are none
    return runs


def _check_finalist(finalist: Finalist) -> None:
    lengths = {
        len(of_seeds)
        for of_seeds in (
            finalist.seeds, finalist.val_accuracies, finalist.epochs, finalist.seconds
        )
    }  # fmt: skip
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"trial {finalist.trial} has not as many accuracies as seeds")
    for value in (*finalist.val_accuracies, finalist.search_val_accuracy, finalist.mean):
        _share(value)
    for count in finalist.epochs:
        _count(str(count))
    for seconds in finalist.seconds:
        _seconds(seconds)
    if finalist.ci95 is not None and len(finalist.ci95) != 2:
        raise ValueError(f"ci95 is {finalist.ci95}")


def _read_finalists(path: Path) -> Finalists | None:
    with _reading(path):
        found = _read_json(path)
        if found is None:
            return None
        finalists = tuple(_pick(Finalist, finalist) for finalist in found["finalists"])
        if not finalists:
            raise ValueError("it has no finalist")
        for finalist in finalists:
            _check_finalist(finalist)
        return Finalists(
            max_epochs=_count(found["max_epochs"]),
            finalists=finalists,
            runs=_runs(found["runs"]),
        )


def _read_tested(folder: ResultsFolder) -> Tested | None:
    path = folder.metrics_json
    with _reading(path):
        found = _read_json(path)
        if found is None:
            return None
        matrix = ConfusionMatrix(
            found["confusion_matrix"], [str(one["name"]) for one in found["per_class"]]
        )
        if matrix.counts.min() < 0 or matrix.images != found["n_test"]:
            raise ValueError("its confusion_matrix does not count n_test images")
        low, high = found["ci95"]
        _share(low)
        _share(high)
        picture = None
        if found.get("mistakes") and folder.mistakes.exists():
            picture = folder.mistakes.read_bytes()
            if not picture.startswith(_PNG) or len(picture) < _PNG_SHORTEST:
                _refuse(folder.mistakes, "it is no PNG")
        found |= {"matrix": matrix, "mistakes": picture}
        return _pick(Tested, found)


def _read_openings(path: Path) -> Iterator[Opening]:
    if not path.exists():
        return
    with _reading(path):
        for line in filter(None, path.read_bytes().splitlines()):
            yield _pick(Opening, _object(line))
