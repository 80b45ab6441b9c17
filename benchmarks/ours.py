"""This project as a contestant: prints one JSON object last, as the programs in peers/ do.

    python -m benchmarks.ours throughput --images FILE.npz --conv1 32 --conv2 64 --dense_units 128
        --batch_size 64 --seconds 10
    python -m benchmarks.ours search --folder DIR --limit 6250 --batch_size 64 --max_epochs 9
        --reduction_factor 3 --iterations 1 --seed 0

`throughput` runs as many fits at once as there are workers. `search` runs `src.tune`; its seconds
are from the start of the first trial to the end of the last.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.images import read as read_images
from src import tune
from src.core.interrupt import Interrupted
from src.data.catalog import CLASS_NAMES, DataSpec
from src.data.split import TrainingData
from src.results.folder import ResultsFolder
from src.search.journal import open_journal
from src.search.studies import load_studies
from src.training.device import choose_compute, choose_workers
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.workers.local import LocalWorkers
from src.workers.messages import Advanced, Ended, Reported

WARM_UP = 0.2
"""Epochs before the clock starts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and print its JSON object."""
    parser = argparse.ArgumentParser(description="This project, to compare with.")
    commands = parser.add_subparsers(required=True)
    throughput = commands.add_parser("throughput", help="training images per second")
    throughput.set_defaults(run=_measure_throughput)
    throughput.add_argument("--images", type=Path, required=True)
    throughput.add_argument("--seconds", type=float, default=10.0)
    for name in ("conv1", "conv2", "dense_units", "batch_size"):
        throughput.add_argument(f"--{name}", type=int, required=True)
    search = commands.add_parser("search", help="one Hyperband search")
    search.set_defaults(run=_run_search)
    search.add_argument("--folder", type=Path, required=True)
    search.add_argument("--data_dir", default="data")
    for name in ("limit", "batch_size", "max_epochs", "reduction_factor", "iterations", "seed"):
        search.add_argument(f"--{name}", type=int, required=True)
    for command in (throughput, search):
        command.add_argument("--workers", type=int)
    search.add_argument("--tune", nargs=argparse.REMAINDER, default=[], help="its other options")
    options = parser.parse_args(argv)
    print(json.dumps({"peer": "ours", **options.run(options)}))
    return 0


def _run_search(options: argparse.Namespace) -> dict[str, Any]:
    """Search, then read from its results what it did and when."""
    started = time.perf_counter()
    arguments = [
        *("--dataset=mnist", f"--batch_sizes=[{options.batch_size}]"),
        *(f"--results_dir={options.folder}/results", f"--log_dir={options.folder}/logs"),
        f"--workers={options.workers or 'auto'}",
    ]
    for name in ("limit", "max_epochs", "reduction_factor", "iterations", "seed"):
        arguments.append(f"--{name}={getattr(options, name)}")
    if tune.main([*arguments, f"--data_dir={options.data_dir}", *options.tune]) != 0:
        raise RuntimeError("the search failed")
    command_seconds = time.perf_counter() - started

    storage = open_journal(ResultsFolder(options.folder / "results", "mnist"))
    (study,) = load_studies(storage, "mnist").values()
    trials = study.get_trials(deepcopy=False)
    begin = min(t.datetime_start for t in trials if t.datetime_start).timestamp()
    end = max(t.datetime_complete for t in trials if t.datetime_complete).timestamp()
    accuracies = []  # of every epoch, with the time at which TensorBoard was told
    for path in (options.folder / "logs").rglob("events*"):
        events = EventAccumulator(str(path)).Reload()
        if "accuracy/validation" in events.Tags()["scalars"]:
            accuracies += [(e.wall_time, e.value) for e in events.Scalars("accuracy/validation")]
    curve: list[list[float]] = []
    for when, accuracy in sorted(accuracies):
        if not curve or accuracy > curve[-1][1]:
            curve.append([round(when - begin, 3), round(accuracy, 6)])
    seconds = end - begin
    epochs = round(sum(max(t.intermediate_values, default=0) for t in trials), 3)
    return {
        "seconds": round(seconds, 3),
        "command_seconds": round(command_seconds, 3),
        "trials": len(trials),
        "epochs": epochs,
        "images_per_second": round(epochs * options.limit * 0.8 / seconds, 1),
        "best_val_accuracy": curve[-1][1],
        "curve": curve,
    }


def _measure_throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Train until the time is over, and say how fast."""
    compute = choose_compute("auto", "auto", threads=1)
    number = options.workers or choose_workers("auto", compute)
    data = _read(options.images)
    images = len(data.train)
    spec = FitSpec(
        hyperparameters=Hyperparameters(
            conv1=options.conv1,
            conv2=options.conv2,
            dense_units=options.dense_units,
            batch_size=options.batch_size,
            dropout_rate=0.3,
            learning_rate=1e-3,
        ),
        max_epochs=1_000_000,
        patience=None,
        seed=0,
        compute=compute,
    )
    load = functools.partial(_to_device, data)
    seen: dict[int, list[tuple[float, float]]] = {worker: [] for worker in range(number)}
    begun = None  # when all had trained for a while: from here on it counts
    with LocalWorkers(number, load) as workers:
        for worker in range(number):
            workers.submit(worker, spec)
        stopped = False
        while len(workers.idle) < number:
            for worker, message in workers.receive(1.0):
                now = time.perf_counter()
                if isinstance(message, Reported):
                    workers.answer(worker, "go on")
                elif isinstance(message, Advanced):
                    seen[worker].append((now, message.epochs))
                elif not isinstance(message, Ended):
                    raise RuntimeError(message.details or message.reason)
            if begun is None and all(times and times[-1][1] >= WARM_UP for times in seen.values()):
                begun = time.perf_counter()
                seen = {worker: [times[-1]] for worker, times in seen.items()}
            if begun and not stopped and time.perf_counter() - begun > options.seconds:
                stopped = True
                workers.interrupt(Interrupted("measured", 0))
    # Each from one of its own messages to another, as a message comes at the end of a chunk.
    epochs = [times[-1][1] - times[0][1] for times in seen.values()]
    seconds = [times[-1][0] - times[0][0] for times in seen.values()]
    rates = [images * e / s for e, s in zip(epochs, seconds, strict=True)]
    return {
        "images": round(images * sum(epochs)),
        "seconds": round(max(seconds), 3),
        "images_per_second": round(sum(rates), 1),
        "workers": number,
        "precision": compute.precision,
    }


def _read(path: Path) -> TrainingData:
    """Read the file that all contestants get; hardly any of it validates here."""
    train, validation = read_images(path)
    few = torch.arange(1)
    spec = DataSpec(dataset="mnist")
    return TrainingData(spec, CLASS_NAMES["mnist"], train, validation[few], "")


def _to_device(data: TrainingData, device: torch.device) -> TrainingData:
    return TrainingData(
        data.spec, data.class_names, data.train.to(device), data.validation.to(device), ""
    )


if __name__ == "__main__":
    sys.exit(main())
