import errno
import functools
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
import werkzeug.test
from lightning.pytorch import Callback
from optuna.trial import TrialState
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext

from src.core.errors import UserError
from src.core.interrupt import Interrupted, Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import RECIPE, Hyperparameters
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Advanced, Ended, Failed, Message, Reported
from tests.conftest import (
    ENOUGH,
    Rows,
    Workplace,
    children,
    start_python,
    start_search,
    wait_until,
)

LOAD = functools.partial(load_training_data, DataSpec(dataset="mnist_5k", limit=300), "nowhere")
SPEC = FitSpec(
    hyperparameters=Hyperparameters(
        conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
    ),
    max_epochs=3,
    patience=None,
    seed=5,
)


def next_message(workers: LocalWorkers) -> Message:
    """Return what a worker says next, but for its progress."""
    end = time.monotonic() + ENOUGH
    while time.monotonic() < end:
        for _, message in workers.receive(0.2):
            if not isinstance(message, Advanced):
                return message
    raise AssertionError("the workers say nothing")


# Forked ones would not do where there is a GPU, and fresh ones do not see what a test replaces.
needs_fork = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def train(start_method: str | None) -> Fitted:
    with LocalWorkers(1, LOAD, start_method=start_method) as workers:
        workers.submit(0, SPEC)
        for epoch in (1, 2, 3):
            report = next_message(workers)
            assert isinstance(report, Reported)
            assert report.epoch == epoch
            workers.answer(0, "go on")
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.verdict == "go on"
        assert workers.idle == [0]
    return ended.fitted


@pytest.fixture(scope="module")
def in_this_process() -> Fitted:
    return fit(SPEC, LOAD("cpu"), Interruption())


@pytest.mark.parametrize(
    "start_method",
    [pytest.param("fork", marks=needs_fork), pytest.param("spawn", marks=pytest.mark.long)],
)
def test_worker_gives_what_the_same_fit_gives_here_and_says_nothing(
    start_method: str, in_this_process: Fitted, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    fitted = train(start_method)
    assert capfd.readouterr() == ("", "")
    assert fitted.history == in_this_process.history
    assert fitted.weights is not None
    assert in_this_process.weights is not None
    for name, weight in in_this_process.weights.items():
        assert torch.equal(fitted.weights[name], weight)


def test_trial_that_is_told_to_stop_does() -> None:
    with LocalWorkers(1, LOAD) as workers:
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)
        workers.answer(0, "stop")
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.verdict == "stop"
        assert len(ended.fitted.history) == 1


def test_interrupted_worker_ends_in_the_middle_and_says_why() -> None:
    long = replace(SPEC, max_epochs=10_000)
    with LocalWorkers(1, LOAD) as workers:
        workers.submit(0, long)
        assert isinstance(next_message(workers), Reported)
        workers.interrupt(Interrupted("enough", 7))
        workers.answer(0, "go on")
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
    with LocalWorkers(1, LOAD) as workers:
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, number)
        for epoch in (2, 3):
            workers.answer(0, "go on")
            report = next_message(workers)
            assert isinstance(report, Reported)
            assert report.epoch == epoch
        workers.answer(0, "go on")
        ended = next_message(workers)
        assert isinstance(ended, Ended)
        assert ended.fitted.interrupted is None


@needs_fork
def test_workers_that_cannot_all_be_started_leave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork
    started: list[int] = []

    def fork_once() -> int:
        if started:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(fork())
        return started[0]

    monkeypatch.setattr(os, "fork", fork_once)
    workers = LocalWorkers(2, LOAD)
    with pytest.raises(UserError, match=r"cannot be started .*fewer `--workers`"), workers:
        pass
    assert started
    assert multiprocessing.active_children() == []


def test_images_that_cannot_be_loaded_fail_the_trial() -> None:
    missing = functools.partial(load_training_data, DataSpec(dataset="mnist"), "/nowhere/at/all")
    with LocalWorkers(1, missing) as workers:
        workers.submit(0, SPEC)
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert "/nowhere/at/all" in message.reason


def test_worker_whose_trial_failed_is_replaced_by_a_fresh_one() -> None:
    impossible = replace(SPEC, max_epochs="many")  # type: ignore[arg-type]
    with LocalWorkers(1, LOAD) as workers:
        (before,) = multiprocessing.active_children()
        workers.submit(0, impossible)
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert message.details.startswith("Traceback")
        (after,) = multiprocessing.active_children()
        assert after.pid != before.pid
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)


@dataclass(frozen=True)
class TellingFit:
    """Trains, and writes to a file in which process."""

    pid: Path

    def __call__(
        self,
        spec: FitSpec,
        data: TrainingData,
        interruption: Interruption,
        callbacks: Sequence[Callback],
    ) -> Fitted:
        self.pid.write_text(str(os.getpid()))
        return fit(spec, data, interruption, callbacks)


