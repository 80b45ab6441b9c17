"""Train the best configurations of a search again with several seeds, and choose the winner.

    python -m src.finalists --dataset mnist     # as long as 15 trials of the search

Writes results/<dataset>/finalists.json and makes the winner's model best-model.ckpt. The same
command goes on where it stopped; more finalists or seeds add to what was trained.
"""

import contextlib
import functools
import sys
from dataclasses import dataclass

from src import cli
from src.core import checks
from src.core.errors import UserError
from src.core.interrupt import Signals
from src.data.catalog import Dataset
from src.options import SearchRunOptions


@dataclass(frozen=True, kw_only=True)
class FinalsOptions(SearchRunOptions):
    """The best configurations of a search, trained again with several seeds."""

    dataset: Dataset
    """Data set of the search."""
    finalists: int = 3
    """How many configurations, the best over all batch sizes."""
    seeds: int = 5
    """How often each is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within("finalists", self.finalists, 1)
        checks.within("seeds", self.seeds, 2)


def run(options: FinalsOptions) -> int:
    """Go on from a search that has finished trials; return the exit code."""
    from src.core.console import open_console
    from src.core.files import make_writable
    from src.data.split import load_training_data
    from src.reporting.publish import (
        check_models,
        publish_search,
        refuse_to_lose_trials,
        write_winner,
    )
    from src.results.folder import ResultsFolder
    from src.results.shipped import are_shipped
    from src.search.display import print_best
    from src.search.finals import choose_finalists, run_finals
    from src.search.session import Session, open_store
    from src.search.studies import load_studies, study_spec
    from src.training.progress import print_data
    from src.workers.launch import launching

    console = open_console()
    folder = ResultsFolder(options.results_dir, options.dataset)
    if not (folder.journal.exists() or options.storage is not None):
        raise UserError(
            f"there is no search in {folder.path}; `python -m src.tune --dataset {options.dataset}`"
            " makes one"
        )
    if are_shipped(folder) and options.storage is None:
        raise UserError(
            f"{folder.path} holds results that came with the project, without the checkpoints to "
            f"go on from; `python -m src.tune --dataset {options.dataset}` begins a search"
        )
    make_writable(folder.path, "--results_dir")
    make_writable(options.log_dir, "--log_dir")
    with Signals(options.seconds) as interruption, contextlib.ExitStack() as stack:
        storage = open_store(options.storage_url, options.heartbeat, folder, console)
        store = stack.enter_context(storage)
        studies = load_studies(store.storage, options.dataset)
        finalists = choose_finalists(studies, options.finalists)
        if not finalists:
            raise UserError(f"the search in {folder.path} has no finished trial yet; go on with it")
        spec = study_spec(next(iter(studies.values())))
        load = functools.partial(load_training_data, spec.data, options.data_dir)
        data = load(interruption=interruption)
        if data.split_hash != spec.split_hash:
            raise UserError(
                f"the training images in {options.data_dir} are not those of the search in "
                f"{folder.path}; restore them"
            )
        launch_spec = options.launch_spec(spec.precision)
        launcher = stack.enter_context(launching(launch_spec, data, load, interruption))
        session = Session(
            data=data,
            launcher=launcher,
            store=store,
            folder=folder,
            logs=options.logs,
            interruption=interruption,
            console=console,
        )
        refuse_to_lose_trials(studies, session)
        check_models(studies, session)
        fits = len(finalists) * options.seeds
        print_data(console, data, launcher.compute, min(launcher.worker_count, fits))
        outcome = run_finals(finalists, studies, options.seeds, session)
        best = publish_search(studies, session)
        if best is not None and outcome.succeeded:
            if options.tensorboard != "none" and outcome.open_before:
                write_winner(options.log_dir, best, data, options.own_device)
            print_best(session, best, list(studies))
        return outcome.conclude(session)


COMMAND = cli.Command("src.finalists", __doc__, FinalsOptions, run)
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(main())
