"""(j) What a search finds with today's defaults and with those of 0.1.0, in the same time."""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants

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
    seeds, limit, seconds = (1, 625, 5) if options.quick else (SEEDS, LIMIT, SECONDS)
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
            rows.append(
                {
                    "defaults": name,
                    "seed": seed,
                    "seconds": round(report["seconds"], 1),
                    "trials": report["trials"],
                    "images": round(report["epochs"] * limit * 0.8),
                    "best val accuracy": report["best_val_accuracy"],
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


def _mean(name: str, rows: list[dict[str, Any]]) -> str:
    found = [row["best val accuracy"] for row in rows if row["defaults"] == name]
    return f"{name}: {statistics.fmean(found):.5f} on average"
