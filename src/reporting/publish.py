"""A search's studies and checkpoints → the files that people read."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from src.core.errors import UserError
from src.core.files import optional, replacing, write_json
from src.core.metrics import ConfusionMatrix
from src.data.split import TrainingData
from src.inference.predictions import read_probabilities, worst_mistakes
from src.reporting.figures import draw_best, draw_rungs, reading_figures
from src.results.folder import ResultsFolder
from src.results.records import TrialRecord
from src.results.tables import write_epochs, write_trials
from src.search.hyperband import Plan
from src.search.store import Store
from src.search.studies import (
    ABANDONED,
    FINISHED,
    SLOT,
    ended_trials,
    finalist_model,
    iterations,
    load_decision,
    runs,
    study_settings,
)
from src.training.checkpoint import SavedModel, load_model
from src.training.device import choose_compute
from src.training.history import SELECTED_ON
from src.training.tensorboard import WINNER, write_pictures


def publish_study(
    folder: ResultsFolder, store: Store, batch_size: int, study: optuna.Study, plan: Plan
) -> None:
    """Write one batch size's CSV and pictures."""
    trials = ended_trials(study)
    write_trials(folder.study_csv(batch_size), [record for record, _ in trials])
    title = f"{folder.path.name}, batch size {batch_size}: {len(trials)} trials"
    with optional("pictures", folder.rungs_figure(batch_size)):
        draw_rungs(folder.rungs_figure(batch_size), title, trials, plan)
    for model in load_best_models(folder, store, {batch_size: study}).values():
        with optional("pictures", folder.study_figure(batch_size)):
            draw_model(folder.study_figure(batch_size), model)


def publish_search(
    folder: ResultsFolder, store: Store, studies: Mapping[int, optuna.Study]
) -> SavedModel | None:
    """Write all.csv, curves.csv, best.json and best-model.ckpt over all batch sizes.

    Args:
        folder: where.
        store: where the studies and the best models are.
        studies: by batch size.

    Returns:
        The best model: that of the finals' winner, or while there were none that of the best
        trial; None while no trial has finished.
    """
    decision = load_decision(store.storage, folder.path.name)  # models are kept before they count
    trials = [trial for study in studies.values() for trial in ended_trials(study)]
    records = [record for record, _ in trials]
    write_epochs(folder.curves_csv, trials)
    write_trials(folder.all_csv, records)
    models = load_best_models(folder, store, studies)
    if not models:
        return None
    batch_size, best = max(models.items(), key=lambda item: item[1].val_accuracy)
    source = folder.study_model(batch_size)
    search_provenance = best.provenance
    described: dict[str, object] = {}
    if decision is not None:
        winner = decision["finalists"][0]
        source, best = _load_decided(folder, decision)
        described["finals"] = {
            name: winner[name]
            for name in ("batch_size", "trial", "search_val_accuracy", "mean", "std", "ci95")
        } | {"seed": decision["winner"]["seed"], "seeds": winner["seeds"]}
        origin = {"data": describe_model(best)["data"], "provenance": best.provenance}
        write_json(folder.finalists_json, decision | origin)
    if source != folder.best_model:
        with replacing(folder.best_model) as temporary:
            shutil.copyfile(source, temporary)
    settings = study_settings(studies[batch_size]) | {"iterations": iterations(studies.values())}
    history = runs(studies.values())
    # A run without an end was killed, unless others share the studies and it is still going on.
    fine = (FINISHED, None) if store.shared else (FINISHED,)
    search = {
        "settings": settings,
        **_tally(records),
        "provenance": search_provenance,
        "interrupted": (
            any(record.reason == ABANDONED for record in records)
            or any(run["how"] not in fine for run in history)
        ),
        "runs": history,
    }
    write_json(folder.best_json, describe_model(best) | described | {"search": search})
    return best


def check_published(folder: ResultsFolder, studies: Mapping[int, optuna.Study]) -> None:
    """Refuse to write over tables that show more than the studies hold.

    Raises:
        UserError: there are such, or they cannot be read.
    """
    done = ("COMPLETE", "PRUNED")
    found = [record for study in studies.values() for record, _ in ended_trials(study)]
    there = sum(record.state in done for record in found)
    try:
        with folder.all_csv.open(newline="") as file:
            shown = sum(row["state"] in done for row in csv.DictReader(file))
    except FileNotFoundError:
        return
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise UserError(
            f"{folder.all_csv} is damaged; delete it, and it is written anew"
        ) from error
    if there < shown:
        raise UserError(
            f"the studies hold {there} finished trials ({folder.journal.name}, or the database of "
            f"`--storage`), though {folder.all_csv} shows {shown}: some are lost; restore them, or "
            f"move {folder.path} away to begin a new search"
        )


