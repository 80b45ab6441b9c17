"""A table of real training: learning curves of configurations that a search could propose."""

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from src.core.files import replacing
from src.training.hyperparameters import Hyperparameters

DIGITS = 7
"""Of a number in a table."""

SEARCHED = ("conv1", "conv2", "dense_units", "dropout_rate", "learning_rate")
"""What differs between the configurations of a table."""


@dataclass(frozen=True)
class Look:
    """What a fit had reached at one moment."""

    epochs: float
    """Epochs trained."""
    val_accuracy: float
    """Share of the validation images read correctly, 0…1; within the first epoch, of every n-th."""
    hidden_accuracy: float | None
    """Of the images that no tuner sees; None where no model would be kept: within an epoch, and
    after an epoch that is not the best one so far."""
    seconds: float
    """Of the processor, for training and validation so far, without what only the table needs."""

    @property
    def is_whole(self) -> bool:
        """Whether it came after a whole epoch."""
        return float(self.epochs).is_integer()


@dataclass(frozen=True)
class Curve:
    """One fit: a configuration with one seed."""

    configuration: int
    """Counted from 0 in the order in which they were drawn."""
    seed: int
    """Counted from 0."""
    hyperparameters: Hyperparameters
    looks: tuple[Look, ...]
    """One after every part of the first epoch and after every epoch; fewer where it diverged."""


@dataclass(frozen=True)
class Table:
    """Curves of one data set and batch size."""

    about: Mapping[str, Any]
    """Data and counts, budget, seeds and provenance."""
    curves: tuple[Curve, ...]

    @property
    def batch_size(self) -> int:
        """Images an optimizer step."""
        return self.curves[0].hyperparameters.batch_size


_OF_A_LOOK = tuple(field.name for field in fields(Look))

_COLUMNS = ("configuration", "seed", *SEARCHED, *_OF_A_LOOK)


def write_table(path: Path, table: Table) -> None:
    """Write <path>.csv.gz, a row for each look, and <path>.json."""
    rows = [
        {"configuration": curve.configuration, "seed": curve.seed}
        | {name: getattr(curve.hyperparameters, name) for name in SEARCHED}
        | asdict(look)
        for curve in table.curves
        for look in curve.looks
    ]
    with (
        replacing(path.with_suffix(".csv.gz")) as temporary,
        # Without the time of writing, so that the same table is the same file.
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        packed.write(_csv(rows).encode())
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(dict(table.about), indent=2, ensure_ascii=False) + "\n")


def _csv(rows: Iterable[Mapping[str, object]]) -> str:
    lines = [",".join(_COLUMNS)]
    lines += [",".join(_written(row[name]) for name in _COLUMNS) for row in rows]
    return "\n".join(lines) + "\n"


def _written(value: object) -> str:
    return (
        "" if value is None else f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
    )


def read_table(path: Path) -> Table:
    """Read what `write_table` wrote under this path."""
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    looks: dict[tuple[int, int], list[Look]] = {}
    configurations: dict[int, Hyperparameters] = {}
    with gzip.open(path.with_suffix(".csv.gz"), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            configuration = int(row["configuration"])
            configurations[configuration] = Hyperparameters(
                conv1=int(row["conv1"]),
                conv2=int(row["conv2"]),
                dense_units=int(row["dense_units"]),
                dropout_rate=float(row["dropout_rate"]),
                learning_rate=float(row["learning_rate"]),
                batch_size=about["batch_size"],
            )
            look = Look(*(float(text) if (text := row[name]) else None for name in _OF_A_LOOK))  # type: ignore[arg-type]  # one may be None
            looks.setdefault((configuration, int(row["seed"])), []).append(look)
    return Table(
        about,
        tuple(
            Curve(configuration, seed, configurations[configuration], tuple(found))
            for (configuration, seed), found in looks.items()
        ),
    )
