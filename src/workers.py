"""Processes that fit: each trains one configuration at a time and asks on after every epoch.

The process of the search starts them, and is the only one that knows the study; a worker knows a
`Job`, and says what comes of it. On CPU a worker computes in one thread: several trials side by
side get more out of the cores than one trial on all of them, and what a trial gives does not
depend on how many there are.
"""

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import lightning.pytorch as pl
import torch

from src.config import Hyperparameters
from src.curves import Curves
from src.data import TrainingData
from src.device import Compute
from src.fit import Fitted, fit
from src.interrupt import Interrupted, Interruption
from src.pruning import HyperbandCallback
from src.quiet import silence_libraries
from src.results import SELECTED_ON

_PROGRESS_INTERVAL = 0.2
"""Seconds between two messages about one fit's progress."""
_PATIENCE = 1.0
"""Seconds between two looks at whether the process of the search still lives."""
_GRACE = 10.0
"""Seconds for a worker to leave when it has nothing to do; then it is killed."""


@dataclass(frozen=True)
class Job:
    """A trial to train."""

    hyperparameters: Hyperparameters
    max_epochs: int
    """Epochs at most."""
    patience: int | None
    """Epochs without a better validation accuracy before stopping; None: never."""
    seed: int
    """All that is random follows from it."""
    curves: Curves | None
    """Where to write the curves while it trains, if they are wanted."""


@dataclass(frozen=True)
class Advanced:
    """A trial goes on."""

    epochs: float
    """Epochs trained so far, with the part of the current one."""


@dataclass(frozen=True)
class Reported:
    """A trial has ended an epoch, and waits for `Workers.answer`: whether to stop."""

    epoch: int
    """Counted from 1."""
    value: float
    """The best validation accuracy so far."""


@dataclass(frozen=True)
class Ended:
    """A trial's fit is over, one way or another."""

    fitted: Fitted
    pruned: bool
    """Whether it was told to stop."""


@dataclass(frozen=True)
class Failed:
    """A trial broke off with an error, or with its process."""

    reason: str
    """In one line."""
    details: str
    """The error's traceback, if there is one."""


Message = Advanced | Reported | Ended | Failed


class Workers:
    """A number of worker processes; a context manager, at whose end none is left.

    Args:
        number: how many.
        load: gives the images, on the device of `compute`; called once in every worker, for its
            first trial.
        compute: device and precision.
        start_method: how processes start, as `multiprocessing` names it; None: what suits the
            machine. Forked ones share the images' memory and start at once; where there is a GPU,
            they must be fresh ones.
    """

    def __init__(
        self,
        number: int,
        load: Callable[[], TrainingData],
        compute: Compute,
        start_method: str | None = None,
    ) -> None:
        if start_method is None:
            # A process that has seen a GPU must not be forked.
            forkable = sys.platform == "linux" and not torch.cuda.is_available()
            start_method = "fork" if forkable else "spawn"
        self._context: Any = multiprocessing.get_context(start_method)
        self._number = number
        self._load = load
        self._compute = compute
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._busy: set[int] = set()

    def __enter__(self) -> "Workers":
        try:
            with _signals_held():
                for _ in range(self._number):
                    self._start_one()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _start_one(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, os.getpid(), self._load, self._compute), daemon=True
        )
        with warnings.catch_warnings():
            # Python >= 3.12 warns of forking beside threads: NumPy's, which wait for work, and
            # know of forks.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            process.start()
        theirs.close()
        self._processes.append(process)
        self._connections.append(ours)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker, process in enumerate(self._processes):
            if worker in self._busy:
                process.kill()
            else:
                self._send(worker, None)
        deadline = time.monotonic() + _GRACE
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for connection in self._connections:
            connection.close()

    @property
    def idle(self) -> list[int]:
        """Workers that have nothing to do."""
        return [worker for worker in range(self._number) if worker not in self._busy]

    def submit(self, worker: int, job: Job) -> None:
        """Give an idle worker a trial to train."""
        self._busy.add(worker)
        self._send(worker, job)

    def answer(self, worker: int, *, stop: bool) -> None:
        """Tell a worker that has `Reported` whether its trial is to stop."""
        self._send(worker, stop)

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""
        for worker in self._busy:
            self._send(worker, reason)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what busy workers have said, waiting up to so many seconds for the first."""
        watched: dict[Any, int] = {self._connections[worker]: worker for worker in self._busy}
        watched |= {self._processes[worker].sentinel: worker for worker in self._busy}
        messages = []
        for worker in sorted({watched[ready] for ready in wait(list(watched), timeout)}):
            message = self._next_message(worker)
            if isinstance(message, Ended | Failed):
                self._busy.discard(worker)
            messages.append((worker, message))
        return messages

    def _next_message(self, worker: int) -> Message:
        try:
            message: Message = _receive(self._connections[worker])
        except (EOFError, OSError):  # it died
            process = self._processes[worker]
            process.join()
            code = process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return Failed(f"its worker process ended ({how})", "")
        return message

    def _send(self, worker: int, message: object) -> None:
        with contextlib.suppress(OSError):  # it died, which `receive` will say
            _send(self._connections[worker], message)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM from the processes that are started meanwhile, for good.

    A terminal sends Ctrl-C to all of them, and Lightning would answer either in its own way; it is
    for the process of the search, which gets them a little later, to say what happens.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection: Connection, message: object) -> None:
    # Plain pickle: torch.multiprocessing would pass tensors through shared memory, which the
    # receiver could only open while the sender lives.
    connection.send_bytes(pickle.dumps(message))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


# ---- in the worker


def _work(
    connection: Connection, parent: int, load: Callable[[], TrainingData], compute: Compute
) -> None:
    """Train what comes until nothing more does."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if compute.device.type == "cpu":
        torch.set_num_threads(1)
    silence_libraries()
    load = functools.cache(load)
    search = _SearchProcess(connection, parent)
    gc.freeze()  # what is imported will not be looked at after every trial
    with contextlib.suppress(_Orphaned):
        while (job := search.receive()) is not None:
            if isinstance(job, Job):  # anything else came too late for the trial before
                search.send(_train(job, load, compute, search))
                gc.collect()  # a fit is full of cycles, and on CUDA keeps its graph's memory
    gc.unfreeze()


