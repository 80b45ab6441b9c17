"""The lock of a results folder, between processes, also where the file system has none."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import start_python

HOLD = """
import sys
from pathlib import Path
from src.core.errors import UserError
from src.results.lock import FolderLock
try:
    with FolderLock(Path("{folder}/.lock")) as lock:
        print("held", flush=True)
        for word in sys.stdin:
            lock.check()
            print("still held", flush=True)
except UserError as error:
    print(error, flush=True)
"""

FLOCK = """
#include <errno.h>
int flock(int file, int operation) { errno = ENOSYS; return RESULT; }
"""


class Holder:
    """A process that holds the folder until its input ends."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = start_python(["-c", HOLD.format(folder=folder)], environment)
        self.said = self._next()

    def check(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._next()

    def end(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _next(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return libraries to be loaded first, whose flock does nothing, or is missing."""
    compiler, folder = shutil.which("cc"), tmp_path_factory.mktemp("flock")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and LD_PRELOAD")
    (folder / "flock.c").write_text(FLOCK)
    libraries = {"does nothing": (folder / "noop.so", 0), "missing": (folder / "enosys.so", -1)}
    for library, result in libraries.values():
        options = [f"-DRESULT={result}", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([compiler, *options, str(folder / "flock.c")], check=True)
    return {name: library for name, (library, _) in libraries.items()}


@pytest.fixture(params=["works", "does nothing", "missing"])
def with_flock(request: pytest.FixtureRequest, environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process on a file system whose flock is so."""
    if request.param == "works":
        return environment
    libraries: dict[str, Path] = request.getfixturevalue("broken")
    return environment | {"LD_PRELOAD": str(libraries[request.param])}


def test_second_is_refused_and_told_who_holds_the_folder(
    tmp_path: Path, with_flock: dict[str, str]
) -> None:
    first = Holder(tmp_path, with_flock)
    assert first.said == "held"
    second = Holder(tmp_path, with_flock)
    assert second.said.startswith(
        f"another search is running in {tmp_path} "
        f"(process {first.process.pid} on {socket.gethostname()}); wait for it, "
    )
    assert first.check() == "still held"
    first.end()
    third = Holder(tmp_path, with_flock)
    assert third.said == "held"


def test_folder_of_a_killed_process_can_be_held_again(
    tmp_path: Path, with_flock: dict[str, str]
) -> None:
    first = Holder(tmp_path, with_flock)
    first.kill()
    assert Holder(tmp_path, with_flock).said == "held"


def test_lock_file_that_another_machine_left_is_named_with_the_way_out(
    tmp_path: Path, environment: dict[str, str], broken: dict[str, Path]
) -> None:
    left = tmp_path / ".lock-holder"
    left.write_text("7\nelsewhere\n")
    missing = environment | {"LD_PRELOAD": str(broken["missing"])}
    said = Holder(tmp_path, missing).said
    assert "(process 7 on elsewhere)" in said
    assert f"or delete {left} if that process is gone" in said
    left.unlink()
    assert Holder(tmp_path, missing).said == "held"


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_holder_notices_that_its_file_is_gone(
    what: str, tmp_path: Path, with_flock: dict[str, str]
) -> None:
    first = Holder(tmp_path, with_flock)
    assert first.check() == "still held"
    for path in tmp_path.iterdir():
        path.unlink()
    if what == "replaced":
        assert Holder(tmp_path, with_flock).said == "held"
    assert "was removed or replaced while this search was running" in first.check()
