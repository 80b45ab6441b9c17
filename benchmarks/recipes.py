"""(h) What the options of the recipe do for accuracy: fits with and without, over seeds."""

import argparse
import functools
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from benchmarks.fits import train
from src.core.intervals import spread
from src.data.catalog import DataSpec
from src.data.split import load_training_data
from src.training.device import choose_compute, choose_workers
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec

PLAIN = Hyperparameters(
    conv1=64, conv2=64, dense_units=128, dropout_rate=0.3, learning_rate=1e-3, batch_size=64
)
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "cosine": {"schedule": "cosine"},
    "one_cycle": {"schedule": "one_cycle"},
    "label smoothing": {"label_smoothing": 0.1},
    "affine": {"augmentation": "affine"},
    "elastic": {"augmentation": "elastic"},
    "affine_elastic": {"augmentation": "affine_elastic"},
    "weight averaging": {"weight_averaging": True},
    "one_cycle, affine_elastic": {"schedule": "one_cycle", "augmentation": "affine_elastic"},
    "averaging, affine_elastic": {"weight_averaging": True, "augmentation": "affine_elastic"},
    "averaging, affine_elastic, smoothing": {
        "weight_averaging": True, "augmentation": "affine_elastic", "label_smoothing": 0.1,
    },
}  # fmt: skip
SEEDS = 5
EPOCHS = 10


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train each recipe with each seed, and compare it with the plain one seed by seed."""
    seeds, epochs, limit = (2, 1, 625) if options.quick else (SEEDS, EPOCHS, None)
    spec = DataSpec(dataset="mnist", validation="tail", limit=limit)
    compute = choose_compute("auto", "auto", threads=1)
    data = load_training_data(spec, options.data_dir, compute.device)
    specs = {
        (name, seed): FitSpec(replace(PLAIN, **changes), epochs, None, seed, compute)
        for seed in range(seeds)
        for name, changes in RECIPES.items()
    }
    accuracies: dict[str, list[float]] = {name: [] for name in RECIPES}
    load = functools.partial(load_training_data, spec, options.data_dir)
    done = dict(train(specs, load, choose_workers("auto", compute)))
    for name, seed in specs:
        best = done[name, seed].best
        assert best is not None
        accuracies[name].append(best.val_accuracy)
    rows = [_row(name, accuracies[name], accuracies["plain"]) for name in RECIPES]
    return {"rows": rows, "configuration": asdict(PLAIN), "epochs": epochs, "images": data.counts}


def _row(name: str, accuracies: list[float], plain: list[float]) -> dict[str, Any]:
    ours = spread(accuracies)
    row: dict[str, Any] = {
        "recipe": name,
        "mean val accuracy": round(ours.mean, 5),
        "standard deviation": round(ours.std, 5),
    }
    if name != "plain":
        gain = spread([a - b for a, b in zip(accuracies, plain, strict=True)])
        row["gain"] = round(gain.mean, 5)
        row["95 % interval"] = f"{gain.low:+.5f} to {gain.high:+.5f}"
    return row | {"each seed": accuracies}
