"""What any tuner must beat: random search, and one epoch for all with the rest for the best."""

import numpy as np

from benchmarks.league.surrogate import SPACE
from benchmarks.league.tuners import Job
from src.core.seeding import SAMPLER, derive_seed


class RandomSearch:
    """Trains every configuration to the end.

    Args:
        seed: of what is drawn.
        max_epochs: of every fit.
    """

    def __init__(self, seed: int, max_epochs: int) -> None:
        self._generator = np.random.default_rng(derive_seed(seed, SAMPLER))
        self._max_epochs = max_epochs
        self._asked = 0

    def ask(self) -> Job | None:
        """Draw another configuration."""
        self._asked += 1
        return Job(self._asked - 1, _draw(self._generator), self._max_epochs)

    def tell(self, job: Job, epochs: float, value: float, is_last: bool) -> bool:
        """Go on."""
        return True


class OneEpoch:
    """Trains as many for one epoch as leaves images to train the best few of them to the end.

    Egele, Guyon, Sun, Balaprakash: "Is One Epoch All You Need For Multi-Fidelity Hyperparameter
    Optimization?", arXiv 2307.15422.

    Args:
        seed: of what is drawn.
        max_epochs: of the fits that go on.
        budget: epochs of all fits together.
        best: how many go on.
    """

    def __init__(self, seed: int, max_epochs: int, budget: float, best: int = 3) -> None:
        self._generator = np.random.default_rng(derive_seed(seed, SAMPLER))
        self._max_epochs = max_epochs
        self._first = max(best, int(budget - best * (max_epochs - 1)))
        self._best = best
        self._asked = 0
        self._running = 0
        self._ended: list[tuple[float, Job]] = []
        self._going_on: list[Job] | None = None

    def ask(self) -> Job | None:
        """Draw another configuration; when all have had an epoch, go on with the best."""
        if self._asked < self._first:
            self._asked += 1
            self._running += 1
            return Job(self._asked - 1, _draw(self._generator), 1)
        if self._running:
            return None
        if self._going_on is None:
            self._ended.sort(key=lambda ended: (-ended[0], ended[1].trial))
            self._going_on = [job for _, job in self._ended[: self._best]]
        if not self._going_on:
            return None
        job = self._going_on.pop(0)
        return Job(job.trial, job.configuration, self._max_epochs, begin=1)

    def tell(self, job: Job, epochs: float, value: float, is_last: bool) -> bool:
        """Keep the accuracy after the first epoch; go on."""
        if job.begin == 0:
            self._ended.append((value, job))
            self._running -= 1
        return True


def _draw(generator: np.random.Generator) -> dict[str, float]:
    return SPACE.configuration(SPACE.draw(1, generator)[0])
