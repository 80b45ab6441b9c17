"""Launchers: how a search gets its workers."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from src.core.affinity import release_cores
from src.core.errors import UserError
from src.core.interrupt import Interrupted, Interruption
from src.data.split import TrainingData, load_training_data
from src.search.database import has_password
from src.training.device import Compute, Precision, choose_compute, choose_workers
from src.training.fit import fit
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Message
from src.workers.worker import Fit

if TYPE_CHECKING:
    from src.options import FinalsConfig, TuneConfig

LauncherName = Literal["local", "ray"]


class Workers(Protocol):
    """What trains: processes, here or elsewhere. A worker that dies is replaced."""

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do, in a list of its own."""

    def submit(self, worker: int, spec: FitSpec) -> None:
        """Give an idle worker a trial to train."""

    def answer(self, worker: int, *, stop: bool) -> None:
        """Tell a worker that has `Reported` whether its trial is to stop."""

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what busy workers have said, waiting up to so many seconds for the first."""

    def replace(self, worker: int) -> None:
        """Give up a worker, whatever it is doing, and start another in its stead."""


@dataclass(frozen=True)
class Launcher:
    """Where the workers will be."""

    compute: Compute
    number: int
    """Workers that the user wants, or that there is room for."""
    launch: Callable[[int], contextlib.AbstractContextManager[Workers]]
    """Starts so many workers."""


@contextlib.contextmanager
def launching(
    config: "TuneConfig | FinalsConfig",
    precision: Precision,
    data: TrainingData,
    interruption: Interruption,
    fit: Fit = fit,
) -> Iterator[Launcher]:
    """Decide what is computed on, and by how many workers, which train with `fit`."""
    if config.launcher == "local":
        release_cores()  # before they are counted
        compute = choose_compute(config.device, precision, threads=1)
        load = _loader(data, config.data_dir, compute)
        number = choose_workers(config.workers, compute)
        yield Launcher(compute, number, lambda number: LocalWorkers(number, load, compute, fit))
        return
    if config.storage is not None and has_password(config.storage.get_secret_value()):
        raise UserError(
            "`storage` must name no password with `--launcher ray`, as Ray shows the command line "
            "to all who see the cluster; put it in PGPASSWORD or ~/.pgpass"
        )
    from src.workers.ray_cluster import Cluster  # an extra, which others do without

    with Cluster(config.gpus_per_worker) as cluster:
        compute = cluster.choose_compute(config.device, precision, interruption)
        number = cluster.choose_workers(config.workers, compute)
        yield Launcher(compute, number, lambda number: cluster.workers(number, data, compute, fit))


def _loader(data: TrainingData, data_dir: str, compute: Compute) -> Callable[[], TrainingData]:
    """Return what gives a worker its images: these, or a copy of its own on its GPU."""
    if compute.device.type == "cpu":
        return functools.partial(_loaded, data)
    return functools.partial(load_training_data, data.spec, data_dir, compute.device)


def _loaded(data: TrainingData) -> TrainingData:
    return data
