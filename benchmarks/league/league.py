"""Replay tuners on tables of real training, and compare what they find for the same images.

    python -m benchmarks league --python .venv-league/bin/python

writes benchmarks/results/league.json and a picture for each table and number of workers, in hours,
of which SMAC's random forest takes most. The same command goes on where it was stopped: what has
been searched is kept in a folder .league beside what it writes, and is searched again if the table
or the code changes. Delete the folder when other versions of the peers are installed. The tables
are those of `python -m benchmarks table`; the peers need an environment of their own:

    python3.11 -m venv .venv-league
    .venv-league/bin/pip install -r benchmarks/peers/requirements-league.txt

Every configuration gets the curve that a regression on the table's rows gives it, with the luck of
a fit that ended alike; what it is worth on hidden images is without luck. The regression is a
Gaussian process, as this search's own sampler is; `--curves forest` takes one that is none.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from benchmarks.league.entries import Entry, Played, play
from benchmarks.league.picture import draw_regret
from benchmarks.league.record import Table, read_table
from benchmarks.league.replay import Clock, Replay
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
from benchmarks.league.surrogate import Curves, NotApplicable, Surrogate
from benchmarks.league.table import TABLES
from benchmarks.tables import print_rows
from src import cli
from src.core import checks
from src.core.command import recorded_command
from src.core.console import live_progress, open_console
from src.core.errors import UserError
from src.core.files import make_writable, write_json
from src.results.provenance import provenance
from src.training.device import choose_compute

TUNERS = (
    "ours",
    "ours:sampler=tpe",
    "ours:promotion=asynchronous",
    "ours:promotion=synchronous",
    "random",
    "one_epoch",
    "keras_hyperband",
    "optuna_hyperband",
    "optuna_hyperband:begin=middle",
    "optuna_halving",
    "smac_hyperband",
    "smac_multifidelity",
    "dehb",
    "neps_hyperband",
    "neps_priorband",
    "neps_priorband:begin=middle",
    "syne_tune_asha",
    "syne_tune_asha:begin=middle",
)

CLOSE = (0.002, 0.001, 0.0005)
"""Regrets to which the images are counted."""

SHARES = (1 / 9, 1 / 3, 1.0)
"""Of the budget, after which contestants are ranked."""

_RANKS = [f"rank at {share:.2g}" for share in SHARES]

_COLUMNS = ("resumes", *(f"thousands to {x:g}" for x in CLOSE), "regret", *_RANKS, "busy %")

_ROOT = Path(__file__).parents[2]

_CHUNK = 10
"""Searches in a row of one process."""


@dataclass(frozen=True, kw_only=True)
class LeagueOptions:
    """Options of `league`."""

    tables: tuple[Path, ...] = ()
    """Tables, without their endings; none: all of benchmarks/league/tables."""
    tuners: tuple[str, ...] = TUNERS
    """NAME or NAME:OPTION=VALUE,…; ours has promotion, sampler, min_epochs, factor, brackets,
    iterations and after, one_epoch has best, peers have min_epochs and factor."""
    workers: tuple[int, ...] = (1, 2, 8)
    """Fits at once."""
    seeds: int = 100
    """Searches of each tuner."""
    first_seed: int = 0
    """Seed of the first of them; the others follow it."""
    budget: int = 30
    """Images of a search, in fits of all epochs."""
    python: Path | None = None
    """Python of the peers' environment; null: peers are left out."""
    curves: Curves = "process"
    """What gives a configuration its curve, by the table's rows: a Gaussian process or a forest."""
    clock: Clock = "images"
    """What passes while a worker trains: as many units of time as images, or the seconds that the
    table measured."""
    processes: int = 1
    """Searches at once."""
    output: Path = _ROOT / "benchmarks/results"
    """Folder of league.json and the pictures."""

    def __post_init__(self) -> None:
        for name in ("seeds", "budget", "processes"):
            checks.within(name, getattr(self, name), 1)
        for count in self.workers:
            checks.within("workers", count, 1)
        if not self.tuners or not self.workers:
            raise UserError("`tuners` and `workers` must not be empty")


@dataclass(frozen=True)
class _Round:
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


