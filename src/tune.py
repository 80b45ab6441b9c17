"""Search for the best configuration with Hyperband, once for each batch size.

    python -m src.tune --config configs/quickstart.yaml     # minutes on a laptop
    python -m src.tune --dataset mnist --batch_sizes "[64,208]" --max_epochs 9

Writes results/<dataset>/ (CSV tables, pictures, best.json, best-model.ckpt, the studies) and
lightning_logs/<dataset>/ (curves for TensorBoard). The same command goes on where it stopped.
"""

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import filelock
import jsonargparse
from rich.console import Console

from src import cli
from src.checkpoint import save_model
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
from src.publish import load_best_models, model_of, publish_search, publish_study
from src.results import ResultsFolder, make_writable
from src.search import Search, SearchRun, StartedTrial, TrialFailed
from src.studies import (
    check_settings,
    ended_trials,
    fail_abandoned,
    load_studies,
    open_storage,
)
from src.workers import Workers


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

    compute = choose_compute(config.device, config.precision, threads=1)
    folder = ResultsFolder(config.results_dir, config.dataset)
    make_writable(folder.path, "--results_dir")
    make_writable(Path(config.log_dir), "--log_dir")
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder.lock, timeout=0))
        except filelock.Timeout as error:
            raise UserError(
                f"another search is running in {folder.path}; "
                "wait for it, or choose another folder with `--results_dir`"
            ) from error
        data = load_training_data(config.data_spec, config.data_dir)
        stack.enter_context(interruption)
        return _search(config, plan, data, compute, folder, interruption, console)


def _search(
    config: TuneConfig,
    plan: Plan,
    data: TrainingData,
    compute: Compute,
    folder: ResultsFolder,
    interruption: Signals,
    console: Console,
) -> int:
    """Run what is left of the search at each batch size, and publish what came out."""
    storage = open_storage(folder)
    check_settings(storage, config, data, compute)
    fail_abandoned(storage)
    load_best_models(folder, load_studies(storage))  # better known missing now than after hours
    origin = provenance(compute)

    def save_best(trial: StartedTrial, fitted: Fitted) -> None:
        where = {"trial": trial.number, "bracket": trial.bracket.s}
        model = model_of(fitted, trial.hyperparameters, data, origin | where)
        save_model(folder.study_model(trial.hyperparameters.batch_size), model)

    searches = [
        Search(config, batch_size, plan, storage, data, compute)
        for batch_size in config.batch_sizes
    ]
    open_slots = {search: len(search.open_slots) for search in searches}
    left = sum(open_slots.values())
    done = [record for search in searches for record, _ in ended_trials(search.study)]
    number = min(choose_workers(config.workers, compute), left)
    print_data(console, data, compute, number)
    for search in searches:
        if not open_slots[search]:
            publish_study(folder, search.batch_size, search.study, plan)
    stopped: Exception | None = None
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(number, _loader(config, data, compute), compute))
        display = stack.enter_context(SearchDisplay(console, len(searches) * plan.trials, done))
        run = SearchRun(searches, workers, interruption, display, save_best)
        try:
            for search in stack.enter_context(closing(run.run())):
                publish_study(folder, search.batch_size, search.study, plan)
        except (Interrupted, TrialFailed, UserError) as caught:
            stopped = caught
    records, best = publish_search(folder, load_studies(storage), plan)
    if stopped is not None and not isinstance(stopped, Interrupted):
        raise stopped

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
    if stopped is not None:
        say(console, f"Stopped ({stopped.reason}): the same command goes on from here.")
        return stopped.exit_code
    return 0


def _loader(config: TuneConfig, data: TrainingData, compute: Compute) -> Callable[[], TrainingData]:
    """Return what gives a worker its images: these, or a copy of its own on its GPU."""
    if compute.device.type == "cpu":
        return functools.partial(_loaded, data)
    return functools.partial(load_training_data, config.data_spec, config.data_dir, compute.device)


def _loaded(data: TrainingData) -> TrainingData:
    return data


if __name__ == "__main__":
    sys.exit(main())