def load_best_models(
    folder: ResultsFolder, store: Store, studies: Mapping[int, optuna.Study]
) -> dict[int, SavedModel]:
    """Load the best model of every study that has a finished trial.

    Raises:
        UserError: one is missing or damaged; the search cannot be told without it.
    """
    finished = [
        batch_size
        for batch_size, study in studies.items()
        if any(record.state == "COMPLETE" for record, _ in ended_trials(study))
    ]
    store.fetch_models()  # after the trials are known: a model is kept before its trial ends
    models = {}
    for batch_size in finished:
        path = folder.study_model(batch_size)
        models[batch_size] = _load(folder, path, f"the best trial at batch size {batch_size}")
    return models


def check_models(folder: ResultsFolder, store: Store, studies: Mapping[int, optuna.Study]) -> None:
    """Make sure that every model is there that `publish_search` will need.

    Raises:
        UserError: one is missing or damaged.
    """
    decision = load_decision(store.storage, folder.path.name)
    load_best_models(folder, store, studies)
    if decision is not None:
        _load_decided(folder, decision)


def _load_decided(folder: ResultsFolder, decision: dict[str, Any]) -> tuple[Path, SavedModel]:
    """Load the model that finals decided for, even if a better seed has been trained since."""
    batch_size, trial = (decision["finalists"][0][name] for name in ("batch_size", "trial"))
    slot = f"{batch_size}-{trial}-{decision['winner']['seed']}"
    path = folder.checkpoint(finalist_model(batch_size, trial))
    model = _load(folder, path, "the winner of the finals")
    if model.provenance.get(SLOT) != slot and folder.best_model.exists():
        before = _load(folder, folder.best_model, "the winner of the finals")
        if before.provenance.get(SLOT) == slot:
            return folder.best_model, before
    return path, model


def _load(folder: ResultsFolder, path: Path, whose: str) -> SavedModel:
    try:
        return load_model(path)
    except UserError as error:
        raise UserError(
            f"{error} ({whose}: restore it, or move {folder.path} away to begin a new search)"
        ) from error


def describe_model(model: SavedModel) -> dict[str, object]:
    """Return what is worth knowing of a model, for a JSON file."""
    return {
        "dataset": model.data_spec.dataset,
        SELECTED_ON: model.val_accuracy,
        "selected_on": f"{SELECTED_ON} of the best epoch",
        "best_epoch": model.best_epoch,
        "epochs": len(model.history),
        **asdict(model.hyperparameters),
        "data": {
            **asdict(model.data_spec),
            "images": model.image_counts,
            "split_hash": model.split_hash,
        },
        "provenance": model.provenance,
    }


def draw_model(path: Path, model: SavedModel) -> None:
    """Draw a model's curves and how it reads the validation images."""
    hp = model.hyperparameters
    matrix = ConfusionMatrix(model.validation_confusion, model.class_names)
    draw_best(
        path,
        f"{model.data_spec.dataset}: validation accuracy {model.val_accuracy:.6f} "
        f"({matrix.images:,} images, epoch {model.best_epoch})\n"
        f"conv1 {hp.conv1} · conv2 {hp.conv2} · dense_units {hp.dense_units} · "
        f"dropout_rate {hp.dropout_rate:g} · learning_rate {hp.learning_rate:.3g} · "
        f"batch_size {hp.batch_size}",
        model.history,
        model.best_epoch,
        matrix,
    )


def write_winner(log_dir: str, model: SavedModel, data: TrainingData) -> None:
    """Show TensorBoard how the best model reads the validation images."""
    compute = choose_compute("auto", "32")  # the workers' device may be another machine's
    read = read_probabilities(model.task().model, data.validation.pixels, compute).numpy()
    mistakes = worst_mistakes(data.validation, read, model.class_names)
    matrix = ConfusionMatrix(model.validation_confusion, model.class_names)
    pictures = reading_figures(matrix, list(mistakes.values()))
    write_pictures(log_dir, model.data_spec.dataset, WINNER, "validation", pictures)


def _tally(records: Sequence[TrialRecord]) -> dict[str, object]:
    states = [record.state for record in records]
    return {
        "trials": {state: states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")},
        "epochs": sum(record.epochs for record in records),
        "seconds": round(sum(record.seconds or 0.0 for record in records), 1),
        "batch_sizes": sorted({record.hyperparameters.batch_size for record in records}),
    }
