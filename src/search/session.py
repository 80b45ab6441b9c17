"""Session: the data, workers, store and folders of one run of a command that searches."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from src.core.console import say
from src.core.interrupt import Interruption
from src.data.split import TrainingData
from src.results.folder import ResultsFolder
from src.results.shipped import ASIDE, are_shipped
from src.search.database import Database
from src.search.journal import Journal
from src.search.logs import Logs
from src.search.store import Store
from src.search.timing import Timing
from src.workers.launch import Launcher

TIMING = Timing()


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run of a command that searches."""

    data: TrainingData
    """Images to train and validate on."""
    launcher: Launcher
    """Starts the workers."""
    store: Store
    """Where the studies are."""
    folder: ResultsFolder
    logs: Logs
    interruption: Interruption
    """Asked whether to stop."""
    console: Console
    timing: Timing = TIMING


@contextlib.contextmanager
def open_store(
    storage: str | None, heartbeat: int, folder: ResultsFolder, console: Console
) -> Iterator[Store]:
    """Open what holds the studies; say where shipped results went that were in its place.

    Args:
        storage: URL of a PostgreSQL database; None: the journal in the results folder.
        heartbeat: seconds between two signs of life of a trial, with a database.
        folder: the search's results folder.
        console: where it is said.

    Raises:
        UserError: it cannot be opened, or not be reached meanwhile.
    """
    store: Store = Journal(folder) if storage is None else Database(storage, folder, heartbeat)
    shipped = are_shipped(folder)
    with store.reachable(), store:
        if shipped and not are_shipped(folder):
            say(console, f"What came with the project is in {folder.path / ASIDE} now.")
        yield store
