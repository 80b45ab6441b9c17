"""Search for the best configuration with Hyperband, once for each batch size.

    python -m src.tune --config configs/quickstart.yaml     # minutes on a laptop
    python -m src.tune --dataset mnist --batch_sizes "[64,208]" --max_epochs 9

Writes results/<dataset>/ (CSV tables, pictures, best.json, best-model.ckpt, the studies) and
lightning_logs/<dataset>/ (curves for TensorBoard). The same command goes on where it stopped.
"""

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
from rich.console import Console

from src import cli
from src.checkpoint import dump_model
from src.config import TuneConfig, parse_duration
from src.data import TrainingData, load_training_data
from src.device import Compute, choose_compute, choose_workers
from src.display import (
    SearchDisplay,
    open_console,
    print_data,
    print_plan,
    print_ranking,
    say,
)
from src.errors import UserError
from src.fit import Fitted
from src.hyperband import Plan, make_plan
from src.interrupt import Interrupted, Signals
from src.provenance import provenance
from src.publish import check_published, load_best_models, model_of, publish_search, publish_study
from src.results import ResultsFolder, make_writable
from src.search import Search
from src.search_run import SearchFailed, SearchRun, Workers
from src.slots import StartedTrial
from src.stores import Database, Journal, Store, has_password
from src.studies import FINISHED, Run, check_settings, ended_trials, load_studies
from src.workers import LocalWorkers


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the command's parser."""
    parser = cli.make_parser("src.tune", cli.first_line(__doc__), TuneConfig)
    parser.add_argument("--plan", action="store_true", help="Print the plan and stop.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return cli.run(make_parser(), _tune, argv)


def _tune(options: jsonargparse.Namespace) -> int:
    config = cli.make_config(TuneConfig, options)
    interruption = Signals(parse_duration(config.timeout) if config.timeout else None)
    console = open_console()
    plan = make_plan(config.max_epochs, config.reduction_factor, config.iterations)
    print_plan(console, plan, config.batch_sizes)
    if options.plan:
        return 0

    folder = ResultsFolder(config.results_dir, config.dataset)
    make_writable(folder.path, "--results_dir")
    make_writable(Path(config.log_dir), "--log_dir")
    with contextlib.ExitStack() as stack:
        store = open_store(config, folder)
        stack.enter_context(store.reachable())
        stack.enter_context(store)
        data = load_training_data(config.data_spec, config.data_dir)
        stack.enter_context(interruption)
        launcher = stack.enter_context(_launcher(config, data, interruption))
        return _search(config, plan, data, store, folder, launcher, interruption, console)


@dataclass(frozen=True)
class _Launcher:
    """Where the workers will be."""

    compute: Compute
    number: int
    """Workers that the user wants, or that there is room for."""
    launch: Callable[[int], contextlib.AbstractContextManager[Workers]]
    """Starts so many workers."""


@contextlib.contextmanager
def _launcher(config: TuneConfig, data: TrainingData, interruption: Signals) -> Iterator[_Launcher]:
    """Decide what is computed on, and by how many workers."""
    if config.launcher == "local":
        compute = choose_compute(config.device, config.precision, threads=1)
        load = _loader(config, data, compute)
        number = choose_workers(config.workers, compute)
        yield _Launcher(compute, number, lambda number: LocalWorkers(number, load, compute))
        return
    if config.storage is not None and has_password(config.storage.get_secret_value()):
        raise UserError(
            "`storage` must name no password with `--launcher ray`, as Ray shows the command line "
            "to all who see the cluster; put it in PGPASSWORD or ~/.pgpass"
        )
    from src.cluster import Cluster  # an extra, which others do without

    with Cluster(config.gpus_per_worker) as cluster:
        compute = cluster.choose_compute(config.device, config.precision, interruption)
        number = cluster.choose_workers(config.workers, compute)
        yield _Launcher(compute, number, lambda number: cluster.workers(number, data, compute))


def open_store(config: TuneConfig, folder: ResultsFolder) -> Store:
    """Return where the studies are."""
    if config.storage is None:
        return Journal(folder)
    return Database(config.storage.get_secret_value(), folder, config.heartbeat)


def _search(
    config: TuneConfig,
    plan: Plan,
    data: TrainingData,
    store: Store,
    folder: ResultsFolder,
    launcher: _Launcher,
    interruption: Signals,
    console: Console,
) -> int:
    """Run what is left of the search at each batch size, and publish what came out."""
    compute = launcher.compute
    origin = provenance(compute)

    def make_checkpoint(trial: StartedTrial, fitted: Fitted) -> bytes:
        where = {"trial": trial.number, "bracket": trial.bracket.s}
        return dump_model(model_of(fitted, trial.hyperparameters, data, origin | where))

    with store.exclusive():  # or two that start at once could begin with different settings
        check_settings(store.storage, config, data, compute)
        studies = load_studies(store.storage, config.dataset)
        check_published(folder, studies)
        load_best_models(folder, store, studies)  # better known missing now than after hours
        searches = [
            Search(config, batch_size, plan, store, folder, data, compute)
            for batch_size in config.batch_sizes
        ]
    left = len(searches) * plan.trials - sum(search.done for search in searches)
    done = [record for search in searches for record, _ in ended_trials(search.study)]
    number = min(launcher.number, left)
    print_data(console, data, compute, number)
    for search in searches:
        if search.is_over:
            search.drop_states()
            publish_study(folder, store, search.batch_size, search.study, plan)
    this_run = Run(search.study for search in searches) if left else None
    stopped: Interrupted | SearchFailed | None = None
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(launcher.launch(number))
        display = stack.enter_context(SearchDisplay(console, len(searches) * plan.trials, done))
        run = stack.enter_context(
            SearchRun(searches, workers, interruption, display, make_checkpoint, store)
        )
        try:
            for search in stack.enter_context(contextlib.closing(run.run())):
                publish_study(folder, store, search.batch_size, search.study, plan)
        except (Interrupted, SearchFailed) as caught:
            stopped = caught
        except BaseException as error:
            if this_run is not None:
                with contextlib.suppress(Exception):  # if it can be said at all
                    this_run.end(type(error).__name__)
            raise
    given_up = sum(len(search.given_up) for search in searches)
    if this_run is not None:
        this_run.end(str(stopped) if stopped else "trials failed" if given_up else FINISHED)
    studies = load_studies(store.storage, config.dataset)
    records, best = publish_search(folder, store, studies, plan)

    if left == 0:
        say(console, "The budget is spent already; `--iterations` can add to it.")
    if best is None:
        say(console, "No trial has trained to its end yet.")
    else:
        hp = best.hyperparameters
        print_ranking(console, records)
        say(
            console,
            f"Best: conv1 {hp.conv1}, conv2 {hp.conv2}, dense_units {hp.dense_units}, "
            f"dropout_rate {hp.dropout_rate:g}, learning_rate {hp.learning_rate:.3g}, "
            f"batch_size {hp.batch_size}: validation accuracy {best.val_accuracy:.6f}\n"
            f"Written to {folder.path}: {', '.join(folder.published(config.batch_sizes))}\n"
            "Next:\n"
            f"  tensorboard --logdir {shlex.quote(config.log_dir)}\n"
            f"  python -m src.evaluate {shlex.quote(str(folder.best_model))}",
        )
    if run.last_failure is not None:
        folder.failure.write_text(run.last_failure.details or run.last_failure.reason)
    if isinstance(stopped, Interrupted):
        say(console, f"Stopped ({stopped}): the same command goes on from here.")
        return stopped.exit_code
    if stopped is not None:
        raise UserError(f"{stopped} ({folder.failure} has more); {_GO_ON}")
    if given_up:
        assert run.last_failure is not None
        raise UserError(
            f"{given_up} of {plan.trials * len(searches)} places of the plan are empty, because "
            f"their trials failed again and again, the last with {run.last_failure.reason} "
            f"({folder.failure} has more); {_GO_ON}"
        )
    return 0


_GO_ON = (
    "when the cause is mended, with fewer `--workers` if memory ran out, the same command goes on"
)


def _loader(config: TuneConfig, data: TrainingData, compute: Compute) -> Callable[[], TrainingData]:
    """Return what gives a worker its images: these, or a copy of its own on its GPU."""
    if compute.device.type == "cpu":
        return functools.partial(_loaded, data)
    return functools.partial(load_training_data, config.data_spec, config.data_dir, compute.device)


def _loaded(data: TrainingData) -> TrainingData:
    return data


if __name__ == "__main__":
    sys.exit(main())
