"""What becomes of a search whose trials fail."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from src.core.interrupt import Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.search.timing import Timing
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Advanced, Ended, Failed, Message, Reported, SearchProcess
from src.workers.verdict import Verdict
from src.workers.worker import work
from tests.conftest import ENOUGH, Workplace, wait_until

SMALL = Hyperparameters(
    conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
)


SOON = Timing(pause=0.1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True)
class FailingFit:
    """Trains, or fails: always, for configurations with one `conv1`, or the first time."""

    error: Callable[[], object] | Exception
    """Raised, or what becomes of the worker before it trains."""
    conv1: int | None = None
    """Only configurations with this one fail."""
    failed: Path | None = None
    """Is made by the first failure, and prevents others."""

    def __call__(
        self,
        spec: FitSpec,
        data: TrainingData,
        interruption: Interruption,
        callbacks: Sequence[Callback],
    ) -> Fitted:
        if self._is_to_fail(spec.hyperparameters):
            if isinstance(self.error, Exception):
                raise self.error
            self.error()
        return fit(spec, data, interruption, callbacks)

    def _is_to_fail(self, hyperparameters: Hyperparameters) -> bool:
        if self.failed is not None:
            try:
                self.failed.touch(exist_ok=False)
            except FileExistsError:
                return False
        return self.conv1 in (None, hyperparameters.conv1)


class Script(SearchProcess):
    """A search that has one configuration trained and keeps what the worker says."""

    def __init__(self, spec: FitSpec, *verdicts: Verdict) -> None:
        super().__init__()
        self.said: list[Message] = []
        self._to_say = [spec, *verdicts, None]

    def send(self, message: Message) -> None:
        self.said.append(message)

    def receive(self) -> Any:
        return self._to_say.pop(0)

    def has_spoken(self) -> bool:
        return False


def failure(error: Exception) -> Failed:
    """Return what a worker says of a fit that raises the error."""
    script = Script(FitSpec(SMALL, max_epochs=1, patience=None, seed=0))
    load = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=50), "nowhere")
    work(script, load, FailingFit(error))
    (failed,) = script.said
    assert isinstance(failed, Failed)
    return failed


def said(spec: FitSpec, *verdicts: Verdict) -> list[Message]:
    """Return what a worker says of a fit, but for how far it is."""
    script = Script(spec, *verdicts)
    load = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=50), "nowhere")
    work(script, load)
    return [message for message in script.said if not isinstance(message, Advanced)]


def test_fit_that_diverges_reports_nothing_to_be_compared_with() -> None:
    wild = dataclasses.replace(SMALL, learning_rate=1e30)
    (ended,) = said(FitSpec(wild, max_epochs=3, patience=None, seed=0))
    assert isinstance(ended, Ended)
    assert ended.fitted.diverged is not None


def test_weights_of_a_fit_that_stops_early_are_kept_though_it_was_to_wait() -> None:
    """It does not go on, so that it may be the best of all."""
    still = dataclasses.replace(SMALL, learning_rate=1e-12)
    spec = FitSpec(still, max_epochs=9, patience=2, seed=0)
    *reports, ended = said(spec, "go on", "go on", "pause")
    assert len(reports) == 3
    assert isinstance(ended, Ended)
    assert ended.fitted.early_stopped
    assert ended.fitted.weights is not None
    *_, waits = said(spec, "go on", "pause")
    assert isinstance(waits, Ended)
    assert waits.fitted.weights is None


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_trains_with_the_function_it_is_given(start_method: str, tmp_path: Path) -> None:
    failing = FailingFit(ZeroDivisionError("on purpose"), failed=tmp_path / "failed")
    load = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=50), "nowhere")
    if start_method == "fork" and torch.cuda.is_available():
        pytest.skip("a process that has seen a GPU is not forked")
    with LocalWorkers(1, load, failing, start_method) as workers:
        workers.submit(0, FitSpec(SMALL, max_epochs=1, patience=None, seed=0))
        ((_, failed),) = workers.receive(ENOUGH)
    assert isinstance(failed, Failed)
    assert failed.reason == "ZeroDivisionError: on purpose"


def configurations(workplace: Workplace, state: str) -> list[tuple[str, ...]]:
    names = ("conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "bracket")
    rows = [row for row in workplace.rows() if row["state"] == state]
    return [tuple(row[name] for name in names) for row in rows]


def test_trial_that_fails_once_is_tried_again_in_its_place(
    workplace: Workplace, tmp_path: Path
) -> None:
    failing = FailingFit(ZeroDivisionError("on purpose"), failed=tmp_path / "failed")
    assert workplace.tune("--workers=1", fit=failing, timing=SOON) == 0
    rows = workplace.rows()
    assert [row["state"] for row in rows].count("FAIL") == 1
    assert len(rows) == 6
    assert rows[0]["reason"] == "ZeroDivisionError: on purpose"
    (failed,) = configurations(workplace, "FAIL")
    done = configurations(workplace, "COMPLETE") + configurations(workplace, "PRUNED")
    assert failed in done
    report = (workplace.results / "mnist_5k/last-failure.txt").read_text()
    assert "Traceback" in report
    assert "raise self.error" in report


@pytest.mark.long  # test_loop.py has it with workers that train nothing
def test_trial_that_always_fails_leaves_its_place_empty_until_the_next_run(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("CUDA error: out of memory")
    options = ("--workers=1", "--sampler=random", "--iterations=2")
    assert workplace.tune(*options) == 0
    big = max(int(row["conv1"]) for row in workplace.rows())
    assert len(workplace.rows()) == 10

    other = Workplace(workplace.folder / "other")
    assert other.tune(*options, fit=FailingFit(error, conv1=big), timing=SOON) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "places of the plan are empty" in err or "trials in a row failed" in err
    assert "out of memory: CUDA error: out of memory" in err
    failed = configurations(other, "FAIL")
    assert all(failed.count(one) <= 3 for one in failed)
    assert other.tune(*options) == 0
    numbers = ("val_accuracy", "conv1", "conv2", "dense_units", "learning_rate", "bracket")
    assert sorted(
        [row[name] for name in numbers] for row in other.rows() if row["state"] != "FAIL"
    ) == sorted([row[name] for name in numbers] for row in workplace.rows())


def test_failures_in_a_row_with_one_cause_stop_the_search(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = FailingFit(MemoryError("no more"))
    assert workplace.tune("--workers=1", fit=failing, timing=SOON) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "3 trials in a row failed with the same cause" in err
    assert "out of memory: no more" in err
    assert "last-failure.txt" in err
    assert [row["state"] for row in workplace.rows()] == ["FAIL"] * 3
    assert workplace.tune("--workers=1") == 0
    assert len([row for row in workplace.rows() if row["state"] != "FAIL"]) == 5


def hang() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


HOARD: list[bytearray] = []


def use_up_memory() -> None:
    """Let this process have not a byte more, nor what it has freed, until it is replaced."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1, hard))
    with contextlib.suppress(MemoryError):
        while True:
            HOARD.append(bytearray(2**16))


