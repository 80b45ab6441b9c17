"""A Hyperband search at one batch size: one Optuna study, trial after trial.

The plan numbers the places that trials take; a trial records its place (slot) and its bracket.
All that is random in a trial follows from the seed, the batch size and the slot, so a slot whose
trial was interrupted gives, when it is filled again, what it would have given.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from src import space
from src.config import Hyperparameters, TuneConfig
from src.data import TrainingData
from src.device import Compute
from src.errors import UserError
from src.fit import SELECTED_ON, Fitted, fit
from src.hyperband import Bracket, Plan
from src.interrupt import Interruption
from src.pruning import BRACKET_ATTRIBUTE, HyperbandCallback, PlannedHyperbandPruner
from src.results import Epoch, ResultsFolder, TrialRecord, free_name
from src.seeding import SAMPLER, TRIAL, derive_seed

_SLOT = "slot"
_OUTCOME = "outcome"
_SETTINGS = "settings"
_BATCH_SIZE = "batch_size"
_LOG_NAME = "log_name"


@dataclass(frozen=True)
class StartedTrial:
    """A trial that is about to train."""

    number: int
    """Optuna's number within the study."""
    bracket: Bracket
    hyperparameters: Hyperparameters


class Watcher(Protocol):
    """Is told of trials as they come and go."""

    def trial_started(self, trial: StartedTrial) -> Sequence[Callback]:
        """Return what should watch the trial's fit."""

    def trial_ended(self, record: TrialRecord) -> None:
        """See the trial's row of the CSV."""


SaveBest = Callable[[StartedTrial, Fitted], None]
"""Keeps a trial that is better than all before it in its study."""


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
    """Mark trials FAIL that a killed process has left RUNNING; nobody else may be running any."""
    for study in load_studies(storage).values():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)


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


