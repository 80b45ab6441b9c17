"""Workers that replay curves: an event queue, a clock, and the best trial at every moment.

The clock counts images, of which each worker trains one in a unit of time, whatever the network; or
the seconds that the table measured. Images and seconds are added up over all workers beside it.
"""

import heapq
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.league.record import Curve, Look
from benchmarks.league.surrogate import Surrogate, is_near

Clock = Literal["images", "seconds"]
"""What passes while a worker trains."""


@dataclass(frozen=True)
class Moment:
    """What a search had spent when it came upon a better trial."""

    clock: float
    """Images, or seconds, that a worker without a pause had trained."""
    images: float
    """That all workers had trained."""
    seconds: float
    """That all finished looks had taken, as the table measured them."""
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
        self._looks = [_look_after(curve, goal) for goal in self._goals]
        self._last = _look_after(curve, begin)
        self._done = begin

    def next_stretch(self) -> tuple[float, float]:
        """Return the epochs and seconds until the next look, or until it would have come."""
        look, before = self._looks[0], self._last.seconds if self._last else 0.0
        return self._goals[0] - self._done, 0.0 if look is None else look.seconds - before

    def advance(self) -> Look | None:
        """Return the next look; None: the fit diverges before."""
        self._done, self._last = self._goals.pop(0), self._looks.pop(0)
        return self._last

    @property
    def is_over(self) -> bool:
        """Whether it has had its last look."""
        return not self._goals


def _look_after(curve: Curve, epochs: float) -> Look | None:
    return next((look for look in curve.looks if is_near(look.epochs, epochs)), None)


@dataclass(frozen=True, order=True)
class _Stretch:
    """What a worker trains between two looks."""

    due: float
    """When it ends."""
    order: int
    """Of two that end at once, the one that began first is first."""
    begun: float
    images: int
    seconds: float
    worker: int

    def images_by(self, clock: float) -> float:
        """Return the images trained by then."""
        if clock >= self.due:
            return self.images
        return self.images * (clock - self.begun) / (self.due - self.begun)


class Replay:
    """Workers without a computer.

    Args:
        surrogate: what fits of a configuration would have given.
        workers: how many fits go on at once.
        budget: images that all of them may train.
        unit: what the clock counts.
    """

    def __init__(
        self, surrogate: Surrogate, workers: int, budget: int, unit: Clock = "images"
    ) -> None:
        self.clock = 0.0
        """Images, or seconds, that a worker without a pause has trained."""
        self.images = 0.0
        """That all workers have trained."""
        self.seconds = 0.0
        """That all finished looks have taken."""
        self.busy = 0.0
        """Of the clock's units, those in which workers have trained, added up over them."""
        self.moments: list[Moment] = []
        """Whenever the best trial changed."""
        self.best_val_accuracy = -1.0
        """Of the best trial so far."""
        self.surrogate = surrogate
        self.workers = workers
        self.budget = budget
        self.unit = unit
        self._idle = list(range(workers))
        self._fits: dict[int, _Fit] = {}
        self._training: list[_Stretch] = []
        self._begun = 0
        self._finished = 0

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
            self.surrogate.check_look(epochs)
        self._idle.remove(worker)
        curve = self.surrogate.curve(configuration, seed)
        self._fits[worker] = _Fit(curve, begin, end, looks)
        self.go_on(worker)

    def go_on(self, worker: int) -> None:
        """Let a worker train until its next look."""
        epochs, seconds = self._fits[worker].next_stretch()
        images = round(epochs * self.surrogate.images)
        due = self.clock + (images if self.unit == "images" else seconds)
        self._begun += 1
        stretch = _Stretch(due, self._begun, self.clock, images, seconds, worker)
        heapq.heappush(self._training, stretch)

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
        if not self._training:
            return None
        clock = self._training[0].due
        images = self._finished + sum(stretch.images_by(clock) for stretch in self._training)
        if images > self.budget:
            raise BudgetSpent
        self.busy += (clock - self.clock) * len(self._training)
        self.clock, self.images = clock, images
        stretch = heapq.heappop(self._training)
        worker = stretch.worker
        self._finished += stretch.images
        self.seconds += stretch.seconds
        fit = self._fits[worker]
        look = fit.advance()
        if look is None:
            self.stop(worker)
        elif look.is_whole and look.val_accuracy > self.best_val_accuracy:
            assert look.hidden_accuracy is not None  # better than all before, its own fit's too
            self.best_val_accuracy = look.val_accuracy
            self.moments.append(
                Moment(self.clock, self.images, round(self.seconds, 3), look.hidden_accuracy)
            )
        return worker, look, fit.is_over
