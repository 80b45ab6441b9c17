"""What a search needs of the place where its studies are stored."""

import abc
import contextlib

import optuna
from optuna.storages import BaseStorage


class Store(abc.ABC):
    """The studies of a data set, and the best model of each; a context manager.

    Raises:
        UserError: on entering, if the studies cannot be had.
    """

    storage: BaseStorage
    """Optuna's."""
    shared: bool
    """Whether other searches may be at work on the same studies."""
    heartbeat: float = float("inf")
    """Seconds between two signs of life."""

    @abc.abstractmethod
    def __enter__(self) -> "Store":
        """Open it."""

    @abc.abstractmethod
    def __exit__(self, *_: object) -> None:
        """Close it."""

    def reachable(self) -> contextlib.AbstractContextManager[None]:
        """Say in one line why the store cannot be reached.

        Raises:
            UserError: within, if so.
        """
        return contextlib.nullcontext()

    @abc.abstractmethod
    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keep other searches from changing the studies."""

    @abc.abstractmethod
    def recover(self, study: optuna.Study) -> None:
        """Put right the trials that are RUNNING though nobody runs them; within `exclusive`."""

    @abc.abstractmethod
    def beat(self, trial_id: int) -> None:
        """Give a sign that a trial is being run."""

    @abc.abstractmethod
    def keep_model(self, name: str, content: bytes) -> None:
        """Keep the checkpoint of the best trial so far of its kind; within `exclusive`."""

    @abc.abstractmethod
    def fetch_models(self) -> None:
        """Bring the best trials' checkpoints to the results folder."""
