"""(d) The same trials with one, two and four workers: how much sooner they are done."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants

NUMBERS = (1, 2, 4)
LIMIT = 6_250
TRIALS = 16
"""Of one epoch each, so that no rung and no sampler makes them differ."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the same random trials with each number of workers, twice, in both directions."""
    trials, limit = (4, 625) if options.quick else (TRIALS, LIMIT)
    seconds: dict[int, list[float]] = {number: [] for number in NUMBERS}
    accuracies = {}
    for number in [*NUMBERS, *reversed(NUMBERS)]:
        with tempfile.TemporaryDirectory() as folder:
            report = contestants.ours(
                "benchmarks.ours",
                *("search", f"--folder={Path(folder)}", f"--data_dir={options.data_dir}"),
                *("--batch_size=64", "--max_epochs=1", "--reduction_factor=2", "--seed=0"),
                *(f"--iterations={trials}", f"--limit={limit}", f"--workers={number}"),
                *("--tune", "--sampler=random"),
            )
        seconds[number].append(report["seconds"])
        accuracies[number] = report["best_val_accuracy"]
    one = min(seconds[1])
    rows = [
        {
            "workers": number,
            "seconds": min(seconds[number]),
            "times as fast as one": round(one / min(seconds[number]), 2),
            "best val accuracy": accuracies[number],
            "all seconds": seconds[number],
        }
        for number in NUMBERS
    ]
    notes = [f"{trials} random trials of one epoch of {limit * 4 // 5:,} images, batch size 64"]
    return {"rows": rows, "notes": notes}
