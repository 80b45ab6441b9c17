"""(i) What a command takes before it answers: its --help, and the first answer of predict.

Each is a process of its own, beside `import torch` and `import lightning.pytorch`, one after
another and round after round, so that other work on the machine meets all of them alike.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COMMANDS = ("tune", "finalists", "train", "evaluate", "predict", "report", "export", "demo")
ROUNDS = 7
MODEL = Path("results/emnist_letters_digits/best-model.ckpt")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start each process once a round; the first round, which fills the disk cache, is left out."""
    rounds = 1 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "one.png"
        _draw(picture)
        processes = {
            "python": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import lightning.pytorch": ["-c", "import lightning.pytorch"],
            **{f"{command} --help": ["-m", f"src.{command}", "--help"] for command in COMMANDS},
            "tune --plan": ["-m", "src.tune", "--dataset=mnist", "--plan"],
            "predict one picture": ["-m", "src.predict", str(picture), f"--model={_model()}"],
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        for _ in range(1 + rounds):
            for name, arguments in processes.items():
                taken[name].append(_start(arguments))
    rows = [
        {
            "process": name,
            "seconds": round(statistics.median(seconds for seconds, _ in starts[1:]), 2),
            "peak MB": round(statistics.median(memory for _, memory in starts[1:])),
            "all seconds": [round(seconds, 3) for seconds, _ in starts[1:]],
        }
        for name, starts in taken.items()
    ]
    notes = [f"medians of {rounds} rounds; peak MB: of resident memory"]
    return {"rows": rows, "notes": notes}


_LAUNCHER = """
import os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
print(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss, file=sys.stderr)
"""
"""Starts Python from a process that is small, as Linux counts that one's memory, too."""


def _start(arguments: list[str]) -> tuple[float, float]:
    """Run Python; return seconds and peak MB of resident memory."""
    said = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    ).stderr
    code, seconds, memory = said.splitlines()[-1].split()
    if code != "0":
        raise RuntimeError(f"python {' '.join(arguments)} failed: {said}")
    return float(seconds), int(memory) * (1 if sys.platform == "darwin" else 1024) / 1e6


def _model() -> Path:
    shipped = MODEL.parent / "shipped" / MODEL.name
    return MODEL if MODEL.exists() else shipped


def _draw(path: Path) -> None:
    picture = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(picture).line([(60, 40), (140, 40), (80, 160)], fill=0, width=14)
    picture.save(path)
