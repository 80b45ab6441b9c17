"""Replay tuners on tables of real training, and compare what they find for the same images.

    python -m benchmarks league --python .venv-league/bin/python

writes benchmarks/results/league.json and a picture for each table and number of workers, in hours,
of which SMAC's random forest takes most. The same command goes on where it was stopped: what has
been searched is kept in a folder .league beside what it writes, and is searched again if the table
or the code changes that searches. Delete the folder when other versions of the peers are installed.
The tables are those of `python -m benchmarks table`; the peers need an environment of their own:

    python3.11 -m venv .venv-league
    .venv-league/bin/pip install -r benchmarks/peers/requirements-league.txt

Every configuration gets the curve that a regression on the table's rows gives it, with the luck of
a fit that ended alike; what it is worth on hidden images is without luck. The regression is a
Gaussian process, as this search's own sampler is; `--curves forest` takes one that is none.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib

from benchmarks.league.entries import Entry, Played, play
from benchmarks.league.record import Table, read_table
from benchmarks.league.replay import Clock, Replay
from benchmarks.league.standings import Round, draw, show, standings
from benchmarks.league.surrogate import Curves, NotApplicable, Surrogate
from benchmarks.league.table import TABLES
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

_ROOT = Path(__file__).parents[2]

_CHUNK = 10
"""Searches in a row of one process."""

_AFTERWARDS = ("standings.py", "scores.py", "picture.py")
"""What has a part only when all have searched; of this folder."""

_OURS_ALONE = ("league.py", "ours.py", "check.py")
"""What has no part in the searches of others; of this folder."""

_OF_SRC = ("core/seeding", "search/cube", "search/space", "training/hyperparameters")
"""What has: others know nothing else of this project."""


@dataclass(frozen=True, kw_only=True)
class LeagueOptions:
    """Options of `league`."""

    tables: tuple[Path, ...] = ()
    """Tables, without their endings; none: all of benchmarks/league/tables."""
    tuners: tuple[str, ...] = TUNERS
    """NAME or NAME:OPTION=VALUE,…; ours has promotion, sampler, cost_exponent, min_epochs, factor,
    brackets, iterations and after, one_epoch has best, peers have min_epochs, factor and
    begin=middle."""
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
    draw(rounds, options.output)
    report = standings(rounds)
    show(report)
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
) -> list[Round]:
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
            (
                fingerprints[table, entry.name == "ours"],
                fingerprints.get((entry.options.get("after", ""), True)),
            ),
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
        Round(
            table,
            workers,
            _budget(options, surrogates[table]),
            surrogates[table].best_hidden_accuracy,
            surrogates[table].images,
            {entry.label: _joined(found[table, workers, entry.label]) for entry in entries},
        )
        for table, workers in rounds
    ]


def _fingerprints(tables: Mapping[str, Table], curves: Curves) -> dict[tuple[str, bool], str]:
    """Return what each table is told from any other by, with the code that searches it: ours, or
    that of others."""
    folder = _ROOT / "benchmarks/league"
    of_all = {*folder.glob("*.py"), *_ROOT.glob("benchmarks/peers/*.py")}
    of_all -= {folder / name for name in _AFTERWARDS}
    ours = of_all.union(_ROOT.glob("src/**/*.py"), _ROOT.glob("benchmarks/*.py"))
    others = of_all - {folder / name for name in _OURS_ALONE}
    others |= {_ROOT / f"src/{name}.py" for name in _OF_SRC}
    return {
        (name, is_ours): hashlib.sha256(
            b"".join(path.read_bytes() for path in sorted(paths))
            + curves.encode()
            + repr(table).encode()
        ).hexdigest()
        for is_ours, paths in ((True, ours), (False, others))
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


COMMAND = cli.Command("benchmarks league", __doc__, LeagueOptions, run)
