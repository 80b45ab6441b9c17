"""The pruner with scripted reports: no training."""

import random

import optuna
import pytest
from optuna.trial import TrialState

from src.search.hyperband import Plan, make_plan
from src.search.pruner import BRACKET_ATTRIBUTE, PlannedHyperbandPruner


def make_study(plan: Plan) -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=PlannedHyperbandPruner(plan))


def ask(study: optuna.Study, bracket: int) -> optuna.Trial:
    study.enqueue_trial({}, user_attrs={BRACKET_ATTRIBUTE: bracket})
    return study.ask()


def play(study: optuna.Study, bracket: int, values: list[float]) -> int:
    """Report the values epoch after epoch; return after how many the trial stopped."""
    trial = ask(study, bracket)
    for epoch, value in enumerate(values, start=1):
        trial.report(value, step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, values[-1])
    return len(values)


@pytest.mark.parametrize(("brackets", "iterations"), [(4, 4), (2, 8)])
def test_trials_stop_on_the_rungs_of_their_bracket_and_nowhere_else(
    brackets: int, iterations: int
) -> None:
    plan = make_plan(27, 3, iterations, brackets=brackets)
    study = make_study(plan)
    generator = random.Random(0)
    stops: dict[int, set[int]] = {}
    for slot in range(plan.trials):
        bracket = plan.bracket_of(slot)
        values = sorted(generator.random() for _ in range(27))
        stops.setdefault(bracket.s, set()).add(play(study, bracket.s, values))
    rungs = {3: {1, 3, 9, 27}, 2: {3, 9, 27}, 1: {9, 27}, 0: {27}}
    assert stops == dict(list(rungs.items())[:brackets])


def test_finished_trial_is_never_pruned() -> None:
    study = make_study(make_plan(9, 3))
    trial = ask(study, bracket=2)
    for other in (0.9, 0.8):
        play(study, 2, [other] * 9)
    for epoch in range(1, 9):
        trial.report(0.95, step=epoch)
        assert not trial.should_prune()
    trial.report(0.0, step=9)  # the worst of all, but at the full budget
    assert not trial.should_prune()


def test_brackets_do_not_compete_with_each_other() -> None:
    study = make_study(make_plan(9, 3))
    for _ in range(6):
        play(study, 2, [0.9] * 9)
    assert play(study, 1, [0.1] * 9) == 9  # the first of its bracket


def test_failed_trials_are_no_competitors() -> None:
    study = make_study(make_plan(9, 3))
    failed = ask(study, 2)
    failed.report(0.99, step=1)
    study.tell(failed, state=TrialState.FAIL)
    assert play(study, 2, [0.1] * 9) == 9


def test_the_best_of_a_bracket_always_finishes() -> None:
    # So that the best of all trials is the best of the finished ones.
    plan = make_plan(27, 3, iterations=3)
    for seed in range(10):
        study = make_study(plan)
        generator = random.Random(seed)
        for slot in range(plan.trials):
            curve = sorted(generator.random() for _ in range(27))  # best so far never falls
            play(study, plan.bracket_of(slot).s, curve)
        seen = [
            max(trial.intermediate_values.values()) for trial in study.get_trials(deepcopy=False)
        ]
        assert study.best_value == max(seen)


@pytest.mark.parametrize("factor", [2, 3])
def test_agrees_with_optunas_hyperband_where_that_is_exact(factor: int) -> None:
    # Optuna's SuccessiveHalvingPruner is what its HyperbandPruner runs in each bracket; its rungs
    # are the plan's where the budget is a power of the factor. It also asks at the full budget.
    plan = make_plan(factor**3, factor)
    generator = random.Random(7)
    for bracket in plan.brackets:
        reference = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1,
                reduction_factor=factor,
                min_early_stopping_rate=3 - bracket.s,
            ),
        )
        study = make_study(plan)
        for _ in range(40):
            values = [generator.random() for _ in range(plan.max_epochs)]
            expected = plan.max_epochs
            trial = reference.ask()
            for epoch, value in enumerate(values[:-1], start=1):
                trial.report(value, step=epoch)
                if trial.should_prune():
                    expected = epoch
                    break
            reference.tell(trial, 0.0)
            assert play(study, bracket.s, values) == expected
