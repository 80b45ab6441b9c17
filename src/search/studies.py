"""The studies of a data set: what they were begun with, what they hold, who has run them."""

import functools
import math
import re
import secrets
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from src.core.decode import pick
from src.core.errors import UserError
from src.core.files import free_name
from src.core.seeding import SAMPLER, derive_seed
from src.results.records import OUTCOME, Decision, Run, TrialOutcome, TrialRecord
from src.search import space
from src.search.experience import Observation, observe
from src.search.hyperband import Plan
from src.search.pruner import BRACKET_ATTRIBUTE, PlannedHyperbandPruner
from src.search.samplers import PlaceSampler, make_sampler
from src.search.session import Session
from src.search.spec import SearchSpec
from src.training.hyperparameters import Hyperparameters

SLOT = "slot"
"""Trial user attribute: the trial's place in the plan."""

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


def check_spec(spec: SearchSpec, session: Session) -> None:
    """Refuse to go on with studies that were begun with another spec.

    Raises:
        UserError: something differs; the message shows both values.
    """
    where = f"the search begun in {session.folder.path}"
    another = "another `--results_dir`"
    if session.store.shared:
        where = f"the search for {spec.data.dataset} in this database"
        another = "another database and another `--results_dir`"
    wanted = spec.to_settings()
    for study in load_studies(session.store.storage, spec.data.dataset).values():
        for name, recorded in study_spec(study).to_settings().items():
            if recorded == wanted[name]:
                continue
            if name == "split_hash":
                raise UserError(
                    f"the training images in `--data_dir` are not those of {where}; restore them, "
                    f"or begin another search with {another}"
                )
            raise UserError(
                f"`{name}` (={wanted[name]}) differs from that of {where} (={recorded}); go on "
                f"with the old value, or begin another search with {another}"
            )


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


def study_spec(study: optuna.Study) -> SearchSpec:
    """Return the spec that a study was begun with."""
    return SearchSpec.from_settings(study.user_attrs[_SETTINGS])


def iterations(studies: Iterable[optuna.Study]) -> int:
    """Return how many iterations of Hyperband were planned, at most."""
    return max(int(study.user_attrs[_ITERATIONS]) for study in studies)


