"""The study of one batch size, with a place for each trial that Hyperband's plan starts."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from src.core.seeding import TRIAL, derive_seed
from src.search.guesses import Guess
from src.search.hyperband import Plan
from src.search.planned_study import FIXED, Key, Place, Places, PlannedStudy
from src.search.promotion import Promotion, judge
from src.search.session import Session
from src.search.spec import SearchSpec
from src.search.studies import SLOT, open_study
from src.workers.verdict import Verdict


def open_hyperband_studies(
    spec: SearchSpec,
    batch_sizes: Sequence[int],
    plan: Plan,
    session: Session,
    guesses: Sequence[Guess] = (),
) -> list[PlannedStudy]:
    """Load the study of each batch size, or begin it; the store must be exclusively ours.

    Args:
        spec: what all trials have in common.
        batch_sizes: one study each.
        plan: the places of each.
        session: where they are stored.
        guesses: tried first, in each.
    """
    shown = session.logs.shown(len(batch_sizes) * plan.trials)
    return [
        PlannedStudy(
            str(batch_size),
            open_study(spec, batch_size, plan, session),
            _PlanPlaces(
                plan,
                spec.promotion,
                batch_size,
                spec.data.seed,
                session.folder.study_model(batch_size).stem,
                guesses,
            ),
            spec,
            session,
            shown,
        )
        for batch_size in batch_sizes
    ]


class _PlanPlaces(Places):
    """A place for each trial of the plan, in the order in which Hyperband starts them."""

    def __init__(
        self,
        plan: Plan,
        promotion: Promotion,
        batch_size: int,
        seed: int,
        model: str,
        guesses: Sequence[Guess],
    ) -> None:
        self.keys = range(plan.trials)
        self.looks = plan.looks
        self._plan = plan
        self._promotion = promotion
        self._guesses = guesses
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

    def guess(self, trials: Iterable[FrozenTrial]) -> Guess | None:
        # One that failed before it was wholly proposed is not tried again.
        tried = [t.system_attrs.get(FIXED) for t in trials if t.params or not t.state.is_finished()]
        return next((guess for guess in self._guesses if guess not in tried), None)

    def step(self, epochs: float) -> int:
        return self._plan.step(epochs)

    def judge(
        self, keys: Iterable[Key], trials: Iterable[FrozenTrial], given_up: Collection[Key]
    ) -> Mapping[Key, Verdict]:
        if self._promotion == "stopping":
            return {}
        early = self._plan.reduction_factor if self._promotion == "asynchronous" else None
        by_slot = {
            int(trial.user_attrs[SLOT]): trial for trial in trials if trial.state != TrialState.FAIL
        }
        gone = {slot for slot, trial in by_slot.items() if trial.state.is_finished()}
        gone.update(map(int, given_up))
        running = {s for s, trial in by_slot.items() if trial.state == TrialState.RUNNING}
        verdicts: dict[Key, Verdict] = {}
        for bracket, slots in dict.fromkeys(self._plan.run_of(int(key)) for key in keys):
            steps = [self._plan.step(epochs) for epochs in bracket.decision_epochs]
            values = [
                {
                    slot: by_slot[slot].intermediate_values[step]
                    for slot in slots
                    if slot in by_slot and step in by_slot[slot].intermediate_values
                }
                for step in steps
            ]
            found = judge(bracket, slots, values, gone, running, early)
            verdicts |= {s: v for s, v in found.items() if by_slot[s].last_step in steps}
        return verdicts
