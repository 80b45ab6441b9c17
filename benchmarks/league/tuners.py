"""What a tuner must say in the league, and the loop that lets it search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from benchmarks.league.replay import BudgetSpent, Replay
from src.core.seeding import TRIAL, derive_seed


@dataclass(frozen=True)
class Job:
    """What a tuner wants to be trained."""

    trial: int
    """Names a configuration among those of this tuner; its fits have one seed."""
    configuration: Mapping[str, float]
    """What is searched, by name."""
    end: float
    """Epochs that it is to have had in all."""
    begin: float = 0
    """Epochs that it has had, and goes on from; 0: it starts anew."""
    number: int = 0
    """Counts what a tuner has asked for, if it needs to know."""


class Tuner(Protocol):
    """Proposes and is told, as somebody's library does."""

    def ask(self) -> Job | None:
        """Return what an idle worker shall train; None: it waits for what others train."""

    def tell(self, job: Job, epochs: float, value: float, is_last: bool) -> bool:
        """Take the validation accuracy after a look; return whether the fit goes on.

        A fit whose loss is no number ends with 0 as its last value.
        """


def search(tuner: Tuner, replay: Replay, seed: int) -> None:
    """Let a tuner search until the budget is spent, or it has nothing more to ask."""
    jobs: dict[int, Job] = {}
    try:
        while True:
            for worker in replay.idle:
                if (job := tuner.ask()) is None:
                    break
                jobs[worker] = job
                replay.begin(
                    worker,
                    job.configuration,
                    derive_seed(seed, TRIAL, job.trial),
                    job.begin,
                    job.end,
                )
            if (event := replay.next()) is None:
                return
            worker, look, is_last = event
            if look is None:
                tuner.tell(jobs[worker], jobs[worker].end, 0.0, is_last=True)
            elif tuner.tell(jobs[worker], look.epochs, look.val_accuracy, is_last) and not is_last:
                replay.go_on(worker)
            else:
                replay.stop(worker)
    except BudgetSpent:
        pass
