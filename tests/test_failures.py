"""What becomes of a search whose trials fail."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import src.search.loop
import src.workers.worker
from src.search.loop import FailureStreak
from src.training.fit import Fitted, fit
from src.training.hyperparameters import Hyperparameters
from src.workers.worker import _describe
from tests.conftest import REPOSITORY, Workplace, children


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(src.search.loop, "_PAUSE", 0.1)


# Only forked workers see what a test replaces, and where there is a GPU they are fresh ones.
needs_fork = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def failing(when: Callable[[Hyperparameters], bool], error: Exception) -> Callable[..., Fitted]:
    """Return a fit that raises for some configurations."""

    def fit_or_fail(hyperparameters: Hyperparameters, *arguments: Any, **options: Any) -> Fitted:
        if when(hyperparameters):
            raise error
        return fit(hyperparameters, *arguments, **options)

    return fit_or_fail


def configurations(workplace: Workplace, state: str) -> list[tuple[str, ...]]:
    names = ("conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "bracket")
    rows = [row for row in workplace.rows() if row["state"] == state]
    return [tuple(row[name] for name in names) for row in rows]


@needs_fork
def test_trial_that_fails_once_is_tried_again_in_its_place(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_time(_: Hyperparameters) -> bool:
        try:
            (tmp_path / "failed").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    monkeypatch.setattr(
        src.workers.worker, "fit", failing(first_time, ZeroDivisionError("on purpose"))
    )
    assert workplace.tune("--workers=1") == 0
    rows = workplace.rows()
    assert [row["state"] for row in rows].count("FAIL") == 1
    assert len(rows) == 6
    assert rows[0]["reason"] == "ZeroDivisionError: on purpose"
    (failed,) = configurations(workplace, "FAIL")
    done = configurations(workplace, "COMPLETE") + configurations(workplace, "PRUNED")
    assert failed in done
    report = (workplace.results / "mnist_5k/last-failure.txt").read_text()
    assert "in fit_or_fail" in report  # the traceback


@needs_fork
def test_trial_that_always_fails_leaves_its_place_empty_until_the_next_run(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("CUDA error: out of memory")
    options = ("--workers=1", "--sampler=random", "--iterations=2")
    assert workplace.tune("--timeout=0.1s", *options) == 0  # which it is, a configuration says
    assert workplace.tune(*options) == 0
    big = max(int(row["conv1"]) for row in workplace.rows())
    assert len(workplace.rows()) == 10

    other = Workplace(workplace.folder / "other")
    monkeypatch.setattr(src.workers.worker, "fit", failing(lambda hp: hp.conv1 == big, error))
    assert other.tune(*options) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "places of the plan are empty" in err or "trials in a row failed" in err
    assert "out of memory: CUDA error: out of memory" in err
    failed = configurations(other, "FAIL")
    assert all(failed.count(one) <= 3 for one in failed)
    monkeypatch.undo()
    assert other.tune(*options) == 0
    numbers = ("val_accuracy", "conv1", "conv2", "dense_units", "learning_rate", "bracket")
    assert sorted(
        [row[name] for name in numbers] for row in other.rows() if row["state"] != "FAIL"
    ) == sorted([row[name] for name in numbers] for row in workplace.rows())


@needs_fork
def test_failures_in_a_row_with_one_cause_stop_the_search(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(src.workers.worker, "fit", failing(lambda _: True, MemoryError("no more")))
    assert workplace.tune("--workers=1") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "3 trials in a row failed with the same cause" in err
    assert "out of memory: no more" in err
    assert "last-failure.txt" in err
    assert [row["state"] for row in workplace.rows()] == ["FAIL"] * 3
    monkeypatch.undo()
    assert workplace.tune("--workers=1") == 0
    assert len([row for row in workplace.rows() if row["state"] != "FAIL"]) == 5


@needs_fork
def test_worker_that_hangs_is_given_up(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_time(_: Hyperparameters) -> bool:
        if not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return False

    monkeypatch.setattr(src.workers.worker, "fit", failing(first_time, ZeroDivisionError()))
    monkeypatch.setattr(src.search.loop, "_SILENCE", 3.0)
    assert workplace.tune("--workers=1") == 0
    rows = workplace.rows()
    assert [row["reason"] for row in rows if row["state"] == "FAIL"] == [
        "its worker was silent for 3 seconds"
    ]
    assert len(rows) == 6


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
    failed = _describe(error)
    assert failed.cause == cause
    assert reason in failed.reason
    assert "\n" not in failed.reason


def test_memory_that_the_allocator_does_not_get_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert _describe(caught.value).cause == "out of memory"


def test_failures_at_once_count_as_one() -> None:
    streak = FailureStreak()
    began = time.monotonic()
    for _ in range(16):  # a node with sixteen workers is lost
        streak.add("its worker was lost", began)
    assert streak.length == 1
    streak.add("its worker was lost", time.monotonic())
    assert streak.length == 2
    streak.add("out of memory", time.monotonic())
    assert streak.length == 1
    streak.add("out of memory", time.monotonic())
    streak.end()
    streak.add("out of memory", time.monotonic())
    assert streak.length == 1


def start(
    workplace: Workplace, environment: dict[str, str], *options: str
) -> subprocess.Popen[str]:
    """Start a search with two workers, and wait until its first trial has ended."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "src.tune"),
            *workplace.options("--limit=1000", "--workers=2", *options),
        ],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " trial " in line and " bracket " in line:
            return process
    raise AssertionError("no trial ended")


@linux
def test_search_goes_on_when_a_worker_is_killed(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    process = start(workplace, environment)
    killed = children(process.pid)[0]
    os.kill(killed, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = workplace.rows()
    (failed,) = [row for row in rows if row["state"] == "FAIL"]
    assert failed["reason"] == "its worker process ended (killed by SIGKILL)"
    assert len([row for row in rows if row["state"] in ("COMPLETE", "PRUNED")]) == 5
    assert set(configurations(workplace, "FAIL")) <= {
        *configurations(workplace, "COMPLETE"),
        *configurations(workplace, "PRUNED"),
    }


@linux
def test_search_goes_on_when_memory_runs_out(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    # TensorBoard's writer waits for ever for its thread when there is no memory to start it.
    process = start(workplace, environment, "--tensorboard=none")
    worker = children(process.pid)[0]
    _, hard = resource.prlimit(worker, resource.RLIMIT_AS)
    resource.prlimit(worker, resource.RLIMIT_AS, (1, hard))  # not a byte more, until it is replaced
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = workplace.rows()
    failed = [row["reason"] for row in rows if row["state"] == "FAIL"]
    # oneDNN does not say what it lacks to make its primitive.
    assert failed
    assert all(re.match("out of memory: |RuntimeError: could not create", why) for why in failed)
    assert len([row for row in rows if row["state"] in ("COMPLETE", "PRUNED")]) == 5
