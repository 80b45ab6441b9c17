"""The standings of a league: what its tables and pictures say of those who searched."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.league.entries import Played
from benchmarks.league.picture import draw_regret
from benchmarks.league.scores import (
    Array,
    Median,
    critical_difference,
    friedman_p,
    images_to,
    mean_ranks,
    median,
    regret_at,
)
from benchmarks.tables import print_notes, print_table
from src.core.console import plural
from src.core.intervals import difference

CLOSE = (0.002, 0.001, 0.0005)
"""Regrets to which the images are counted."""

SHARES = (1 / 9, 1 / 3, 1.0)
"""Of the budget, after which contestants are ranked."""

_RANKS = [f"rank at {share:.2g}" for share in SHARES]

_COLUMNS = (
    "resumes",
    *(f"thousands to {x:g}" for x in CLOSE),
    *("regret", "over the first's", *_RANKS, "busy %"),
)


@dataclass(frozen=True)
class Round:
    """All contestants on one table with so many workers."""

    table: str
    workers: int
    budget: int
    """Images."""
    best: float
    """The table's best hidden accuracy."""
    images: int
    """Of one epoch."""
    played: dict[str, Played]
    """By contestant."""

    @property
    def grid(self) -> Array:
        """Numbers of images, from an epoch's to the budget, at which curves are drawn."""
        return np.geomspace(self.images, self.budget, 60)

    def regrets(self, images: Array) -> dict[str, Array]:
        """Return (searches, N) of each contestant that searched."""
        return {
            name: np.array([regret_at(one.moments, self.best, images) for one in played.searches])
            for name, played in self.played.items()
            if played.searches
        }


