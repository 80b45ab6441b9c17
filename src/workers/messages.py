"""Messages between a worker and the process of the search."""

import abc
from dataclasses import dataclass
from typing import Any

from src.core.files import Unwritten
from src.core.interrupt import Interrupted
from src.training.fitted import Fitted
from src.workers.verdict import Verdict


@dataclass(frozen=True)
class Advanced:
    """Progress of a trial."""

    epochs: float
    """Epochs trained so far, with the part of the current one."""


@dataclass(frozen=True)
class Reported:
    """The figures of a trial's look; the worker waits for the verdict."""

    epoch: float
    """Epochs trained: a whole number but at a look within the first."""
    value: float
    """The best epoch's validation accuracy so far; within the first epoch, that of the look."""


@dataclass(frozen=True)
class Ended:
    """The result of a trial's fit."""

    fitted: Fitted
    verdict: Verdict
    """What it was told last."""
    unwritten: tuple[Unwritten, ...] = ()
    """Files that it went on without: for the process of the search to say, once for all workers."""


@dataclass(frozen=True)
class Failed:
    """A trial broke off with an error, or with its worker; another worker takes its place."""

    cause: str
    """Kind of failure: equal for failures that one thing explains."""
    reason: str
    """What went wrong, in one line."""
    details: str = ""
    """The error's traceback, if there is one."""


Message = Advanced | Reported | Ended | Failed


class SearchProcess(abc.ABC):
    """The process of the search, as its workers see it."""

    def __init__(self) -> None:
        self._interrupted: Interrupted | None = None

    @abc.abstractmethod
    def send(self, message: Message) -> None:
        """Send a message about the trial.

        Raises:
            SearchGone: there is nobody to hear it.
        """

    @abc.abstractmethod
    def receive(self) -> Any:
        """Wait for the search's next message: a `FitSpec`, a `Verdict`, `Interrupted`.

        None: there are no more trials.

        Raises:
            SearchGone: nothing will come any more.
        """

    @abc.abstractmethod
    def has_spoken(self) -> bool:
        """Tell whether `receive` would return at once.

        Raises:
            SearchGone: nothing will come any more.
        """

    def ask(self, report: Reported) -> Verdict:
        """Report a look; return what becomes of the trial."""
        self.send(report)
        while isinstance(answer := self.receive(), Interrupted):
            self._interrupted = answer
        verdict: Verdict = answer
        return verdict

    def interrupted(self) -> Interrupted | None:
        """Return why the trial is to end, if the search has asked for that."""
        if self.has_spoken() and self._interrupted is None:
            self._interrupted = self.receive()
        return self._interrupted

    def forget_interruption(self) -> None:
        """Begin another trial, which nobody has interrupted yet."""
        self._interrupted = None


class SearchGone(Exception):  # noqa: N818  # no error of ours
    """The process of the search is gone: there is nobody to work for."""
