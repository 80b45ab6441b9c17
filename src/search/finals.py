"""The finals: the best configurations of a search, trained again with several seeds.

The best score of hundreds of trials is luck as much as merit. Trained again, a configuration
shows what it gives on average; how far the search flattered it is its optimism.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.core.console import say
from src.core.errors import UserError
from src.core.intervals import spread
from src.core.seeding import FINALIST, derive_seed
from src.results.records import TrialRecord
from src.search.display import print_finals
from src.search.fill import Outcome, fill, open_places
from src.search.planned_study import Key, Place, Places, PlannedStudy
from src.search.session import Session
from src.search.studies import (
    DECISION,
    SLOT,
    ended_trials,
    finalist_model,
    open_finals_study,
    runs,
    study_spec,
    trial_record,
)
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


def choose_finalists(studies: Mapping[int, optuna.Study], count: int) -> list[Finalist]:
    """Return the finished trials of the highest validation accuracy over all batch sizes."""
    finished = sorted(_candidates(studies), key=lambda finalist: -finalist.search_val_accuracy)
    return finished[:count]


def _candidates(studies: Mapping[int, optuna.Study]) -> list[Finalist]:
    """Return all finished trials."""
    return [
        Finalist(batch_size, record.trial, record.hyperparameters, record.val_accuracy)
        for batch_size, study in studies.items()
        for record, _ in ended_trials(study)
        if record.state == "COMPLETE" and record.val_accuracy is not None
    ]


def open_finals(
    studies: Mapping[int, optuna.Study],
    finalists: Sequence[Finalist],
    seeds: int,
    session: Session,
) -> PlannedStudy:
    """Load the study of the finals, or begin it; the store must be exclusively ours.

    Args:
        studies: of the search, by batch size; what their trials have in common, the finals have.
        finalists: the best first.
        seeds: how often each is trained.
        session: where it is stored.
    """
    places = _FinalPlaces(studies, finalists, seeds)
    spec = study_spec(next(iter(studies.values())))
    shown = session.logs.shown(len(places.keys))
    study = open_finals_study(session)
    return PlannedStudy("finals", study, places, spec, session, shown)


class _FinalPlaces(Places):
    """A place for each finalist and seed, called <batch size>-<trial>-<seed>.

    The finalists share their seeds: with the same batch size they see the same images in the same
    order.
    """

    def __init__(
        self, studies: Mapping[int, optuna.Study], finalists: Sequence[Finalist], seeds: int
    ) -> None:
        self.keys = [f"{finalist.name}-{seed}" for seed in range(seeds) for finalist in finalists]
        self._studies = studies
        self._seed = study_spec(next(iter(studies.values()))).data.seed

    def place(self, key: Key) -> Place:
        batch_size, trial, seed = map(int, str(key).split("-"))
        return Place(
            key=key,
            bracket=0,
            seed=derive_seed(self._seed, FINALIST, seed),
            batch_size=batch_size,
            label=f"finalist: batch {batch_size} trial {trial} seed {seed}",
            model=finalist_model(batch_size, trial),
            order=seed,
        )

    def configured_like(self, key: Key) -> FrozenTrial | None:
        batch_size, trial, _ = map(int, str(key).split("-"))
        return self._studies[batch_size].trials[trial]


def decide_finals(
    finals: optuna.Study, studies: Mapping[int, optuna.Study], seeds: int
) -> dict[str, Any]:
    """Compare the finalists, of earlier finals too; record what comes out, and return it.

    A mean of fewer seeds is more often high by luck: a finalist that has fewer than are asked for
    now comes after those that have them, and one that diverged with a seed comes last.

    Args:
        finals: the study of the finals.
        studies: of the search, by batch size.
        seeds: how often each finalist was to be trained.

    Raises:
        UserError: no finalist has learnt with two seeds.
    """
    known = {finalist.name: finalist for finalist in _candidates(studies)}
    fits: dict[str, dict[int, TrialRecord]] = {}
    for name, seed, trial in _by_finalist(finals, TrialState.COMPLETE):
        fits.setdefault(name, {})[seed] = trial_record(trial, known[name].hyperparameters)
    diverged: dict[str, list[int]] = {}
    for name, seed, _ in _by_finalist(finals, TrialState.PRUNED):
        diverged.setdefault(name, []).append(seed)
    rows = [
        _row(known[name], dict(sorted(found.items())), sorted(diverged.get(name, ())))
        for name, found in fits.items()
        if len(found) > 1
    ]
    if not rows:
        raise UserError(
            "no finalist has learnt with two seeds, as the others diverged; more `--finalists` or "
            "`--seeds` may find one that does"
        )
    rows.sort(
        key=lambda row: (
            *(bool(row["diverged"]), len(row["seeds"]) < seeds),
            *(-row["mean"], -row["search_val_accuracy"], row["batch_size"], row["trial"]),
        )
    )
    winner = dict(zip(rows[0]["seeds"], rows[0]["val_accuracies"], strict=True))
    spec = study_spec(next(iter(studies.values())))
    decision = {
        "dataset": spec.data.dataset,
        "max_epochs": spec.max_epochs,
        "patience": spec.patience,
        "finalists": [{"rank": rank, **row} for rank, row in enumerate(rows, start=1)],
        "winner": {"rank": 1, "seed": max(winner, key=winner.__getitem__)},
        "runs": runs([finals]),
    }
    finals.set_user_attr(DECISION, decision)
    return decision


def _by_finalist(finals: optuna.Study, state: TrialState) -> list[tuple[str, int, FrozenTrial]]:
    """Return the finals' trials in this state, with the finalist's name and the seed's number."""
    found = []
    for trial in finals.get_trials(deepcopy=False, states=(state,)):
        name, _, seed = str(trial.user_attrs[SLOT]).rpartition("-")
        found.append((name, int(seed), trial))
    return found


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


def run_finals(
    finalists: Sequence[Finalist],
    studies: Mapping[int, optuna.Study],
    seeds: int,
    session: Session,
) -> Outcome:
    """Train the best configurations of a search again; decide between them when all is trained.

    Args:
        finalists: the best configurations, one at least.
        studies: the search's, by batch size.
        seeds: how often each finalist is trained.
        session: who trains, and where it is stored.

    Raises:
        UserError: no finalist has learnt with two seeds.
    """
    with session.store.exclusive():
        finals = open_finals(studies, finalists, seeds, session)
    say(
        session.console,
        f"Finals: the {len(finalists)} best configurations with {seeds} seeds each; "
        f"{open_places([finals])} of {len(finals.keys)} fits are to be trained.",
    )
    outcome = fill("finals", [finals], session)
    if outcome.succeeded:
        print_finals(session.console, decide_finals(finals.study, studies, seeds))
    return outcome
