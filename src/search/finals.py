"""The finals: the best configurations of a search, trained again with several seeds.

The best score of hundreds of trials is luck as much as merit. Trained again, a configuration
shows what it gives on average; how far the search flattered it is its optimism.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.core.console import say
from src.core.errors import UserError
from src.core.intervals import spread
from src.core.seeding import FINALIST, derive_seed
from src.data.catalog import CLASS_NAMES, Dataset
from src.results.records import DecidedModel, Decision, Finalist, TrialRecord
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
class Candidate:
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


def choose_finalists(studies: Mapping[int, optuna.Study], count: int) -> list[Candidate]:
    """Return the finished trials of the highest validation accuracy over all batch sizes."""
    finished = sorted(_candidates(studies), key=lambda candidate: -candidate.search_val_accuracy)
    return finished[:count]


def _candidates(studies: Mapping[int, optuna.Study]) -> list[Candidate]:
    """Return all finished trials."""
    return [
        Candidate(batch_size, record.trial, record.hyperparameters, record.val_accuracy)
        for batch_size, study in studies.items()
        for record in ended_trials(study)
        if record.state == "COMPLETE" and record.val_accuracy is not None
    ]


def open_finals(
    studies: Mapping[int, optuna.Study],
    finalists: Sequence[Candidate],
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
        self, studies: Mapping[int, optuna.Study], finalists: Sequence[Candidate], seeds: int
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
) -> Decision:
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
    known = {candidate.name: candidate for candidate in _candidates(studies)}
    fits: dict[str, dict[int, TrialRecord]] = {}
    for name, seed, trial in _by_finalist(finals, TrialState.COMPLETE):
        fits.setdefault(name, {})[seed] = trial_record(trial, known[name].hyperparameters)
    diverged: dict[str, list[int]] = {}
    for name, seed, _ in _by_finalist(finals, TrialState.PRUNED):
        diverged.setdefault(name, []).append(seed)
    compared = [
        _compare(known[name], dict(sorted(found.items())), sorted(diverged.get(name, ())))
        for name, found in fits.items()
        if len(found) > 1
    ]
    if not compared:
        raise UserError(
            "no finalist has learnt with two seeds, as the others diverged; more `--finalists` or "
            "`--seeds` may find one that does"
        )
    compared.sort(
        key=lambda one: (
            *(bool(one.diverged), len(one.seeds) < seeds),
            *(-one.mean, -one.search_val_accuracy, one.batch_size, one.trial),
        )
    )
    first = compared[0]
    _, winning_seed = max(
        zip(first.val_accuracies, first.seeds, strict=True), key=lambda fit: (fit[0], -fit[1])
    )
    spec = study_spec(next(iter(studies.values())))
    decision = Decision(
        dataset=spec.data.dataset,
        max_epochs=spec.max_epochs,
        patience=spec.patience,
        finalists=tuple(replace(one, rank=rank) for rank, one in enumerate(compared, start=1)),
        winner=DecidedModel(rank=1, seed=winning_seed),
        smallest=1 + compared.index(_smallest(compared, seeds, spec.data.dataset)),
        runs=runs([finals]),
    )
    finals.set_user_attr(DECISION, decision.to_document())
    return decision


def _smallest(compared: Sequence[Finalist], seeds: int, dataset: Dataset) -> Finalist:
    """Return the finalist of the fewest parameters within one standard error of the first.

    Its mean is not below the first one's by more than the standard error of that mean, which shows
    no equality but prefers what is simple where little is lost (Breiman, Friedman, Olshen, Stone:
    "Classification and Regression Trees", 1984, section 3.4.3).
    """
    first, classes = compared[0], len(CLASS_NAMES[dataset])
    least = first.mean - (first.std or 0.0) / math.sqrt(len(first.seeds))
    near = [
        one
        for one in compared
        if one is first or (not one.diverged and len(one.seeds) >= seeds and one.mean >= least)
    ]
    return min(near, key=lambda one: one.hyperparameters.count_parameters(classes))


def _by_finalist(finals: optuna.Study, state: TrialState) -> list[tuple[str, int, FrozenTrial]]:
    """Return the finals' trials in this state, with the finalist's name and the seed's number."""
    found = []
    for trial in finals.get_trials(deepcopy=False, states=(state,)):
        name, _, seed = str(trial.user_attrs[SLOT]).rpartition("-")
        found.append((name, int(seed), trial))
    return found


def _compare(
    candidate: Candidate, fits: Mapping[int, TrialRecord], diverged: Sequence[int]
) -> Finalist:
    """Sum up what a finalist's seeds gave; its rank is decided later."""
    values = [fit.val_accuracy for fit in fits.values() if fit.val_accuracy is not None]
    found = spread(values)
    return Finalist(
        rank=0,
        batch_size=candidate.batch_size,
        trial=candidate.trial,
        hyperparameters=candidate.hyperparameters,
        search_val_accuracy=candidate.search_val_accuracy,
        seeds=tuple(fits),
        diverged=tuple(diverged),
        val_accuracies=tuple(values),
        epochs=tuple(int(fit.epochs) for fit in fits.values()),
        seconds=tuple(fit.seconds or 0.0 for fit in fits.values()),
        mean=round(found.mean, 6),
        std=round(found.std, 6),
        ci95=(round(found.low, 6), round(found.high, 6)),
        optimism=round(candidate.search_val_accuracy - found.mean, 6),
    )


def run_finals(
    finalists: Sequence[Candidate],
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