def run(options: LeagueOptions) -> int:
    """Play, score, draw and write."""
    make_writable(options.output, "--output")
    entries = [Entry.parse(text) for text in options.tuners]
    paths = options.tables or tuple(sorted(p.with_suffix("") for p in TABLES.glob("*.json")))
    if not paths:
        raise UserError("there is no table: make one with `python -m benchmarks table`")
    tables = {path.name: read_table(path) for path in paths}
    if len({entry.label for entry in entries}) < len(entries) or len(tables) < len(paths):
        raise UserError("two `tuners`, or two `tables`, have the same name")
    for entry in entries:
        if (after := entry.options.get("after")) not in (None, *tables):
            raise UserError(f"`tuners` (={entry.label}): `tables` have no {after}")
    rounds = _play_all(options, entries, tables)
    rows = [row for one in rounds for row in _rows(one)]
    if len(tables) > 1:
        rows += [row for workers in options.workers for row in _over_tables(rounds, workers)]
    for one in rounds:
        _draw(one, options.output)
    tests = list(_tests(rounds))
    report = {"rows": rows, "notes": _notes(rounds, tests), "tests": tests}
    print_rows("league", report)
    settings = asdict(options) | {"tables": list(tables), "output": None, "python": None}
    report |= {
        "options": {name: value for name, value in settings.items() if value is not None},
        "tables": {name: dict(table.about) for name, table in tables.items()},
        "versions": {
            package: version
            for one in rounds
            for played in one.played.values()
            for package, version in (played.versions or {}).items()
        },
        "provenance": provenance(choose_compute("auto", "auto"), recorded_command()),
    }
    write_json(options.output / "league.json", report)
    return 0


def _play_all(
    options: LeagueOptions, entries: Sequence[Entry], tables: Mapping[str, Table]
) -> list[_Round]:
    surrogates = {name: Surrogate(table, options.curves) for name, table in tables.items()}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    chunks = [seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK)]
    rounds = list(itertools.product(tables, options.workers))
    fingerprints = _fingerprints(tables, options.curves)
    search = joblib.Memory(options.output / ".league", verbose=0).cache(
        _search, ignore=["surrogates"]
    )
    cases = [
        (
            (fingerprints[table], fingerprints.get(entry.options.get("after", ""))),
            *(table, workers, _budget(options, surrogates[table]), entry, chunk),
        )
        for table, workers in rounds
        for entry in entries
        for chunk in chunks
    ]
    found: dict[tuple[str, int, str], list[Played]] = {}
    with live_progress(open_console()) as progress:
        bar = progress.add_task("searches", total=len(cases), status="")
        answers = joblib.Parallel(options.processes, return_as="generator")(
            joblib.delayed(_try)(search, *case, options.clock, options.python, surrogates)
            for case in cases
        )
        for (_, table, workers, _, entry, _), played in zip(cases, answers, strict=True):
            found.setdefault((table, workers, entry.label), []).append(played)
            progress.advance(bar)
    return [
        _Round(
            table,
            workers,
            _budget(options, surrogates[table]),
            surrogates[table].best_hidden_accuracy,
            surrogates[table].images,
            {entry.label: _joined(found[table, workers, entry.label]) for entry in entries},
        )
        for table, workers in rounds
    ]


def _fingerprints(tables: Mapping[str, Table], curves: Curves) -> dict[str, str]:
    """Return what each table, with this code, is told from any other by."""
    paths = [path for part in ("src", "benchmarks") for path in _ROOT.glob(f"{part}/**/*.py")]
    code = b"".join(path.read_bytes() for path in sorted(paths))
    return {
        name: hashlib.sha256(code + curves.encode() + repr(table).encode()).hexdigest()
        for name, table in tables.items()
    }


def _try(search: Callable[..., Played], *arguments: Any) -> Played:
    """Search, or say why not, which is not remembered: a peer may be killed."""
    try:
        return search(*arguments)
    except NotApplicable as reason:
        return Played([], reason=str(reason))


