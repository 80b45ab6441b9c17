"""Write a search's tables, JSON files and pictures from its studies and checkpoints."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import optuna

from src.core.errors import UserError
from src.core.files import optional, replacing, write_json
from src.core.metrics import ConfusionMatrix
from src.data.split import TrainingData
from src.inference.predictions import read_probabilities, worst_mistakes
from src.reporting.analysis import accuracy_of, best_by_batch_size
from src.reporting.figures import draw_best, draw_rungs, reading_figures
from src.results.folder import ResultsFolder
from src.results.records import (
    BestSummary,
    Decision,
    FinalsSummary,
    ModelSummary,
    PublishedDecision,
    SearchSummary,
    TrainedOn,
    TrialRecord,
)
from src.results.tables import STATES, read_trials, write_epochs, write_trials
from src.search.hyperband import Plan
from src.search.planned_study import PlannedStudy
from src.search.session import Session
from src.search.studies import (
    ABANDONED,
    FINISHED,
    SLOT,
    ended_trials,
    finalist_model,
    iterations,
    load_decision,
    runs,
    study_spec,
)
from src.training.checkpoint import SavedModel, load_model
from src.training.device import Device, choose_compute
from src.training.history import SELECTED_ON
from src.training.tensorboard import WINNER, write_pictures


def publish_study(search: PlannedStudy, plan: Plan, session: Session) -> None:
    """Write the CSV and the pictures of one batch size's study."""
    folder, batch_size, trials = session.folder, int(search.name), ended_trials(search.study)
    write_trials(folder.study_csv(batch_size), trials)
    title = f"{folder.path.name}, batch size {batch_size}: {len(trials)} trials"
    with optional("pictures", folder.rungs_figure(batch_size)):
        draw_rungs(folder.rungs_figure(batch_size), title, trials, plan)
    for model in load_best_models({batch_size: search.study}, session).values():
        with optional("pictures", folder.study_figure(batch_size)):
            draw_model(folder.study_figure(batch_size), model)


def publish_search(studies: Mapping[int, optuna.Study], session: Session) -> SavedModel | None:
    """Write all.csv, curves.csv, best.json and best-model.ckpt over all batch sizes.

    Returns:
        The best model: that of the finals' winner, or while there were none that of the best
        trial; None while no trial has finished.
    """
    folder = session.folder
    decision = load_decision(session)  # models are kept before they count
    trials = [trial for study in studies.values() for trial in ended_trials(study)]
    write_epochs(folder.curves_csv, trials)
    write_trials(folder.all_csv, trials)
    found = _load_best(studies, session)
    if found is None:
        return None
    source, best = found
    batch_size, search_provenance = best.hyperparameters.batch_size, best.provenance
    finals = None
    if decision is not None:
        source, best = _load_decided(folder, decision)
        finals = _summarise_finals(decision)
        published = PublishedDecision(
            **vars(decision), data=_trained_on(best), provenance=best.provenance
        )
        write_json(folder.finalists_json, published.to_document())
    if source != folder.best_model:
        with replacing(folder.best_model) as temporary:
            shutil.copyfile(source, temporary)
    settings = study_spec(studies[batch_size]).to_settings() | {
        "iterations": iterations(studies.values())
    }
    history = runs(studies.values())
    # A run without an end was killed, unless others share the studies and it is still going on.
    fine = (FINISHED, None) if session.store.shared else (FINISHED,)
    states = [trial.state for trial in trials]
    search = SearchSummary(
        settings=settings,
        trials={state: states.count(state) for state in STATES},
        epochs=_whole(round(sum(trial.epochs for trial in trials), 4)),
        seconds=round(sum(trial.seconds or 0.0 for trial in trials), 1),
        batch_sizes=tuple(sorted(studies)),
        provenance=search_provenance,
        interrupted=(
            any(trial.reason == ABANDONED for trial in trials)
            or any(run.how not in fine for run in history)
        ),
        runs=history,
    )
    summary = BestSummary(**vars(describe_model(best)), finals=finals, search=search)
    write_json(folder.best_json, summary.to_document())
    return best


def _summarise_finals(decision: Decision) -> FinalsSummary:
    winner = decision.finalists[0]
    return FinalsSummary(
        batch_size=winner.batch_size,
        trial=winner.trial,
        search_val_accuracy=winner.search_val_accuracy,
        mean=winner.mean,
        std=winner.std,
        ci95=winner.ci95,
        seed=decision.winner.seed,
        seeds=winner.seeds,
    )