def open_study(spec: SearchSpec, batch_size: int, plan: Plan, session: Session) -> optuna.Study:
    """Load the study of a batch size, or begin it; its sampler proposes by place."""
    dataset, searched = spec.data.dataset, space.distributions(spec.recipe)
    experience = _Experience(session.store.storage, dataset, batch_size, plan, searched.keys())

    def make(trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        seed = derive_seed(spec.data.seed, SAMPLER, batch_size, int(trial.user_attrs[SLOT]))
        return make_sampler(
            spec.sampler,
            searched,
            batch_size,
            plan.max_epochs,
            seed,
            experience.before,
            spec.cost_exponent,
        )

    study = _load_or_create(
        f"{dataset}-{batch_size}",
        session.store.storage,
        PlaceSampler(searched, make),
        PlannedHyperbandPruner(plan, spec.promotion),
    )
    if study.user_attrs.get(_ITERATIONS, 0) < plan.iterations:
        study.set_user_attr(_ITERATIONS, plan.iterations)
    if _SETTINGS not in study.user_attrs:  # written last: with them the study has begun
        logs = free_name(session.logs.folder, f"{dataset}/batch_{batch_size}")
        study.set_user_attr(_LOG_NAME, logs)
        study.set_user_attr(_BATCH_SIZE, batch_size)
        study.set_user_attr(_SETTINGS, spec.to_settings())
    return study


class _Experience:
    """What the studies of a data set have seen, those of the nearest batch sizes first.

    Args:
        storage: holds them.
        dataset: whose.
        batch_size: from which is counted.
        plan: its rungs are those of all of them.
        searched: the names of what is searched.
    """

    def __init__(
        self,
        storage: BaseStorage,
        dataset: str,
        batch_size: int,
        plan: Plan,
        searched: Collection[str],
    ) -> None:
        self._batch_size = batch_size
        self._plan = plan
        self._searched = searched
        self._studies = functools.cache(lambda: load_studies(storage, dataset))

    def before(self, trial: FrozenTrial) -> Iterator[Observation]:
        """Give what others have shown than this trial itself, the nearest and latest first."""
        for size, study in sorted(self._studies().items(), key=self._distance):
            for other in reversed(study.get_trials(deepcopy=False)):
                # Whose process was killed while it was proposed has a part of a configuration.
                whole = other.params.keys() == self._searched and other.state != TrialState.FAIL
                if whole and other._trial_id != trial._trial_id:
                    yield observe(other, size, self._plan)

    def _distance(self, study: tuple[int, optuna.Study]) -> float:
        return abs(math.log2(study[0] / self._batch_size))


def open_finals_study(session: Session) -> optuna.Study:
    """Load the study of a data set's finals, or begin it; its trials leave nothing to propose."""
    dataset = session.data.spec.dataset
    study = _load_or_create(
        _finals_name(dataset),
        session.store.storage,
        optuna.samplers.RandomSampler(),
        optuna.pruners.NopPruner(),
    )
    if _LOG_NAME not in study.user_attrs:
        logs = free_name(session.logs.folder, f"{dataset}/finals")
        study.set_user_attr(_LOG_NAME, logs)
    return study


def _load_or_create(
    name: str,
    storage: BaseStorage,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    if name in optuna.get_all_study_names(storage):  # creating would write, though it is there
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    return optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, pruner=pruner, direction="maximize"
    )


def load_decision(session: Session) -> Decision | None:
    """Return the outcome of the finals; None: there were none.

    Raises:
        UserError: it is damaged.
    """
    storage, name = session.store.storage, _finals_name(session.data.spec.dataset)
    if name not in optuna.get_all_study_names(storage):
        return None
    found = optuna.load_study(study_name=name, storage=storage).user_attrs.get(DECISION)
    try:
        return None if found is None else pick(Decision, found)
    except TypeError as error:
        held, folder = str(session.folder.journal), session.folder.path
        mend = f"restore it, or move {folder} away to begin a new search"
        if session.store.shared:
            held, mend = "this database", "restore it, or choose another one and another folder"
        raise UserError(
            f"the finals recorded in {held} are damaged, or of another version ({error}); {mend}"
        ) from error


def finalist_model(batch_size: int, trial: int) -> str:
    """Name the checkpoint of a finalist's best seed."""
    return f"finalist-{batch_size}-{trial}"


def _finals_name(dataset: str) -> str:
    return f"{dataset}-finals"


class RunRecorder:
    """Records one run of a search with its studies.

    Args:
        studies: those that it works on.
    """

    def __init__(self, studies: Iterable[optuna.Study]) -> None:
        self._studies = list(studies)
        self._name = _RUN + secrets.token_hex(8)
        self._run = Run(host=socket.gethostname(), started=_now(), ended=None, how=None)
        self._record()

    def end(self, how: str) -> None:
        """Record how it ended; a run that was killed has no end."""
        self._run = replace(self._run, ended=_now(), how=how)
        self._record()

    def _record(self) -> None:
        for study in self._studies:
            study.set_user_attr(self._name, asdict(self._run))


def runs(studies: Iterable[optuna.Study]) -> tuple[Run, ...]:
    """Return all runs of a search in the order in which they began."""
    found = {
        name: pick(Run, value)
        for study in studies
        for name, value in study.user_attrs.items()
        if name.startswith(_RUN)
    }
    return tuple(sorted(found.values(), key=lambda run: run.started))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ended_trials(study: optuna.Study) -> list[TrialRecord]:
    """Return the record of every trial that has ended, in order of number.

    A trial whose machine vanished before it had a configuration is left out.
    """
    spec, batch_size = study_spec(study), _batch_size(study)
    recipe, parts = spec.recipe, spec.parts
    searched = space.distributions(recipe).keys()
    return [
        trial_record(trial, space.restore(trial.params, batch_size, recipe), parts)
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and trial.params.keys() == searched
    ]


def trial_record(
    trial: FrozenTrial, hyperparameters: Hyperparameters, parts: int = 1
) -> TrialRecord:
    """Return the record of a trial that has ended, whose steps are so many to an epoch."""
    outcome = TrialOutcome.from_attribute(trial.user_attrs.get(OUTCOME, {"reason": ABANDONED}))
    if trial.state == TrialState.FAIL and not outcome.reason:  # it had waited on a rung before
        outcome = TrialOutcome(reason=ABANDONED)
    seconds = outcome.seconds
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    history = outcome.history
    return TrialRecord(
        val_accuracy=outcome.val_accuracy,
        hyperparameters=hyperparameters,
        epochs=_epochs(trial.last_step or 0, parts) if history is None else outcome.epochs,
        trial=trial.number,
        state=trial.state.name,
        bracket=trial.user_attrs[BRACKET_ATTRIBUTE],
        seconds=None if seconds is None else round(seconds, 3),
        reason=outcome.reason,
        history=history or (),
    )


def _epochs(step: int, parts: int) -> float:
    return step / parts if step % parts else step // parts
