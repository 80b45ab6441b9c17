"""A Hyperband search at one batch size: one Optuna study, trial after trial.

The plan numbers the places that trials take; a trial records its place (slot) and its bracket.
All that is random in a trial follows from the seed, the batch size and the slot, so a slot whose
trial was interrupted gives, when it is filled again, what it would have given.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import optuna
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from src import space
from src.config import Hyperparameters, TuneConfig
from src.data import TrainingData
from src.device import Compute
from src.fit import SELECTED_ON, Fitted, fit
from src.hyperband import Bracket, Plan
from src.interrupt import Interruption
from src.pruning import BRACKET_ATTRIBUTE, HyperbandCallback
from src.results import TrialRecord
from src.seeding import SAMPLER, TRIAL, derive_seed
from src.studies import LOG_NAME, OUTCOME, SLOT, open_study, trial_record


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
        self.study = open_study(storage, config, batch_size, plan, data, compute)

    @property
    def open_slots(self) -> list[int]:
        """Slots that no trial has filled yet, in the order of the plan."""
        filled = {
            trial.user_attrs[SLOT]
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
            trial.set_user_attr(OUTCOME, self._outcome(fitted, reason))
            if state == TrialState.COMPLETE and self._beats_all(fitted):
                save_best(started, fitted)  # before the trial counts, so that it is never missing
        except BaseException as error:
            trial.set_user_attr(OUTCOME, {"reason": f"{type(error).__name__}: {error}"[:300]})
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        value = fitted.best.val_accuracy if state == TrialState.COMPLETE and fitted.best else None
        frozen = self.study.tell(trial, value, state=state)
        watcher.trial_ended(trial_record(frozen, self.batch_size))
        if fitted.interrupted is not None:
            raise fitted.interrupted

    def _ask(self, slot: int, bracket: Bracket) -> optuna.Trial:
        """Start a trial in this slot, with the configuration of one that failed there, if any."""
        self.study.sampler = self._sampler(slot)
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            failed = [
                trial.params
                for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
                if trial.user_attrs[SLOT] == slot
            ]
            self.study.enqueue_trial(
                failed[-1] if failed else {},
                user_attrs={SLOT: slot, BRACKET_ATTRIBUTE: bracket.s},
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

    def _logger(self, number: int) -> TensorBoardLogger:
        return TensorBoardLogger(
            self.config.log_dir,
            name=self.study.user_attrs[LOG_NAME],
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
