"""Train the best configurations of a search again with several seeds, and choose the winner.

    python -m src.finalists --dataset mnist     # as long as 15 trials of the search

Writes results/<dataset>/finalists.json and makes the winner's model best-model.ckpt. The same
command goes on where it stopped; more finalists or seeds add to what was trained.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonargparse

from src import cli
from src.core import checks
from src.core.console import open_console
from src.core.errors import UserError
from src.core.files import make_writable
from src.core.interrupt import Signals
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.options import FinalsConfig
from src.reporting.publish import check_models, check_published, publish_search, write_winner
from src.results.folder import ResultsFolder
from src.results.shipped import are_shipped
from src.search.display import print_best, print_data
from src.search.finals import choose_finalists
from src.search.session import open_store, run_finals
from src.search.studies import load_studies, study_settings
from src.workers.launch import launching


def make_parser() -> jsonargparse.ArgumentParser:
    """Build the command's parser."""
    return cli.make_parser("src.finalists", cli.first_line(__doc__), FinalsConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return cli.run(make_parser(), _run, argv)


def _run(options: jsonargparse.Namespace) -> int:
    config = cli.make_config(FinalsConfig, options)
    interruption = Signals(checks.parse_duration(config.timeout) if config.timeout else None)
    console = open_console()
    folder = ResultsFolder(config.results_dir, config.dataset)
    if not (folder.journal.exists() or config.storage is not None):
        raise UserError(
            f"there is no search in {folder.path}; `python -m src.tune --dataset {config.dataset}` "
            "makes one"
        )
    if are_shipped(folder) and config.storage is None:
        raise UserError(
            f"{folder.path} holds results that came with the project, without the checkpoints to "
            f"go on from; `python -m src.tune --dataset {config.dataset}` begins a search"
        )
    make_writable(folder.path, "--results_dir")
    make_writable(Path(config.log_dir), "--log_dir")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_store(config, folder, console))
        studies = load_studies(store.storage, config.dataset)
        finalists = choose_finalists(studies, config.finalists)
        if not finalists:
            raise UserError(f"the search in {folder.path} has no finished trial yet; go on with it")
        check_published(folder, studies)
        check_models(folder, store, studies)
        settings: dict[str, Any] = study_settings(next(iter(studies.values())))
        spec = DataSpec(**{field.name: settings[field.name] for field in fields(DataSpec)})
        stack.enter_context(interruption)
        data = load_training_data(spec, config.data_dir, interruption=interruption)
        if data.split_hash != settings["split_hash"]:
            raise UserError(
                f"the training images in {config.data_dir} are not those of the search in "
                f"{folder.path}; restore them"
            )
        launcher = stack.enter_context(launching(config, settings["precision"], data, interruption))
        print_data(console, data, launcher.compute, launcher.number)
        stage = run_finals(
            finalists, studies, config, data, store, folder, launcher, interruption, console
        )
        best = publish_search(folder, store, studies)
        if best is not None and stage.is_over:
            if config.tensorboard != "none" and stage.left:
                write_winner(config.log_dir, best, data)
            print_best(console, best, folder, list(studies), config.log_dir)
        return stage.tell()


if __name__ == "__main__":
    sys.exit(main())