def _search(
    fingerprints: tuple[str, str | None],
    table: str,
    workers: int,
    budget: int,
    entry: Entry,
    seeds: range,
    clock: Clock,
    python: Path | None,
    surrogates: Mapping[str, Surrogate],
) -> Played:
    """Search a table once for each seed; it is remembered by its arguments, fingerprints too."""
    replays = [Replay(surrogates[table], workers, budget, clock) for _ in seeds]
    return play(entry, replays, seeds, python, surrogates)


def _budget(options: LeagueOptions, surrogate: Surrogate) -> int:
    return options.budget * surrogate.max_epochs * surrogate.images


def _joined(parts: Sequence[Played]) -> Played:
    for part in parts:
        if part.reason:
            return part
    searches = [one for part in parts for one in part.searches]
    return Played(searches, parts[0].resumes, parts[0].versions)


def _rows(one: _Round) -> Iterator[dict[str, Any]]:
    spent = one.budget * np.array(SHARES)
    regrets, curves = one.regrets(spent), one.regrets(one.grid)
    ranks = _ranks(regrets)
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
            **{f"thousands to {regret:g}": _shown(of) for regret, of in found.items()},
            "regret": _number(np.median(regrets[name][:, -1])),
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


def _over_tables(rounds: Sequence[_Round], workers: int) -> Iterator[dict[str, Any]]:
    """Rank those that searched on all tables."""
    for name, ranks in _ranks(_join_tables(rounds, workers)).items():
        row: dict[str, Any] = {"table": "all", "workers": workers, "tuner": name}
        yield row | dict.fromkeys(_COLUMNS) | ranks


def _join_tables(rounds: Sequence[_Round], workers: int) -> dict[str, Array]:
    found = [one.regrets(one.budget * np.array(SHARES)) for one in rounds if one.workers == workers]
    everywhere = [name for name in found[0] if all(name in regrets for regrets in found)]
    return {name: np.concatenate([regrets[name] for regrets in found]) for name in everywhere}


def _notes(rounds: Sequence[_Round], tests: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [
        "regret: what the best of the table's configurations has on hidden images, less what that "
        "of the trial that validates best so far has there after as many epochs; both without the "
        "luck of one fit; below 0 where a better one than any of the table's is found",
        "thousands to …: of images, the median until the regret is that small for the first time, "
        "with its 95 % interval from order statistics; ∞: not within the budget",
        "resumes: a promoted trial goes on from its checkpoint, so that only new images count, or "
        "starts anew, as the library's examples have it, so that all count again",
        "busy: share of the workers' time in which they train",
        "begin=middle: the first configuration is the middle of the space, with which ours begins "
        "by itself, and SMAC's Hyperband; the others draw it unless they are told",
        "Optuna's rungs come an epoch late, as its callback for Lightning counts epochs from 0",
    ]
    left_out = {name: of.reason for one in rounds for name, of in one.played.items() if of.reason}
    notes += [f"{name}: {reason}" for name, reason in left_out.items()]
    return notes + [
        f"{test['workers']} workers: of {test['tuners']} tuners in {test['blocks']} blocks (a "
        "table and a seed, so that they speak for these tables), mean ranks that differ by "
        f"{test['critical difference']:.2f} differ by Nemenyi's test at 5 %; Friedman's p at the "
        f"end {test['p']}"
        for test in tests
    ]


def _tests(rounds: Sequence[_Round]) -> Iterator[dict[str, Any]]:
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


def _draw(one: _Round, folder: Path) -> None:
    draw_regret(
        folder / f"league-{one.table}-{one.workers}.png",
        f"{one.table}, {one.workers} worker{'s' if one.workers > 1 else ''}",
        one.grid,
        one.regrets(one.grid),
    )


def _number(value: float) -> float | None:
    """Return what JSON can hold: inf has no number there."""
    return round(float(value), 6) if math.isfinite(value) else None


def _shown(found: Median) -> str:
    value, low, high = map(_thousands, (found.value, found.low, found.high))
    return f"{value} ({low}–{high})"


def _thousands(images: float) -> str:
    return f"{images / 1000:,.0f}" if math.isfinite(images) else "∞"


COMMAND = cli.Command("benchmarks league", __doc__, LeagueOptions, run)
