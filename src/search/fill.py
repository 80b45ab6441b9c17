"""Fill studies with trials: start the workers and the display, run the loop, return the outcome."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.command import recorded_command
from src.core.console import say
from src.core.errors import UserError
from src.core.files import optional
from src.core.interrupt import Interrupted
from src.results.provenance import provenance
from src.results.records import TrialRecord
from src.search.display import SearchDisplay
from src.search.loop import SearchFailed, SearchLoop
from src.search.planned_study import PlannedStudy, StartedTrial
from src.search.session import Session
from src.search.studies import FINISHED, RunRecorder
from src.training.checkpoint import dump_model, model_of
from src.training.fitted import Fitted
from src.workers.messages import Failed

_GO_ON = (
    "when the cause is mended, with fewer `--workers` if memory ran out, the same command goes on"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How filling some studies ended."""

    places: int
    """Of their plans, in all."""
    open_before: int
    """Places that were to be filled when it began."""
    given_up: int
    """Places whose trials failed too often."""
    stopped: Interrupted | SearchFailed | None
    """Why it ended before all was done, if it did."""
    last_failure: Failed | None
    failure_file: Path
    """Has the traceback of the last failure."""

    @property
    def succeeded(self) -> bool:
        """Whether all places are filled, so that the next stage can begin."""
        return self.stopped is None and not self.given_up

    def conclude(self, session: Session) -> int:
        """Say how it ended; return the exit code.

        Raises:
            UserError: trials failed.
        """
        if isinstance(self.stopped, Interrupted):
            say(session.console, f"Stopped ({self.stopped}): the same command goes on from here.")
            return self.stopped.exit_code
        if self.stopped is not None:
            raise UserError(f"{self.stopped} ({self.failure_file} has more); {_GO_ON}")
        if self.given_up:
            assert self.last_failure is not None
            raise UserError(
                f"{self.given_up} of {self.places} places of the plan are empty, because their "
                f"trials failed again and again, the last with {self.last_failure.reason} "
                f"({self.failure_file} has more); {_GO_ON}"
            )
        return 0


def open_places(studies: Sequence[PlannedStudy]) -> int:
    """Count the places of the studies that are still to be filled."""
    return sum(len(study.keys) - study.done for study in studies)


def fill(
    name: str,
    studies: Sequence[PlannedStudy],
    session: Session,
    *,
    done: Sequence[TrialRecord] = (),
    on_complete: Callable[[PlannedStudy], None] = lambda study: None,
) -> Outcome:
    """Fill the open places of the studies until nothing is left, or a reason to stop comes.

    Args:
        name: of the stage, for the display.
        studies: what to fill, one after another.
        session: who trains, where it is stored, whether to stop.
        done: trials that were done before, for the display.
        on_complete: called with every study that is complete now.
    """
    left, places = open_places(studies), sum(len(study.keys) for study in studies)
    run = RunRecorder(study.study for study in studies) if left else None
    # Of the code that trains, even if it is edited meanwhile.
    origin = provenance(session.launcher.compute, recorded_command())

    def make_checkpoint(trial: StartedTrial, fitted: Fitted) -> bytes:
        where = {"trial": trial.number, "slot": trial.place.key, "bracket": trial.place.bracket}
        return dump_model(model_of(fitted, trial.hyperparameters, session.data, origin | where))

    stopped: Interrupted | SearchFailed | None = None
    with contextlib.ExitStack() as stack:
        worker_count = min(session.launcher.worker_count, left)
        workers = stack.enter_context(session.launcher.start(worker_count))
        display = stack.enter_context(SearchDisplay(session.console, name, places, done))
        loop = SearchLoop(
            studies,
            workers,
            session,
            watcher=display,
            make_checkpoint=make_checkpoint,
            on_complete=on_complete,
        )
        try:
            with loop:
                loop.run()
        except (Interrupted, SearchFailed) as caught:
            stopped = caught
        except BaseException as error:
            if run is not None:
                with contextlib.suppress(Exception):  # if it can be said at all
                    run.end(type(error).__name__)
            raise
    outcome = Outcome(
        places=places,
        open_before=left,
        given_up=sum(len(study.given_up) for study in studies),
        stopped=stopped,
        last_failure=loop.last_failure,
        failure_file=session.folder.failure,
    )
    if outcome.last_failure is not None:
        failure = outcome.last_failure
        with optional("the last failure", outcome.failure_file):
            outcome.failure_file.write_text(failure.details or failure.reason)
    if run is not None:
        run.end(str(stopped or ("trials failed" if outcome.given_up else FINISHED)))
    return outcome
