"""The studies of a data set: what they were begun with, what they hold, who has run them."""

import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from src.core.errors import UserError
from src.core.files import free_name
from src.data.split import TrainingData
from src.options import TuneConfig
from src.results.records import TrialRecord
from src.search import space
from src.search.hyperband import Plan
from src.search.pruner import BRACKET_ATTRIBUTE, PlannedHyperbandPruner
from src.training.device import Compute
from src.training.history import Epoch
from src.training.hyperparameters import RECIPE, Hyperparameters

SLOT = "slot"
"""Trial user attribute: the trial's place in the plan."""

OUTCOME = "outcome"
"""Trial user attribute: how the trial ended, and its curves."""

DECISION = "decision"
"""Study user attribute of the finals: what came of them."""

_LOG_NAME = "log_name"

ABANDONED = "abandoned: its machine fell silent"
"""Why a trial failed that nobody ran any more."""

FINISHED = "finished"
"""How a run ended that was not interrupted."""

_RUN = "run:"
"""Study user attributes that begin so: each tells of one run of the search."""

_SETTINGS = "settings"

_ITERATIONS = "iterations"

_BATCH_SIZE = "batch_size"


def load_studies(storage: BaseStorage, dataset: str) -> dict[int, optuna.Study]:
    """Return every study of a data set by its batch size, the smallest first."""
    studies = [
        optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
        if re.fullmatch(rf"{dataset}-\d+", name)
    ]
    # A study without settings was being made when its process was killed; it has no trials.
    begun = {_batch_size(study): study for study in studies if _SETTINGS in study.user_attrs}
    return dict(sorted(begun.items()))


def _batch_size(study: optuna.Study) -> int:
    return int(study.user_attrs[_BATCH_SIZE])


def check_settings(
    storage: BaseStorage, config: TuneConfig, data: TrainingData, compute: Compute
) -> None:
    """Refuse to go on with studies that were begun with other settings.

    Raises:
        UserError: one differs; the message shows both values.
    """
    wanted = make_settings(config, data, compute)
    where = f"the search begun in {config.results_dir}/{config.dataset}"
    another = "another `--results_dir`"
    if config.storage is not None:
        where = f"the search for {config.dataset} in this database"
        another = "another database and another `--results_dir`"
    for study in load_studies(storage, config.dataset).values():
        for name, recorded in study_settings(study).items():
            if recorded == wanted.get(name):
                continue
            if name == "split_hash":
                raise UserError(
                    f"the training images in {config.data_dir} are not those of {where}; restore "
                    f"them, or begin another search with {another}"
                )
            raise UserError(
                f"`{name}` (={wanted.get(name)}) differs from that of {where} (={recorded}); go "
                f"on with the old value, or begin another search with {another}"
            )


def make_settings(config: TuneConfig, data: TrainingData, compute: Compute) -> dict[str, Any]:
    """Return what must not change within a search, or its trials could not be compared."""
    return {
        **asdict(config.data_spec),
        "max_epochs": config.max_epochs,
        "reduction_factor": config.reduction_factor,
        "sampler": config.sampler,
        "patience": config.patience,
        "precision": compute.precision,
        **{name: list(values) for name, values in config.recipe_choices.items()},
        "search_space": space.describe(),
        "split_hash": data.split_hash,  # last, as it differs where others do
    }


def log_name(study: optuna.Study) -> str:
    """Return the folder of a study's curves, within the folder for TensorBoard.

    Raises:
        UserError: what the study has recorded would lead elsewhere.
    """
    name = str(study.user_attrs.get(_LOG_NAME))
    if not re.fullmatch(r"\w+/(batch_\d+|finals)(-\d+)?", name):
        raise UserError(
            f"the study {study.study_name} is damaged: it names {name!r} as its folder for curves"
        )
    return name


