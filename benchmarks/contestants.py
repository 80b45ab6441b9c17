"""Runs a peer's program, and reads the JSON that it ends with."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"


def run(program: list[str]) -> dict[str, Any]:
    """Run a program; return the JSON object in its last line, and the machine's other work.

    `other_load` is the share of the processors' time that other programs had meanwhile.
    """
    started, ours, busy = time.monotonic(), _children_seconds(), _busy_seconds()
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(program)} failed:\n{done.stderr[-2000:]}")
    wall = time.monotonic() - started
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    others = max(0.0, _busy_seconds() - busy - (_children_seconds() - ours))
    report["other_load"] = round(others / wall / (os.cpu_count() or 1), 3)
    return report


def race(program: list[str]) -> dict[str, Any]:
    """Run a program until it prints its JSON object; return that, and the `seconds` since its
    start."""
    with tempfile.TemporaryFile("w+") as errors:
        started, report = time.perf_counter(), None
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    report = {"seconds": round(time.perf_counter() - started, 3)}
                    report |= json.loads(line)
        if report is None or process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(program)} failed:\n{errors.read()[-2000:]}")
    return report


def keras(python: Path | None, *arguments: str) -> dict[str, Any] | None:
    """Run the Keras peer, if there is an environment for it."""
    if python is None:
        return None
    return run([str(python), str(PEERS / "keras_peer.py"), *arguments])


def stock(*arguments: str) -> dict[str, Any]:
    """Run the stock Lightning peer."""
    return run([sys.executable, str(PEERS / "stock_peer.py"), *arguments])


def ours(module: str, *arguments: str) -> dict[str, Any]:
    """Run a program of this project's own."""
    return run([sys.executable, "-m", module, *arguments])


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _busy_seconds() -> float:
    """Return the processor time that all programs have had, where the system tells."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system = map(int, fields[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