class Search:
    """The search at one batch size. Running it again goes on where it stopped.

    Args:
        config: what the user set.
        batch_size: images a training batch, the same in every trial.
        plan: brackets, rungs and slots.
        storage: where the study is, or will be.
        data: images to train and validate on.
        compute: device and precision.
    """

    def __init__(
        self,
        config: TuneConfig,
        batch_size: int,
        plan: Plan,
        storage: BaseStorage,
        data: TrainingData,
        compute: Compute,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.plan = plan
        self.data = data
        self.compute = compute
        name = f"{config.dataset}-{batch_size}"
        pruner = PlannedHyperbandPruner(plan)
        if name in optuna.get_all_study_names(storage):
            self.study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        else:
            self.study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", pruner=pruner
            )
        if _SETTINGS not in self.study.user_attrs:
            self.study.set_user_attr(_BATCH_SIZE, batch_size)
            self.study.set_user_attr(_LOG_NAME, self._free_log_name())
            self.study.set_user_attr(_SETTINGS, make_settings(config, data, compute))

    @property
    def open_slots(self) -> list[int]:
        """Slots that no trial has filled yet, in the order of the plan."""
        filled = {
            trial.user_attrs[_SLOT]
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        }
        return [slot for slot in range(self.plan.trials) if slot not in filled]

    def run(self, interruption: Interruption, watcher: Watcher, save_best: SaveBest) -> None:
        """Fill the open slots, one after another.

        Raises:
            Interrupted: a signal came or the time is up; the running trial is FAIL, and the next
                run tries its configuration again.
        """
        for slot in self.open_slots:
            interruption.check()
            self._run_trial(slot, interruption, watcher, save_best)

    def _run_trial(
        self, slot: int, interruption: Interruption, watcher: Watcher, save_best: SaveBest
    ) -> None:
        bracket = self.plan.bracket_of(slot)
        trial = self._ask(slot, bracket)
        hyperparameters = space.suggest(trial, self.batch_size)
        started = StartedTrial(trial.number, bracket, hyperparameters)
        hyperband = HyperbandCallback(trial, monitor=SELECTED_ON)
        try:
            fitted = fit(
                hyperparameters,
                self.data,
                max_epochs=self.plan.max_epochs,
                patience=self.config.patience,
                seed=derive_seed(self.config.seed, TRIAL, self.batch_size, slot),
                compute=self.compute,
                interruption=interruption,
                logger=self._logger(trial.number),
                callbacks=[hyperband, *watcher.trial_started(started)],
            )
            state, reason = self._judge(fitted, hyperband)
            trial.set_user_attr(_OUTCOME, self._outcome(fitted, reason))
            if state == TrialState.COMPLETE and self._beats_all(fitted):
                save_best(started, fitted)  # before the trial counts, so that it is never missing
        except BaseException as error:
            trial.set_user_attr(_OUTCOME, {"reason": f"{type(error).__name__}: {error}"[:300]})
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        value = fitted.best.val_accuracy if state == TrialState.COMPLETE and fitted.best else None
        frozen = self.study.tell(trial, value, state=state)
        watcher.trial_ended(_record(frozen, self.batch_size))
        if fitted.interrupted is not None:
            raise fitted.interrupted

    def _ask(self, slot: int, bracket: Bracket) -> optuna.Trial:
        """Start a trial in this slot, with the configuration of one that failed there, if any."""
        self.study.sampler = self._sampler(slot)
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            failed = [
                trial.params
                for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
                if trial.user_attrs[_SLOT] == slot
            ]
            self.study.enqueue_trial(
                failed[-1] if failed else {},
                user_attrs={_SLOT: slot, BRACKET_ATTRIBUTE: bracket.s},
            )
        return self.study.ask()

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Return a sampler whose random numbers follow from the slot, whatever ran before."""
        seed = derive_seed(self.config.seed, SAMPLER, self.batch_size, slot)
        if self.config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True
        )

    def _free_log_name(self) -> str:
        """Return a folder for this study's curves that no other search has put any into."""
        name = f"{self.config.dataset}/batch_{self.batch_size}"
        return free_name(Path(self.config.log_dir), name)

    def _logger(self, number: int) -> TensorBoardLogger:
        return TensorBoardLogger(
            self.config.log_dir,
            name=self.study.user_attrs[_LOG_NAME],
            version=f"trial_{number:04d}",
            default_hp_metric=False,
        )

    def _judge(self, fitted: Fitted, hyperband: HyperbandCallback) -> tuple[TrialState, str]:
        """Return how the trial ended, and why if it did not train all its epochs."""
        epochs = len(fitted.history)
        if fitted.interrupted is not None:
            return TrialState.FAIL, fitted.interrupted.reason
        if fitted.diverged is not None:
            return TrialState.PRUNED, fitted.diverged
        if hyperband.pruned:
            return TrialState.PRUNED, f"lost on the rung at epoch {epochs}"
        if fitted.early_stopped:
            return TrialState.COMPLETE, f"early stopping: no better epoch in {self.config.patience}"
        return TrialState.COMPLETE, ""

    def _outcome(self, fitted: Fitted, reason: str) -> dict[str, Any]:
        return {
            "reason": reason,
            "val_accuracy": fitted.best and fitted.best.val_accuracy,
            "history": [list(asdict(epoch).values()) for epoch in fitted.history],
            "device": self.compute.name,
        }

    def _beats_all(self, fitted: Fitted) -> bool:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = max((trial.value or 0.0 for trial in complete), default=float("-inf"))
        return fitted.best is not None and fitted.best.val_accuracy > best


def ended_trials(study: optuna.Study) -> list[tuple[TrialRecord, list[Epoch]]]:
    """Return the record and the curves of every trial that has ended, in order of number.

    A trial whose process was killed before it had a configuration is left out.
    """
    return [
        (
            _record(trial, _batch_size(study)),
            [Epoch(*row) for row in trial.user_attrs.get(_OUTCOME, {}).get("history", [])],
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and len(trial.params) == len(space.PARAMETERS)
    ]


def _record(trial: FrozenTrial, batch_size: int) -> TrialRecord:
    outcome = trial.user_attrs.get(_OUTCOME, {"reason": "abandoned: its process was killed"})
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
