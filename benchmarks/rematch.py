"""Train what was published and what a search found again, with the same seeds by the same code.

    python -m benchmarks rematch --dataset mnist --results_dir results/plain

takes, at each batch size, the published configuration and the search's best one, and trains both
with several seeds as the search trained: its images, epochs and patience. rematch.json in the
search's folder has every fit as soon as it has ended; the same command trains those that are
missing, and `python -m src.report` shows them.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.fits import train
from src import cli
from src.core import checks
from src.core.affinity import release_cores
from src.core.command import recorded_command
from src.core.decode import parse_json, reading
from src.core.errors import UserError
from src.core.files import write_json
from src.core.interrupt import Signals
from src.core.seeding import FINALIST, derive_seed
from src.data.catalog import Dataset
from src.data.split import load_training_data
from src.reporting.analysis import best_by_batch_size
from src.reporting.findings import parse_rematch, read_findings
from src.reporting.prior_work import PUBLISHED
from src.results.folder import RESULTS_DIR, ResultsFolder
from src.results.provenance import provenance
from src.results.records import Rematch, RematchFit, TrainedOn, TrialRecord
from src.search.spec import SearchSpec
from src.training.device import choose_compute, choose_workers
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec

_Whose = Literal["published", "ours"]


@dataclass(frozen=True, kw_only=True)
class RematchOptions:
    """What was published against what a search found."""

    dataset: Dataset
    """Data set of the search."""
    results_dir: Path = Path(RESULTS_DIR)
    """Folder of the search's results."""
    batch_sizes: tuple[int, ...] | None = None
    """Only these; null: all that were published and searched."""
    seeds: int = 3
    """How often each configuration is trained."""
    workers: int | Literal["auto"] = "auto"
    """Fits at once."""
    data_dir: Path = Path("data")
    """Folder with the data sets."""

    def __post_init__(self) -> None:
        checks.within("seeds", self.seeds, 2)
        if self.workers != "auto":
            checks.within("workers", self.workers, 1)


def run(options: RematchOptions) -> int:
    """Train the fits that are missing."""
    folder = ResultsFolder(options.results_dir, options.dataset)
    findings = read_findings(folder)
    if findings.search is None:
        raise UserError(f"the search in {folder.path} has no finished trial yet; go on with it")
    spec = SearchSpec.from_settings(findings.search.summary.settings)
    compute = choose_compute("auto", spec.precision, threads=1)
    origin = provenance(compute, recorded_command())
    wanted = dict(_configurations(options, findings.trials))
    diverged = []
    release_cores()  # before they are counted
    with Signals() as interruption:
        load = functools.partial(load_training_data, spec.data, options.data_dir)
        data = load(interruption=interruption)
        if data.split_hash != spec.split_hash:
            raise UserError(
                f"the training images in {options.data_dir} are not those of the search in "
                f"{folder.path}; restore them"
            )
        rematch = Rematch(
            dataset=options.dataset,
            max_epochs=spec.max_epochs,
            patience=spec.patience,
            data=TrainedOn(**asdict(spec.data), images=data.counts, split_hash=spec.split_hash),
            fits=_done(folder, set(wanted.values())),
            provenance=origin,
        )
        done = {(fit.whose, fit.hyperparameters, fit.seed) for fit in rematch.fits}
        specs = {
            (whose, hyperparameters, seed): FitSpec(
                hyperparameters,
                spec.max_epochs,
                spec.patience,
                derive_seed(spec.data.seed, FINALIST, seed),
                compute,
            )
            for (_, seed, whose), hyperparameters in wanted.items()
            if (whose, hyperparameters, seed) not in done
        }
        print(f"{len(specs)} fits are to be trained, {len(rematch.fits)} are done.", flush=True)
        workers = choose_workers(options.workers, compute)
        for (whose, hyperparameters, seed), fitted in train(specs, load, workers, interruption):
            name = f"batch size {hyperparameters.batch_size}, seed {seed}, {whose}"
            if fitted.best is None:
                diverged.append(name)
                continue
            fit = RematchFit(
                whose=whose,
                hyperparameters=hyperparameters,
                seed=seed,
                val_accuracy=round(fitted.best.val_accuracy, 6),
                epochs=len(fitted.history),
                seconds=round(fitted.seconds, 1),
                device=compute.name,
                git_commit=origin["git_commit"],
            )
            rematch = replace(rematch, fits=(*rematch.fits, fit))
            write_json(folder.rematch_json, asdict(rematch))
            print(
                f"{name}: {fit.val_accuracy:.5f}, {fit.epochs} epochs, {fit.seconds:.0f} s",
                flush=True,
            )
    if diverged:
        raise UserError(f"these diverged in their first epoch, and are left out: {diverged}")
    return 0


def _configurations(
    options: RematchOptions, trials: Sequence[TrialRecord]
) -> Iterator[tuple[tuple[int, int, _Whose], Hyperparameters]]:
    """Give every fit: batch size, seed, whose, and its configuration; batch size by batch size."""
    published = PUBLISHED.get(options.dataset)
    theirs = published.by_batch_size if published is not None else {}
    ours = best_by_batch_size(trials)
    there = sorted(theirs.keys() & ours.keys())
    sizes = there if options.batch_sizes is None else sorted(options.batch_sizes)
    if not sizes or not set(sizes) <= set(there):
        raise UserError(
            f"`batch_sizes` (={sizes}) must be of those that are both published and searched "
            f"(={there})"
        )
    for size in sizes:
        for seed in range(options.seeds):
            yield (size, seed, "published"), theirs[size].hyperparameters
            yield (size, seed, "ours"), ours[size].hyperparameters


def _done(folder: ResultsFolder, wanted: Collection[Hyperparameters]) -> tuple[RematchFit, ...]:
    """Return the fits that rematch.json has, without what the search has bettered since."""
    if not folder.rematch_json.exists():
        return ()
    with reading(folder.rematch_json):
        before = parse_rematch(parse_json(folder.rematch_json.read_bytes()))
    sizes = {hyperparameters.batch_size for hyperparameters in wanted}
    return tuple(
        fit
        for fit in before.fits
        if fit.hyperparameters.batch_size not in sizes or fit.hyperparameters in wanted
    )


COMMAND = cli.Command("benchmarks rematch", __doc__, RematchOptions, run)
