"""(k) Seconds from the start of a process to 99 % of images that it does not train on.

The first 50,000 training images of MNIST train, the last 10,000 are read. How this project trains
(`racer.Race`) was chosen on others: the first 40,000 trained, and the next 10,000 were read, as
`load(data_dir, end=50_000)` has them. The peers have the same network and batch size; they train as
their tutorials have it, and look when an epoch ends. The test images are opened once, when all is
over, for the mean of our models that reached the line.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import contestants, images, racer
from src.core.intervals import spread
from src.data.catalog import CLASS_NAMES, DataSpec
from src.data.files import Images, load_images
from src.data.split import TrainingData
from src.training.device import choose_compute

TARGET = 0.99
SEEDS = 30
VALIDATED = 10_000
"""The last so many training images."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Let all race once for each seed, one after the other."""
    target, seeds = (0.3, 1) if options.quick else (TARGET, SEEDS)
    data = load(options.data_dir, 2_000 if options.quick else None)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = images.write(folder / "images.npz", data)
        for seed in range(seeds):
            for contestant, program in programs(options.keras, folder / f"{seed}.pt").items():
                words = [f"--images={file}", f"--seed={seed}", f"--target={target}"]
                report = contestants.race([*program, *words])
                if report["accuracy"] < target:
                    raise RuntimeError(f"{contestant} gave up with seed {seed}: {report}")
                found.setdefault(contestant, []).append(report)
        tested = [] if options.quick else _test(sorted(folder.glob("*.pt")), options.data_dir)
    notes = [f"to {100 * target:g} % of {len(data.validation):,} images"]
    if tested:
        mean = spread(tested)
        notes.append(
            f"our {len(tested)} models read {100 * mean.mean:.3f} % of the test images on average "
            f"(95 %: {100 * mean.low:.3f} to {100 * mean.high:.3f}), which this run opened once"
        )
    return {
        "rows": [_row(contestant, reports) for contestant, reports in found.items()],
        "notes": notes,
        "test accuracies of ours": tested,
        "how ours trains": asdict(racer.Race()),
        "images": data.counts,
        "reports": found,
    }


def load(data_dir: str, limit: int | None = None, end: int | None = None) -> TrainingData:
    """Return MNIST's training images in their order, of which the last validate.

    Args:
        data_dir: where they are.
        limit: how many train, at most.
        end: how many of the images count; None: all.
    """
    there = Images.joined(load_images("mnist", "train", data_dir))
    end = len(there) if end is None else end
    order = torch.arange(end)
    train, validation = there[order[:-VALIDATED][:limit]], there[order[-VALIDATED:]]
    spec = DataSpec(dataset="mnist")
    return TrainingData(spec, CLASS_NAMES["mnist"], train, validation, "")


def programs(keras: Path | None, weights: Path) -> Mapping[str, list[str]]:
    """Return the contestants' programs, without what is the same for all."""
    race = racer.Race()
    shape = [f"--{name}={getattr(race, name)}" for name in ("conv1", "conv2", "dense_units")]
    shape.append(f"--batch_size={race.batch_size}")
    found = {
        "ours": [sys.executable, "-m", "benchmarks.racer", f"--weights={weights}"],
        "stock Lightning": [
            *(sys.executable, str(contestants.PEERS / "stock_peer.py"), "race"),
            *shape,
        ],
    }
    if keras is not None:
        found["Keras"] = [str(keras), str(contestants.PEERS / "keras_peer.py"), "race", *shape]
    return found


def _test(weights: Sequence[Path], data_dir: str) -> list[float]:
    """Return what share of the test images each of our models reads, in float32."""
    race, compute = racer.Race(), choose_compute("cpu", "32")
    images_of_the_test = Images.joined(load_images("mnist", "test", data_dir))
    accuracies = []
    for path in weights:
        model = racer.untrained(race)
        model.load_state_dict(torch.load(path, weights_only=True))
        right = racer.read(model, images_of_the_test, compute)
        accuracies.append(round(right / len(images_of_the_test), 5))
    return accuracies


def _row(contestant: str, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"contestant": contestant, "seeds": len(reports)}
    for name, digits in (("seconds", 2), ("epochs", 2), ("accuracy", 5)):
        values = [report[name] for report in reports]
        row[name] = f"{sum(values) / len(values):.{digits}f}"
        if len(values) > 1:
            found = spread(values)
            row[name] += f" ({found.low:.{digits}f} to {found.high:.{digits}f})"
        if name == "seconds":
            row["fastest"], row["slowest"] = min(values), max(values)
    return row