def study_settings(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that a study was begun with."""
    settings: dict[str, Any] = study.user_attrs[_SETTINGS]
    # A search of a version without recipes trained by the plain one.
    return {name: [getattr(Hyperparameters, name)] for name in RECIPE} | settings


def iterations(studies: Iterable[optuna.Study]) -> int:
    """Return how many iterations of Hyperband were planned, at most."""
    return max(int(study.user_attrs[_ITERATIONS]) for study in studies)


def study_recipe(study: optuna.Study) -> space.Choices:
    """Return what the trials of a study choose their recipe from."""
    return {name: study_settings(study)[name] for name in RECIPE}


def open_study(
    storage: BaseStorage,
    config: TuneConfig,
    batch_size: int,
    plan: Plan,
    data: TrainingData,
    compute: Compute,
) -> optuna.Study:
    """Load the study of a batch size, or begin it."""
    name = f"{config.dataset}-{batch_size}"
    pruner = PlannedHyperbandPruner(plan)
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    else:
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", pruner=pruner
        )
    if study.user_attrs.get(_ITERATIONS, 0) < plan.iterations:
        study.set_user_attr(_ITERATIONS, plan.iterations)
    if _SETTINGS not in study.user_attrs:  # written last: with them the study has begun
        logs = free_name(config.log_dir, f"{config.dataset}/batch_{batch_size}")
        study.set_user_attr(_LOG_NAME, logs)
        study.set_user_attr(_BATCH_SIZE, batch_size)
        study.set_user_attr(_SETTINGS, make_settings(config, data, compute))
    return study


def open_finals(storage: BaseStorage, dataset: str, log_dir: Path) -> optuna.Study:
    """Load the study of a data set's finals, or begin it."""
    study = optuna.create_study(
        study_name=_finals_name(dataset),
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    if _LOG_NAME not in study.user_attrs:
        study.set_user_attr(_LOG_NAME, free_name(log_dir, f"{dataset}/finals"))
    return study


def load_decision(storage: BaseStorage, dataset: str) -> dict[str, Any] | None:
    """Return what the finals of a data set have decided, if there were any."""
    name = _finals_name(dataset)
    if name not in optuna.get_all_study_names(storage):
        return None
    attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
    decision: dict[str, Any] | None = attributes.get(DECISION)
    return decision


def finalist_model(batch_size: int, trial: int) -> str:
    """Name the checkpoint of a finalist's best seed."""
    return f"finalist-{batch_size}-{trial}"


def _finals_name(dataset: str) -> str:
    return f"{dataset}-finals"


class Run:
    """One run of a search, as its studies remember it.

    Args:
        studies: those that it works on.
    """

    def __init__(self, studies: Iterable[optuna.Study]) -> None:
        self._studies = list(studies)
        self._name = _RUN + secrets.token_hex(8)
        self._told = {"host": socket.gethostname(), "started": _now(), "ended": None, "how": None}
        self._record()

    def end(self, how: str) -> None:
        """Record how it ended; a run that was killed has no end."""
        self._told |= {"ended": _now(), "how": how}
        self._record()

    def _record(self) -> None:
        for study in self._studies:
            study.set_user_attr(self._name, self._told)


def runs(studies: Iterable[optuna.Study]) -> list[dict[str, Any]]:
    """Return all runs of a search in the order in which they began."""
    found = {
        name: told
        for study in studies
        for name, told in study.user_attrs.items()
        if name.startswith(_RUN)
    }
    return sorted(found.values(), key=lambda told: str(told["started"]))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ended_trials(study: optuna.Study) -> list[tuple[TrialRecord, list[Epoch]]]:
    """Return the record and the curves of every trial that has ended, in order of number.

    A trial whose machine vanished before it had a configuration is left out.
    """
    batch_size, recipe = _batch_size(study), study_recipe(study)
    searched = space.distributions(recipe).keys()
    return [
        (
            trial_record(trial, space.restore(trial.params, batch_size, recipe)),
            [Epoch(*row) for row in trial.user_attrs.get(OUTCOME, {}).get("history", [])],
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and trial.params.keys() == searched
    ]


def trial_record(trial: FrozenTrial, hyperparameters: Hyperparameters) -> TrialRecord:
    """Return the record of a trial that has ended."""
    outcome = trial.user_attrs.get(OUTCOME, {"reason": ABANDONED})
    seconds = outcome.get("seconds")
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    return TrialRecord(
        val_accuracy=outcome.get("val_accuracy"),
        hyperparameters=hyperparameters,
        epochs=len(outcome.get("history", trial.intermediate_values)),
        trial=trial.number,
        state=trial.state.name,
        bracket=trial.user_attrs[BRACKET_ATTRIBUTE],
        seconds=None if seconds is None else round(seconds, 3),
        reason=outcome["reason"],
    )
