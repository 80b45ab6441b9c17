"""(j) What a search finds with today's defaults and with those of 0.1.0, in the same time.

Whose best trial validates best says how lucky it was, too, and the more so the more trials there
were; so the model that came of it reads all training images that its search did not see.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants
from benchmarks.images import load_unused
from src.data.catalog import DataSpec
from src.inference.predictions import read_probabilities
from src.results.folder import ResultsFolder
from src.training.checkpoint import load_model
from src.training.device import choose_compute

DEFAULTS = {
    "today": (),
    "0.1.0": ("--promotion=stopping", "--sampler=tpe", "--min_epochs=1"),
}
SETTING = {"batch_size": 64, "max_epochs": 9, "reduction_factor": 3}
LIMIT = 12_500
"""Images: 10,000 train, 2,500 validate."""
SECONDS = 300
SEEDS = 3
ENDLESS = 100
"""Iterations, more than anybody has time for."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Search with both for each seed, one after the other, until the time is up."""
    seeds, limit, seconds = (1, 625, 30) if options.quick else (SEEDS, LIMIT, SECONDS)
    rows = []
    for seed in range(seeds):
        for name, words in DEFAULTS.items():
            with tempfile.TemporaryDirectory() as folder:
                report = contestants.ours(
                    "benchmarks.ours",
                    *("search", f"--folder={Path(folder)}", f"--data_dir={options.data_dir}"),
                    *(f"--{key}={value}" for key, value in SETTING.items()),
                    *(f"--limit={limit}", f"--iterations={ENDLESS}", f"--seed={seed}"),
                    *("--tune", f"--timeout={seconds}s", *words),
                )
                accuracy = _hidden_accuracy(Path(folder), seed, limit, options.data_dir)
            rows.append(
                {
                    "defaults": name,
                    "seed": seed,
                    "seconds": round(report["seconds"], 1),
                    "trials": report["trials"],
                    "images": round(report["epochs"] * limit * 0.8),
                    "best val accuracy": report["best_val_accuracy"],
                    "hidden accuracy": accuracy,
                    "other load": report["other_load"],
                    "report": report,
                }
            )
    return {
        "rows": rows,
        "notes": [_mean(name, rows) for name in DEFAULTS],
        "setting": SETTING | {"options of 0.1.0": list(DEFAULTS["0.1.0"])},
        "images": {"dataset": "mnist", "train and validation": limit},
    }


def _hidden_accuracy(folder: Path, seed: int, limit: int, data_dir: str) -> float:
    """Return what share of the training images that the search did not see its model reads."""
    hidden = load_unused(DataSpec(dataset="mnist", limit=limit, seed=seed), data_dir)
    model = load_model(ResultsFolder(folder / "results", "mnist").best_model).network()
    probabilities = read_probabilities(model, hidden.pixels, choose_compute("auto", "32"))
    return round((probabilities.argmax(1).cpu() == hidden.labels).double().mean().item(), 5)


def _mean(name: str, rows: list[dict[str, Any]]) -> str:
    own = [row for row in rows if row["defaults"] == name]
    best, hidden = (
        statistics.fmean(row[column] for row in own)
        for column in ("best val accuracy", "hidden accuracy")
    )
    return f"{name}, on average: {best:.5f} on validation images, {hidden:.5f} on hidden ones"
