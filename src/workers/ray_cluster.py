"""Workers on a Ray cluster, spread over its nodes; --launcher ray.

    ray start --head                     # on one machine
    ray start --address HOST:6379        # on each other one
    python -m src.tune --launcher ray --config configs/quickstart.yaml

A node needs what the project depends on, but neither a checkout nor the data sets: it gets this
very code, and the images, from the process of the search. A trial whose node is lost fails, and is
tried again elsewhere; a node that joins takes workers that found no room before.
"""

import contextlib
import dataclasses
import functools
import gc
import logging
import os
import queue
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from src.core.errors import UserError
from src.core.files import warn_unwritten
from src.core.interrupt import Interrupted, Interruption
from src.core.quiet import silence_libraries
from src.data.files import Images
from src.data.split import TrainingData
from src.training.device import Compute, Device, Precision, choose_compute
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.spec import FitSpec
from src.training.tensorboard import write_run
from src.workers.messages import Ended, Failed, Message, SearchProcess
from src.workers.verdict import Verdict
from src.workers.worker import Fit, work

# Ray reads it when it is imported: drop what it would print into the display of a node's end.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")

try:
    import ray
    from ray.exceptions import RayError
except ImportError as missing:
    raise UserError(
        "`launcher` (=ray) needs Ray, which is not installed; pip install -e '.[ray]'"
    ) from missing

_POLL = 0.2
"""Seconds between two checks whether to stop waiting for the cluster."""

_PATIENCE = 10.0
"""Seconds for the cluster to take a connection."""

_TRIES = 3
"""Times in a row that a worker's process may end before it is ready."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a search tells nobody of itself
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # what is told to a lost worker fails, unheard
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that this will be the default
}


class Cluster:
    """The Ray cluster that RAY_ADDRESS names, or one that runs here, or else one of this machine
    alone; a context manager, within which this process is connected to it.

    Args:
        gpus_per_worker: the share of a GPU that a worker takes where the search computes on CUDA.

    Raises:
        UserError: on entering, if it cannot be reached.
    """

    def __init__(self, gpus_per_worker: float) -> None:
        self._gpus_per_worker = gpus_per_worker

    def __enter__(self) -> "Cluster":
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        address = os.environ.get("RAY_ADDRESS", "on this machine")
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            _reach(address)
            with _this_code() as folder:
                ray.init(
                    include_dashboard=False,
                    configure_logging=False,
                    log_to_driver=False,
                    runtime_env={"working_dir": folder},
                )
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the Ray cluster ({address}) cannot be reached: {reason}; start it with `ray "
                "start --head`, or set RAY_ADDRESS to its HOST:PORT, or unset it to do without"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, terminate)  # Ray would end this process in its own way
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def choose_compute(
        self, device: Device, precision: Precision, interruption: Interruption
    ) -> Compute:
        """Decide what `auto` means there: CUDA if a node has a GPU; the rest a node decides.

        Raises:
            UserError: no node has what is wanted, or none can do it.
            Interrupted: while the cluster was busy with something else.
        """
        if device == "auto":
            device = "cuda" if self._room("cuda") else "cpu"
        if not self._room(device):
            needs = "a CPU" if device == "cpu" else "a CPU and a GPU"
            raise UserError(
                f"`device` (={device}): no node of the Ray cluster has {needs} to give; "
                "add one with `ray start`"
            )
        task: Any = ray.remote(choose_compute).options(**self._share(device))
        chosen = task.remote(device, precision, threads=1)
        while not ray.wait([chosen], timeout=_POLL)[0]:
            interruption.check()
        try:
            compute: Compute = ray.get(chosen)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"the nodes of the Ray cluster cannot run this: {reason}") from error
        return compute

    def choose_workers(self, workers: int | Literal["auto"], compute: Compute) -> int:
        """Decide what `auto` means: as many as the nodes that are there hold."""
        return self._room(compute.device.type) if workers == "auto" else workers

    def workers(
        self, worker_count: int, data: TrainingData, device: Device, fit: Fit = fit
    ) -> "RayWorkers":
        """Return workers, to be started.

        Args:
            worker_count: how many.
            data: images, on CPU.
            device: what they will compute on.
            fit: trains a configuration.
        """
        return RayWorkers(worker_count, data, self._share(device), fit)

    def _share(self, device: str) -> dict[str, float]:
        """Return the resources that Ray is asked for per worker."""
        return {"num_cpus": 1, "num_gpus": self._gpus_per_worker if device == "cuda" else 0}

    def _room(self, device: str) -> int:
        """Return how many workers the nodes hold that are there, if nobody else uses them."""
        room = 0
        for node in ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                here = int(resources.get("CPU", 0))
                if device == "cuda":  # Ray counts GPUs in ten-thousandths; none is put together
                    workers_a_gpu = 10_000 // round(10_000 * self._gpus_per_worker)
                    here = min(here, int(resources.get("GPU", 0)) * workers_a_gpu)
                room += here
        return room


def _reach(address: str) -> None:
    """Check within seconds that the address accepts connections: Ray would try for 20 minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), _PATIENCE).close()


