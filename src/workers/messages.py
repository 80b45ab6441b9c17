"""What a worker and the process of the search say to each other."""

import abc
from dataclasses import dataclass
from typing import Any

from src.core.interrupt import Interrupted
from src.training.fit import Fitted


@dataclass(frozen=True)
class Advanced:
    """A trial goes on."""

    epochs: float
    """Epochs trained so far, with the part of the current one."""


@dataclass(frozen=True)
class Reported:
    """A trial has ended an epoch, and waits for the answer: whether to stop."""

    epoch: int
    """Counted from 1."""
    value: float
    """The best validation accuracy so far."""


@dataclass(frozen=True)
class Ended:
    """A trial's fit is over, one way or another."""

    fitted: Fitted
    pruned: bool
    """Whether it was told to stop."""


@dataclass(frozen=True)
class Failed:
    """A trial broke off with an error, or with its worker; another worker takes its place."""

    cause: str
    """What kind of failure: the same for those that one thing explains."""
    reason: str
    """In one line."""
    details: str = ""
    """The error's traceback, if there is one."""


Message = Advanced | Reported | Ended | Failed


class SearchProcess(abc.ABC):
    """The process of the search, as a worker sees it."""

    def __init__(self) -> None:
        self._interrupted: Interrupted | None = None

    @abc.abstractmethod
    def send(self, message: Message) -> None:
        """Say something of the job.

        Raises:
            SearchGone: there is nobody to hear it.
        """

    @abc.abstractmethod
    def receive(self) -> Any:
        """Wait for what the search says next: a `Job`, an answer, `Interrupted`; None: go home.

        Raises:
            SearchGone: nothing will come any more.
        """

    @abc.abstractmethod
    def has_spoken(self) -> bool:
        """Tell whether `receive` would return at once.

        Raises:
            SearchGone: nothing will come any more.
        """

    def ask(self, report: Reported) -> bool:
        """Report an epoch; return whether to stop."""
        self.send(report)
        while not isinstance(answer := self.receive(), bool):
            self._interrupted = answer
        return answer

    def interrupted(self) -> Interrupted | None:
        """Return why to end the job, if it was asked for."""
        if self.has_spoken() and self._interrupted is None:
            self._interrupted = self.receive()
        return self._interrupted

    def forget_interruption(self) -> None:
        """Begin another job, for which nothing has been asked yet."""
        self._interrupted = None


class SearchGone(Exception):  # noqa: N818  # no error of ours
    """The process of the search is gone: there is nobody to work for."""