def test_worker_that_is_killed_is_a_failure_that_says_so_and_is_replaced(tmp_path: Path) -> None:
    with LocalWorkers(2, LOAD, TellingFit(tmp_path / "pid")) as workers:
        workers.submit(1, SPEC)
        assert isinstance(next_message(workers), Reported)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        message = next_message(workers)
        assert isinstance(message, Failed)
        assert "killed by SIGKILL" in message.reason
        assert workers.idle == [0, 1]
        workers.submit(1, SPEC)
        assert isinstance(next_message(workers), Reported)


# ---- what the environment says of other processes and of cores

SCHEDULERS = {
    "SLURM": {
        "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "7", "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NODELIST": "nowhere[1-2]",
    },
    "torchrun": {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "1", "NODE_RANK": "1",
        "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "7",
    },
    "LSF": {
        "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_SIZE": "2",
        "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_LOCAL_RANK": "1",
    },
    "MPI in Kubernetes": {
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "2", "PMI_RANK": "1",
        "KUBERNETES_PORT": "tcp://192.0.2.1:443", "KUBERNETES_SERVICE_HOST": "192.0.2.1",
    },
}  # fmt: skip
NAMES = [name for variables in SCHEDULERS.values() for name in variables]
SCHEDULERS["nobody: empty or no number"] = {name: "x" * (i % 2) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_fit_is_one_process_whatever_a_scheduler_says(
    scheduler: str, in_this_process: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SCHEDULERS[scheduler].items():
        monkeypatch.setenv(name, value)
    fitted = fit(SPEC, LOAD("cpu"), Interruption())
    assert fitted.history == in_this_process.history


@pytest.mark.parametrize(
    ("command", "scheduler"),
    [
        ("tune", "SLURM"),
        *(
            pytest.param(command, scheduler, marks=pytest.mark.long)
            for command in ("train", "tune")
            for scheduler in SCHEDULERS
            if (command, scheduler) != ("tune", "SLURM")
        ),
    ],
)
def test_one_process_is_one_process_whatever_a_scheduler_says(
    command: str, scheduler: str, workplace: Workplace, environment: dict[str, str]
) -> None:
    options = workplace.options("--tensorboard=all", max_epochs=1)
    if command == "train":
        options = workplace.train_options(
            "--conv1=8", "--conv2=8", "--dense_units=8", "--dropout_rate=0.1",
            "--learning_rate=0.001", "--batch_size=32", max_epochs=2,
        )  # fmt: skip
    process = start_python(["-m", f"src.{command}", *options], environment | SCHEDULERS[scheduler])
    _, err = process.communicate(timeout=ENOUGH)
    assert (process.returncode, err) == (0, "")
    events = sorted(workplace.logs.rglob("events*"))
    runs = [path.parent for path in events if path.parent.name != "winner"]
    assert runs
    for run in runs:
        epochs = [e.step for e in EventAccumulator(str(run)).Reload().Scalars("loss/train")]
        assert epochs == list(range(1, len(epochs) + 1))
        assert epochs


needs_cores = pytest.mark.skipif(
    sys.platform != "linux" or joblib.cpu_count(only_physical_cores=True) == 1,
    reason="needs Linux and two cores",
)


@needs_cores
@pytest.mark.parametrize(
    "binding",
    ["OMP_PROC_BIND=true", pytest.param("GOMP_CPU_AFFINITY=0", marks=pytest.mark.long)],
)
def test_workers_use_all_cores_though_openmp_binds_the_process_to_one(
    binding: str, workplace: Workplace, environment: dict[str, str]
) -> None:
    name, _, value = binding.partition("=")
    cores = joblib.cpu_count(only_physical_cores=True)
    long = ("--max_epochs=81", "--limit=4000", "--iterations=9")
    process = start_search(workplace, environment | {name: value}, *long)
    wait_until(lambda: workplace.states().count(TrialState.RUNNING) == cores)
    workers = children(process.pid)
    assert len(workers) == cores
    assert all(os.sched_getaffinity(pid) == os.sched_getaffinity(0) for pid in workers)


@pytest.mark.long
@needs_cores
def test_spawned_worker_uses_all_cores_though_openmp_binds_it_to_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    with LocalWorkers(1, LOAD, start_method="spawn") as workers:
        workers.submit(0, SPEC)
        assert isinstance(next_message(workers), Reported)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        assert os.sched_getaffinity(worker.pid) == os.sched_getaffinity(0)


@linux
def test_workers_of_a_killed_search_leave_and_the_next_search_can_begin(
    workplace: Workplace, environment: dict[str, str]
) -> None:
    process = start_search(workplace, environment, "--max_epochs=81", "--limit=1000", "--workers=2")
    wait_until(lambda: workplace.states().count(TrialState.RUNNING) == 2)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert workplace.tune("--max_epochs=81", "--limit=1000", "--timeout=1s") == 0  # no lock left
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_results_do_not_depend_on_how_many_workers_there_are(tmp_path: Path) -> None:
    def results(workers: int) -> tuple[Rows, Rows]:
        workplace = Workplace(tmp_path / str(workers))
        # No rungs and no learning sampler: what remains is the training itself.
        options = ("--sampler=random", "--iterations=2", "--batch_sizes=[16,64]")
        assert workplace.tune(*options, f"--workers={workers}", max_epochs=2) == 0
        rows = workplace.rows()
        for row in rows:
            del row["seconds"]
        curves = workplace.rows("curves.csv")
        return sorted(rows, key=str), sorted(curves, key=str)

    trials, curves = results(1)
    assert len(trials) == 4
    assert len({row["val_loss"] for row in curves}) == len(curves) == 8
    assert results(3) == (trials, curves)


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


def test_second_search_with_more_hyperparameters_keeps_its_columns(
    searched: Workplace, tmp_path: Path
) -> None:
    recipe = ("--augmentation=[none,affine]", "--weight_averaging=[true,false]")
    assert searched.tune(f"--results_dir={tmp_path}/other", "--tensorboard=all", *recipe) == 0
    experiment = ask_hparams(searched.logs, "/experiment", {})
    columns = [column["name"] for column in experiment["hparamInfos"]]
    assert sorted(columns) == sorted(asdict(SPEC.hyperparameters))
    assert set(columns[-len(RECIPE) :]) == set(RECIPE)  # the first few are shown
    tags = [metric["name"]["tag"] for metric in experiment["metricInfos"]]
    assert sorted(tags) == ["epochs", "val_accuracy"]
    wanted = {"allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 100}
    rows = ask_hparams(searched.logs, "/session_groups", wanted)["sessionGroups"]
    assert len(rows) == 10
    assert all(row["hparams"].keys() == set(columns) for row in rows)
    assert {row["hparams"]["augmentation"] for row in rows} == {"none", "affine"}


def ask_hparams(logs: Path, path: str, request: dict[str, object]) -> Any:
    """Return what TensorBoard's page of hyperparameters gets from its own backend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "html5lib's sanitizer is deprecated")  # its own copy
        from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

    runs = EventMultiplexer().AddRunsFromDirectory(str(logs)).Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(runs, str(logs)), logdir=str(logs))
    app = HParamsPlugin(context).get_plugin_apps()[path]
    answer = werkzeug.test.Client(app).post("/", json=request)
    assert answer.status_code == 200
    return answer.json


@linux
@pytest.mark.long
@pytest.mark.parametrize("level", ["all", "best"])
def test_full_disk_under_curves_and_states_costs_no_more_than_them(
    level: str, workplace: Workplace, tmp_path: Path, environment: dict[str, str]
) -> None:
    options = ("--workers=2", "--iterations=2", f"--tensorboard={level}", "--limit=400")
    process = start_search(workplace, environment, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if " trial " in line and " bracket " in line:
            break
    folder = workplace.logs / "mnist_5k/batch_64"
    while not folder.is_file():  # while it is used: somebody may make it again in between
        folder.rename(tmp_path / f"was-{time.monotonic()}")
        folder.touch()
    for worker in children(process.pid):  # states: a few kilobytes are a full disk
        _, hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (2000, hard))
    _, err = process.communicate(timeout=ENOUGH)
    assert process.returncode == 0, err
    told = err.splitlines()
    assert len([line for line in told if "going on without what TensorBoard shows" in line]) == 1
    assert all(line.startswith("warning: ") for line in told)
    assert any(str(folder) in line for line in told)
    assert len(told) <= 2  # of states as well, if there was time to write one
    rows = workplace.rows()
    assert [row["state"] for row in rows].count("FAIL") == 0
    assert len(rows) == 10


@needs_fork
def test_data_is_loaded_once_a_worker(tmp_path: Path) -> None:
    count = tmp_path / "loaded"

    def load(device: torch.device) -> TrainingData:
        with count.open("a") as file:
            file.write("x")
        return LOAD(device)

    with LocalWorkers(1, load, start_method="fork") as workers:
        for _ in range(2):
            workers.submit(0, SPEC)
            assert isinstance(next_message(workers), Reported)
            workers.answer(0, "stop")
            assert isinstance(next_message(workers), Ended)
    assert count.read_text() == "x"
