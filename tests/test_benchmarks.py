import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, search
from benchmarks.__main__ import make_parser, recorded_command
from src.training.network import TwoConvNet
from tests.conftest import ENOUGH, REPOSITORY, needs_mnist


@pytest.mark.parametrize("shape", gpu.SHAPES)
def test_operations_of_a_step_are_what_pytorch_counts(shape: tuple[int, int, int]) -> None:
    conv1, conv2, dense_units = shape
    net = TwoConvNet(
        conv1=conv1, conv2=conv2, dense_units=dense_units, dropout_rate=0.3, classes=10
    )
    with FlopCounterMode(display=False) as counter:
        logits = net(torch.rand(2, 1, 28, 28))
        functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert gpu.training_operations(shape) * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    "typed",
    [
        "startup",
        "throughput search --keras .venv-keras/bin/python --seeds 3 --quick",
        f"gpu --results {REPOSITORY / 'elsewhere'}",
        "storage --postgresql postgresql://me:secret@host/d",
    ],
)
def test_recorded_command_is_what_was_typed_without_folders_and_secrets(
    typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    recorded = recorded_command(make_parser().parse_args(typed.split()))
    shown = typed.replace(f"{REPOSITORY}/", "").replace("postgresql://me:secret@host/d", "'***'")
    assert sorted(recorded.split()) == sorted(f"python -m benchmarks {shown}".split())


def test_peers_are_compared_seed_by_seed() -> None:
    rows = [
        {"contestant": name, "seed": seed, "seconds": seconds, "images/s": 1000 // seconds}
        for name, seed, seconds in (("ours", 0, 1), ("ours", 1, 2), ("slow", 0, 2), ("slow", 1, 16))
    ]
    (note,) = search.compare(rows)
    assert note.startswith("slow took 4.00 times as long as ours (2.00, 8.00)")  # √(2 · 8)


@needs_mnist
@pytest.mark.long
def test_all_benchmarks_run(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", f"--results={tmp_path}"],
        cwd=REPOSITORY,
        check=True,
        timeout=20 * ENOUGH,
    )
    for name in ("throughput", "search", "overhead", "workers", "precision", "gpu", "startup"):
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["rows"] or (name == "overhead" and torch.cuda.is_available())
        assert report["provenance"]["git_commit"]
