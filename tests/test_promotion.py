"""Promotion on rungs, against Algorithm 1 of Hyperband and Algorithm 2 of ASHA, played by hand."""

import math
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from src.core.interrupt import Interrupted, Interruption
from src.results.folder import ResultsFolder
from src.search.fill import fill
from src.search.hyperband import Bracket, Plan, make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.journal import Journal
from src.search.planned_study import PlannedStudy
from src.search.promotion import Promotion, judge
from src.search.session import Session
from src.search.studies import SLOT
from src.training.spec import FitSpec
from src.workers.messages import Ended, Message
from tests.fake_workers import NEVER, FakeWorkers, open_session, plain_spec

PLAN = make_plan(9, 3, min_epochs=0.3)
"""Brackets of 27, 12, 6 and 4 trials; rungs at 1/3, 1, 3 and 9 epochs."""


# ---- the rule alone


def halve(bracket: Bracket, curves: Sequence[Sequence[float]]) -> list[list[int]]:
    """Return the trials on each rung, by Algorithm 1: get_hyperparameter…, run, top_k."""
    there = list(range(len(curves)))
    rungs = [there]
    for i, rung in enumerate(bracket.rungs[1:]):
        there = sorted(there, key=lambda trial: (-curves[trial][i], trial))[: rung.trials]
        rungs.append(there)
    return rungs


@given(st.integers(0, 3), st.randoms(use_true_random=False), st.booleans())
def test_synchronous_rungs_promote_exactly_the_best_in_whatever_order_trials_arrive(
    s: int, chance: random.Random, ties: bool
) -> None:
    (bracket,) = (b for b in PLAN.brackets if b.s == s)
    trials = range(bracket.trials)
    curves = [
        [chance.randrange(3) if ties else chance.random() for _ in bracket.rungs] for _ in trials
    ]
    wanted = [set(rung) for rung in halve(bracket, curves)]
    values: list[dict[int, float]] = [{} for _ in range(s)]
    heading = dict.fromkeys(trials, 0)  # each trial's next rung
    ended: set[int] = set()
    final: list[set[int]] = [set(trials), *(set[int]() for _ in range(s))]
    while heading:
        trial = chance.choice(sorted(heading))
        rung = heading.pop(trial)
        if rung == s:
            ended.add(trial)
        else:
            values[rung][trial] = curves[trial][rung]
        for key, verdict in judge(bracket, trials, values, ended).items():
            highest = max(i for i in range(s) if key in values[i])
            if verdict == "go on" and key not in final[highest + 1]:
                final[highest + 1].add(key)
                heading[key] = highest + 1
            elif verdict == "stop":
                assert key not in wanted[highest + 1]
                ended.add(key)
    assert final == wanted
    assert ended == set(trials)


