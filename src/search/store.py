"""What a search needs of the place where its studies are stored."""

import abc
import contextlib
from collections.abc import Collection

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState


class Store(abc.ABC):
    """The studies of a data set, and the best model of each; a context manager.

    Raises:
        UserError: on entering, if the studies cannot be had.
    """

    storage: BaseStorage
    """Optuna's."""
    shared: bool
    """Whether other searches may be at work on the same studies."""
    heartbeat_interval: float = float("inf")
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
    def release_abandoned(self, study: optuna.Study, ours: Collection[int]) -> None:
        """Requeue (journal) or fail (database) RUNNING trials whose process is gone.

        To be called within `exclusive`.

        Args:
            study: whose trials.
            ours: numbers of the trials that this process runs, which are left alone.
        """

    def start(self, study: optuna.Study, waiting: FrozenTrial) -> optuna.Trial:
        """Let a WAITING trial run; to be called within `exclusive`."""
        self._record_heartbeat(waiting._trial_id)  # first: a trial without one is never stale
        study._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
        return optuna.Trial(study, waiting._trial_id)

    def requeue(self, trial: optuna.Trial) -> None:
        """Let a RUNNING trial wait to be gone on with.

        Raises:
            UpdateFinishedTrialError: others have ended it.
        """
        trial.storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)

    def is_running(self, trial: optuna.Trial) -> bool:
        """Return whether a trial is RUNNING: whether nobody has given it up."""
        return bool(trial.storage.get_trial(trial._trial_id).state == TrialState.RUNNING)

    def heartbeat(self, trial: optuna.Trial) -> None:
        """Record that the process which runs a trial lives."""
        self._record_heartbeat(trial._trial_id)

    @abc.abstractmethod
    def _record_heartbeat(self, trial_id: int) -> None:
        """Record a sign of life of a trial, if anybody looks at it."""

    @abc.abstractmethod
    def keep_model(self, name: str, content: bytes) -> None:
        """Keep the checkpoint of the best trial so far of its kind; within `exclusive`."""

    @abc.abstractmethod
    def fetch_models(self) -> None:
        """Bring the best trials' checkpoints to the results folder."""
