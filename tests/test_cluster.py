"""Ray for real: a cluster of several nodes, all on this machine."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from src.core.interrupt import Interruption
from src.data.catalog import DataSpec
from src.data.split import TrainingData, load_training_data
from src.training.device import Compute
from src.training.fit import fit
from src.training.fitted import Fitted
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.workers.launch import Workers
from src.workers.messages import Advanced, Ended, Failed, Message, Reported
from tests.conftest import ENOUGH, REPOSITORY, Rows, Workplace, children, wait_until

# A node's ports are open to the network. Ray reads these when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
with contextlib.suppress(ImportError):
    import ray

needs_ray = pytest.mark.skipif("ray" not in globals(), reason="Ray is not installed (an extra)")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SPEC = FitSpec(
    hyperparameters=Hyperparameters(
        conv1=8, conv2=8, dense_units=32, dropout_rate=0.3, learning_rate=3e-3, batch_size=32
    ),
    max_epochs=2,
    patience=None,
    seed=5,
)


class Nodes:
    """Nodes of a Ray cluster, each in a process that its end ends."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.environment = {
            "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def add(self, *resources: str) -> subprocess.Popen[bytes]:
        head = not self._processes
        where = (
            ["--head", f"--port={self.address.split(':')[1]}", f"--temp-dir={self._folder}"]
            if head
            else [f"--address={self.address}"]
        )
        options = ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--block"]
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(REPOSITORY)}
        del environment["RAY_ADDRESS"]
        # Ray's workers are nice by default: on a busy machine they would hardly get on.
        environment["RAY_worker_niceness"] = "0"
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *options, *resources],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if b"--block" in line:
                return process
        raise AssertionError("the node does not start")

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # paths of sockets must be short
        nodes = Nodes(folder)
        try:
            nodes.add("--num-cpus=1", "--include-dashboard=false")
            yield nodes
        finally:
            nodes.stop()


def raylet(node: subprocess.Popen[bytes]) -> int:
    """Return the process that is a node's heart."""
    for pid in children(node.pid):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet":
            return pid
    raise AssertionError("the node has no raylet")


def next_messages(workers: Workers) -> list[tuple[int, Message]]:
    """Return what the workers say next, but for their progress."""
    deadline = time.monotonic() + ENOUGH
    while time.monotonic() < deadline:
        said: list[tuple[int, Message]] = [
            (w, m) for w, m in workers.receive(0.2) if not isinstance(m, Advanced)
        ]
        if said:
            return said
    raise AssertionError("the workers say nothing")


def results(workplace: Workplace) -> Rows:
    """Return what the trials came to, but for their numbers and how long they took."""
    rows = [row for row in workplace.rows() if row["state"] != "FAIL"]
    for row in rows:
        del row["seconds"], row["trial"]
    return sorted(rows, key=str)


@needs_ray
@needs_linux
@pytest.mark.long
@pytest.mark.parametrize(
    ("rungs", "trials"),
    [  # No rungs, or synchronous ones, and no learning sampler: what remains is the training.
        (("--reduction_factor=8", "--iterations=3"), 3),
        (("--reduction_factor=3", "--promotion=synchronous", "--min_epochs=0.5"), 17),
    ],
    ids=["without rungs", "synchronous"],
)
def test_search_outlives_a_node_and_gives_what_a_local_one_gives(
    rungs: tuple[str, ...],
    trials: int,
    nodes: Nodes,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    same = (
        *rungs,
        "--sampler=random",
        "--patience=null",
        "--tensorboard=all",
    )
    there, here = Workplace(tmp_path / "there"), Workplace(tmp_path / "here")
    node = nodes.add("--num-cpus=1")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "src.tune", "--launcher=ray"),
            *there.options(*same, "--limit=2000", max_epochs=7),
        ],
        cwd=REPOSITORY,
        env=environment | nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as search:
        states = there.results / "mnist_5k/running"
        wait_until(lambda: len(list(states.glob("*.ckpt"))) >= 2 or search.poll() is not None)
        os.kill(raylet(node), signal.SIGKILL)
        out, err = search.communicate(timeout=ENOUGH)
    assert (search.returncode, err) == (0, "")
    assert "2 workers" in out
    assert "raylet" not in out
    (lost,) = [row for row in there.rows() if row["state"] == "FAIL"]
    assert lost["reason"].startswith("its worker was lost (")
    assert here.tune(*same, "--limit=2000", "--workers=2", max_epochs=7) == 0
    assert len(results(here)) == trials
    assert results(there) == results(here)
    assert {p.parent.name for p in there.logs.rglob("events*")} >= {
        p.parent.name for p in here.logs.rglob("events*")
    } - {f"trial_{int(lost['trial']):04d}"}


