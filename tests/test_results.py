import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.core.files import replacing, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_an_old_or_a_new_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "value.json"
    program = (
        "import sys; from pathlib import Path; from src.core.files import write_json\n"
        "for i in range(10**9):\n"
        "    write_json(Path(sys.argv[1]), {'value': [i] * 5000})\n"
        "    print(flush=True)"
    )
    for delay in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3 + 7 * delay):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_text()
        assert content.startswith("{\n")
        assert content.endswith("]\n}\n")
        assert content.count(",") == 4999


def test_written_files_have_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    write_json(tmp_path / "best.json", {})
    (tmp_path / "new").touch()
    assert (tmp_path / "best.json").stat().st_mode == (tmp_path / "new").stat().st_mode
