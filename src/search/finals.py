"""The finals: the best configurations of a search, trained again with several seeds.

The best score of hundreds of trials is luck as much as merit. Trained again, a configuration
shows what it gives on average; how far the search flattered it is its optimism.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.core.errors import UserError
from src.core.intervals import spread
from src.core.seeding import FINALIST, derive_seed
from src.results.folder import ResultsFolder
from src.results.records import TrialRecord
from src.search.hyperband import Bracket, Rung
from src.search.planned_study import Slot, Slots, what_to_show
from src.search.pruner import BRACKET_ATTRIBUTE
from src.search.spec import CurvesLevel
from src.search.store import Store
from src.search.studies import (
    DECISION,
    SLOT,
    ended_trials,
    finalist_model,
    open_finals,
    runs,
    study_settings,
    trial_record,
)
from src.training.device import Compute
from src.training.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Finalist:
    """A configuration that the search has found."""

    batch_size: int
    trial: int
    """Optuna's number of its trial within the batch size's study."""
    hyperparameters: Hyperparameters
    search_val_accuracy: float
    """What the search selected it by."""

    @property
    def name(self) -> str:
        """The same in every run."""
        return f"{self.batch_size}-{self.trial}"


def choose_finalists(studies: Mapping[int, optuna.Study], number: int) -> list[Finalist]:
    """Return the finished trials of the highest validation accuracy over all batch sizes."""
    finished = sorted(_candidates(studies), key=lambda finalist: -finalist.search_val_accuracy)
    return finished[:number]


def _candidates(studies: Mapping[int, optuna.Study]) -> list[Finalist]:
    """Return all finished trials."""
    return [
        Finalist(batch_size, record.trial, record.hyperparameters, record.val_accuracy)
        for batch_size, study in studies.items()
        for record, _ in ended_trials(study)
        if record.state == "COMPLETE" and record.val_accuracy is not None
    ]


class Finals(Slots):
    """A study with a slot for each finalist and seed.

    The finalists share their seeds: with the same batch size they see the same images in the same
    order.

    Args:
        studies: of the search, by batch size; they have the settings, which are the finals' too.
        finalists: the best first.
        seeds: how often each is trained.
        store: where the studies are; exclusively ours meanwhile.
        folder: where unfinished trials keep their states.
        compute: device and precision.
        log_dir: folder for TensorBoard.
        tensorboard: whose curves TensorBoard gets.
    """

    def __init__(
        self,
        studies: Mapping[int, optuna.Study],
        finalists: Sequence[Finalist],
        seeds: int,
        *,
        store: Store,
        folder: ResultsFolder,
        compute: Compute,
        log_dir: str,
        tensorboard: CurvesLevel,
    ) -> None:
        settings = study_settings(next(iter(studies.values())))
        self._places = {
            f"{finalist.name}-{seed}": (finalist, seed)
            for seed in range(seeds)
            for finalist in finalists
        }
        super().__init__(
            "finals",
            open_finals(store.storage, settings["dataset"], log_dir),
            list(self._places),
            max_epochs=settings["max_epochs"],
            patience=settings["patience"],
            store=store,
            folder=folder,
            compute=compute,
            log_dir=log_dir,
            shown=what_to_show(tensorboard, len(self._places)),
        )
        self._settings = settings
        self._studies = studies
        self._seeds = seeds

    def bracket(self, slot: Slot) -> Bracket:
        """Return one that cuts nothing."""
        return Bracket(0, (Rung(self._max_epochs, len(self.slots)),))

    def seed(self, slot: Slot) -> int:
        """Return what follows from the search's seed and the number of this one."""
        return derive_seed(self._settings["seed"], FINALIST, self._places[str(slot)][1])

    def label(self, slot: Slot, number: int) -> str:
        """Name the search's trial, and the seed."""
        finalist, seed = self._places[str(slot)]
        return f"finalist: batch {finalist.batch_size} trial {finalist.trial} seed {seed}"

    def planned(self, slot: Slot) -> FrozenTrial:
        """Return a trial with the parameters of the search's."""
        finalist, _ = self._places[str(slot)]
        found = self._studies[finalist.batch_size].trials[finalist.trial]
        return create_trial(
            state=TrialState.WAITING,
            params=found.params,
            distributions=found.distributions,
            user_attrs={SLOT: slot, BRACKET_ATTRIBUTE: 0},
        )

    def sampler(self, slot: Slot) -> optuna.samplers.BaseSampler:
        """Return any: nothing is left to propose."""
        return optuna.samplers.RandomSampler()

    def configuration(self, trial: optuna.Trial, slot: Slot) -> Hyperparameters:
        """Return the finalist's."""
        return self._places[str(slot)][0].hyperparameters

    def model_name(self, slot: Slot) -> str:
        """Name the best seed's model of the finalist."""
        batch_size, trial, _ = str(slot).split("-")
        return finalist_model(int(batch_size), int(trial))

    def turn(self, slot: Slot) -> int:
        """Return the number of the seed."""
        return int(str(slot).rpartition("-")[2])

    def decide(self) -> dict[str, Any]:
        """Compare the finalists, of earlier finals too; record what comes out, and return it.

        A mean of fewer seeds is more often high by luck: a finalist that has fewer than are asked
        for now comes after those that have them, and one that diverged with a seed comes last.

        Raises:
            UserError: no finalist has learnt with two seeds.
        """
        decision = self._compare()
        self.study.set_user_attr(DECISION, decision)
        return decision

    def _compare(self) -> dict[str, Any]:
        known = {finalist.name: finalist for finalist in _candidates(self._studies)}
        fits: dict[str, dict[int, TrialRecord]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            slot = trial.user_attrs[SLOT]
            name, seed = slot.rpartition("-")[0], self.turn(slot)
            record = trial_record(trial, known[name].hyperparameters)
            fits.setdefault(name, {})[seed] = record
        diverged: dict[str, list[int]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)):
            slot = trial.user_attrs[SLOT]
            diverged.setdefault(slot.rpartition("-")[0], []).append(self.turn(slot))
        rows = [
            _row(known[name], dict(sorted(found.items())), sorted(diverged.get(name, ())))
            for name, found in fits.items()
            if len(found) > 1
        ]
        if not rows:
            raise UserError(
                "no finalist has learnt with two seeds, as the others diverged; more `--finalists` "
                "or `--seeds` may find one that does"
            )
        rows.sort(
            key=lambda row: (
                *(bool(row["diverged"]), len(row["seeds"]) < self._seeds),
                *(-row["mean"], -row["search_val_accuracy"], row["batch_size"], row["trial"]),
            )
        )
        first = rows[0]
        winner = dict(zip(first["seeds"], first["val_accuracies"], strict=True))
        return {
            "dataset": self._settings["dataset"],
            "max_epochs": self._max_epochs,
            "patience": self._patience,
            "finalists": [{"rank": rank, **row} for rank, row in enumerate(rows, start=1)],
            "winner": {"rank": 1, "seed": max(winner, key=winner.__getitem__)},
            "runs": runs([self.study]),
        }


def _row(
    finalist: Finalist, fits: dict[int, TrialRecord], diverged: Sequence[int]
) -> dict[str, Any]:
    """Describe a finalist by what its seeds gave, and name those with which it diverged."""
    values = [fit.val_accuracy for fit in fits.values() if fit.val_accuracy is not None]
    found = spread(values)
    return {
        "batch_size": finalist.batch_size,
        "trial": finalist.trial,
        "hyperparameters": asdict(finalist.hyperparameters),
        "search_val_accuracy": finalist.search_val_accuracy,
        "seeds": list(fits),
        "diverged": list(diverged),
        "val_accuracies": values,
        "epochs": [fit.epochs for fit in fits.values()],
        "seconds": [fit.seconds for fit in fits.values()],
        "mean": round(found.mean, 6),
        "std": round(found.std, 6),
        "ci95": [round(found.low, 6), round(found.high, 6)],
        "optimism": round(finalist.search_val_accuracy - found.mean, 6),
    }
