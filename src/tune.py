"""Search for the best configuration with Hyperband, once for each batch size.

    python -m src.tune --config configs/quickstart.yaml     # minutes on a laptop
    python -m src.tune --dataset mnist --batch_sizes "[64,208]" --max_epochs 9

Writes results/<dataset>/ (CSV tables, pictures, best.json, best-model.ckpt, the studies) and
lightning_logs/<dataset>/ (curves for TensorBoard). The same command goes on where it stopped.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
from rich.console import Console

from src import cli
from src.core import checks
from src.core.console import open_console, say
from src.core.files import make_writable
from src.core.interrupt import Signals
from src.data.split import TrainingData, load_training_data, refuse_large_batches
from src.options import TuneConfig
from src.reporting.publish import (
    check_models,
    check_published,
    publish_search,
    publish_study,
    write_winner,
)
from src.results.folder import ResultsFolder
from src.search.display import print_best, print_data, print_plan, print_ranking
from src.search.finals import Finals, choose_finalists
from src.search.hyperband import Plan, make_plan
from src.search.hyperband_study import Search
from src.search.session import Stage, open_store, run_finals
from src.search.store import Store
from src.search.studies import check_settings, ended_trials, load_studies
from src.workers.launch import Launcher, launching


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
    interruption = Signals(checks.parse_duration(config.timeout) if config.timeout else None)
    console = open_console()
    plan = make_plan(config.max_epochs, config.reduction_factor, config.iterations)
    print_plan(console, plan, config.batch_sizes)
    if options.plan:
        return 0

    folder = ResultsFolder(config.results_dir, config.dataset)
    make_writable(folder.path, "--results_dir")
    make_writable(Path(config.log_dir), "--log_dir")
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruption)
        data = load_training_data(config.data_spec, config.data_dir, interruption=interruption)
        refuse_large_batches("batch_sizes", config.batch_sizes, data)
        launcher = stack.enter_context(launching(config, config.precision, data, interruption))
        store = stack.enter_context(open_store(config, folder, console))
        return _search(config, plan, data, store, folder, launcher, interruption, console)


def _search(
    config: TuneConfig,
    plan: Plan,
    data: TrainingData,
    store: Store,
    folder: ResultsFolder,
    launcher: Launcher,
    interruption: Signals,
    console: Console,
) -> int:
    """Run what is left of the search at each batch size, and publish what came out."""
    compute = launcher.compute
    with store.exclusive():  # or two that start at once could begin with different settings
        check_settings(store.storage, config, data, compute)
        studies = load_studies(store.storage, config.dataset)
        check_published(folder, studies)
        check_models(folder, store, studies)  # better known missing now than after hours
        searches = [
            Search(config, batch_size, plan, store, folder, data, compute)
            for batch_size in config.batch_sizes
        ]

    def publish(search: Search) -> None:
        publish_study(folder, store, search.batch_size, search.study, plan)

    stage = Stage("search", searches, store, data, folder, launcher, console)
    print_data(console, data, compute, stage.number)
    for search in searches:
        if search.is_over:
            search.drop_states()
            publish(search)
    done = [record for search in searches for record, _ in ended_trials(search.study)]
    stage.fill(interruption, done, publish)
    last: Stage[Search] | Stage[Finals] = stage
    studies = load_studies(store.storage, config.dataset)
    print_ranking(
        console, [trial for study in studies.values() for trial, _ in ended_trials(study)]
    )
    finalists = choose_finalists(studies, config.finalists)
    best = publish_search(folder, store, studies)
    if finalists and stage.is_over:
        last = run_finals(
            finalists, studies, config, data, store, folder, launcher, interruption, console
        )
        best = publish_search(folder, store, studies)

    if stage.left + last.left == 0:
        say(console, "The budget is spent already; `--iterations` can add to it.")
    if best is not None:
        if config.tensorboard != "none" and last.is_over and stage.left + last.left:
            write_winner(config.log_dir, best, data)
        print_best(console, best, folder, config.batch_sizes, config.log_dir)
    return last.tell()


if __name__ == "__main__":
    sys.exit(main())