@given(st.integers(1, 3), st.randoms(use_true_random=False))
def test_asynchronous_rungs_promote_whoever_is_among_the_best_that_are_there(
    s: int, chance: random.Random
) -> None:
    (bracket,) = (b for b in PLAN.brackets if b.s == s)
    trials = range(bracket.trials)
    values: list[dict[int, float]] = [{} for _ in range(s)]
    heading = dict.fromkeys(trials, 0)
    ended: set[int] = set()
    promoted: list[set[int]] = [set() for _ in range(s)]
    while heading:
        trial = chance.choice(sorted(heading))
        rung = heading.pop(trial)
        if rung == s:
            ended.add(trial)
        else:
            values[rung][trial] = chance.random()
        verdicts = judge(bracket, trials, values, ended, heading, early=3)
        for i in range(s):  # ASHA, Algorithm 2: top_k(rung i, |rung i| / η)
            on_rung = values[i]
            best = sorted(on_rung, key=lambda key: (-on_rung[key], key))[: len(on_rung) // 3]
            here = {key for key in best if not any(key in above for above in values[i + 1 :])}
            assert all(verdicts[key] == "go on" for key in here)
            assert not (here & ended) - promoted[i]  # nobody was given up too early
        for key, verdict in verdicts.items():
            highest = max(i for i in range(s) if key in values[i])
            if verdict == "go on" and key not in promoted[highest] and key not in ended:
                promoted[highest].add(key)
                heading[key] = highest + 1
            elif verdict == "stop" and key not in promoted[highest]:
                ended.add(key)
    assert ended == set(trials)  # nobody waits for ever
    for gone_on, above in zip(promoted, bracket.rungs[1:], strict=True):
        assert len(gone_on) >= above.trials


# ---- whole searches, whose workers train nothing


def learns(job: FitSpec) -> list[float]:
    """Return a curve whose order on one rung is not that on the next."""
    chance = random.Random(job.seed)
    looks = len(job.looks) + job.max_epochs
    return sorted(round(chance.random(), 6) for _ in range(looks))


@contextmanager
def searching(
    folder: Path,
    workers: int | FakeWorkers,
    promotion: Promotion,
    plan: Plan = PLAN,
    interruption: Interruption = NEVER,
    store: type[Journal] = Journal,
) -> Iterator[tuple[list[PlannedStudy], Session, FakeWorkers]]:
    results = ResultsFolder(folder, "mnist_5k")
    fake = workers if isinstance(workers, FakeWorkers) else FakeWorkers(workers, learns)
    with open_session(store(results), results, fake, interruption) as session:
        spec = plain_spec(session, plan, "random", promotion)
        yield open_hyperband_studies(spec, [64], plan, session), session, fake


def on_rungs(study: PlannedStudy, plan: Plan) -> dict[int, list[set[int]]]:
    """Return the slots on each rung of each bracket of one iteration."""
    found: dict[int, list[set[int]]] = {}
    slots = range(plan.trials_per_iteration)
    for bracket in plan.brackets:
        steps = [plan.step(rung.epochs) for rung in bracket.rungs]
        found[bracket.s] = [
            {
                trial.user_attrs[SLOT]
                for trial in study.study.trials
                if step in trial.intermediate_values
                and trial.user_attrs[SLOT] in slots
                and plan.bracket_of(trial.user_attrs[SLOT]) == bracket
            }
            for step in steps
        ]
    return found


def table(study: PlannedStudy) -> Mapping[int, tuple[object, ...]]:
    """Return what became of each place."""
    return {
        trial.user_attrs[SLOT]: (
            trial.state,
            trial.params,
            trial.intermediate_values,
            trial.value,
            trial.user_attrs["outcome"]["reason"],
        )
        for trial in study.study.trials
        if trial.state != TrialState.FAIL
    }


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_search_spends_exactly_its_plan_and_gives_the_same_with_any_number_of_workers(
    workers: int, tmp_path: Path
) -> None:
    with searching(tmp_path / "one", 1, "synchronous") as (alone, session, _):
        assert fill("search", alone, session).succeeded
    with searching(tmp_path / "many", workers, "synchronous") as (studies, session, _):
        assert fill("search", studies, session).succeeded
    assert table(studies[0]) == table(alone[0])
    trials = studies[0].study.trials
    spent = sum(max(trial.intermediate_values) / PLAN.parts for trial in trials)
    assert spent == pytest.approx(PLAN.epochs_if_exact)
    for bracket in PLAN.brackets:
        counts = [len(slots) for slots in on_rungs(studies[0], PLAN)[bracket.s]]
        assert counts == [rung.trials for rung in bracket.rungs]
    assert all(state.is_finished() for state in (trial.state for trial in trials))
    assert not any(tmp_path.glob("many/mnist_5k/running/*"))  # no state is left


class After(Interruption):
    """Interrupts at the n-th question."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    def pending(self) -> Interrupted | None:
        self._left -= 1
        return Interrupted("enough", 1) if self._left < 0 else None


@pytest.mark.parametrize("keeps_states", [True, False])
def test_search_that_stops_again_and_again_gives_the_same(
    keeps_states: bool, tmp_path: Path
) -> None:
    with searching(tmp_path / "whole", 2, "synchronous") as (whole, session, _):
        assert fill("search", whole, session).succeeded
    for questions in range(7, 1000, 13):
        part = searching(tmp_path / "parts", 2, "synchronous", interruption=After(questions))
        with part as (studies, session, _):
            if fill("search", studies, session).succeeded:
                break
        if not keeps_states:
            shutil.rmtree(tmp_path / "parts/mnist_5k/running", ignore_errors=True)
    assert questions > 50
    assert table(studies[0]) == table(whole[0])


class Killed(BaseException):
    """Stands for a signal that no process survives."""


class Dying(FakeWorkers):
    """Dies when a trial has paused, before the search hears of it."""

    def __init__(self, pauses: int) -> None:
        super().__init__(1, learns)
        self._left = pauses

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        messages = super().receive(timeout)
        pauses = [m for _, m in messages if isinstance(m, Ended) and m.verdict == "pause"]
        self._left -= len(pauses)
        if pauses and self._left < 0:
            raise Killed
        return messages


@pytest.mark.parametrize("pauses", [0, 5, 17])
def test_nobody_passes_a_rung_unjudged_because_the_search_was_killed_there(
    pauses: int, tmp_path: Path
) -> None:
    with searching(tmp_path / "whole", 2, "synchronous") as (whole, session, _):
        assert fill("search", whole, session).succeeded
    dying = searching(tmp_path / "dies", Dying(pauses), "synchronous")
    with dying as (studies, session, _), pytest.raises(Killed):
        fill("search", studies, session)
    with searching(tmp_path / "dies", 1, "synchronous") as (studies, session, _):
        assert fill("search", studies, session).succeeded
    assert table(studies[0]) == table(whole[0])


def test_trial_that_stops_early_where_it_would_wait_is_complete_and_keeps_its_model(
    tmp_path: Path,
) -> None:
    def stops_early(job: FitSpec) -> list[float]:
        return learns(job)[: len(PLAN.looks) + 1]  # after an epoch, where one bracket begins

    workers = FakeWorkers(2, stops_early)
    with searching(tmp_path, workers, "synchronous") as (studies, session, _):
        assert fill("search", studies, session).succeeded
        best = studies[0].study.best_trial
    assert best.last_step == PLAN.step(1)
    assert [*tmp_path.glob("mnist_5k/*.ckpt")]
    assert all(trial.state.is_finished() for trial in studies[0].study.trials)


def test_trial_that_diverges_where_others_wait_takes_nobodys_place(tmp_path: Path) -> None:
    """The places on a rung are those of trials that reach it."""

    def diverges(job: FitSpec) -> list[float]:
        curve = learns(job)
        return [math.nan if job.seed % 3 == 0 else curve[0], *curve[1:]]

    workers = FakeWorkers(2, diverges)
    with searching(tmp_path, workers, "synchronous") as (studies, session, _):
        assert fill("search", studies, session).succeeded
    for bracket in PLAN.brackets:
        counts = [len(slots) for slots in on_rungs(studies[0], PLAN)[bracket.s]]
        assert counts[0] < bracket.trials
        wanted = [min(count, counts[0]) for count in (rung.trials for rung in bracket.rungs[1:])]
        assert counts[1:] == wanted


class Shared(Journal):
    """As if other machines had it, too."""

    shared = True


@pytest.mark.parametrize("store", [Journal, Shared])
def test_machine_leaves_what_it_has_no_state_of_to_others_while_it_finds_something_else(
    store: type[Journal], tmp_path: Path
) -> None:
    with searching(tmp_path, 2, "synchronous", interruption=After(120)) as (studies, session, _):
        assert not fill("search", studies, session).succeeded
    shutil.rmtree(tmp_path / "mnist_5k/running")
    with searching(tmp_path, 2, "synchronous", store=store) as (studies, session, _):
        began = {
            trial.user_attrs[SLOT] for trial in studies[0].study.trials if trial.intermediate_values
        }
        started = studies[0].start()
        assert started is not None
        assert (started.place.key in began) == (store is Journal)


@pytest.mark.parametrize("promotion", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_states_lie_on_disk_than_the_plan_says(
    workers: int, promotion: Promotion, tmp_path: Path
) -> None:
    plan = make_plan(9, 3, iterations=3, min_epochs=0.3)
    seen = []

    class Counts(Interruption):
        def pending(self) -> Interrupted | None:
            seen.append(len([*tmp_path.glob("mnist_5k/running/*")]))
            return None

    with searching(tmp_path, workers, promotion, plan, Counts()) as (studies, session, _):
        assert fill("search", studies, session).succeeded
    assert 3 < max(seen) <= workers * plan.states_per_worker
    assert seen[-1] == 0


@pytest.mark.parametrize("workers", [3, 8])
def test_asynchronous_search_ends_all_its_trials_on_rungs(workers: int, tmp_path: Path) -> None:
    with searching(tmp_path, workers, "asynchronous") as (studies, session, _):
        assert fill("search", studies, session).succeeded
    assert len(table(studies[0])) == PLAN.trials
    for bracket in PLAN.brackets:
        counts = [len(slots) for slots in on_rungs(studies[0], PLAN)[bracket.s]]
        assert counts[0] == bracket.trials
        rungs = [f"{epochs:.4g}" for epochs in bracket.decision_epochs]
        for trial in studies[0].study.trials:
            if trial.user_attrs["bracket"] == bracket.s and trial.state == TrialState.PRUNED:
                assert (
                    trial.user_attrs["outcome"]["reason"].removeprefix("lost on the rung at epoch ")
                    in rungs
                )
        assert all(count >= rung.trials for count, rung in zip(counts, bracket.rungs, strict=True))