def refuse_to_lose_trials(studies: Mapping[int, optuna.Study], session: Session) -> None:
    """Refuse to overwrite an all.csv that shows more finished trials than the studies hold.

    Raises:
        UserError: there are such, or they cannot be read.
    """
    folder = session.folder
    if not folder.all_csv.exists():
        return
    done = ("COMPLETE", "PRUNED")
    found = [record for study in studies.values() for record in ended_trials(study)]
    there = sum(record.state in done for record in found)
    shown = sum(record.state in done for record in read_trials(folder.all_csv))
    if there < shown:
        held = "the database" if session.store.shared else folder.journal
        raise UserError(
            f"{held} holds {there} finished trials, though {folder.all_csv} shows {shown}: some "
            f"are lost; restore them, or move {folder.path} away to begin a new search"
        )


def load_best_models(
    studies: Mapping[int, optuna.Study], session: Session
) -> dict[int, SavedModel]:
    """Load the best model of every study that has a finished trial and its model still.

    One that is gone costs a new picture of its batch size, and no more: what a search leaves is
    large, and may be taken elsewhere without it.

    Raises:
        UserError: one is damaged.
    """
    folder = session.folder
    # After the trials are known: a model is kept before its trial ends.
    best = _best_trials(studies)
    session.store.fetch_models()
    return {
        size: _load(folder, folder.study_model(size), f"the best trial at batch size {size}")
        for size in best
        if folder.study_model(size).exists()
    }


def _load_best(
    studies: Mapping[int, optuna.Study], session: Session
) -> tuple[Path, SavedModel] | None:
    """Load the model of the best trial of all; None while no trial has finished.

    Raises:
        UserError: it is missing or damaged; the search cannot be told without it.
    """
    folder, trials = session.folder, _best_trials(studies)
    models = load_best_models(studies, session)
    if not trials:
        return None
    size, best = max(trials.items(), key=lambda item: accuracy_of(item[1]))
    path = folder.study_model(size)
    if size not in models and folder.best_model.exists():
        kept = _load(folder, folder.best_model, "the best model")
        equals = (
            trial.hyperparameters
            for trial in ended_trials(studies[size])
            if trial.state == "COMPLETE" and trial.val_accuracy == best.val_accuracy
        )
        if kept.val_accuracy == best.val_accuracy and kept.hyperparameters in equals:
            return folder.best_model, kept
    return path, models.get(size) or _load(folder, path, f"the best trial at batch size {size}")


def _best_trials(studies: Mapping[int, optuna.Study]) -> dict[int, TrialRecord]:
    """Return the best finished trial of every batch size that has one."""
    return best_by_batch_size([one for study in studies.values() for one in ended_trials(study)])


def check_models(studies: Mapping[int, optuna.Study], session: Session) -> None:
    """Load every model that `publish_search` will need, to fail before training rather than after.

    Raises:
        UserError: one is missing or damaged.
    """
    decision = load_decision(session)
    _load_best(studies, session)
    if decision is not None:
        _load_decided(session.folder, decision)


def _load_decided(folder: ResultsFolder, decision: Decision) -> tuple[Path, SavedModel]:
    """Load the model that finals decided for, even if a better seed has been trained since."""
    winner = decision.finalists[0]
    slot = f"{winner.batch_size}-{winner.trial}-{decision.winner.seed}"
    path = folder.checkpoint(finalist_model(winner.batch_size, winner.trial))
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


def describe_model(model: SavedModel) -> ModelSummary:
    """Summarise a model for a JSON file."""
    return ModelSummary(
        dataset=model.data_spec.dataset,
        val_accuracy=model.val_accuracy,
        selected_on=f"{SELECTED_ON} of the best epoch",
        best_epoch=model.best_epoch,
        epochs=len(model.history),
        hyperparameters=model.hyperparameters,
        data=_trained_on(model),
        provenance=model.provenance,
    )


def _trained_on(model: SavedModel) -> TrainedOn:
    return TrainedOn(
        **vars(model.data_spec), images=model.image_counts, split_hash=model.split_hash
    )


def draw_model(path: Path, model: SavedModel) -> None:
    """Draw a model's learning curves, per-class report and validation confusion matrix."""
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


def write_winner(log_dir: Path, model: SavedModel, data: TrainingData, device: Device) -> None:
    """Write the best model's validation confusion matrix and worst mistakes to TensorBoard."""
    compute = choose_compute(device, "32")
    read = read_probabilities(model.network(), data.validation.pixels, compute).numpy()
    mistakes = worst_mistakes(data.validation, read, model.class_names)
    matrix = ConfusionMatrix(model.validation_confusion, model.class_names)
    pictures = reading_figures(matrix, list(mistakes.values()))
    write_pictures(log_dir, model.data_spec.dataset, WINNER, "validation", pictures)


def _whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number
