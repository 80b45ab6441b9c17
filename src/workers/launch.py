"""Launchers: how a search gets its workers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from src.core.affinity import release_cores
from src.core.interrupt import Interrupted, Interruption
from src.training.device import Compute, Device, Precision, choose_compute, choose_workers

if TYPE_CHECKING:  # an option's type is here, and --help needs no torch
    from src.data.split import TrainingData
    from src.training.spec import FitSpec
    from src.workers.messages import Message
    from src.workers.verdict import Verdict
    from src.workers.worker import Fit, Load

LauncherName = Literal["local", "ray"]


class Workers(Protocol):
    """What trains: processes, here or elsewhere. A worker that dies is replaced."""

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do, in a list of its own."""

    def submit(self, worker: int, spec: FitSpec) -> None:
        """Give an idle worker a trial to train."""

    def answer(self, worker: int, verdict: Verdict) -> None:
        """Tell a worker that has `Reported` what becomes of its trial."""

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what busy workers have said, waiting up to so many seconds for the first."""

    def replace(self, worker: int) -> None:
        """Give up a worker, whatever it is doing, and start another in its stead."""


@dataclass(frozen=True)
class Launcher:
    """Where the workers of a search will be."""

    compute: Compute
    worker_count: int
    """Workers that the user wants, or that there is room for."""
    start: Callable[[int], contextlib.AbstractContextManager[Workers]]
    """Starts so many workers."""


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What a user wants of the workers."""

    launcher: LauncherName
    workers: int | Literal["auto"]
    """Trials trained at once."""
    device: Device
    precision: Precision
    gpus_per_worker: float
    """Share of a GPU that a worker takes, with Ray on CUDA."""


@contextlib.contextmanager
def launching(
    spec: LaunchSpec,
    data: TrainingData,
    load: Load,
    interruption: Interruption,
    fit: Fit | None = None,
) -> Iterator[Launcher]:
    """Decide what is computed on, and by how many workers.

    Args:
        spec: what the user wants.
        data: images, on the CPU.
        load: loads the same images once more, to a GPU; a worker there has its own copy.
        interruption: asked whether to stop waiting for a cluster.
        fit: trains a configuration; None: `src.training.fit`.
    """
    from src.training.fit import fit as usual

    fit = fit or usual
    if spec.launcher == "local":
        from src.workers.local import LocalWorkers

        release_cores()  # before they are counted
        compute = choose_compute(spec.device, spec.precision, threads=1)
        if compute.device_type == "cpu":
            load = functools.partial(_same, data)
        count = choose_workers(spec.workers, compute)
        yield Launcher(compute, count, lambda count: LocalWorkers(count, load, fit))
        return
    from src.workers.ray_cluster import Cluster  # an extra, which others do without

    with Cluster(spec.gpus_per_worker) as cluster:
        compute = cluster.choose_compute(spec.device, spec.precision, interruption)
        count = cluster.choose_workers(spec.workers, compute)
        yield Launcher(
            compute, count, lambda count: cluster.workers(count, data, compute.device_type, fit)
        )


def _same(data: TrainingData, device: object) -> TrainingData:
    return data
