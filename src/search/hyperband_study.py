"""The study of one batch size, with a place for each trial that Hyperband's plan starts."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from src.core.seeding import TRIAL, derive_seed
from src.search.hyperband import Plan
from src.search.planned_study import Key, Place, Places, PlannedStudy
from src.search.session import Session
from src.search.spec import SearchSpec
from src.search.studies import open_study


def open_hyperband_studies(
    spec: SearchSpec, batch_sizes: Sequence[int], plan: Plan, session: Session
) -> list[PlannedStudy]:
    """Load the study of each batch size, or begin it; the store must be exclusively ours."""
    shown = session.logs.shown(len(batch_sizes) * plan.trials)
    return [
        PlannedStudy(
            str(batch_size),
            open_study(spec, batch_size, plan, session),
            _PlanPlaces(
                plan, batch_size, spec.data.seed, session.folder.study_model(batch_size).stem
            ),
            spec,
            session,
            shown,
        )
        for batch_size in batch_sizes
    ]


class _PlanPlaces(Places):
    """A place for each trial of the plan, in the order in which Hyperband starts them."""

    def __init__(self, plan: Plan, batch_size: int, seed: int, model: str) -> None:
        self.keys = range(plan.trials)
        self._plan = plan
        self._batch_size = batch_size
        self._seed = seed
        self._model = model

    def place(self, key: Key) -> Place:
        slot = int(key)
        bracket = self._plan.bracket_of(slot).s
        return Place(
            key=slot,
            bracket=bracket,
            seed=derive_seed(self._seed, TRIAL, self._batch_size, slot),
            batch_size=self._batch_size,
            label=f"batch {self._batch_size} trial {{number:3d}} bracket {bracket}",
            model=self._model,
            order=slot,
        )

    def configured_like(self, key: Key) -> FrozenTrial | None:
        return None
