"""The studies of a data set: where they are kept, what they were begun with, what they hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from src import space
from src.config import TuneConfig
from src.data import TrainingData
from src.device import Compute
from src.errors import UserError
from src.hyperband import Plan
from src.pruning import BRACKET_ATTRIBUTE, PlannedHyperbandPruner
from src.results import Epoch, ResultsFolder, TrialRecord, free_name

SLOT = "slot"
"""Trial user attribute: the trial's place in the plan."""
OUTCOME = "outcome"
"""Trial user attribute: how the trial ended, and its curves."""
LOG_NAME = "log_name"
"""Study user attribute: the folder of its curves, within the folder for TensorBoard."""
_SETTINGS = "settings"
_BATCH_SIZE = "batch_size"


class _NoLock(JournalFileSymlinkLock):
    """Stands for the lock of the results folder, which the search holds already.

    Optuna's own lock is a file that a killed process leaves behind for its successor to wait on.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_storage(folder: ResultsFolder) -> BaseStorage:
    """Open the journal that holds all studies of a data set; make it if it is not there.

    Nobody else may have it open: a last line that a crash cut short is dropped, as nothing was
    built on it, and what is written next would be damaged by it.

    Raises:
        UserError: the journal is damaged, or lost while its tables are there.
    """
    begin_anew = f"restore it, or move {folder.path} away to begin a new search"
    content = folder.journal.read_bytes() if folder.journal.exists() else b""
    whole = content.rfind(b"\n") + 1
    if not whole and folder.all_csv.exists():
        raise UserError(
            f"{folder.journal} is missing or empty, though {folder.all_csv.name} shows trials; "
            f"{begin_anew}"
        )
    if whole < len(content):
        with folder.journal.open("r+b") as file:
            file.truncate(whole)
    try:
        path = str(folder.journal)
        return JournalStorage(JournalFileBackend(path, lock_obj=_NoLock(path)))
    except OSError:
        raise
    except Exception as error:  # whatever a damaged line makes Optuna raise
        raise UserError(
            f"{folder.journal} is damaged ({type(error).__name__}: {error}); {begin_anew}"
        ) from error


def load_studies(storage: BaseStorage) -> dict[int, optuna.Study]:
    """Return every study in the storage by its batch size, the smallest first."""
    studies = [
        optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
    ]
    # A study without settings was being made when its process was killed; it has no trials.
    begun = {_batch_size(study): study for study in studies if _SETTINGS in study.user_attrs}
    return dict(sorted(begun.items()))


def _batch_size(study: optuna.Study) -> int:
    return int(study.user_attrs[_BATCH_SIZE])


def fail_abandoned(storage: BaseStorage) -> None:
    """Mark trials FAIL that a killed process has left unfinished; nobody else may run any."""
    for study in load_studies(storage).values():
        unfinished = (TrialState.RUNNING, TrialState.WAITING)
        for trial in study.get_trials(deepcopy=False, states=unfinished):
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def check_settings(
    storage: BaseStorage, config: TuneConfig, data: TrainingData, compute: Compute
) -> None:
    """Refuse to go on with studies that were begun with other settings.

    Raises:
        UserError: one differs; the message shows both values.
    """
    wanted = make_settings(config, data, compute)
    where = f"the search begun in {config.results_dir}/{config.dataset}"
    for study in load_studies(storage).values():
        for name, recorded in study_settings(study).items():
            if recorded == wanted.get(name):
                continue
            if name == "split_hash":
                raise UserError(
                    f"the training images in {config.data_dir} are not those of {where}; restore "
                    "them, or begin another search with another `--results_dir`"
                )
            raise UserError(
                f"`{name}` (={wanted.get(name)}) differs from that of {where} (={recorded}); go "
                "on with the old value, or begin another search with another `--results_dir`"
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
        "search_space": space.describe(),
        "split_hash": data.split_hash,  # last, as it differs where others do
    }


def study_settings(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that a study was begun with."""
    settings: dict[str, Any] = study.user_attrs[_SETTINGS]
    return settings


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
    if _SETTINGS not in study.user_attrs:  # written last: with them the study has begun
        logs = free_name(Path(config.log_dir), f"{config.dataset}/batch_{batch_size}")
        study.set_user_attr(LOG_NAME, logs)
        study.set_user_attr(_BATCH_SIZE, batch_size)
        study.set_user_attr(_SETTINGS, make_settings(config, data, compute))
    return study


def ended_trials(study: optuna.Study) -> list[tuple[TrialRecord, list[Epoch]]]:
    """Return the record and the curves of every trial that has ended, in order of number.

    A trial whose process was killed before it had a configuration is left out.
    """
    return [
        (
            trial_record(trial, _batch_size(study)),
            [Epoch(*row) for row in trial.user_attrs.get(OUTCOME, {}).get("history", [])],
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and len(trial.params) == len(space.DISTRIBUTIONS)
    ]


def trial_record(trial: FrozenTrial, batch_size: int) -> TrialRecord:
    """Return the record of a trial that has ended."""
    outcome = trial.user_attrs.get(OUTCOME, {"reason": "abandoned: its process was killed"})
    return TrialRecord(
        val_accuracy=outcome.get("val_accuracy"),
        hyperparameters=space.restore(trial.params, batch_size),
        epochs=len(outcome.get("history", trial.intermediate_values)),
        trial=trial.number,
        state=trial.state.name,
        bracket=trial.user_attrs[BRACKET_ATTRIBUTE],
        seconds=round(trial.duration.total_seconds(), 3) if trial.duration else None,
        reason=outcome["reason"],
    )
