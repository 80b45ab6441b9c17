"""(c) What the search itself costs: 1,000 trials of a second each, in which nothing is computed.

Sampling, pruning, storage, TensorBoard and the messages between the processes, with the storage
and the sampler that searches have by default; only the training is replaced, by sleeping.
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback

from src import tune
from src.core.interrupt import Interruption
from src.data.split import TrainingData
from src.data.stretches import Stretch, make_stretches
from src.results.folder import ResultsFolder
from src.search.hyperband import make_plan
from src.search.journal import open_journal
from src.search.studies import load_studies
from src.training.fitted import Fitted
from src.training.history import Epoch
from src.training.hyperparameters import task_arguments
from src.training.spec import FitSpec
from src.training.task import CharacterTask
from src.training.tensorboard import write_run
from src.workers.worker import HyperbandCallback

SECONDS = 1.0
"""Of one trial, however many epochs it trains."""
MAX_EPOCHS, FACTOR, ITERATIONS = 9, 3, 59
IMAGES = 100


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the search with two workers, which one process serves."""
    iterations = 2 if options.quick else ITERATIONS
    return {
        "rows": [_search(2, iterations)],
        "notes": [
            "overhead: the share of the workers' time, from the first trial's start to the last "
            "one's end, in which no trial runs its second"
        ],
    }


def _search(workers: int, iterations: int) -> dict[str, Any]:
    trials = make_plan(MAX_EPOCHS, FACTOR, iterations).trials
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        search = dataclasses.replace(tune.COMMAND, run=functools.partial(tune.run, fit=_sleep))
        code = search.main(
            [
                *("--dataset=mnist_5k", f"--limit={IMAGES}", f"--workers={workers}"),
                *(f"--max_epochs={MAX_EPOCHS}", f"--reduction_factor={FACTOR}"),
                *(f"--iterations={iterations}", "--device=cpu", "--tensorboard=all"),
                *(f"--results_dir={folder}/results", f"--log_dir={folder}/logs"),
            ]
        )
        if code != 0:
            raise RuntimeError("the search failed")
        command_seconds = time.perf_counter() - started
        storage = open_journal(ResultsFolder(Path(folder) / "results", "mnist_5k"))
        (study,) = load_studies(storage, "mnist_5k").values()
        ended = study.get_trials(deepcopy=False)
    begin = min(t.datetime_start for t in ended if t.datetime_start)
    end = max(t.datetime_complete for t in ended if t.datetime_complete)
    seconds = (end - begin).total_seconds()
    return {
        "workers": workers,
        "trials": len(ended),
        "reports": sum(len(trial.intermediate_values) for trial in ended),
        "seconds": round(seconds, 1),
        "overhead %": round(100 * (1 - trials * SECONDS / workers / seconds), 2),
        "seconds of the whole command": round(command_seconds, 1),
    }


class _Asleep(CharacterTask):
    """Trains nothing, and says itself how far it is, where others ask their Trainer's images."""

    stretch = Stretch(epoch=0, begin=0, end=1, epochs=1)


def _sleep(
    spec: FitSpec,
    data: TrainingData,
    interruption: Interruption,
    callbacks: Sequence[Callback],
) -> Fitted:
    """Stand for `fit`: sleep, then report a made-up curve until the pruner stops it."""
    started = time.monotonic()
    generator = torch.Generator().manual_seed(spec.seed)
    limit, rate = torch.rand(2, generator=generator).tolist()
    task = _Asleep(**task_arguments(spec.hyperparameters, classes=10))
    (hyperband,) = (callback for callback in callbacks if isinstance(callback, HyperbandCallback))
    time.sleep(SECONDS - (time.monotonic() - started))

    trainer: Any = SimpleNamespace(callback_metrics={}, should_stop=False)
    history: list[Epoch] = []
    for task.stretch in make_stretches(spec.max_epochs, spec.looks, steps=1):
        accuracy = round(limit * (1 - (1 - rate) ** task.stretch.epochs), 6)
        trainer.callback_metrics["val_accuracy"] = torch.tensor(accuracy, dtype=torch.float64)
        history.append(Epoch(task.stretch.epochs, 0.1, accuracy, 0.1, accuracy))
        hyperband.on_validation_end(trainer, task)
        if trainer.should_stop:
            break
    if spec.tensorboard is not None:
        write_run(spec.tensorboard, spec.hyperparameters, history, history[-1].val_accuracy)
    return Fitted(
        history=tuple(history),
        best=history[-1],
        weights=dict(task.state_dict()),
        confusion=torch.bincount(data.validation.labels, minlength=10).diag(),
        seconds=time.monotonic() - started,
        early_stopped=False,
        diverged=None,
        interrupted=None,
    )
