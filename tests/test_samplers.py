"""What proposes configurations, against scikit-learn, SciPy and plain counting."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from scipy import integrate, optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from src.core.interrupt import Interruption
from src.results.folder import ResultsFolder
from src.search import gaussian_process, space
from src.search.cube import Cube
from src.search.experience import observe, rank
from src.search.fill import fill
from src.search.gaussian_process import GaussianProcess, expected_improvement
from src.search.hyperband import Plan, make_plan
from src.search.hyperband_study import open_hyperband_studies
from src.search.journal import Journal
from src.search.spec import Sampler
from src.training.hyperparameters import Hyperparameters
from src.training.spec import FitSpec
from tests.fake_workers import NEVER, FakeWorkers, open_session, plain_spec
from tests.test_promotion import After

# ---- the Gaussian process


@pytest.fixture
def noisy() -> tuple[gaussian_process.Array, gaussian_process.Array]:
    generator = np.random.default_rng(0)
    points = generator.random((60, 3))
    scores = np.sin(5 * points[:, 0]) + points[:, 1] + 0.1 * generator.standard_normal(60)
    return points, (scores - scores.mean()) / scores.std()


def test_prediction_is_that_of_scikit_learn(
    noisy: tuple[gaussian_process.Array, gaussian_process.Array],
) -> None:
    points, scores = noisy
    process = GaussianProcess(points, scores)
    theirs = GaussianProcessRegressor(
        Matern(process.scales, nu=2.5), alpha=process.noise, optimizer=None
    ).fit(points, scores)
    asked = np.random.default_rng(1).random((20, 3))
    for found, wanted in zip(
        process.predict(asked), theirs.predict(asked, return_std=True), strict=True
    ):
        assert found == pytest.approx(wanted, abs=1e-6)
    process.condition(points[:5], scores[:5])
    again = theirs.fit(points[:5], scores[:5]).predict(asked)
    assert process.predict(asked)[0] == pytest.approx(again, abs=1e-6)


def test_scales_are_the_most_likely_and_say_what_matters(
    noisy: tuple[gaussian_process.Array, gaussian_process.Array],
) -> None:
    points, scores = noisy
    process = GaussianProcess(points, scores)
    assert process.scales[0] < process.scales[1] < process.scales[2]
    squares = (points[:, None, :] - points[None, :, :]) ** 2
    means = np.array([gaussian_process.PRIOR_MEAN] * 3 + [gaussian_process.NOISE_MEAN])

    def loss(logs: gaussian_process.Array) -> float:
        return gaussian_process.loss(logs, squares, scores, means)[0]

    found = np.log([*process.scales, process.noise])
    nearby = found + 0.05 * np.random.default_rng(2).standard_normal((50, 4))
    assert all(loss(found) <= loss(logs) + 1e-3 for logs in nearby)
    gradient = gaussian_process.loss(means, squares, scores, means)[1]
    assert gradient == pytest.approx(optimize.approx_fprime(means, loss, 1e-6), abs=1e-3)
    # The part of the loss that is the data's, by SciPy's density.
    kernel = Matern(np.exp(means[:3]), nu=2.5)(points) + math.exp(means[3]) * np.eye(60)
    density = stats.multivariate_normal(cov=kernel).logpdf(scores)
    assert loss(means) == pytest.approx(-density - 30 * math.log(2 * math.pi), rel=1e-4)


@given(st.floats(-2, 2), st.floats(0.1, 2), st.floats(-2, 2))
def test_expected_improvement_is_the_integral(mean: float, deviation: float, best: float) -> None:
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
    wanted, _ = integrate.quad(
        lambda y: (y - best) * stats.norm.pdf(y, mean, deviation),
        best,
        max(best, mean) + 10 * deviation,
    )
    assert found == pytest.approx(wanted, abs=1e-6)


# ---- scores


def test_curves_are_compared_where_both_have_been() -> None:
    curves: list[dict[float, float]] = [
        {1: 0.5, 3: 0.6, 9: 0.97},
        {1: 0.4},
        {1: 0.6, 3: 0.9},
        {1: 0.7, 3: 0.8},
        {1: 0.2, 3: 0.7, 9: 0.98},  # trained longest, because its bracket halves nobody
    ]
    assert rank(curves) == [0, 1, 4, 3, 2]


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=9))
def test_whole_curves_are_ranked_by_their_ends(curves: list[list[float]]) -> None:
    found = rank([dict(enumerate(curve)) for curve in curves])
    assert sorted(found) == list(range(len(curves)))
    ends = [curves[index][-1] for index in found]
    assert ends == sorted(ends)


def test_scores_are_normal_and_count_what_waits_and_what_runs() -> None:
    values = space.distributions(RECIPE)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING, TrialState.RUNNING] * 25
    chance = random.Random(0)
    trials = []
    for number, state in enumerate(states):
        trial = create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params={"conv1": 32, "conv2": 32, "dense_units": 32, "dropout_rate": 0.1}
            | {"learning_rate": 1e-3},
            distributions=values,
            intermediate_values={} if state == TrialState.RUNNING else {1: chance.random()},
        )
        trial.number = number
        trials.append(trial)
    seen = observe([(64, trial) for trial in trials], [1, 3])
    scores = [one.score for one in seen if one.score is not None]
    assert len(seen) == 100
    assert len(scores) == 75
    assert stats.shapiro(scores).pvalue > 0.9
    assert np.mean(scores) == pytest.approx(0, abs=1e-9)


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
) -> dict[int, list[dict[str, Any]]]:
    """Return the configurations of each batch size, in order of their places."""
    results, fake = ResultsFolder(folder, "mnist_5k"), FakeWorkers(1, peaked(PEAK))
    with open_session(Journal(results), results, fake, interruption) as session:
        spec = plain_spec(session, plan, sampler, "synchronous")
        studies = open_hyperband_studies(spec, batch_sizes, plan, session)
        fill("search", studies, session)
        return {
            size: [
                trial.params
                for trial in sorted(study.study.trials, key=lambda t: t.user_attrs["slot"])
            ]
            for size, study in zip(batch_sizes, studies, strict=True)
        }


def distances(configurations: list[dict[str, Any]]) -> gaussian_process.Array:
    cube = Cube(space.distributions(RECIPE))
    away = cube.points(configurations) - cube.points([PEAK])
    return np.asarray(np.sqrt((away**2).mean(axis=1)))


def test_it_learns_where_the_good_ones_are(tmp_path: Path) -> None:
    plan = make_plan(9, 3, iterations=2)
    found = distances(search(tmp_path / "gp", "gp", plan=plan)[64])
    drawn = distances(search(tmp_path / "random", "random", plan=plan)[64])
    late = len(found) // 2
    assert np.median(found[late:]) < 0.6 * np.median(drawn[late:])


def test_a_batch_size_begins_with_what_another_has_seen(tmp_path: Path) -> None:
    together = search(tmp_path / "together", "gp", (32, 64))
    alone = search(tmp_path / "alone", "gp", (64,))
    assert np.median(distances(together[64])[:8]) < 0.6 * np.median(distances(alone[64])[:8])


def test_it_proposes_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", "gp")
    for questions in range(9, 2000, 37):
        parts = search(tmp_path / "parts", "gp", interruption=After(questions))
        if len(parts[64]) == PLAN.trials and questions > 400:
            break
    assert parts == whole
