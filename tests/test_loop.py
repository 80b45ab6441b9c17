"""The loop of a search, with workers that train nothing and a clock that is counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from src.core.errors import UserError
from src.core.interrupt import Interrupted, Interruption
from src.results.folder import ResultsFolder
from src.search.fill import Outcome, fill
from src.search.hyperband import make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.journal import Journal
from src.search.loop import FailureStreak
from src.search.planned_study import PlannedStudy
from src.search.session import Session
from src.search.spec import Sampler
from src.search.timing import Timing
from src.training.spec import FitSpec
from src.workers.messages import Failed
from tests.fake_workers import NEVER, FakeWorkers, Script, open_session, plain_spec

PLAN = make_plan(9, 3)
"""Brackets of 9, 5 and 3 trials."""


@contextmanager
def searching(
    folder: Path,
    script: Script,
    workers: int = 1,
    batch_sizes: Sequence[int] = (64,),
    interruption: Interruption = NEVER,
    sampler: Sampler = "random",
) -> Iterator[tuple[list[PlannedStudy], Session, FakeWorkers]]:
    """Give a search in this folder whose trials follow a script."""
    results, fake = ResultsFolder(folder, "mnist_5k"), FakeWorkers(workers, script)
    with open_session(Journal(results), results, fake, interruption) as session:
        spec = plain_spec(session, PLAN, sampler)
        yield open_hyperband_studies(spec, batch_sizes, PLAN, session), session, fake


def run(studies: list[PlannedStudy], session: Session) -> Outcome:
    return fill("search", studies, session)


def learns(job: FitSpec) -> list[float]:
    """Return a curve that rises to what follows from the trial's seed."""
    best = 0.5 + (job.seed % 997) / 2000
    return [round(best * (1 - 0.5**epoch), 6) for epoch in range(1, 10)]


def states(study: PlannedStudy) -> list[TrialState]:
    return [trial.state for trial in study.study.trials]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_place_is_filled_once_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    with searching(tmp_path, learns, workers, batch_sizes=(32, 64)) as (studies, session, _):
        outcome = run(studies, session)
        assert outcome.succeeded
        assert outcome.conclude(session) == 0
        assert outcome.places == outcome.open_before == 34
        for study in studies:
            assert sorted(trial.user_attrs["slot"] for trial in study.study.trials) == list(
                range(17)
            )
        # What random sampling proposes and what training gives follow from the place alone.
        found = {
            (study.name, trial.user_attrs["slot"]): trial.params
            for study in studies
            for trial in study.study.trials
        }
    with searching(tmp_path / "other", learns, 1, batch_sizes=(32, 64)) as (studies, session, _):
        run(studies, session)
        for study in studies:
            for trial in study.study.trials:
                assert found[study.name, trial.user_attrs["slot"]] == trial.params


def test_studies_are_handed_on_in_order_when_they_are_complete(tmp_path: Path) -> None:
    with searching(tmp_path, learns, batch_sizes=(64, 32)) as (studies, session, _):
        complete: list[tuple[str, bool]] = []
        fill(
            "search",
            studies,
            session,
            on_complete=lambda study: complete.append((study.name, study.is_complete)),
        )
        assert complete == [("64", True), ("32", True)]


def test_failed_trial_is_tried_again_in_its_place_with_its_configuration(tmp_path: Path) -> None:
    fails = iter([True])

    def script(job: FitSpec) -> list[float] | Failed:
        return Failed("ZeroDivisionError", "on purpose") if next(fails, False) else learns(job)

    with searching(tmp_path, script) as ([study], session, fake):
        assert run([study], session).succeeded
        (failed,) = [t for t in study.study.trials if t.state == TrialState.FAIL]
        (again,) = [
            trial
            for trial in study.study.trials
            if trial.user_attrs["slot"] == failed.user_attrs["slot"]
            and trial.state != TrialState.FAIL
        ]
        assert again.params == failed.params
        assert len(study.study.trials) == 18
        assert [job.seed for job in fake.jobs].count(fake.jobs[0].seed) == 2


def test_three_failures_in_a_row_with_one_cause_stop_the_search(tmp_path: Path) -> None:
    with searching(tmp_path, lambda job: Failed("out of memory", "no more")) as (
        [study],
        session,
        fake,
    ):
        outcome = run([study], session)
        assert not outcome.succeeded
        with pytest.raises(UserError, match="3 trials in a row failed with the same cause"):
            outcome.conclude(session)
        assert states(study) == [TrialState.FAIL] * 3
        assert session.folder.failure.read_text() == "no more"
        # A pause after each failure, twice as long after the second.
        assert fake.seconds >= Timing().pause * (1 + 2)


def test_place_whose_trials_fail_three_times_is_left_empty_until_the_next_run(
    tmp_path: Path,
) -> None:
    def script(job: FitSpec) -> list[float] | Failed:
        return Failed(f"cause {len(fake.jobs)}", "it is so") if job.seed == bad else learns(job)

    bad = -1
    with searching(tmp_path, script) as ([study], session, fake):
        bad = study.job(started).seed if (started := study.start()) else -1
        study.requeue_all()
        outcome = run([study], session)
        assert outcome.given_up == 1
        assert study.given_up == [0]
        with pytest.raises(UserError, match="1 of 17 places of the plan are empty"):
            outcome.conclude(session)
        assert states(study).count(TrialState.FAIL) == 3
    bad = -1
    with searching(tmp_path, script) as ([study], session, fake):
        assert run([study], session).succeeded
        assert len(fake.jobs) == 1