@contextlib.contextmanager
def _this_code() -> Iterator[str]:
    """Copy this package, and nothing else, to a folder for the nodes to work in.

    As Ray's `py_modules` it would come behind a checkout that a node happens to have.
    """
    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, Path(folder) / package.name, ignore=unwanted)
        yield folder


class RayWorkers:
    """Workers on a Ray cluster; a context manager, at whose end none is left.

    One that is lost is replaced. A worker that finds no room, at first or later, waits for it, and
    is not `idle` before.

    Args:
        worker_count: how many.
        data: images, on CPU; each node gets them once.
        share: what each takes of its node, as Ray's options.
        fit: trains a configuration.
    """

    def __init__(
        self,
        worker_count: int,
        data: TrainingData,
        share: dict[str, float],
        fit: Fit = fit,
    ) -> None:
        self._worker_count = worker_count
        self._data = data
        self._fit = fit
        options: dict[str, Any] = {
            **share,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"hear": 1, "tell": 1},
        }
        self._new_actor: Any = ray.remote(**options)(_Worker)
        self._images: Any = None
        self._actors: list[Any] = []
        self._hearing: list[Any] = []
        """Each worker's next message, as a Ray object reference."""
        self._ready: dict[int, _Ready] = {}
        self._specs: dict[int, FitSpec] = {}
        self._lost_unready = [0] * worker_count

    def __enter__(self) -> "RayWorkers":
        self._images = ray.put(_to_arrays(self._data))
        for _ in range(self._worker_count):
            self._actors.append(None)
            self._hearing.append(None)
            self._start(len(self._actors) - 1)
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._images = None

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do."""
        return sorted(self._ready.keys() - self._specs.keys())

    def submit(self, worker: int, spec: FitSpec) -> None:
        """Give an idle worker a trial to train."""
        self._specs[worker] = spec
        # TensorBoard's folder is here: `receive` writes the curves when the trial ends.
        state = spec.state and spec.state.absolute()
        self._tell(worker, dataclasses.replace(spec, tensorboard=None, state=state))

    def answer(self, worker: int, verdict: Verdict) -> None:
        """Tell a worker that has `Reported` what becomes of its trial."""
        self._tell(worker, verdict)

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""
        for worker in self._specs:
            self._tell(worker, reason)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return the messages of busy workers, waiting up to `timeout` seconds for the first.

        Raises:
            UserError: a worker does not start, however often it is tried.
        """
        if not self._hearing:
            time.sleep(timeout)
            return []
        if ray.wait(self._hearing, timeout=timeout)[0]:
            ready, _ = ray.wait(self._hearing, num_returns=self._worker_count, timeout=0)
            said = [(worker, self._next(worker)) for worker in map(self._hearing.index, ready)]
            return [(worker, message) for worker, message in said if message is not None]
        return []

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._new_actor.remote(self._images, self._fit)
        self._hearing[worker] = self._actors[worker].hear.remote()

    def _tell(self, worker: int, message: object) -> None:
        self._actors[worker].tell.remote(message)  # if it was lost, `receive` will say so

    def _next(self, worker: int) -> Message | None:
        """Return a worker's message, unless it is of no interest to the search."""
        try:
            message: Message | _Ready = ray.get(self._hearing[worker])
        except RayError as error:
            return self._lose(worker, error)
        self._hearing[worker] = self._actors[worker].hear.remote()
        if isinstance(message, _Ready):
            self._ready[worker] = message
            self._lost_unready[worker] = 0
            return None
        if isinstance(message, Ended | Failed):
            spec = self._specs.pop(worker)
            if isinstance(message, Ended):
                _write_run(spec, message.fitted)
                for unwritten in message.unwritten:
                    warn_unwritten(unwritten)
            else:
                self.replace(worker)
        return message

    def _lose(self, worker: int, error: RayError) -> Failed | None:
        """Replace a lost worker; return the failure of its trial, if it had one."""
        ready = self._ready.get(worker)
        if ready is None:
            self._lost_unready[worker] += 1
            if self._lost_unready[worker] >= _TRIES:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"workers do not start on the Ray cluster: {reason}") from error
        had_trial = worker in self._specs
        self.replace(worker)
        if not had_trial:
            return None
        cause = "its worker was lost"
        where = f" on {ready.node}" if ready else ""
        return Failed(cause, f"{cause} ({type(error).__name__}{where})", str(error))

    def replace(self, worker: int) -> None:
        """Kill a worker, whatever it is doing, and start another in its place."""
        self._ready.pop(worker, None)
        self._specs.pop(worker, None)
        ray.kill(self._actors[worker])  # it may only be out of reach
        self._start(worker)


