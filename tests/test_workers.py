import functools
import os
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.training.device import PLAIN_CPU
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Advanced, Ended, Failed, Message, Reported
from tests.conftest import Rows, Workplace, children, start_search, wait_until

LOAD = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=300), "nowhere")
SPEC = FitSpec(
    hyperparameters=Hyperparameters(
        conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
    ),
    max_epochs=3,
    patience=None,
    seed=5,
)


def next_message(workers: LocalWorkers, deadline: float = 60.0) -> Message:
    """Return what a worker says next, but for its progress."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        for _, message in workers.receive(0.2):
            if not isinstance(message, Advanced):
                return message
    raise AssertionError("the workers say nothing")


# Forked ones would not do where there is a GPU, and fresh ones do not see what a test replaces.
needs_fork = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def train(start_method: str | None) -> Fitted:
    with LocalWorkers(1, LOAD, PLAIN_CPU, start_method=start_method) as workers:
        workers.submit(0, SPEC)
        for epoch in (1, 2, 3):
            report = next_message(workers)
            assert isinstance(report, Reported)
            assert report.epoch == epoch
            workers.answer(0, stop=False)
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert not ended.pruned
        assert workers.idle == [0]
    return ended.fitted


@pytest.fixture(scope="module")
def in_this_process() -> Fitted:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(SPEC, LOAD(), PLAIN_CPU, Interruption())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("start_method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_worker_gives_what_the_same_fit_gives_here(
    start_method: str, in_this_process: Fitted
) -> None:
    fitted = train(start_method)
    assert fitted.history == in_this_process.history
    assert fitted.weights is not None
    assert in_this_process.weights is not None
    for name, weight in in_this_process.weights.items():
        assert torch.equal(fitted.weights[name], weight)


def test_trial_that_is_told_to_stop_does() -> None:
    with LocalWorkers(1, LOAD, PLAIN_CPU) as workers:
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)
        workers.answer(0, stop=True)
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.pruned
        assert len(ended.fitted.history) == 1


def test_interrupted_worker_ends_in_the_middle_and_says_why() -> None:
    long = replace(SPEC, max_epochs=10_000)
    with LocalWorkers(1, LOAD, PLAIN_CPU) as workers:
        workers.submit(0, long)
        assert isinstance(next_message(workers), Reported)
        workers.interrupt(Interrupted("enough", 7))
        workers.answer(0, stop=False)
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.fitted.interrupted is not None
        assert ended.fitted.interrupted.reason == "enough"
        workers.submit(0, SPEC)  # another trial is another matter
        report = next_message(workers)
        assert isinstance(report, Reported)
        assert report.epoch == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_workers_alone(number: signal.Signals) -> None:
    with LocalWorkers(1, LOAD, PLAIN_CPU) as workers:
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)
        pid = workers._processes[0].pid
        assert pid is not None
        os.kill(pid, number)
        for epoch in (2, 3):
            workers.answer(0, stop=False)
            report = next_message(workers)
            assert isinstance(report, Reported)
            assert report.epoch == epoch
        workers.answer(0, stop=False)
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.fitted.interrupted is None


def test_workers_that_cannot_all_be_started_leave_none() -> None:
    class Refusing(LocalWorkers):
        def _start_one(self) -> tuple[Connection, BaseProcess]:
            if self._processes:
                raise OSError("no more processes")
            return super()._start_one()

    workers = Refusing(2, LOAD, PLAIN_CPU)
    with pytest.raises(OSError, match="no more processes"), workers:
        pass
    assert not workers._processes[0].is_alive()


def test_images_that_cannot_be_loaded_fail_the_trial() -> None:
    missing = functools.partial(load_training_data, DataSpec(dataset="mnist"), "/nowhere/at/all")
    with LocalWorkers(1, missing, PLAIN_CPU) as workers:
        workers.submit(0, SPEC)
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert "/nowhere/at/all" in message.reason


def test_worker_whose_trial_failed_is_replaced_by_a_fresh_one() -> None:
    impossible = replace(SPEC, max_epochs="many")  # type: ignore[arg-type]
    with LocalWorkers(1, LOAD, PLAIN_CPU) as workers:
        before = workers._processes[0].pid
        workers.submit(0, impossible)
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert message.details.startswith("Traceback")
        assert workers._processes[0].pid != before
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)


def test_spawned_workers_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    train("spawn")
    out, err = capfd.readouterr()
    assert out + err == ""


def test_worker_that_is_killed_is_a_failure_that_says_so_and_is_replaced() -> None:
    with LocalWorkers(2, LOAD, PLAIN_CPU) as workers:
        workers.submit(1, SPEC)
        assert isinstance(next_message(workers), Reported)
        workers._processes[1].kill()
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert "killed by SIGKILL" in message.reason
        assert workers.idle == [0, 1]
        workers.submit(1, SPEC)
        assert isinstance(next_message(workers), Reported)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_search_leave_and_the_next_search_can_begin(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    process = start_search(workplace, environment, "--max_epochs=81", "--limit=4000", "--workers=2")
    wait_until(lambda: workplace.states().count(TrialState.RUNNING) == 2)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert workplace.tune("--max_epochs=81", "--limit=4000", "--timeout=1s") == 0  # no lock left
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_results_do_not_depend_on_how_many_workers_there_are(tmp_path: Path) -> None:
    def results(workers: int) -> Rows:
        workplace = Workplace(tmp_path / str(workers))
        # No rungs and no learning sampler: what remains is the training itself.
        options = ("--sampler=random", "--iterations=4", "--batch_sizes=[16,64]")
        assert workplace.tune(*options, f"--workers={workers}", max_epochs=2) == 0
        rows = workplace.rows()
        for row in rows:
            del row["seconds"]
        return sorted(rows, key=str)

    one = results(1)
    assert len(one) == 8
    assert len({row["val_accuracy"] for row in one}) > 1
    assert results(2) == results(4) == one


@pytest.mark.parametrize("level", ["best", "none"])
def test_curves_are_kept_of_those_asked_for_and_results_of_all(
    level: str, workplace: Workplace
) -> None:
    assert workplace.tune(f"--tensorboard={level}", "--workers=1") == 0
    rows = [row for row in workplace.rows() if row["state"] == "COMPLETE"]
    expected, best = [], -1.0
    for row in rows:
        if float(row["val_accuracy"]) > best:
            best = float(row["val_accuracy"])
            expected.append(f"trial_{int(row['trial']):04d}")
    runs = {path.parent for path in workplace.logs.rglob("batch_*/*/events*")}
    with_curves = set()
    for run in runs:
        shown = EventAccumulator(str(run)).Reload()
        assert "_hparams_/session_start_info" in shown.PluginTagToContent("hparams")
        if "accuracy/validation" in shown.Tags()["scalars"]:
            with_curves.add(run.name)
    assert len(runs) == (len(workplace.rows()) if level == "best" else 0)
    assert with_curves == (set(expected) if level == "best" else set())


@needs_fork
def test_data_is_loaded_once_a_worker(tmp_path: Path) -> None:
    count = tmp_path / "loaded"

    def load() -> TrainingData:
        with count.open("a") as file:
            file.write("x")
        return LOAD()

    with LocalWorkers(1, load, PLAIN_CPU, start_method="fork") as workers:
        for _ in range(2):
            workers.submit(0, SPEC)
            assert isinstance(next_message(workers), Reported)
            workers.answer(0, stop=True)
            assert isinstance(next_message(workers), Ended)
    assert count.read_text() == "x"
