"""Train configurations drawn from the search space, without a tuner, and keep their curves.

    python -m benchmarks table --dataset mnist --batch_size 32

writes benchmarks/league/tables/mnist_32.csv.gz and .json. The same command goes on where it was
stopped.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import optuna
import torch
from rich.progress import Progress

from benchmarks.images import load_unused
from benchmarks.league.record import DIGITS, Curve, Look, Table, write_table
from src import cli
from src.core import checks
from src.core.command import recorded_command
from src.core.console import live_progress, open_console, say
from src.core.errors import UserError
from src.core.files import make_writable, write_json
from src.core.interrupt import Interruption, Signals
from src.core.seeding import SAMPLER, TRIAL, derive_seed
from src.data.catalog import DataSpec
from src.data.files import Images
from src.data.split import TrainingData, load_training_data
from src.inference.predictions import read_probabilities
from src.results.provenance import provenance
from src.search import space
from src.training.device import Compute, choose_compute, choose_workers
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import RECIPE, Hyperparameters
from src.training.spec import FitSpec
from src.training.task import CharacterTask
from src.workers.local import LocalWorkers
from src.workers.messages import Ended, Failed, Reported

TABLES = Path(__file__).parent / "tables"

PLAIN = {name: (getattr(Hyperparameters, name),) for name in RECIPE}
"""The recipe of the published searches."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(DataSpec):
    """Options of `table`."""

    batch_size: int
    """Images an optimizer step."""
    limit: int | None = 4_000
    """Take so many of the training images; four fifths of them train."""
    validating: int = 4_000
    """How many of the other training images validate."""
    hidden: int = 4_000
    """How many of those no tuner sees."""
    configurations: int = 200
    """How many are drawn."""
    repeated: int = 40
    """How many of them are trained with every seed; the others with the first alone."""
    seeds: int = 3
    """How many there are."""
    max_epochs: int = 9
    """Epochs of every fit."""
    looks: tuple[float, ...] = (1 / 27, 1 / 9, 1 / 3, 2 / 3)
    """Shares of the first epoch after which is looked, too."""
    workers: int | None = None
    """Fits at once; null: one on each core."""
    data_dir: Path = Path("data")
    """Folder with the data sets."""
    output: Path | None = None
    """The table, without its ending; null: benchmarks/league/tables/<dataset>_<batch size>."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "batch_size",
            "limit",
            "validating",
            "hidden",
            "configurations",
            "seeds",
            "max_epochs",
        ):
            checks.within(name, getattr(self, name) or 0, 1)
        if list(self.looks) != sorted(set(self.looks)) or not all(0 < x < 1 for x in self.looks):
            raise UserError(f"`looks` (={list(self.looks)}) must rise, each between 0 and 1")

    @property
    def data_spec(self) -> DataSpec:
        """The part that decides which images train and which validate."""
        return DataSpec(
            dataset=self.dataset, validation=self.validation, seed=self.seed, limit=self.limit
        )

    @property
    def path(self) -> Path:
        """Where the table is written, without its ending."""
        return self.output or TABLES / f"{self.dataset}_{self.batch_size}"


@dataclass(frozen=True)
class _Fit:
    """One fit of a table."""

    configuration: int
    seed: int
    spec: FitSpec


def run(options: TableOptions) -> int:
    """Train what is not trained yet; write the table."""
    console = open_console()
    make_writable(options.path.parent, "--output")
    with Signals() as interruption:
        data = load_training_data(options.data_spec, options.data_dir, interruption=interruption)
        validation, hidden = load_others(options, options.data_dir)
        data = dataclasses.replace(data, validation=validation)
        rows = _rows(options, data, hidden)
        make_writable(rows, "--output")
        compute = choose_compute("auto", "auto", threads=1)
        fits = list(_draw_fits(options, compute))
        waiting = [one for one in fits if not _row(rows, one).exists()]
        worker_count = options.workers or choose_workers("auto", compute)
        say(
            console,
            f"{len(waiting)} of {len(fits)} fits are to be trained: {options.max_epochs} epochs of "
            f"{len(data.train):,} images, {worker_count} at once.",
        )
        with live_progress(console) as progress:
            _train(waiting, _RecordingFit(rows, hidden), data, worker_count, interruption, progress)
    about = {
        "dataset": options.dataset,
        "batch_size": options.batch_size,
        "images": data.counts | {"hidden": len(hidden)},
        "validation": options.validation,
        "seed": options.seed,
        "limit": options.limit,
        "split_hash": data.split_hash,
        "validation_hash": validation.sha256(),
        "hidden_hash": hidden.sha256(),
        "max_epochs": options.max_epochs,
        "looks": list(options.looks),
        "configurations": options.configurations,
        "repeated": options.repeated,
        "seeds": options.seeds,
        "workers": worker_count,
        "search_space": space.describe(),
        "provenance": provenance(compute, recorded_command()),
    }
    curves = []
    for one in fits:
        looks = json.loads(_row(rows, one).read_text())["looks"]
        found = tuple(Look(*look) for look in looks)
        curves.append(Curve(one.configuration, one.seed, one.spec.hyperparameters, found))
    write_table(options.path, Table(about, tuple(curves)))
    say(console, f"Written: {options.path}.csv.gz and .json")
    return 0


def load_others(options: TableOptions, folder: Path) -> tuple[Images, Images]:
    """Return the images that validate and the hidden ones, evenly spread over those left.

    Raises:
        UserError: there are not so many.
    """
    others = load_unused(options.data_spec, folder)
    wanted = options.validating + options.hidden
    if len(others) < wanted:
        raise UserError(
            f"`validating` (={options.validating}) and `hidden` (={options.hidden}) are more than "
            f"the {len(others)} training images of `{options.dataset}` that `--limit` leaves"
        )
    spread = torch.randperm(wanted, generator=torch.Generator().manual_seed(options.seed))
    places = spread * len(others) // wanted
    return others[places[: options.validating]], others[places[options.validating :]]


def _draw_fits(options: TableOptions, compute: Compute) -> Iterator[_Fit]:
    """Give every fit: the configurations in the order in which they are drawn, seed by seed."""
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(
            seed=derive_seed(options.seed, SAMPLER, options.batch_size)
        )
    )
    drawn = [
        _as_written(space.suggest(study.ask(), options.batch_size, PLAIN))
        for _ in range(options.configurations)
    ]
    for seed in range(options.seeds):
        for configuration in range(options.repeated if seed else options.configurations):
            spec = FitSpec(
                drawn[configuration],
                options.max_epochs,
                patience=None,
                seed=derive_seed(options.seed, TRIAL, options.batch_size, configuration, seed),
                compute=compute,
                looks=options.looks,
            )
            yield _Fit(configuration, seed, spec)


def _as_written(hyperparameters: Hyperparameters) -> Hyperparameters:
    """Return them as they are read from the table: the last digits change what bf16 gives."""
    rate = float(f"{hyperparameters.learning_rate:.{DIGITS}g}")
    return replace(hyperparameters, learning_rate=rate)


def _rows(options: TableOptions, data: TrainingData, hidden: Images) -> Path:
    """Return the folder for the fits of this table, and of others that have them in common."""
    common = (options.batch_size, options.max_epochs, options.looks)
    told = repr((common, options.seed, data.split_hash, data.validation.sha256(), hidden.sha256()))
    return options.path.with_name(
        f".{options.path.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    )


def _row(folder: Path, one: _Fit) -> Path:
    return folder / f"{one.spec.seed}.json"


@dataclass(frozen=True)
class _RecordingFit:
    """Trains, and writes what it saw to a file that is named by the seed."""

    folder: Path
    hidden: Images

    def __call__(
        self,
        spec: FitSpec,
        data: TrainingData,
        interruption: Interruption,
        callbacks: Sequence[pl.Callback],
    ) -> Fitted:
        looker = _Looker(self.hidden.to(spec.compute.device))
        fitted = fit(spec, data, interruption, [looker, *callbacks])
        if fitted.interrupted is None:
            looks = [list(astuple(look)) for look in looker.looks]
            write_json(self.folder / f"{spec.seed}.json", {"looks": looks})
        return fitted


class _Looker(pl.Callback):
    """Reads the hidden images, too, when the fit validates best."""

    def __init__(self, hidden: Images) -> None:
        self.looks: list[Look] = []
        self._hidden = hidden
        self._started = time.process_time()
        self._best = -1.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CharacterTask)
        if pl_module.diverged:
            return
        before = time.process_time()
        found = round(trainer.callback_metrics["val_accuracy"].item(), 6)
        hidden = None
        if pl_module.stretch.ends_epoch and found > self._best:
            self._best = found
            hidden = self._read(pl_module)
        seconds = round(before - self._started, 3)
        self.looks.append(Look(pl_module.stretch.epochs, found, hidden, seconds))
        self._started += time.process_time() - before

    def _read(self, task: CharacterTask) -> float:
        model, training = task.model, task.model.training
        read = read_probabilities(model, self._hidden.pixels, task.compute).argmax(1)
        model.train(training)
        return round((read == self._hidden.labels.cpu()).double().mean().item(), 6)


def _train(
    fits: Sequence[_Fit],
    recording: _RecordingFit,
    data: TrainingData,
    worker_count: int,
    interruption: Interruption,
    progress: Progress,
) -> None:
    """Train all fits; each worker writes its own.

    Raises:
        Interrupted: a signal came; the fits that have ended are written.
    """
    bar = progress.add_task("fits", total=len(fits), status="")
    waiting, running = list(fits), 0
    with LocalWorkers(worker_count, lambda device: data, recording) as workers:
        while waiting or running:
            interruption.check()
            for worker in workers.idle:
                if waiting:
                    workers.submit(worker, waiting.pop(0).spec)
                    running += 1
            for worker, message in workers.receive(timeout=0.5):
                if isinstance(message, Reported):
                    workers.answer(worker, "go on")
                elif isinstance(message, Failed):
                    raise UserError(f"a fit failed: {message.reason}\n{message.details}")
                elif isinstance(message, Ended):
                    running -= 1
                    progress.advance(bar)


COMMAND = cli.Command("benchmarks table", __doc__, TableOptions, run)
