"""Train many fits, as many at once as there are workers."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from src.core.interrupt import Interruption
from src.training.fitted import Fitted
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Ended, Failed, Reported
from src.workers.worker import Load

_Key = TypeVar("_Key")


def train(
    specs: Mapping[_Key, FitSpec],
    load: Load,
    worker_count: int,
    interruption: Interruption | None = None,
) -> Iterator[tuple[_Key, Fitted]]:
    """Train in the order given; give each fit when it has ended.

    Args:
        specs: of the fits.
        load: gives a worker its images; to be pickled where workers are spawned.
        worker_count: fits at once.
        interruption: asked about once a second whether to stop.

    Raises:
        RuntimeError: one broke off with an error.
        Interrupted: the interruption says so.
    """
    interruption = interruption or Interruption()
    waiting = dict(specs)
    running: dict[int, _Key] = {}
    with LocalWorkers(worker_count, load) as workers:
        while waiting or running:
            for worker in workers.idle:
                if waiting:
                    running[worker] = key = next(iter(waiting))
                    workers.submit(worker, waiting.pop(key))
            for worker, message in workers.receive(timeout=1.0):
                if isinstance(message, Reported):
                    workers.answer(worker, "go on")
                elif isinstance(message, Failed):
                    raise RuntimeError(message.details or message.reason)
                elif isinstance(message, Ended):
                    yield running.pop(worker), message.fitted
            interruption.check()