def _train(
    job: Job, load: Callable[[], TrainingData], compute: Compute, search: "_SearchProcess"
) -> Ended | Failed:
    search.forget_interruption()
    hyperband = HyperbandCallback(
        _RemoteTrial(search),  # type: ignore[arg-type]  # has what the callback asks of a trial
        monitor=SELECTED_ON,
    )
    try:
        fitted = fit(
            job.hyperparameters,
            load(),
            max_epochs=job.max_epochs,
            patience=job.patience,
            seed=job.seed,
            compute=compute,
            interruption=_AskedToStop(search),
            curves=job.curves,
            callbacks=[_Progress(search), hyperband],
        )
    except _Orphaned:
        raise
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}", traceback.format_exc())
    if hyperband.pruned or fitted.interrupted:  # nobody will want its weights
        fitted = dataclasses.replace(fitted, weights=None)
    return Ended(fitted, hyperband.pruned)


class _Orphaned(Exception):  # noqa: N818  # no error of ours
    """The process of the search is gone: there is nobody to work for."""


class _SearchProcess:
    """The other end, as a worker sees it."""

    def __init__(self, connection: Connection, parent: int) -> None:
        self._connection = connection
        self._parent = parent
        self._interrupted: Interrupted | None = None

    def send(self, message: Message) -> None:
        try:
            _send(self._connection, message)
        except OSError as error:
            raise _Orphaned from error

    def receive(self) -> Any:
        try:
            while not self._connection.poll(_PATIENCE):
                self._check_alive()
            return _receive(self._connection)
        except (EOFError, OSError) as error:
            raise _Orphaned from error

    def ask(self, report: Reported) -> bool:
        """Report an epoch; return whether to stop."""
        self.send(report)
        while not isinstance(answer := self.receive(), bool):
            self._interrupted = answer
        return answer

    def interrupted(self) -> Interrupted | None:
        """Return why to end the trial, if it was asked for."""
        self._check_alive()
        try:
            if self._interrupted is None and self._connection.poll():
                self._interrupted = self.receive()
        except OSError as error:
            raise _Orphaned from error
        return self._interrupted

    def forget_interruption(self) -> None:
        """Begin another trial, for which nothing has been asked yet."""
        self._interrupted = None

    def _check_alive(self) -> None:
        # The connection does not tell: processes forked later hold its other end too.
        if os.getppid() != self._parent:
            raise _Orphaned


class _RemoteTrial:
    """Stands for the Optuna trial, which the process of the search has."""

    def __init__(self, search: _SearchProcess) -> None:
        self._search = search
        self._report: Reported

    def report(self, value: float, step: int) -> None:
        self._report = Reported(step, value)

    def should_prune(self) -> bool:
        return self._search.ask(self._report)


class _AskedToStop(Interruption):
    def __init__(self, search: _SearchProcess) -> None:
        self._search = search

    def pending(self) -> Interrupted | None:
        return self._search.interrupted()


class _Progress(pl.Callback):
    """Tells how far the trial is, now and then."""

    def __init__(self, search: _SearchProcess) -> None:
        self._search = search
        self._told = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if time.monotonic() - self._told >= _PROGRESS_INTERVAL:
            self._told = time.monotonic()
            part = (batch_idx + 1) / trainer.num_training_batches
            self._search.send(Advanced(trainer.current_epoch + part))