def test_silent_worker_is_given_up(tmp_path: Path) -> None:
    def script(job: FitSpec) -> list[float] | None:
        return None if len(fake.jobs) == 1 else learns(job)

    with searching(tmp_path, script) as ([study], session, fake):
        assert run([study], session).succeeded
        (failed,) = [t for t in study.study.trials if t.state == TrialState.FAIL]
        assert failed.user_attrs["outcome"]["reason"] == "its worker was silent for 600 seconds"
        assert fake.seconds > 600


def test_interrupted_trials_wait_and_go_on(tmp_path: Path) -> None:
    class After(Interruption):
        def pending(self) -> Interrupted | None:
            return Interrupted("time is up", 0) if fake.seconds > 5 else None

    with searching(tmp_path, learns, workers=2, interruption=After()) as ([study], session, fake):
        outcome = run([study], session)
        assert not outcome.succeeded
        assert outcome.conclude(session) == 0
        assert TrialState.WAITING in states(study)
        assert TrialState.RUNNING not in states(study)
        reported = [trial.intermediate_values for trial in study.study.trials]
    with searching(tmp_path, learns, workers=2) as ([study], session, fake):
        assert run([study], session).succeeded
        assert len(study.study.trials) == 17
        for trial, before in zip(study.study.trials, reported, strict=False):
            assert before.items() <= trial.intermediate_values.items()


def test_trial_that_was_planned_when_the_search_was_killed_is_not_taken_for_another(
    tmp_path: Path,
) -> None:
    # Between planning and starting a trial are milliseconds: what a kill there leaves is made here.
    with searching(tmp_path, learns) as ([study], _, _):
        study.study.enqueue_trial({}, user_attrs={"slot": 16, "bracket": 0})
    with searching(tmp_path, learns, workers=2) as ([study], session, _):
        assert run([study], session).succeeded
        assert sorted(trial.user_attrs["slot"] for trial in study.study.trials) == list(range(17))
        assert TrialState.WAITING not in states(study)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_trial_whose_configuration_was_half_recorded_gets_the_other_half(
    sampler: Sampler, tmp_path: Path
) -> None:
    with searching(tmp_path / "whole", learns, sampler=sampler) as ([whole], session, _):
        assert run([whole], session).succeeded
    first = whole.study.trials[0]
    with searching(tmp_path / "killed", learns, sampler=sampler) as ([study], session, _):
        killed = create_trial(
            state=TrialState.WAITING,
            params={"conv1": first.params["conv1"]},
            distributions={"conv1": first.distributions["conv1"]},
            user_attrs={"slot": 0, "bracket": 2},
        )
        study.study.add_trial(killed)
        assert run([study], session).succeeded
        found = [trial.params for trial in study.study.trials]
    assert found == [trial.params for trial in whole.study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_configuration_is_drawn_twice_at_any_batch_size(
    sampler: Sampler, tmp_path: Path
) -> None:
    with searching(tmp_path, learns, batch_sizes=(32, 64), sampler=sampler) as (
        studies,
        session,
        _,
    ):
        assert run(studies, session).succeeded
        rates = [t.params["learning_rate"] for study in studies for t in study.study.trials]
    assert len(rates) == 34
    assert len(set(rates)) == 34


def test_guesses_are_tried_first_and_once_at_every_batch_size(tmp_path: Path) -> None:
    guesses = [{"conv1": 256, "dropout_rate": 0.3}, {"learning_rate": 0.005}]
    for iterations in (1, 2):  # the second goes on, and finds both tried
        plan = make_plan(9, 3, iterations)
        results, fake = ResultsFolder(tmp_path, "mnist_5k"), FakeWorkers(2, learns)
        with open_session(Journal(results), results, fake) as session:
            spec = plain_spec(session, plan, "tpe")
            studies = open_hyperband_studies(spec, [32, 64], plan, session, guesses)
            assert run(studies, session).succeeded
            for study in studies:
                params = [trial.params for trial in study.study.trials]
                assert len(params) == plan.trials
                assert [values["conv1"] for values in params].index(256) == 0
                assert params[0]["dropout_rate"] == 0.3
                assert [values["learning_rate"] for values in params].index(0.005) == 1
                fixed = ["fixed_params" in trial.system_attrs for trial in study.study.trials]
                assert fixed == [True, True, *[False] * (plan.trials - 2)]


def test_failures_at_once_count_as_one() -> None:
    now = 0.0
    streak = FailureStreak(lambda: now)
    for _ in range(16):  # a node with sixteen workers is lost
        streak.add("its worker was lost", now)
    assert streak.length == 1
    now = 1.0
    streak.add("its worker was lost", now)
    assert streak.length == 2
    streak.add("out of memory", now)
    assert streak.length == 1
    streak.end()
    streak.add("out of memory", now)
    assert streak.length == 1


def test_failures_of_workers_in_turn_are_counted() -> None:
    now = 0.0
    streak = FailureStreak(lambda: now)
    for turn in range(1, 8):  # two workers, whose trials take 20 s each and begin 10 s apart
        now = 10.0 * turn
        streak.add("out of memory", started=now - 20)
    assert streak.length == 3  # at 10, 40 and 70 s