@dataclass(frozen=True)
class TellingFit:
    """Trains, and writes in which process, to a file that is named by the seed."""

    folder: Path

    def __call__(
        self,
        spec: FitSpec,
        data: TrainingData,
        interruption: Interruption,
        callbacks: Sequence[Callback],
    ) -> Fitted:
        (self.folder / str(spec.seed)).write_text(str(os.getpid()))
        return fit(spec, data, interruption, callbacks)


@pytest.mark.long
@needs_ray
@needs_linux
def test_workers_share_a_gpu_and_who_finds_no_room_waits_for_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.workers.ray_cluster import Cluster, RayWorkers

    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    node = nodes.add("--num-cpus=4", "--num-gpus=1")  # Ray takes our word for it
    data = load_training_data(DataSpec(dataset="mnist_5k", limit=100), "nowhere")

    def two_are_ready(workers: RayWorkers) -> bool:
        workers.receive(0.2)
        return len(workers.idle) == 2

    with Cluster(gpus_per_worker=0.5) as cluster:
        gpu = Compute("cuda", "32", "GPU")
        assert cluster.choose_workers("auto", gpu) == 2
        with cluster.workers(2, data, "cuda") as workers:
            wait_until(lambda: two_are_ready(workers))
            wait_until(lambda: ray.available_resources().get("GPU", 0) == 0)
        wait_until(lambda: ray.available_resources().get("GPU", 0) == 1)
        share = {"num_cpus": 1, "num_gpus": 0.5}  # as those had, though these compute on CPU
        with RayWorkers(3, data, share, TellingFit(tmp_path)) as workers:
            wait_until(lambda: two_are_ready(workers))
            wait_until(lambda: ray.available_resources().get("GPU", 0) == 0)
            first, second = workers.idle
            workers.submit(second, replace(SPEC, seed=6))
            next_messages(workers)
            workers.answer(second, "stop")
            next_messages(workers)
            assert workers.idle == [first, second]
            workers.submit(first, SPEC)
            (worker, message), *_ = next_messages(workers)
            assert worker == first
            assert isinstance(message, Reported)
            os.kill(int((tmp_path / "6").read_text()), signal.SIGKILL)  # idle: nobody's trial
            wait_until(lambda: (workers.receive(0.2), workers.idle != [second])[1])
            wait_until(lambda: (workers.receive(0.2), len(workers.idle) == 1)[1])  # there is room
            assert workers.idle != [first]
            workers.answer(first, "stop")
            (_, message), *_ = next_messages(workers)
            assert isinstance(message, Ended)
            assert message.verdict == "stop"
            workers.submit(first, SPEC)
            next_messages(workers)
            os.kill(raylet(node), signal.SIGKILL)
            (_, message), *_ = next_messages(workers)
            assert isinstance(message, Failed)
            assert message.cause == "its worker was lost"
            assert workers.idle == []


@needs_ray
def test_cluster_that_cannot_be_reached_is_an_error_in_one_line(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert workplace.tune("--launcher=ray") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the Ray cluster (127.0.0.1:1) cannot be reached: " in line


def test_launcher_without_ray_says_what_to_install(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "src.workers.ray_cluster", raising=False)
    assert workplace.tune("--launcher=ray") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install -e '.[ray]'" in line
