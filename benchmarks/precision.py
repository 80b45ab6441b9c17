"""(f) Does bf16 cost accuracy? The same fits in both precisions, over several seeds."""

import argparse
import dataclasses
import math
import statistics
from typing import Any

import torch

from benchmarks import images
from src.core.interrupt import Interruption
from src.data.split import TrainingData
from src.training.device import choose_compute
from src.training.fit import fit
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec

CONFIGURATION = Hyperparameters(
    conv1=64, conv2=64, dense_units=128, dropout_rate=0.3, learning_rate=1e-3, batch_size=64
)
SEEDS = 8
EPOCHS = 6
LIMIT = 12_500


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train each seed in bf16 and in float32, and compare seed by seed."""
    seeds, epochs, limit = (2, 1, 625) if options.quick else (SEEDS, EPOCHS, LIMIT)
    rows = []
    for seed in range(seeds):
        accuracies = {}
        for precision in ("32", "bf16"):
            compute = choose_compute("auto", precision)
            data = images.load(limit, options.data_dir)
            fitted = fit(
                FitSpec(CONFIGURATION, epochs, None, seed, compute),
                data if compute.device.type == "cpu" else _resident(data, compute.device),
                Interruption(),
            )
            assert fitted.best is not None
            accuracies[precision] = fitted.best.val_accuracy
        difference = round(accuracies["bf16"] - accuracies["32"], 6)
        rows.append({"seed": seed, **accuracies, "bf16 - 32": difference})
    return {"rows": rows, "notes": compare(rows), "epochs": epochs, "images": data.counts}


def compare(rows: list[dict[str, Any]]) -> list[str]:
    """Say how the mean difference compares with its standard error."""
    differences = [row["bf16 - 32"] for row in rows]
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(rows))
    spread = statistics.stdev(row["32"] for row in rows)
    return [
        f"bf16 - 32: mean {mean:+.5f}, standard error {error:.5f} ({len(rows)} seeds); "
        f"standard deviation over seeds in float32 {spread:.5f}"
    ]


def _resident(data: TrainingData, device: torch.device) -> TrainingData:
    return dataclasses.replace(
        data, train=data.train.to(device), validation=data.validation.to(device)
    )
