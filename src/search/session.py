"""One stage of a search: workers fill its studies, and what becomes of that is told."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import optuna
from rich.console import Console

from src.core.console import say
from src.core.errors import UserError
from src.core.files import optional
from src.core.interrupt import Interrupted, Interruption
from src.data.split import TrainingData
from src.options import FinalsConfig, TuneConfig
from src.results.folder import ResultsFolder
from src.results.provenance import provenance
from src.results.records import TrialRecord
from src.results.shipped import ASIDE, are_shipped
from src.search.database import Database
from src.search.display import SearchDisplay, print_finals
from src.search.finals import Finalist, Finals
from src.search.journal import Journal
from src.search.loop import SearchFailed, SearchRun
from src.search.planned_study import Slots, StartedTrial
from src.search.store import Store
from src.search.studies import FINISHED, Run
from src.training.checkpoint import dump_model, model_of
from src.training.fitted import Fitted
from src.workers.launch import Launcher, Workers
from src.workers.messages import Failed

_Study = TypeVar("_Study", bound=Slots)

_GO_ON = (
    "when the cause is mended, with fewer `--workers` if memory ran out, the same command goes on"
)


@contextlib.contextmanager
def open_store(
    config: TuneConfig | FinalsConfig, folder: ResultsFolder, console: Console
) -> Iterator[Store]:
    """Open what holds the studies; say where shipped results went that were in its place.

    Raises:
        UserError: it cannot be opened, or not be reached meanwhile.
    """
    store: Store = Journal(folder)
    if config.storage is not None:
        store = Database(config.storage.get_secret_value(), folder, config.heartbeat)
    shipped = are_shipped(folder)
    with store.reachable(), store:
        if shipped:
            say(console, f"What came with the project is in {folder.path / ASIDE} now.")
        yield store


class Stage(Generic[_Study]):
    """Studies to be filled, one after another.

    Args:
        name: of the stage.
        studies: what to fill.
        store: where they are.
        data: images to train and validate on.
        folder: where a failure is told.
        launcher: who trains.
        console: where progress is shown.
    """

    def __init__(
        self,
        name: str,
        studies: Sequence[_Study],
        store: Store,
        data: TrainingData,
        folder: ResultsFolder,
        launcher: Launcher,
        console: Console,
    ) -> None:
        self._name = name
        self._studies = studies
        self._store = store
        self._data = data
        self._folder = folder
        self._launcher = launcher
        self._console = console
        self._origin = provenance(launcher.compute)  # of the code that trains, even if it is edited
        self.left = sum(len(study.slots) - study.done for study in studies)
        """Slots to fill."""
        self.number = min(launcher.number, self.left)
        """Workers."""
        self._stopped: Interrupted | SearchFailed | None = None
        self._last_failure: Failed | None = None

    def fill(
        self,
        interruption: Interruption,
        done: Sequence[TrialRecord],
        publish: Callable[[_Study], None],
    ) -> None:
        """Fill the slots until nothing is left, or a reason to stop comes.

        Args:
            interruption: asked whether to stop.
            done: what was done before, for the display.
            publish: called with every study that is filled now.
        """
        this_run = Run(study.study for study in self._studies) if self.left else None
        slots = sum(len(study.slots) for study in self._studies)
        with contextlib.ExitStack() as stack:
            workers = stack.enter_context(self._launcher.launch(self.number))
            display = stack.enter_context(SearchDisplay(self._console, self._name, slots, done))
            run = stack.enter_context(self._run(workers, interruption, display))
            try:
                for study in stack.enter_context(contextlib.closing(run.run())):
                    publish(study)
            except (Interrupted, SearchFailed) as caught:
                self._stopped = caught
            except BaseException as error:
                if this_run is not None:
                    with contextlib.suppress(Exception):  # if it can be said at all
                        this_run.end(type(error).__name__)
                raise
            self._last_failure = run.last_failure
        if self._last_failure is not None:
            told = self._last_failure.details or self._last_failure.reason
            with optional("the last failure's traceback", self._folder.failure):
                self._folder.failure.write_text(told)
        if this_run is not None:
            empty = "trials failed" if self._empty else FINISHED
            this_run.end(str(self._stopped) if self._stopped else empty)

    def _run(
        self, workers: Workers, interruption: Interruption, display: SearchDisplay
    ) -> SearchRun[_Study]:
        checkpoint = self._make_checkpoint
        return SearchRun(self._studies, workers, interruption, display, checkpoint, self._store)

    @property
    def is_over(self) -> bool:
        """Whether the next stage can begin."""
        return self._stopped is None and not self._empty

    @property
    def _empty(self) -> int:
        """Slots whose trials failed too often."""
        return sum(len(study.given_up) for study in self._studies)

    def _make_checkpoint(self, trial: StartedTrial, fitted: Fitted) -> bytes:
        where = {"trial": trial.number, "slot": trial.slot, "bracket": trial.bracket.s}
        model = model_of(fitted, trial.hyperparameters, self._data, self._origin | where)
        return dump_model(model)

    def tell(self) -> int:
        """Say how it ended; return the exit code.

        Raises:
            UserError: trials failed.
        """
        if isinstance(self._stopped, Interrupted):
            say(self._console, f"Stopped ({self._stopped}): the same command goes on from here.")
            return self._stopped.exit_code
        if self._stopped is not None:
            raise UserError(f"{self._stopped} ({self._folder.failure} has more); {_GO_ON}")
        if self._empty:
            assert self._last_failure is not None
            places = sum(len(study.slots) for study in self._studies)
            raise UserError(
                f"{self._empty} of {places} places of the plan are empty, because their trials "
                f"failed again and again, the last with {self._last_failure.reason} "
                f"({self._folder.failure} has more); {_GO_ON}"
            )
        return 0


def run_finals(
    finalists: Sequence[Finalist],
    studies: Mapping[int, optuna.Study],
    config: TuneConfig | FinalsConfig,
    data: TrainingData,
    store: Store,
    folder: ResultsFolder,
    launcher: Launcher,
    interruption: Interruption,
    console: Console,
) -> Stage[Finals]:
    """Train the best configurations of a search again; decide between them when all is trained.

    Args:
        finalists: the best configurations, one at least.
        studies: the search's, by batch size.
        config: how many seeds.
        data: the images of the search.
        store: where the studies are; the finals' study is kept there too.
        folder: where results are written.
        launcher: who trains.
        interruption: asked whether to stop.
        console: where progress is shown.

    Raises:
        UserError: no finalist has learnt with two seeds.
    """
    with store.exclusive():
        finals = Finals(
            studies,
            finalists,
            config.seeds,
            store=store,
            folder=folder,
            compute=launcher.compute,
            log_dir=config.log_dir,
            tensorboard=config.tensorboard,
        )
    stage = Stage("finals", [finals], store, data, folder, launcher, console)
    say(
        console,
        f"Finals: the {len(finalists)} best configurations with {config.seeds} seeds each; "
        f"{stage.left} of {len(finals.slots)} fits are to be trained.",
    )
    stage.fill(interruption, [], lambda _: None)
    if stage.is_over:
        print_finals(console, finals.decide())
    return stage