@linux
def test_worker_that_hangs_can_be_replaced(tmp_path: Path) -> None:
    hangs_once = FailingFit(hang, failed=tmp_path / "hung")
    load = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=50), "nowhere")
    with LocalWorkers(1, load, hangs_once) as workers:
        workers.submit(0, FitSpec(SMALL, max_epochs=1, patience=None, seed=0))
        (worker,) = multiprocessing.active_children()
        status = Path(f"/proc/{worker.pid}/status")
        wait_until(lambda: "State:\tT" in status.read_text())
        workers.replace(0)
        assert not status.exists()
        assert workers.idle == [0]
        workers.submit(0, FitSpec(SMALL, max_epochs=1, patience=None, seed=0))
        ((_, message),) = workers.receive(ENOUGH)
    assert isinstance(message, Reported | Advanced)


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\n2 MiB."), "out of memory", "CUDA out"),
        (MemoryError(), "out of memory", "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory", "CUDA error"),
        (RuntimeError("cuDNN: CUDNN_STATUS_ALLOC_FAILED"), "out of memory", "cuDNN"),
        (RuntimeError("something else"), "RuntimeError", "something else"),
        (OSError(28, "No space left on device"), "OSError", "No space left"),
    ],
)
def test_failures_that_one_thing_explains_have_one_cause(
    error: Exception, cause: str, reason: str
) -> None:
    failed = failure(error)
    assert failed.cause == cause
    assert reason in failed.reason
    assert "\n" not in failed.reason


def test_memory_that_the_allocator_does_not_get_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert failure(caught.value).cause == "out of memory"


@linux
def test_search_goes_on_when_a_worker_is_killed(workplace: Workplace, tmp_path: Path) -> None:
    dies_once = FailingFit(die, failed=tmp_path / "dead")
    assert workplace.tune("--workers=2", fit=dies_once, timing=SOON) == 0
    rows = workplace.rows()
    (failed,) = [row for row in rows if row["state"] == "FAIL"]
    assert failed["reason"] == "its worker process ended (killed by SIGKILL)"
    assert len([row for row in rows if row["state"] in ("COMPLETE", "PRUNED")]) == 5
    assert set(configurations(workplace, "FAIL")) <= {
        *configurations(workplace, "COMPLETE"),
        *configurations(workplace, "PRUNED"),
    }


@linux
def test_search_goes_on_when_memory_runs_out(workplace: Workplace, tmp_path: Path) -> None:
    # TensorBoard's writer waits for ever for its thread when there is no memory to start it.
    options = ("--workers=2", "--tensorboard=none")
    starved_once = FailingFit(use_up_memory, failed=tmp_path / "starved")
    assert workplace.tune(*options, fit=starved_once, timing=SOON) == 0
    rows = workplace.rows()
    (failed,) = [row["reason"] for row in rows if row["state"] == "FAIL"]
    # oneDNN does not say what it lacks to make its primitive.
    assert re.match("out of memory: |RuntimeError: could not create", failed)
    assert len([row for row in rows if row["state"] in ("COMPLETE", "PRUNED")]) == 5
