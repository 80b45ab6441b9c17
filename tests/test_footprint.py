"""What a search takes up does not grow with its trials."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Workplace, children

RUN = re.compile(r"/trial_\d+")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True)
class Footprint:
    """Of the search's process and its workers together, and of what they write."""

    memory: int
    """Bytes that are no file's: theirs alone, or their share of what they have in common. A
    library's pages are left out: the share of them grows when other processes end."""
    files: int
    """Open ones."""
    threads: int
    disk: int
    """Bytes, without the journal, which is a line for every event."""
    entries: int
    """Files and folders written, without the runs that TensorBoard shows."""


def look(pid: int, folder: Path) -> Footprint:
    processes = [Path(f"/proc/{number}") for number in (pid, *children(pid))]
    shares = [(process / "smaps_rollup").read_text() for process in processes]
    memory = [
        int(found[1]) * 1024
        for text in shares
        if (found := re.search(r"^Pss_Anon: +(\d+) kB", text, re.M))
    ]
    written = [path for path in folder.rglob("*") if path.name != "study.journal"]
    return Footprint(
        memory=sum(memory),
        files=sum(len(list((process / "fd").iterdir())) for process in processes),
        threads=sum(len(list((process / "task").iterdir())) for process in processes),
        disk=sum(path.stat().st_size for path in written if path.is_file()),
        entries=sum(not RUN.search(str(path)) for path in written),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("trials", "promotion"), [(50, "stopping"), (1000, "stopping"), (1000, "asynchronous")]
)
def test_footprint_stays_flat(
    trials: int, promotion: str, workplace: Workplace, environment: dict[str, str]
) -> None:
    options = (
        f"--promotion={promotion}",
        f"--iterations={trials // 5}",
        "--workers=2",
        "--batch_sizes=[16]",
        "--tensorboard=best",
    )
    seen: list[Footprint] = []
    ended = 0
    with subprocess.Popen(
        [sys.executable, "-m", "src.tune", *workplace.options(*options, "--limit=100")],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            ended += line.startswith("batch ")
            if line.startswith("batch ") and ended in (trials // 2, trials - 10):
                seen.append(look(process.pid, workplace.folder))
    assert process.returncode == 0
    assert ended == trials
    early, late = seen  # what allocators keep has found its size by then
    assert late.memory < (1.03 if trials > 500 else 1.1) * early.memory
    assert late.files <= early.files + 2  # one may be writing
    assert late.threads <= early.threads + 1
    assert late.disk < 3 * early.disk  # the best models are of different sizes
    assert late.entries <= early.entries + 2  # states that are being written
    runs = [path for path in workplace.logs.rglob("*") if path.is_dir() and RUN.search(str(path))]
    assert len(runs) == trials
    assert all(len(list(run.iterdir())) <= 2 for run in runs)  # HPARAMS, and curves of the best
    assert not (workplace.results / "mnist_5k/running").exists()
    after = {path.name for path in (workplace.results / "mnist_5k").iterdir()}
    assert after == {
        *(".lock", "study.journal", "all.csv", "curves.csv", "best.json", "best-model.ckpt"),
        *("16-all.csv", "16-best.ckpt", "16-best.png", "16-rungs.png"),
    }
