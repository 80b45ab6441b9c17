"""Workers that replay curves: an event queue, a clock, and the best trial at every moment.

The clock counts images: each worker trains one in a unit of time, whatever the network. Images and
measured seconds are added up over all workers.
"""

import heapq
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from benchmarks.league.record import Curve, Look
from benchmarks.league.surrogate import Surrogate, is_near


@dataclass(frozen=True)
class Moment:
    """What a search had spent when it came upon a better trial."""

    clock: int
    """Images that a worker without a pause had trained."""
    images: int
    """Images that all workers had trained."""
    seconds: float
    """That training of finished looks had taken all workers, as the table measured it."""
    hidden_accuracy: float
    """Of the trial with the best validation accuracy so far, on images that no tuner sees."""


class BudgetSpent(Exception):  # noqa: N818  # no error
    """The images of a search's budget are trained."""


class _Fit:
    """What a worker is at: a curve, up to its end or to where it diverged."""

    def __init__(self, curve: Curve, begin: float, end: float, looks: Collection[float]) -> None:
        whole = range(1, math.ceil(end))
        goals = sorted({*looks, *whole, end})
        self._goals: list[float] = [
            goal for goal in goals if goal > begin and not is_near(goal, begin)
        ]
        self._looks = [_nearest(curve, goal) for goal in self._goals]
        self._last = _nearest(curve, begin)
        self._done = begin

    def epochs_to_look(self) -> float:
        """Return the epochs until the next look, or until it would have come."""
        return self._goals[0] - self._done

    def advance(self) -> tuple[Look | None, float]:
        """Return the next look, and the seconds until it; None: the fit diverges before."""
        self._done = self._goals.pop(0)
        look, before = self._looks.pop(0), self._last.seconds if self._last else 0.0
        self._last = look
        return look, 0.0 if look is None else look.seconds - before

    @property
    def is_over(self) -> bool:
        """Whether it has had its last look."""
        return not self._goals


def _nearest(curve: Curve, epochs: float) -> Look | None:
    return next((look for look in curve.looks if is_near(look.epochs, epochs)), None)


class Replay:
    """Workers without a computer.

    Args:
        surrogate: what fits of a configuration would have given.
        workers: how many fits go on at once.
        budget: images that all of them may train.
    """

    def __init__(self, surrogate: Surrogate, workers: int, budget: int) -> None:
        self.clock = 0
        """Images that a worker without a pause has trained."""
        self.images = 0
        """Images that all workers have trained."""
        self.seconds = 0.0
        self.moments: list[Moment] = []
        """Whenever the best trial changed."""
        self._surrogate = surrogate
        self._budget = budget
        self._idle = list(range(workers))
        self._fits: dict[int, _Fit] = {}
        self._due: list[tuple[int, int, int]] = []
        self._count = 0
        self._best = -1.0

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do."""
        return sorted(self._idle)

    def begin(
        self,
        worker: int,
        configuration: Mapping[str, float],
        seed: int,
        begin: float,
        end: float,
        looks: Collection[float] = (),
    ) -> None:
        """Let an idle worker train a configuration.

        Args:
            worker: which.
            configuration: what is searched, by name.
            seed: of the fit.
            begin: epochs that it was trained before, which cost nothing again.
            end: epochs that it is to be trained in all.
            looks: shares of the first epoch after which it reports, besides its end.

        Raises:
            NotApplicable: the table has no such look.
        """
        for epochs in (end, *looks):
            self._surrogate.check_look(epochs)
        self._idle.remove(worker)
        curve = self._surrogate.curve(configuration, seed)
        self._fits[worker] = _Fit(curve, begin, end, looks)
        self.go_on(worker)

    def go_on(self, worker: int) -> None:
        """Let a worker train until its next look."""
        images = round(self._fits[worker].epochs_to_look() * self._surrogate.images)
        self._count += 1
        heapq.heappush(self._due, (self.clock + images, self._count, worker))

    def stop(self, worker: int) -> None:
        """End the fit of a worker that has just reported."""
        del self._fits[worker]
        self._idle.append(worker)

    def next(self) -> tuple[int, Look | None, bool] | None:
        """Wait for the next event.

        Returns:
            Worker, its look, and whether it is the fit's last; without a look the fit has diverged,
            and its worker is idle. None: nobody trains.

        Raises:
            BudgetSpent: no more images may be trained.
        """
        if not self._due:
            return None
        due = self._due[0][0]
        spent = self.images + (due - self.clock) * len(self._due)
        if spent > self._budget:
            raise BudgetSpent
        self.clock, self.images = due, spent
        _, _, worker = heapq.heappop(self._due)
        fit = self._fits[worker]
        look, seconds = fit.advance()
        self.seconds += seconds
        if look is None:
            self.stop(worker)
        elif float(look.epochs).is_integer() and look.all_val_accuracy > self._best:
            assert look.hidden_accuracy is not None  # better than all before, its own fit's too
            self._best = look.all_val_accuracy
            self.moments.append(
                Moment(self.clock, self.images, round(self.seconds, 3), look.hidden_accuracy)
            )
        return worker, look, fit.is_over
