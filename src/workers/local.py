"""Worker processes on this machine.

The process of the search starts them. A worker computes in one thread: several trials side by
side get more out of the cores than one trial on all of them, and what a trial gives does not
depend on how many there are.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from src.core.errors import UserError
from src.core.files import warn_unwritten
from src.core.interrupt import Interrupted
from src.core.quiet import silence_libraries
from src.training.fit import fit
from src.training.spec import FitSpec
from src.workers.messages import Ended, Failed, Message, SearchGone, SearchProcess
from src.workers.verdict import Verdict
from src.workers.worker import Fit, Load, work

_PATIENCE = 1.0
"""Seconds between two checks that the process of the search still lives."""

_GRACE = 10.0
"""Seconds for a worker to leave when it has nothing to do; then it is killed."""


class LocalWorkers:
    """Worker processes on this machine; a context manager, at whose end none is left.

    Args:
        worker_count: how many.
        load: gives the images; called once in every worker, for its first trial.
        fit: trains a configuration; must be picklable where processes are spawned.
        start_method: how processes start, as `multiprocessing` names it; None: what suits the
            machine. Forked ones share the images' memory and start at once; where there is a GPU,
            they must be fresh ones.
    """

    def __init__(
        self,
        worker_count: int,
        load: Load,
        fit: Fit = fit,
        start_method: str | None = None,
    ) -> None:
        if start_method is None:
            # A process that has seen a GPU must not be forked.
            forkable = sys.platform == "linux" and not torch.cuda.is_available()
            start_method = "fork" if forkable else "spawn"
        self._context: Any = multiprocessing.get_context(start_method)
        self._worker_count = worker_count
        self._load = load
        self._fit = fit
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._busy: set[int] = set()

    def __enter__(self) -> "LocalWorkers":
        try:
            for _ in range(self._worker_count):
                connection, process = self._start_one()
                self._connections.append(connection)
                self._processes.append(process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_one(self) -> tuple[Connection, BaseProcess]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work,
            args=(theirs, os.getpid(), self._load, self._fit),
            daemon=True,
        )
        with warnings.catch_warnings(), _signals_held():
            # Python >= 3.12 warns of forking beside threads: NumPy's and the display's, which wait
            # for work, and know of forks.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            try:
                process.start()
            except OSError as error:
                ours.close()
                raise UserError(
                    f"a worker process cannot be started ({error.strerror}); take fewer `--workers`"
                ) from error
            finally:
                theirs.close()
        return ours, process

    def __exit__(self, *_: object) -> None:
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
        return [worker for worker in range(self._worker_count) if worker not in self._busy]

    def submit(self, worker: int, spec: FitSpec) -> None:
        """Give an idle worker a trial to train."""
        self._busy.add(worker)
        self._send(worker, spec)

    def answer(self, worker: int, verdict: Verdict) -> None:
        """Tell a worker that has `Reported` what becomes of its trial."""
        self._send(worker, verdict)

    def interrupt(self, reason: Interrupted) -> None:
        """Ask all workers to end their trials at once; each will still say `Ended`."""
        for worker in self._busy:
            self._send(worker, reason)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return the messages of busy workers, waiting up to `timeout` seconds for the first."""
        watched: dict[Any, int] = {self._connections[worker]: worker for worker in self._busy}
        watched |= {self._processes[worker].sentinel: worker for worker in self._busy}
        messages = []
        for worker in sorted({watched[ready] for ready in wait(list(watched), timeout)}):
            message = self._next_message(worker)
            if isinstance(message, Ended):
                self._busy.discard(worker)
                for unwritten in message.unwritten:
                    warn_unwritten(unwritten)
            elif isinstance(message, Failed):
                self.replace(worker)
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
            reason = f"its worker process ended ({how})"
            return Failed(cause=reason, reason=reason)
        return message

    def replace(self, worker: int) -> None:
        """Kill a worker, whatever it is doing, and start another in its place."""
        self._busy.discard(worker)
        self._processes[worker].kill()
        self._processes[worker].join()
        self._connections[worker].close()
        self._connections[worker], self._processes[worker] = self._start_one()

    def _send(self, worker: int, message: object) -> None:
        with contextlib.suppress(OSError):  # it died, which `receive` will say
            _send(self._connections[worker], message)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM for good in the processes that the block starts.

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


def _work(connection: Connection, parent: int, load: Load, fit: Fit) -> None:
    """Train for the process at the other end of the connection, as long as it lives."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    silence_libraries()
    gc.freeze()  # what is imported will not be looked at after every trial
    with contextlib.suppress(SearchGone):
        work(_Parent(connection, parent), functools.cache(load), fit)
    gc.unfreeze()


class _Parent(SearchProcess):
    """The process that started this one."""

    def __init__(self, connection: Connection, pid: int) -> None:
        super().__init__()
        self._connection = connection
        self._pid = pid

    def send(self, message: Message) -> None:
        try:
            _send(self._connection, message)
        except OSError as error:
            raise SearchGone from error

    def receive(self) -> Any:
        try:
            while not self._connection.poll(_PATIENCE):
                self._check_alive()
            return _receive(self._connection)
        except (EOFError, OSError) as error:
            raise SearchGone from error

    def has_spoken(self) -> bool:
        self._check_alive()
        try:
            return self._connection.poll()
        except OSError as error:
            raise SearchGone from error

    def _check_alive(self) -> None:
        # The connection does not tell: processes forked later hold its other end too.
        if os.getppid() != self._pid:
            raise SearchGone