def standings(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the rows of each round, and of all tables together; what they mean; and tests."""
    rows = [row for one in rounds for row in _rows(one)]
    if len({one.table for one in rounds}) > 1:
        for workers in dict.fromkeys(one.workers for one in rounds):
            rows += _over_tables(rounds, workers)
    tests = list(_tests(rounds))
    return {"rows": rows, "notes": _notes(rounds, tests), "tests": tests}


def show(report: Mapping[str, Any]) -> None:
    """Print what `standings` returned, a table for each round."""
    print_notes("league", report)
    rounds = itertools.groupby(report["rows"], key=lambda row: (row["table"], row["workers"]))
    for (table, workers), rows in rounds:
        print_table(list(rows), _title(table, workers), leave_out=("table", "workers", "resumes"))


def draw(rounds: Sequence[Round], folder: Path) -> None:
    """Draw each round."""
    for one in rounds:
        draw_regret(
            folder / f"league-{one.table}-{one.workers}.png",
            _title(one.table, one.workers),
            one.grid,
            one.regrets(one.grid),
        )


def _title(table: str, workers: int) -> str:
    return f"{table}, {plural(workers, 'worker')}"


def _rows(one: Round) -> Iterator[dict[str, Any]]:
    spent = one.budget * np.array(SHARES)
    regrets, curves = one.regrets(spent), one.regrets(one.grid)
    ranks = _ranks(regrets)
    ends = {name: regret[:, -1] for name, regret in regrets.items()}
    for name, played in one.played.items():
        row: dict[str, Any] = {"table": one.table, "workers": one.workers, "tuner": name}
        if not played.searches:
            yield row | dict.fromkeys(_COLUMNS) | {"reason": played.reason}
            continue
        found = {
            regret: median(
                [images_to(search.moments, one.best, regret) for search in played.searches]
            )
            for regret in CLOSE
        }
        busy = float(np.mean([search.busy for search in played.searches]))
        yield row | {
            "resumes": played.resumes,
            **{f"thousands to {regret:g}": _shown(of, _thousands) for regret, of in found.items()},
            "regret": _shown(median(ends[name].tolist()), "{:.4f}".format),
            "over the first's": _difference(ends[name], next(iter(ends.values()))),
            **ranks[name],
            "busy %": round(100 * busy, 1),
            "medians": {
                f"{regret:g}": {key: _number(value) for key, value in asdict(of).items()}
                for regret, of in found.items()
            },
            "curve": {"images": [round(images) for images in one.grid]}
            | {f"quartile {i}": _quartile(curves[name], i) for i in (1, 2, 3)},
        }


def _quartile(regrets: Array, which: int) -> list[float | None]:
    found = np.quantile(regrets, which / 4, axis=0, method="inverted_cdf")  # inf has no mean
    return [_number(regret) for regret in found]


def _ranks(regrets: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Return the mean ranks of the contestants after each share of the budget."""
    table = np.array(list(regrets.values()))  # (contestants, searches, shares)
    ranks = [mean_ranks(table[:, :, i].T) for i in range(len(SHARES))] if regrets else []
    return {
        name: {
            column: round(float(rank[place]), 2) for column, rank in zip(_RANKS, ranks, strict=True)
        }
        for place, name in enumerate(regrets)
    }


def _over_tables(rounds: Sequence[Round], workers: int) -> Iterator[dict[str, Any]]:
    """Rank those that searched on all tables."""
    for name, ranks in _ranks(_join_tables(rounds, workers)).items():
        row: dict[str, Any] = {"table": "all", "workers": workers, "tuner": name}
        yield row | dict.fromkeys(_COLUMNS) | ranks


def _join_tables(rounds: Sequence[Round], workers: int) -> dict[str, Array]:
    found = [one.regrets(one.budget * np.array(SHARES)) for one in rounds if one.workers == workers]
    everywhere = [name for name in found[0] if all(name in regrets for regrets in found)]
    return {name: np.concatenate([regrets[name] for regrets in found]) for name in everywhere}


def _notes(rounds: Sequence[Round], tests: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [
        "regret: what the best of the table's configurations has on hidden images, less what that "
        "of the trial that validates best so far has there after as many epochs; both without the "
        "luck of one fit; below 0 where a better one than any of the table's is found",
        "regret, in the table: the median at the end, with its 95 % interval from order "
        "statistics; over the first's: the difference of mean regrets at the end to the contestant "
        "in the first row, with its 95 % interval (Welch)",
        "thousands to …: of images, the median until the regret is that small for the first time, "
        "with its 95 % interval from order statistics; ∞: not within the budget",
        "resumes, in league.json: a promoted trial goes on from its checkpoint, so that only new "
        "images count, or starts anew, as the library's examples have it, so that all count again",
        "busy: share of the workers' time in which they train",
        "begin=middle: the first configuration is the middle of the space, with which ours begins "
        "by itself, and SMAC's Hyperband; the others draw it unless they are told",
        "Optuna's rungs come an epoch late, as its callback for Lightning counts epochs from 0",
    ]
    left_out = {name: of.reason for one in rounds for name, of in one.played.items() if of.reason}
    notes += [f"{name}: {reason}" for name, reason in left_out.items()]
    return notes + [
        f"{plural(test['workers'], 'worker')}: of {test['tuners']} tuners in {test['blocks']} "
        "blocks (a table and a seed, so that they speak for these tables), mean ranks that differ "
        f"by {test['critical difference']:.2f} differ by Nemenyi's test at 5 %; Friedman's p at "
        f"the end {test['p']}"
        for test in tests
    ]


def _tests(rounds: Sequence[Round]) -> Iterator[dict[str, Any]]:
    """Test for each number of workers whether ranks at the end differ."""
    for workers in dict.fromkeys(one.workers for one in rounds):
        regrets = [regret[:, -1] for regret in _join_tables(rounds, workers).values()]
        if len(regrets) > 2:
            p = friedman_p(np.array(regrets).T)
            yield {
                "workers": workers,
                "tuners": len(regrets),
                "blocks": len(regrets[0]),
                "critical difference": critical_difference(len(regrets), len(regrets[0])),
                "p": None if math.isnan(p) else float(f"{p:.2g}"),
            }


def _number(value: float) -> float | None:
    """Return what JSON can hold: inf has no number there."""
    return round(float(value), 6) if math.isfinite(value) else None


def _shown(found: Median, show: Callable[[float], str]) -> str:
    return f"{show(found.value)} ({show(found.low)}–{show(found.high)})"


def _difference(regrets: Array, first: Array) -> str | None:
    if regrets is first or not np.isfinite([*regrets, *first]).all():
        return None
    value, low, high = difference(regrets, first)
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})" if math.isfinite(low) else f"{value:+.4f}"


def _thousands(images: float) -> str:
    return f"{images / 1000:,.0f}" if math.isfinite(images) else "∞"
