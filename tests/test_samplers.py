"""What proposes configurations, against scikit-learn, SciPy and plain counting."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from scipy import integrate, optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from threadpoolctl import threadpool_info, threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from src.core.interrupt import Interruption
from src.results.folder import ResultsFolder
from src.search import gaussian_process, gp_sampler, space
from src.search.cube import Cube
from src.search.experience import observe
from src.search.fill import fill
from src.search.gaussian_process import (
    CONSTANT,
    SLOPE,
    Array,
    GaussianProcess,
    expected_improvement,
)
from src.search.gp_sampler import GPSampler
from src.search.hyperband import Plan, make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.journal import Journal
from src.search.spec import Sampler
from src.search.studies import load_studies
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from src.training.task import make_task
from tests.fake_workers import NEVER, FakeWorkers, open_session, plain_spec
from tests.test_promotion import After

# ---- the Gaussian process


@pytest.fixture
def noisy() -> tuple[gaussian_process.Array, gaussian_process.Array]:
    generator = np.random.default_rng(0)
    points = generator.random((60, 3))
    scores = np.sin(5 * points[:, 0]) + points[:, 1] + 0.1 * generator.standard_normal(60)
    return points, (scores - scores.mean()) / scores.std()


def test_prediction_is_that_of_the_textbook(
    noisy: tuple[gaussian_process.Array, gaussian_process.Array],
) -> None:
    points, scores = noisy
    process = GaussianProcess(points, scores)
    matern = Matern(process.scales, nu=2.5)

    def kernel(
        one: gaussian_process.Array, other: gaussian_process.Array
    ) -> gaussian_process.Array:
        line = CONSTANT + SLOPE * np.multiply.outer(one[:, 2], other[:, 2])
        return np.asarray(matern(one, other) + line)

    asked = np.random.default_rng(1).random((20, 3))
    for count in (60, 5):  # equations 2.25 and 2.26
        process.condition(points[:count], scores[:count])
        inverse = np.linalg.inv(
            kernel(points[:count], points[:count]) + process.noise * np.eye(count)
        )
        weights = kernel(asked, points[:count]) @ inverse
        covariance = kernel(asked, asked) - weights @ kernel(points[:count], asked)
        mean, deviation = process.predict(asked)
        assert mean == pytest.approx(weights @ scores[:count], abs=1e-6)
        assert deviation == pytest.approx(np.sqrt(np.diag(covariance)), abs=1e-6)


def test_scales_are_the_most_likely_and_say_what_matters(
    noisy: tuple[gaussian_process.Array, gaussian_process.Array],
) -> None:
    points, scores = noisy
    process = GaussianProcess(points, scores)
    assert process.scales[0] < process.scales[1] < process.scales[2]
    squares = (points[:, None, :] - points[None, :, :]) ** 2
    line = CONSTANT + SLOPE * np.outer(points[:, 2], points[:, 2])
    means = np.array([gaussian_process.PRIOR_MEAN] * 3 + [gaussian_process.NOISE_MEAN])

    def loss(logs: gaussian_process.Array) -> float:
        return gaussian_process.loss(logs, squares, line, scores, means)[0]

    found = np.log([*process.scales, process.noise])
    nearby = found + 0.05 * np.random.default_rng(2).standard_normal((50, 4))
    assert all(loss(found) <= loss(logs) + 1e-3 for logs in nearby)
    gradient = gaussian_process.loss(means, squares, line, scores, means)[1]
    assert gradient == pytest.approx(optimize.approx_fprime(means, loss, 1e-6), abs=1e-3)
    for logs in (found, means):  # without the line it is that of scikit-learn
        alone = gaussian_process.loss(logs, squares, 0 * line, scores, means)[0]
        likelihood = alone - 0.5 * ((logs - means) ** 2).sum()
        theirs = GaussianProcessRegressor(
            Matern(np.exp(logs[:3]), nu=2.5), alpha=np.exp(logs[3]) + 1e-6, optimizer=None
        ).fit(points, scores)
        constant = 0.5 * len(scores) * math.log(2 * math.pi)
        assert -theirs.log_marginal_likelihood_value_ == pytest.approx(likelihood + constant)


@given(st.floats(-2, 2), st.floats(0.1, 2), st.floats(-2, 2))
def test_expected_improvement_is_the_integral(mean: float, deviation: float, best: float) -> None:
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
    wanted, _ = integrate.quad(
        lambda y: (y - best) * stats.norm.pdf(y, mean, deviation),
        best,
        max(best, mean) + 10 * deviation,
    )
    assert found == pytest.approx(wanted, abs=1e-6)


# ---- what was seen


def test_curves_are_those_of_rungs_and_know_how_a_trial_ended() -> None:
    plan = make_plan(9, 3, min_epochs=1 / 3)  # 27 parts an epoch

    def seen(state: TrialState, values: dict[int, float], reason: str) -> dict[float, float]:
        trial = create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params=PEAK,
            distributions=space.distributions(RECIPE),
            intermediate_values=values,
            user_attrs={"outcome": {"reason": reason}},
        )
        return dict(observe(trial, 64, plan).curve)

    parts, lost = plan.parts, "lost on the rung at epoch 3"
    looks = {parts // 3: 0.4, parts: 0.6, 2 * parts: 0.7, 3 * parts: 0.8}
    on_rungs = {1 / 3: 0.4, 1: 0.6, 3: 0.8}
    for state in (TrialState.PRUNED, TrialState.WAITING, TrialState.RUNNING):
        assert seen(state, looks, lost) == pytest.approx(on_rungs)
    longer = looks | {5 * parts: 0.9}
    assert seen(TrialState.COMPLETE, longer, "early") == pytest.approx({**on_rungs, 9: 0.9})
    assert seen(TrialState.RUNNING, {}, "") == {}
    assert seen(TrialState.PRUNED, longer, "diverged") == pytest.approx({**on_rungs, 9: 0.0})
    assert seen(TrialState.PRUNED, {}, "diverged") == pytest.approx({9: 0.0})


# ---- the cube

RECIPE = {name: [getattr(Hyperparameters, name)] for name in ("schedule", "label_smoothing")}

KINDS = space.distributions(RECIPE) | {"schedule": CategoricalDistribution(("a", "b", "c"))}


def test_cube_draws_what_optuna_would_and_finds_it_again() -> None:
    cube, generator = Cube(KINDS), np.random.default_rng(0)
    points = cube.draw(3000, generator)
    drawn = [cube.configuration(point) for point in points]
    assert cube.points(drawn) == pytest.approx(points, abs=1e-9)
    for name, kind in KINDS.items():
        assert all(kind._contains(kind.to_internal_repr(one[name])) for one in drawn)
    counts = [sum(one["conv1"] == units for one in drawn) for units in range(32, 257, 32)]
    assert stats.chisquare(counts).pvalue > 0.01
    assert (
        stats.chisquare([sum(one["schedule"] == x for one in drawn) for x in "abc"]).pvalue > 0.01
    )
    rates = [math.log10(one["learning_rate"]) for one in drawn]
    assert stats.kstest(rates, stats.uniform(-4, 2).cdf).pvalue > 0.01
    assert points.shape == (3000, 8)
    assert points.min() >= 0
    assert points.max() <= 1


def test_cube_draws_near() -> None:
    cube, generator = Cube(KINDS), np.random.default_rng(0)
    points = cube.draw(300, generator)
    near = cube.draw_near(points, 0.1, generator)
    assert cube.points([cube.configuration(point) for point in near]) == pytest.approx(near)
    moved = abs(near - points)
    assert 0.05 < moved[:, 4].mean() < 0.15  # the learning rate
    assert 0.02 < moved[:, 5:].any(axis=1).mean() < 0.12  # the choice: one in ten is drawn anew


def test_middle_of_the_cube() -> None:
    cube = Cube(KINDS)
    expected = {"conv1": 160, "conv2": 160, "dense_units": 160, "dropout_rate": 0.5}
    found = cube.configuration(cube.middle())
    assert found == pytest.approx({**expected, "learning_rate": 1e-3, "schedule": "a"})


# ---- whole searches, whose workers train nothing


def peaked(at: dict[str, float]) -> Callable[[FitSpec], list[float]]:
    """Return curves of configurations that are the better the nearer they are to one."""
    cube = Cube(space.distributions(RECIPE))
    (top,) = cube.points([at])

    def learns(job: FitSpec) -> list[float]:
        (point,) = cube.points([vars(job.hyperparameters)])
        end = 0.99 - 0.3 * float(((point - top) ** 2).mean())
        luck = random.Random(job.seed)
        looks = len(job.looks) + job.max_epochs
        return [round(end - 0.2 * 2**-n + luck.gauss(0, 0.002), 6) for n in range(looks)]

    return learns


PEAK = {"conv1": 224, "conv2": 64, "dense_units": 192, "dropout_rate": 0.3, "learning_rate": 2e-3}
PLAN = make_plan(9, 3)


def search(
    folder: Path,
    sampler: Sampler,
    batch_sizes: tuple[int, ...] = (64,),
    plan: Plan = PLAN,
    interruption: Interruption = NEVER,
    learns: Callable[[FitSpec], list[float]] | None = None,
    cost_exponent: float = 0.0,
) -> dict[int, list[dict[str, Any]]]:
    """Return the configurations of each batch size, in order of their places."""
    results, fake = ResultsFolder(folder, "mnist_5k"), FakeWorkers(1, learns or peaked(PEAK))
    with open_session(Journal(results), results, fake, interruption) as session:
        spec = plain_spec(session, plan, sampler, "synchronous", cost_exponent)
        studies = open_hyperband_studies(spec, batch_sizes, plan, session)
        fill("search", studies, session)
        return {
            size: [
                trial.params
                for trial in sorted(study.study.trials, key=lambda t: t.user_attrs["slot"])
            ]
            for size, study in zip(batch_sizes, studies, strict=True)
        }


def distances(
    configurations: list[dict[str, Any]], peak: dict[str, float] = PEAK
) -> gaussian_process.Array:
    cube = Cube(space.distributions(RECIPE))
    away = cube.points(configurations) - cube.points([peak])
    return np.asarray(np.sqrt((away**2).mean(axis=1)))


def test_it_learns_where_the_good_ones_are(tmp_path: Path) -> None:
    plan = make_plan(9, 3, iterations=2)
    found = distances(search(tmp_path / "gp", "gp", plan=plan)[64])
    drawn = distances(search(tmp_path / "random", "random", plan=plan)[64])
    late = len(found) // 2
    assert np.median(found[late:]) < 0.6 * np.median(drawn[late:])


def test_it_begins_in_the_middle_and_learns_from_three_on(tmp_path: Path) -> None:
    other = {**PEAK, "conv1": 32, "learning_rate": 2e-4}
    here, there = (
        search(tmp_path / str(peak["conv1"]), "gp", (32, 64), learns=peaked(peak))
        for peak in (PEAK, other)
    )
    middle = {"conv1": 160, "conv2": 160, "dense_units": 160, "dropout_rate": 0.5}
    assert here[32][0] == pytest.approx({**middle, "learning_rate": 1e-3})
    assert here[32][:3] == there[32][:3]
    assert here[32][3:6] != there[32][3:6]
    assert here[64][0] not in here[32]  # the second batch size begins with what the first has seen


@pytest.mark.parametrize("params", [PEAK, {**PEAK, "conv1": 32, "conv2": 32, "dense_units": 32}])
def test_arithmetic_is_that_of_the_network(params: dict[str, Any]) -> None:
    task = make_task(Hyperparameters(**params, batch_size=1), 10)
    with FlopCounterMode(display=False) as counter:
        task(torch.zeros(1, 28, 28, dtype=torch.uint8))
    products = counter.get_total_flops() / 2  # it counts each with its sum
    assert space.arithmetic(params) == pytest.approx(products, rel=2e-3)


def test_where_all_promise_the_same_the_cheapest_is_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gp_sampler, "expected_improvement", lambda mean, *_: np.ones_like(mean))
    monkeypatch.setattr(gp_sampler, "_UNIFORM", 0.0)
    costs = {
        exponent: [
            space.arithmetic(params)
            for params in search(tmp_path / str(exponent), "gp", cost_exponent=exponent)[64][3:]
        ]
        for exponent in (0.0, 0.5)
    }
    cheapest = space.arithmetic({"conv1": 32, "conv2": 32, "dense_units": 32})
    assert max(costs[0.5]) < 3 * cheapest < np.median(costs[0.0])


def test_it_tries_smaller_networks_where_cost_counts(tmp_path: Path) -> None:
    plan = make_plan(9, 3, iterations=2)
    costs = [
        np.mean(
            [
                space.arithmetic(params)
                for params in search(tmp_path / str(x), "gp", plan=plan, cost_exponent=x)[64]
            ]
        )
        for x in (0.0, 0.5)
    ]
    assert costs[1] < 0.9 * costs[0]


def test_a_trial_that_was_killed_while_it_was_proposed_teaches_nothing(tmp_path: Path) -> None:
    search(tmp_path, "gp", (32,), interruption=After(1000))
    results = ResultsFolder(tmp_path, "mnist_5k")
    with Journal(results) as journal:
        study = load_studies(journal.storage, "mnist_5k")[32]
        killed = study.ask()
        killed.set_user_attr("slot", 16)
        killed.set_user_attr("bracket", 0)
        killed.suggest_int("conv1", 32, 256, step=32)
    assert len(search(tmp_path, "gp", (64,))[64]) == PLAN.trials


def test_proposals_are_made_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    proposed: list[bool] = []

    class Locking(Journal):
        @contextlib.contextmanager
        def exclusive(self) -> Iterator[None]:
            with super().exclusive():
                held.append(True)
                yield
                held.pop()

    def spy(sampler: GPSampler, *arguments: Any) -> dict[str, Any]:
        proposed.append(bool(held))
        return RandomSampler(seed=sampler._batch_size).sample_relative(*arguments)

    monkeypatch.setattr(GPSampler, "sample_relative", spy)
    monkeypatch.setattr(f"{__name__}.Journal", Locking)
    search(tmp_path, "gp")
    assert proposed == [True] * PLAN.trials


def test_the_best_are_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.search.gp_sampler._LEARNT", 20)  # looks, of a dozen trials
    learnt: list[Array] = []

    class Spy(gaussian_process.GaussianProcess):
        def condition(self, points: Array, scores: Array) -> None:
            super().condition(points, scores)
            learnt.append(points)

    monkeypatch.setattr("src.search.gp_sampler.GaussianProcess", Spy)
    search(tmp_path, "gp", plan=make_plan(9, 3, iterations=3))
    with Journal(ResultsFolder(tmp_path, "mnist_5k")) as journal:
        trials = load_studies(journal.storage, "mnist_5k")[64].trials
    best = max(trials, key=lambda trial: trial.value or 0.0)
    assert best.number < len(trials) - 20
    assert len(learnt[-1]) == 20
    place = Cube(space.distributions(RECIPE)).points([best.params])
    assert np.isclose(learnt[-1][:, :-2], place).all(axis=1).any()


def test_it_takes_no_core_from_the_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    class Spy(gaussian_process.GaussianProcess):
        def predict(self, points: Array) -> tuple[Array, Array]:
            threads.update(x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas")
            return super().predict(points)

    monkeypatch.setattr("src.search.gp_sampler.GaussianProcess", Spy)
    with threadpool_limits(2, user_api="blas"):
        search(tmp_path, "gp")
    assert threads == {1}


def test_tpe_learns_from_the_trials_of_all_brackets(tmp_path: Path) -> None:
    other = {**PEAK, "conv1": 32, "learning_rate": 2e-4}
    here, there = (
        search(tmp_path / str(peak["conv1"]), "tpe", learns=peaked(peak))[64]
        for peak in (PEAK, other)
    )
    # It draws at random until ten have been seen, more than the second bracket and the third have.
    assert here[:10] == there[:10]
    assert all(one != another for one, another in zip(here[11:], there[11:], strict=True))


def test_it_is_not_taken_in_by_those_that_learn_fast(tmp_path: Path) -> None:
    def crossing(job: FitSpec) -> list[float]:
        rate = job.hyperparameters.learning_rate
        fast = (math.log10(rate) + 4) / 2  # 0 at 1e-4, 1 at 1e-2
        luck = random.Random(job.seed)
        return [
            round(0.98 - 0.06 * fast - (0.3 - 0.25 * fast) / 2**n + luck.gauss(0, 0.002), 6)
            for n in range(len(job.looks) + job.max_epochs)
        ]

    plan = make_plan(9, 3, iterations=2)
    found = search(tmp_path, "gp", plan=plan, learns=crossing)[64]
    rates = [math.log10(one["learning_rate"]) for one in found]
    assert np.median(rates[len(rates) // 2 :]) < -3.3


def test_a_batch_size_begins_with_what_another_has_seen(tmp_path: Path) -> None:
    for corner in (
        {"conv1": 256, "conv2": 32, "dense_units": 256, "dropout_rate": 0.2, "learning_rate": 5e-3},
        {"conv1": 32, "conv2": 256, "dense_units": 64, "dropout_rate": 0.9, "learning_rate": 2e-4},
    ):
        folder, learns = tmp_path / str(corner["conv1"]), peaked(corner)
        both = search(folder / "both", "gp", (32, 64), learns=learns)
        alone = search(folder / "alone", "gp", (64,), learns=learns)
        # Of the first ones; some of them are drawn at random on purpose.
        after_another, first = (
            np.quantile(distances(found[64][:8], corner), 0.25) for found in (both, alone)
        )
        assert after_another < 0.6 * first


def test_it_proposes_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", "gp")
    for questions in range(9, 2000, 37):
        parts = search(tmp_path / "parts", "gp", interruption=After(questions))
        if len(parts[64]) == PLAN.trials and questions > 400:
            break
    assert parts == whole
