"""Search for real on the images of a table, and compare with what the league says of such a search.

    python -m benchmarks check --table benchmarks/league/tables/mnist_32

prints the images that the search trained and the accuracies that it found, beside those of as many
replayed searches as are asked for. On hidden images a real search has the luck of its best fit, and
the replayed ones have none, so that they say what to expect and not how far off it may be.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.league import ours
from benchmarks.league.record import Table, read_table
from benchmarks.league.replay import Replay
from benchmarks.league.surrogate import Surrogate
from benchmarks.league.table import TableOptions, load_others
from benchmarks.tables import print_rows
from src import cli
from src.core import checks
from src.core.command import recorded_command
from src.core.console import open_console
from src.core.errors import UserError
from src.core.files import make_writable, write_json
from src.core.interrupt import Signals
from src.data.files import Images
from src.data.split import TrainingData, load_training_data
from src.inference.predictions import read_probabilities
from src.results.folder import ResultsFolder
from src.results.provenance import provenance
from src.search.fill import fill
from src.search.hyperband_study import open_hyperband_studies
from src.search.logs import Logs
from src.search.promotion import Promotion
from src.search.session import Session, open_store
from src.search.spec import Sampler
from src.search.studies import ended_trials
from src.training.checkpoint import load_model
from src.training.device import choose_compute
from src.tune import TuneOptions
from src.workers.launch import Launcher
from src.workers.local import LocalWorkers


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `check`."""

    table: Path
    """A table, without its ending."""
    promotion: Promotion = TuneOptions.promotion
    """How rungs decide."""
    sampler: Sampler = TuneOptions.sampler
    """How configurations are proposed."""
    min_epochs: float = TuneOptions.min_epochs
    """The lowest rung's epochs."""
    brackets: int | None = None
    """How many brackets of an iteration are run; null: all."""
    iterations: int = 2
    """Of Hyperband."""
    seeds: int = 2
    """Searches for real, one a seed."""
    replays: int = 100
    """Searches that are replayed."""
    workers: int = 2
    """Fits at once."""
    data_dir: Path = Path("data")
    """Folder with the data sets."""
    output: Path | None = None
    """A JSON file for what comes out; null: none."""

    def __post_init__(self) -> None:
        for name in ("iterations", "seeds", "replays", "workers"):
            checks.within(name, getattr(self, name), 1)


def run(options: CheckOptions) -> int:
    """Search, replay, compare."""
    if options.output is not None:
        make_writable(options.output.parent, "--output")
    table = read_table(options.table)
    surrogate = Surrogate(table)
    data, hidden = _load_images(table, options.data_dir)
    rows = [_search(options, surrogate, data, hidden, seed) for seed in range(options.seeds)]
    replayed = [_replay(options, surrogate, seed) for seed in range(options.replays)]
    columns = ("images", "validation", "hidden")
    for share, name in ((0.025, "2.5 % of them below"), (0.5, "median"), (0.975, "97.5 %")):
        quantiles = np.quantile([[row[key] for key in columns] for row in replayed], share, axis=0)
        found = dict(zip(columns, quantiles.round(5).tolist(), strict=True))
        if share != 0.5:
            found["hidden"] = None
        rows.append({"search": f"{options.replays} replayed, {name}"} | found)
    report: dict[str, Any] = {"rows": rows}
    print_rows("check", report)
    if options.output is not None:
        settings = asdict(options) | {"table": options.table.name, "data_dir": None, "output": None}
        report["options"] = {name: value for name, value in settings.items() if value is not None}
        report["provenance"] = provenance(choose_compute("auto", "auto"), recorded_command())
        write_json(options.output, report)
    return 0


def _load_images(table: Table, folder: Path) -> tuple[TrainingData, Images]:
    """Return the images that the table was made with: those to train and validate, and hidden.

    Raises:
        UserError: they are not those any more.
    """
    about = table.about
    counts = about["images"]
    made = TableOptions(
        dataset=about["dataset"],
        batch_size=about["batch_size"],
        validation=about["validation"],
        seed=about["seed"],
        limit=about["limit"],
        validating=counts["validation"],
        hidden=counts["hidden"],
    )
    data = load_training_data(made.data_spec, folder)
    validation, hidden = load_others(made, folder)
    hashes = (data.split_hash, validation.sha256(), hidden.sha256())
    if hashes != (about["split_hash"], about["validation_hash"], about["hidden_hash"]):
        raise UserError("the images in `--data_dir` are not those that the table was made with")
    return replace(data, validation=validation), hidden


def _search(
    options: CheckOptions, surrogate: Surrogate, data: TrainingData, hidden: Images, seed: int
) -> dict[str, Any]:
    data = replace(data, spec=replace(data.spec, seed=seed))
    compute = choose_compute("auto", "auto", threads=1)
    wanted = _ours(options)
    plan = wanted.plan(surrogate, sys.maxsize)
    with tempfile.TemporaryDirectory() as name, Signals() as interruption:
        folder, console = ResultsFolder(Path(name), data.spec.dataset), open_console()
        with open_store(None, 0, folder, console) as store:
            session = Session(
                data=data,
                launcher=Launcher(
                    compute, options.workers, lambda count: LocalWorkers(count, lambda _: data)
                ),
                store=store,
                folder=folder,
                logs=Logs(Path(name), "none"),
                interruption=interruption,
                console=console,
            )
            spec = wanted.spec(plan, session)
            (study,) = open_hyperband_studies(spec, [surrogate.batch_size], plan, session)
            if not fill("search", [study], session).succeeded:
                raise UserError("the search did not come to its end")
            records = ended_trials(study.study)
        best = load_model(folder.study_model(surrogate.batch_size))
    read = read_probabilities(best.network(), hidden.pixels, compute).argmax(1)
    epochs = sum(record.epochs for record in records)
    return {
        "search": f"real, seed {seed}",
        "images": round(epochs * len(data.train)),
        "validation": max(record.val_accuracy or 0.0 for record in records),
        "hidden": round((read == hidden.labels).double().mean().item(), 5),
    }


def _ours(options: CheckOptions) -> ours.Ours:
    return ours.Ours(
        promotion=options.promotion,
        sampler=options.sampler,
        min_epochs=options.min_epochs,
        brackets=options.brackets,
        iterations=options.iterations,
    )


def _replay(options: CheckOptions, surrogate: Surrogate, seed: int) -> dict[str, Any]:
    replay = Replay(surrogate, options.workers, budget=sys.maxsize)
    ours.search(_ours(options), [replay], seed)
    return {
        "images": replay.images,
        "validation": replay.best_val_accuracy,
        "hidden": replay.moments[-1].hidden_accuracy,
    }


COMMAND = cli.Command("benchmarks check", __doc__, CheckOptions, run)
