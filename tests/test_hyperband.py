import random

import optuna
import pytest

from src.search.hyperband import is_promoted, make_plan

# Li et al. 2018, Table 1: (trials, epochs) of each rung for R = 81, η = 3.
TABLE_1 = {
    4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    3: [(34, 3), (11, 9), (3, 27), (1, 81)],
    2: [(15, 9), (5, 27), (1, 81)],
    1: [(8, 27), (2, 81)],
    0: [(5, 81)],
}


def test_plan_is_the_papers_table() -> None:
    plan = make_plan(81, 3)
    rungs = {b.s: [(rung.trials, rung.epochs) for rung in b.rungs] for b in plan.brackets}
    assert rungs == TABLE_1
    assert plan.trials == 143


def test_budget_of_exact_halving_with_resumed_trials() -> None:
    # Each trial of Table 1 is paid for the epochs since its last rung.
    epochs = 0
    for rungs in TABLE_1.values():
        before = 0
        for trials, until in rungs:
            epochs += trials * (until - before)
            before = until
    assert make_plan(81, 3).epochs_if_exact == epochs
    assert make_plan(81, 3, iterations=5).epochs_if_exact == 5 * epochs
    assert make_plan(81, 3).epochs_at_most == 143 * 81


@pytest.mark.parametrize("power", range(9))
@pytest.mark.parametrize("factor", [2, 3, 4, 10])
def test_a_power_of_the_factor_has_one_bracket_more_than_its_exponent(
    power: int, factor: int
) -> None:
    # With floating-point logarithms log3(243) is 4.999…, and a bracket is lost.
    plan = make_plan(factor**power, factor)
    assert [bracket.s for bracket in plan.brackets] == list(range(power, -1, -1))
    assert [rung.epochs for rung in plan.brackets[0].rungs] == [factor**i for i in range(power + 1)]


def test_rungs_of_the_published_search_are_keras_tuners() -> None:
    assert [rung.epochs for rung in make_plan(30, 2).brackets[0].rungs] == [2, 4, 8, 15, 30]


@pytest.mark.parametrize("max_epochs", range(1, 60))
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_every_plan_ends_at_the_full_budget_and_never_grows(max_epochs: int, factor: int) -> None:
    for bracket in make_plan(max_epochs, factor).brackets:
        epochs = [rung.epochs for rung in bracket.rungs]
        trials = [rung.trials for rung in bracket.rungs]
        assert epochs[-1] == max_epochs
        assert epochs == sorted(set(epochs)), "rungs are strictly later and later"
        assert trials == sorted(trials, reverse=True)
        assert trials[-1] >= 1
        assert max_epochs not in bracket.decision_epochs


def test_slots_fill_the_brackets_of_each_iteration() -> None:
    plan = make_plan(9, 3, iterations=2)
    brackets = [plan.bracket_of(slot).s for slot in range(plan.trials)]
    assert brackets == 2 * (9 * [2] + 5 * [1] + 3 * [0])


def test_first_brackets_of_a_plan_are_those_of_the_whole_one() -> None:
    whole, first = make_plan(81, 3, iterations=2), make_plan(81, 3, iterations=2, brackets=2)
    assert first.brackets == whole.brackets[:2]
    assert (whole.extent, first.extent) == ("2 iterations", "2 iterations of 2 of its 5 brackets")
    assert [first.bracket_of(slot).s for slot in range(first.trials)] == 2 * (81 * [4] + 34 * [3])


@pytest.mark.parametrize("brackets", [0, 4])
def test_brackets_that_there_are_not_are_refused(brackets: int) -> None:
    with pytest.raises(ValueError, match=f"`brackets` .={brackets}. must be >= 1, and at most 3"):
        make_plan(9, 3, brackets=brackets)


@pytest.mark.parametrize("arguments", [(0, 2, 1), (9, 1, 1), (9, 3, 0)])
def test_nonsense_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"\(=[01]\) must be >= "):
        make_plan(*arguments)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_promotion_agrees_with_optunas_successive_halving(factor: int) -> None:
    # One rung, at step 1, of Optuna's own pruner; ties and runs of equal values included.
    generator = random.Random(factor)
    for _ in range(20):
        study = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor),
        )
        values: list[float] = []
        for _ in range(15):
            value = generator.choice([0.1, 0.2, 0.3, 0.4, generator.random()])
            values.append(value)
            trial = study.ask()
            trial.report(value, step=1)
            pruned = trial.should_prune()
            study.tell(trial, 0.0)
            assert is_promoted(value, values, factor) == (not pruned)
