"""(b) A whole search against Keras Tuner, and against stock Lightning with Optuna.

The same images, search space, batch size and Hyperband setting for all. Ours searches twice: as it
does by itself, which soon proposes larger networks than chance does, and with random
configurations, as Keras Tuner draws them, so that seconds compare. Seconds are those of the search
alone; imports are left out for all.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants, images
from src.search.hyperband import make_plan

SETTING = {"batch_size": 64, "max_epochs": 9, "reduction_factor": 3, "iterations": 1}
LIMIT = 6_250
"""Images: 5,000 train, 1,250 validate."""
OURS, OURS_RANDOM = "ours", "ours, random"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the same search with each contestant, one after the other, for each seed."""
    setting = SETTING | ({"max_epochs": 3} if options.quick else {})
    limit = 625 if options.quick else LIMIT
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = images.load(limit, options.data_dir)
        file = images.write(folder / "images.npz", data)
        for seed in range(1 if options.quick else options.seeds):
            arguments = [f"--{key}={value}" for key, value in (setting | {"seed": seed}).items()]
            arguments.append(f"--folder={folder / str(seed)}")
            rows += _round(seed, arguments, setting, limit, file, options)
    return {
        "rows": rows,
        "notes": compare(rows),
        "setting": setting,
        "images": {"dataset": "mnist", **data.counts},
    }


def _round(
    seed: int,
    arguments: list[str],
    setting: dict[str, int],
    limit: int,
    file: Path,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    plan = make_plan(setting["max_epochs"], setting["reduction_factor"], setting["iterations"])
    of_peers = ["search", f"--images={file}", f"--trials={plan.trials}", *arguments]
    of_ours = ["search", f"--limit={limit}", f"--data_dir={options.data_dir}", *arguments]
    folder = file.parent / f"random-{seed}"
    of_random = [*of_ours, f"--folder={folder}", "--tune", "--sampler=random"]
    reports = {
        OURS: contestants.ours("benchmarks.ours", *of_ours),
        OURS_RANDOM: contestants.ours("benchmarks.ours", *of_random),
        "Keras Tuner": contestants.keras(options.keras, *of_peers),
        "stock Lightning": contestants.stock(*of_peers),
    }
    found = {name: report for name, report in reports.items() if report}
    slowest = max(found.values(), key=lambda report: report["seconds"])
    goal = slowest["best_val_accuracy"]
    return [
        {
            "contestant": name,
            "seed": seed,
            "seconds": round(report["seconds"], 1),
            "trials": report["trials"],
            "epochs": report["epochs"],
            "images/s": round(report["images_per_second"]),
            "best val accuracy": report["best_val_accuracy"],
            "seconds to the slowest's accuracy": next(
                (round(when, 1) for when, accuracy in report["curve"] if accuracy >= goal), None
            ),
            "other load": report["other_load"],
            "report": report,
        }
        for name, report in found.items()
    ]


def compare(rows: list[dict[str, Any]]) -> list[str]:
    """Say how many times as long the peers took, seed by seed."""
    seconds = {(row["contestant"], row["seed"]): row["seconds"] for row in rows}
    rates = {(row["contestant"], row["seed"]): row["images/s"] for row in rows}
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    own = [name for name in names if name in (OURS, OURS_RANDOM)]
    notes = []
    for peer, ours in itertools.product([name for name in names if name not in own], own):
        seeds = [seed for name, seed in seconds if name == peer]
        wall = [seconds[peer, seed] / seconds[ours, seed] for seed in seeds]
        rate = [rates[ours, seed] / rates[peer, seed] for seed in seeds]
        notes.append(
            f"{peer} took {statistics.geometric_mean(wall):.2f} times as long as {ours} "
            f"({', '.join(f'{x:.2f}' for x in wall)}); images/s: {ours} "
            f"{statistics.geometric_mean(rate):.2f} times"
        )
    return notes
