"""A results folder as a search of any size leaves it, simulated: no training, a second."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import numpy as np

from src.core.files import write_json
from src.core.intervals import wilson_interval
from src.core.metrics import ConfusionMatrix
from src.data.catalog import CLASS_NAMES, Dataset, DataSpec
from src.reporting.publish import describe_model
from src.results.folder import ResultsFolder
from src.results.records import BestSummary, Run, SearchSummary, TrialRecord
from src.results.tables import write_epochs, write_trials
from src.search.hyperband import Plan, is_promoted, make_plan
from src.search.spec import Sampler
from src.training.checkpoint import SavedModel, save_model
from src.training.history import Epoch
from src.training.hyperparameters import Hyperparameters
from src.training.task import make_task

_PATIENCE = 3


def simulate_search(
    results_dir: Path,
    dataset: str = "mnist",
    batch_sizes: tuple[int, ...] = (64,),
    max_epochs: int = 9,
    reduction_factor: int = 3,
    images: int = 60_000,
    min_epochs: float = 1,
    brackets: int | None = None,
    promotion: Literal["synchronous", "stopping"] = "stopping",
    sampler: Sampler = "tpe",
) -> ResultsFolder:
    """Write what a search would leave whose accuracies follow a formula and some luck."""
    generator = np.random.default_rng(0)
    plan = make_plan(max_epochs, reduction_factor, 1, min_epochs, brackets)
    folder = ResultsFolder(results_dir, dataset)
    folder.path.mkdir(parents=True)
    validation = images // 5
    trials: list[TrialRecord] = []
    for batch_size in batch_sizes:
        configurations = [_configuration(generator, batch_size) for _ in range(plan.trials)]
        curves = [_curve(generator, hp, plan, validation) for hp in configurations]
        lost = _lost(curves, plan, promotion)
        for slot, (hp, curve) in enumerate(zip(configurations, curves, strict=True)):
            history = tuple(look for look in curve if look.epoch <= lost.get(slot, max_epochs))
            epochs = history[-1].epoch
            state, reason = "COMPLETE", ""
            if slot in lost:
                state, reason = "PRUNED", f"lost on the rung at epoch {epochs:.4g}"
            elif math.isinf(history[-1].train_loss):
                state, reason = "PRUNED", f"diverged: training loss is inf in epoch {epochs}"
            elif epochs < max_epochs:
                reason = f"early stopping: no better epoch in {_PATIENCE}"
            best = [e.val_accuracy for e in history if e.is_whole and math.isfinite(e.train_loss)]
            record = TrialRecord(
                val_accuracy=max(best, default=None),
                hyperparameters=hp,
                epochs=epochs,
                trial=slot,
                state=state,
                bracket=plan.bracket_of(slot).s,
                seconds=7.5 * epochs,
                reason=reason,
                history=history,
            )
            trials.append(record)
    write_epochs(folder.curves_csv, trials)
    write_trials(folder.all_csv, trials)
    finished = [trial for trial in trials if trial.state == "COMPLETE"]
    best_trial = max(finished, key=lambda trial: trial.val_accuracy or 0)
    whole = tuple(look for look in best_trial.history if look.is_whole)
    names = CLASS_NAMES[cast(Dataset, dataset)]
    model = SavedModel(
        hyperparameters=best_trial.hyperparameters,
        data_spec=DataSpec(dataset=cast(Dataset, dataset)),
        class_names=names,
        weights=dict(make_task(best_trial.hyperparameters, len(names)).state_dict()),
        history=whole,
        best_epoch=1 + int(np.argmax([epoch.val_accuracy for epoch in whole])),
        val_accuracy=best_trial.val_accuracy or 0.0,
        validation_confusion=simulate_confusion(
            len(names), validation, best_trial.val_accuracy or 0.0
        ),
        image_counts={"train": images - validation, "validation": validation},
        split_hash="0" * 64,
        provenance={
            "command": f"python -m src.tune --dataset {dataset}",
            "date": "2026-01-02T03:04:05+00:00",
            "git_commit": "0" * 40,
            "versions": {"python": "3.11.7", "torch": "2.15.0"},
            "device": "simulated",
            "precision": "bf16",
            "platform": "Linux",
            "trial": best_trial.trial,
            "bracket": best_trial.bracket,
        },
    )
    save_model(folder.best_model, model)
    search = SearchSummary(
        settings={
            **asdict(model.data_spec),
            "max_epochs": max_epochs,
            "reduction_factor": reduction_factor,
            "min_epochs": min_epochs,
            "brackets": brackets,
            "promotion": promotion,
            "iterations": 1,
            "sampler": sampler,
            "patience": 3,
            "precision": "bf16",
        },
        trials={"COMPLETE": len(finished), "PRUNED": len(trials) - len(finished), "FAIL": 0},
        epochs=sum(trial.epochs for trial in trials),
        seconds=sum(trial.seconds or 0 for trial in trials),
        batch_sizes=batch_sizes,
        provenance=model.provenance,
        interrupted=False,
        runs=(
            Run(
                host="simulated",
                started="2026-01-02T03:04:05.000+00:00",
                ended="2026-01-02T05:14:05.000+00:00",
                how="finished",
            ),
        ),
    )
    summary = BestSummary(**vars(describe_model(model)), search=search)
    write_json(folder.best_json, summary.to_document())
    return folder


def _configuration(generator: np.random.Generator, batch_size: int) -> Hyperparameters:
    return Hyperparameters(
        conv1=int(generator.integers(1, 9)) * 32,
        conv2=int(generator.integers(1, 9)) * 32,
        dense_units=int(generator.integers(1, 9)) * 32,
        dropout_rate=int(generator.integers(1, 10)) / 10,
        learning_rate=float(10 ** generator.uniform(-4, -2)),
        batch_size=batch_size,
    )


def _curve(
    generator: np.random.Generator, hp: Hyperparameters, plan: Plan, validation: int
) -> list[Epoch]:
    """Return the looks at a trial that no rung stops."""
    final = 0.006 + 0.004 * (np.log10(hp.learning_rate) + 3) ** 2
    final += 0.006 * (hp.dropout_rate - 0.4) ** 2 + 0.08 / (hp.conv1 + hp.conv2)
    curve: list[Epoch] = []
    best, since = 0.0, 0
    for epoch in (*plan.looks, *range(1, plan.max_epochs + 1)):
        falls = epoch**-1.6 if epoch >= 1 else epoch**-0.6
        error = final + 0.12 * falls * np.exp(generator.normal(0, 0.4))
        error = min(0.9, float(error * np.exp(generator.normal(0, 0.05))))
        images = validation if epoch >= 1 else validation // 9
        accuracy = round(1 - round(error * images) / images, 6)
        loss = math.inf if hp.learning_rate > 0.0097 else round(4 * error, 6)
        curve.append(Epoch(epoch, loss, round(1 - 0.8 * error, 6), error, accuracy))
        if epoch >= 1:
            since = 0 if accuracy > best else since + 1
            best = max(best, accuracy)
        if math.isinf(loss) or since == _PATIENCE:
            break
    return curve


def _lost(curves: Sequence[list[Epoch]], plan: Plan, promotion: str) -> dict[int, float]:
    """Return on which rung each trial that lost has done so."""
    lost: dict[int, float] = {}
    first = 0
    for bracket in plan.brackets:
        there = list(range(first, first + bracket.trials))
        first += bracket.trials
        for rung, above in pairwise(bracket.rungs):
            values = {slot: value for slot in there if (value := _value(curves[slot], rung.epochs))}
            if promotion == "synchronous":
                there = sorted(values, key=values.__getitem__, reverse=True)[: above.trials]
            else:
                order = list(values.values())
                there = [
                    slot
                    for i, slot in enumerate(values)
                    if is_promoted(values[slot], order[: i + 1], plan.reduction_factor)
                ]
            lost |= {slot: rung.epochs for slot in values if slot not in there}
    return lost


def _value(curve: list[Epoch], epochs: float) -> float | None:
    """Return what a trial has on a rung; None if it does not get there."""
    looks = [look for look in curve if look.epoch <= epochs and math.isfinite(look.train_loss)]
    if not looks or looks[-1].epoch < epochs:
        return None
    return max(
        (look.val_accuracy for look in looks if look.is_whole), default=looks[-1].val_accuracy
    )


def simulate_confusion(classes: int, images: int, accuracy: float) -> list[list[int]]:
    """Spread images over classes and mistakes, so that about this share is read correctly."""
    generator = np.random.default_rng(1)
    mistakes = generator.pareto(0.7, (classes, classes))
    np.fill_diagonal(mistakes, 0)
    shares = (1 - accuracy) * mistakes / mistakes.sum() + np.eye(classes) * accuracy / classes
    counts: list[list[int]] = (
        generator.multinomial(images, shares.ravel()).reshape(classes, classes).tolist()
    )
    return counts


def finalists_of(folder: ResultsFolder) -> dict[str, object]:
    """Return what finalists.json would hold: two configurations, three seeds."""
    best = json.loads(folder.best_json.read_text())
    names = ("conv1", "conv2", "dense_units", "dropout_rate", "learning_rate", "batch_size")
    one = {
        "batch_size": best["batch_size"],
        "trial": best["provenance"]["trial"],
        "hyperparameters": {name: best[name] for name in names},
        "search_val_accuracy": best["val_accuracy"],
    }
    fits = {"seeds": [0, 1, 2], "epochs": [20, 25, 30], "seconds": [60.0, 75.0, 90.0]}
    return {
        "dataset": best["dataset"],
        "max_epochs": 30,
        "patience": None,
        "data": best["data"],
        "finalists": [
            {
                "rank": 1, **one, **fits, "diverged": [],
                "val_accuracies": [0.98, 0.981, 0.982], "mean": 0.981,
                "std": 0.001, "ci95": [0.9785, 0.9835], "optimism": 0.002,
            },
            {
                "rank": 2, **one, **fits, "diverged": [3],
                "val_accuracies": [0.97, 0.971, 0.972], "mean": 0.971,
                "std": 0.001, "ci95": [0.9685, 0.9735], "optimism": 0.012,
            },
        ],
        "winner": {"rank": 1, "seed": 2},
        "runs": best["search"]["runs"],
        "provenance": best["provenance"],
    }  # fmt: skip


def metrics_of(folder: ResultsFolder, checkpoint: str = "best-model.ckpt") -> dict[str, object]:
    """Return what metrics.json would hold."""
    best = json.loads(folder.best_json.read_text())
    names = CLASS_NAMES[cast(Dataset, folder.path.name)]
    matrix = ConfusionMatrix(simulate_confusion(len(names), 10_000, 0.97), names)
    return {
        "dataset": folder.path.name,
        "test_accuracy": matrix.accuracy,
        "n_test": matrix.images,
        "ci95": list(wilson_interval(matrix.correct, matrix.images)),
        "macro_accuracy": matrix.macro_accuracy,
        "per_class": [asdict(one) for one in matrix.per_class()],
        "most_confused": [asdict(one) for one in matrix.most_confused()],
        "confusion_matrix": matrix.counts.tolist(),
        "mistakes": [{"image": 3, "true": "1", "predicted": "7", "probability": 0.99}],
        "test_images_sha256": "0" * 64,
        "caution": None,
        "checkpoint": checkpoint,
        "test_split_opened": 1,
        "checkpoint_sha256": hashlib.sha256(folder.best_model.read_bytes()).hexdigest(),
        "val_accuracy": best["val_accuracy"],
        "provenance": best["provenance"],
    }