def _write_run(spec: FitSpec, fitted: Fitted) -> None:
    run, best = spec.tensorboard, fitted.best
    if run is not None and best is not None and fitted.interrupted is None:
        write_run(run, spec.hyperparameters, fitted.history, best.val_accuracy)


# ---- images in Ray's store, which keeps arrays once a node and shows them to all that are there


def _to_arrays(data: TrainingData) -> dict[str, Any]:
    return vars(data) | {
        name: (images.pixels.numpy(), images.labels.numpy())
        for name, images in (("train", data.train), ("validation", data.validation))
    }


def _to_data(arrays: dict[str, Any], device: torch.device) -> TrainingData:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor written to
        images = {
            name: Images(*map(torch.from_numpy, arrays[name])).to(device)
            for name in ("train", "validation")
        }
    return TrainingData(**(arrays | images))


# ---- in the worker


@dataclass(frozen=True)
class _Ready:
    """A worker has started, and can be given a trial."""

    node: str
    """Its node's address."""


class _Worker:
    """An actor: trains in a thread of its own, while the search hears it and tells it things."""

    def __init__(self, images: dict[str, Any], fit: Fit) -> None:
        self._search = _Queues()
        threading.Thread(target=self._work, args=(images, fit), daemon=True).start()

    def _work(self, images: dict[str, Any], fit: Fit) -> None:
        try:
            self._work_on(images, fit)
        finally:
            # Whatever ends the thread ends the worker, when its last words are heard.
            time.sleep(_PATIENCE)
            os._exit(1)

    def _work_on(self, images: dict[str, Any], fit: Fit) -> None:
        torch.set_num_threads(1)
        silence_libraries()
        gc.freeze()  # what is imported will not be looked at after every trial
        self._search.said.put(_Ready(ray.util.get_node_ip_address()))
        load = functools.partial(_to_data, images)
        work(self._search, functools.cache(load), fit)

    @ray.method(concurrency_group="hear")
    def hear(self) -> Message | _Ready:
        """Wait for the worker's next message."""
        return self._search.said.get()

    @ray.method(concurrency_group="tell")
    def tell(self, message: object) -> None:
        """Send the worker a message."""
        if isinstance(message, FitSpec) and message.state and not message.state.parents[1].is_dir():
            # This node does not see the results folder: a fit keeps its state there or nowhere.
            message = dataclasses.replace(message, state=None)
        self._search.told.put(message)


class _Queues(SearchProcess):
    """The process of the search, behind Ray, which ends this one when that is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.said: queue.SimpleQueue[Message | _Ready] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, message: Message) -> None:
        self.said.put(message)

    def receive(self) -> Any:
        return self.told.get()

    def has_spoken(self) -> bool:
        return not self.told.empty()
