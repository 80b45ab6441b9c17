"""The league: what is counted, scored and proposed, on tables that are made up."""

import json
import math
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats

from benchmarks.league import league, ours
from benchmarks.league.baselines import OneEpoch, RandomSearch
from benchmarks.league.entries import Entry, play
from benchmarks.league.peer import Peer
from benchmarks.league.record import SEARCHED, Curve, Look, Table, write_table
from benchmarks.league.replay import BudgetSpent, Moment, Replay
from benchmarks.league.scores import (
    critical_difference,
    friedman_p,
    images_to,
    mean_ranks,
    median,
    regret_at,
)
from benchmarks.league.surrogate import SPACE, Forest, NotApplicable, Process, Surrogate
from benchmarks.league.tuners import Job, search
from src.core.errors import UserError
from src.core.seeding import SAMPLER, derive_seed
from src.search.hyperband import make_plan
from src.search.promotion import Promotion
from src.training.hyperparameters import Hyperparameters
from tests.conftest import REPOSITORY

IMAGES = 100
"""Of an epoch."""

SMALL, LARGE = (
    {
        "conv1": units,
        "conv2": units,
        "dense_units": units,
        "dropout_rate": 0.1,
        "learning_rate": rate,
    }
    for units, rate in ((32, 1e-4), (256, 1e-2))
)


REPEATED = 12
"""Configurations of a random table that have two seeds."""


def curve(
    configuration: Mapping[str, float],
    accuracies: Sequence[float],
    number: int = 0,
    seed: int = 0,
    seconds: float = 1.0,
    looks: Sequence[float] = (),
    batch_size: int = 32,
) -> Curve:
    """Return a curve with these accuracies after its looks and epochs; hidden: 0.01 less."""
    best, found = -1.0, []
    epochs = [*looks, *range(1, len(accuracies) + 1 - len(looks))]
    for when, accuracy in zip(epochs, accuracies, strict=True):
        hidden = None
        if float(when).is_integer() and accuracy > best:
            best, hidden = accuracy, accuracy - 0.01
        found.append(Look(round(when, 7), accuracy, hidden, when * seconds))
    conv1, conv2, dense, dropout, rate = (configuration[name] for name in SEARCHED)
    hyperparameters = Hyperparameters(
        conv1=int(conv1),
        conv2=int(conv2),
        dense_units=int(dense),
        dropout_rate=dropout,
        learning_rate=rate,
        batch_size=batch_size,
    )
    return Curve(number, seed, hyperparameters, tuple(found))


def table(curves: Sequence[Curve], max_epochs: int = 3, looks: Sequence[float] = ()) -> Table:
    about = {
        "dataset": "mnist",
        "batch_size": curves[0].hyperparameters.batch_size,
        "images": {"train": IMAGES},
        "max_epochs": max_epochs,
        "looks": list(looks),
    }
    return Table(about, tuple(curves))


def random_table(configurations: int = 30, max_epochs: int = 9, batch_size: int = 32) -> Table:
    """Return a table whose accuracies follow from the learning rate and luck."""
    generator, drawn = np.random.default_rng(0), RandomSearch(0, max_epochs)
    curves = []
    for number in range(configurations):
        job = drawn.ask()
        assert job is not None
        end = 0.99 - 0.02 * (math.log10(job.configuration["learning_rate"]) + 3) ** 2
        looks = [1 / 9, 1 / 3]
        accuracies = [
            round(end - 0.1 * math.exp(-epochs) + generator.normal(0, 0.002), 6)
            for epochs in [*looks, *range(1, max_epochs + 1)]
        ]
        for seed in range(2 if number < REPEATED else 1):
            again = [round(value + 0.002 * generator.normal(), 6) for value in accuracies]
            curves.append(curve(job.configuration, again, number, seed, 1.0, looks, batch_size))
    return table(curves, max_epochs, [1 / 9, 1 / 3])


class Lookup(Surrogate):
    """Knows only the curves of its table, without regression."""

    def __init__(self, rows: Table) -> None:
        self.max_epochs, self.looks = rows.about["max_epochs"], tuple(rows.about["looks"])
        self.images, self.batch_size = IMAGES, rows.batch_size
        self._curves = {one.hyperparameters.conv1: one for one in rows.curves}

    def curve(self, configuration: Mapping[str, float], seed: int) -> Curve:
        nearest = min(self._curves, key=lambda units: abs(units - configuration["conv1"]))
        return self._curves[nearest]


# ---- the event queue


def test_images_of_all_workers_are_counted_while_the_clock_counts_those_of_one() -> None:
    surrogate = Lookup(table([curve(SMALL, [0.5, 0.6, 0.7])]))
    replay = Replay(surrogate, workers=2, budget=1000)
    replay.begin(0, SMALL, seed=0, begin=0, end=3)
    replay.begin(1, SMALL, seed=0, begin=0, end=1)
    # Both have trained an epoch; then one goes on alone.
    assert replay.next() == (0, surrogate.curve(SMALL, 0).looks[0], False)
    assert (replay.clock, replay.images) == (100, 200)
    replay.go_on(0)
    event = replay.next()
    assert event is not None
    assert (event[0], event[2]) == (1, True)
    replay.stop(1)
    assert replay.idle == [1]
    replay.next()
    assert (replay.clock, replay.images, replay.busy) == (200, 300, 300)
    replay.stop(0)
    assert replay.next() is None
    assert replay.seconds == 3.0


@pytest.mark.parametrize(("workers", "images"), [(1, 900), (2, 800), (8, 800)])
def test_budget_ends_a_search_before_more_images_are_trained(workers: int, images: int) -> None:
    replay = Replay(Lookup(table([curve(SMALL, [0.5, 0.6, 0.7])])), workers, budget=950)
    search(RandomSearch(0, 3), replay, seed=0)
    # Workers that train side by side all end an epoch at once, every 100 images of each.
    assert (replay.images, replay.clock) == (images, images / workers)
    with pytest.raises(BudgetSpent):
        replay.next()


def test_resumed_trial_costs_only_what_is_new_and_one_that_starts_anew_all() -> None:
    replay = Replay(Lookup(table([curve(SMALL, [0.5, 0.6, 0.7])])), 1, budget=1000)
    for begin, images in ((1, 200), (0, 300)):
        before = replay.images
        replay.begin(0, SMALL, seed=0, begin=begin, end=3)
        while True:
            event = replay.next()
            assert event is not None
            if event[2]:
                break
            replay.go_on(0)
        replay.stop(0)
        assert replay.images - before == images


def test_clock_of_seconds_lets_the_faster_fit_report_first_and_counts_images_meanwhile() -> None:
    slow, fast = curve(LARGE, [0.5, 0.6], 0, seconds=4.0), curve(SMALL, [0.5, 0.6], 1)
    replay = Replay(Lookup(table([slow, fast], 2)), 2, budget=1000, unit="seconds")
    replay.begin(0, LARGE, seed=0, begin=0, end=2)
    replay.begin(1, SMALL, seed=0, begin=0, end=2)
    event = replay.next()
    assert event is not None
    assert event[0] == 1
    assert (replay.clock, replay.images) == (1.0, 125)  # 100, and a quarter of the slow one's
    replay.go_on(1)
    replay.next()
    assert (replay.clock, replay.images) == (2.0, 250)
    replay.stop(1)
    replay.next()
    assert (replay.clock, replay.images) == (4.0, 300)


def test_fit_that_diverges_frees_its_worker_when_its_look_would_have_come() -> None:
    replay = Replay(Lookup(table([curve(SMALL, [0.5])])), 1, budget=1000)
    replay.begin(0, SMALL, seed=0, begin=0, end=3)
    replay.next()
    replay.go_on(0)
    assert replay.next() == (0, None, False)
    assert (replay.images, replay.idle) == (200, [0])


def test_best_trial_is_the_one_that_validates_best_after_a_whole_epoch() -> None:
    early = curve(SMALL, [0.9, 0.5, 0.6, 0.55], 0, looks=[1 / 3])
    late = curve(LARGE, [0.1, 0.4, 0.8, 0.7], 1, looks=[1 / 3])
    replay = Replay(Lookup(table([early, late], 3, [1 / 3])), 1, budget=1000)
    for configuration in (SMALL, LARGE):
        replay.begin(0, configuration, seed=0, begin=0, end=3, looks=[1 / 3])
        for _ in range(4):
            event = replay.next()
            assert event is not None
            if event[2]:
                replay.stop(0)
            else:
                replay.go_on(0)
    assert [moment.images for moment in replay.moments] == [100, 200, 500]
    hidden = [moment.hidden_accuracy for moment in replay.moments]
    assert hidden == pytest.approx([0.49, 0.59, 0.79])


# ---- the table


@pytest.mark.parametrize(("regression", "rows", "off"), [(Process, 30, 0.05), (Forest, 60, 0.1)])
def test_regression_predicts_rows_left_out_as_well_as_it_says(
    regression: type[Process | Forest], rows: int, off: float
) -> None:
    generator = np.random.default_rng(0)
    points = generator.random((rows, 3))
    values = np.column_stack([points[:, 0] ** 2 + points[:, 1], np.sin(3 * points[:, 2])])
    values += 0.1 * generator.standard_normal(values.shape)
    found = regression(points, values)
    left_out = [
        regression(np.delete(points, i, 0), np.delete(values, i, 0)).predict(points[i : i + 1])[0]
        for i in range(len(points))
    ]
    errors = ((values - left_out) ** 2).sum(axis=0)
    explained = 1 - errors / ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    assert found.explained == pytest.approx(explained, abs=off)
    assert (explained > 0.5).all()


def test_seed_of_a_trial_draws_its_luck_which_is_that_of_several_seeds() -> None:
    rows = random_table()
    surrogate = Surrogate(rows)
    asked = RandomSearch(5, 9).ask()
    assert asked is not None
    configuration = asked.configuration
    curves = [surrogate.curve(configuration, seed) for seed in range(400)]
    assert curves[7].looks == surrogate.curve(configuration, 7).looks
    errors = np.log([[1 - look.val_accuracy for look in one.looks] for one in curves])
    *predicted, hidden = surrogate.regression.predict(SPACE.points([configuration]))[0]
    assert errors.mean(axis=0) == pytest.approx(predicted, abs=0.05)
    # Without luck; what was measured after the best epoch is had there.
    on_hidden = {tuple(look.hidden_accuracy for look in one.looks) for one in curves}
    (at_looks,) = on_hidden
    assert max(value for value in at_looks if value is not None) == round(1 - math.exp(hidden), 6)
    repeated = [one for one in rows.curves if one.configuration < REPEATED]
    theirs = np.log([[1 - look.val_accuracy for look in one.looks] for one in repeated])
    pairs = theirs.reshape(REPEATED, 2, -1)
    usual = pairs.std(axis=1, ddof=1).mean()
    assert errors.std(axis=0).mean() == pytest.approx(usual, rel=0.5)


def test_good_configurations_do_not_have_the_luck_of_bad_ones() -> None:
    good, bad = ({**SMALL, "learning_rate": rate} for rate in (1e-3, 1.1e-3))
    bad |= {"dropout_rate": 0.2}  # no other is nearer
    chance = random.Random(0)
    curves = []
    for number in range(24):
        of = bad if number % 2 else good
        units = 32 * (1 + number // 2 % 8)
        for seed in range(2):
            error = 0.3 * math.exp(chance.gauss(0, 1)) if of is bad else 0.02
            ends = [1 - min(error, 1.0)] * 3
            curves.append(curve({**of, "conv1": units}, ends, number, seed))
    surrogate = Surrogate(table(curves))
    errors = [
        math.log(1 - surrogate.curve(good, seed).looks[-1].val_accuracy) for seed in range(50)
    ]
    assert np.std(errors) < 0.1


def test_best_of_a_table_is_its_best_configuration_without_luck() -> None:
    rows = random_table()
    first, *others = rows.curves
    diverged = replace(first, configuration=99, looks=first.looks[:3])
    surrogate = Surrogate(replace(rows, curves=(first, *others, diverged)))
    found = [
        look.hidden_accuracy
        for one in others
        for look in surrogate.curve(vars(one.hyperparameters), seed=0).looks
        if look.hidden_accuracy is not None
    ]
    assert max(found) == surrogate.best_hidden_accuracy


def test_fit_that_fails_with_another_seed_lends_nobody_its_luck() -> None:
    chance = random.Random(0)
    curves = []
    for number in range(24):
        for seed in range(2):
            # On average, logarithms are the same.
            error = (0.9, 0.1**2 / 0.9)[seed] if number % 3 == 0 else 0.1
            error *= math.exp(chance.gauss(0, 0.1))
            at = {**SMALL, "conv1": 32 * (1 + number % 8), "dense_units": 32 * (1 + number // 8)}
            curves.append(curve(at, [1 - min(error, 1)] * 3, number, seed))
    surrogate = Surrogate(table(curves))
    usual = {**SMALL, "conv1": 96, "dense_units": 64}
    ends = [surrogate.curve(usual, seed).looks[-1].val_accuracy for seed in range(100)]
    assert 1 - max(ends) > 0.05


# ---- scores

MOMENTS = [Moment(images, images, 1.0, hidden) for images, hidden in ((10, 0.5), (30, 0.9))]


def test_regret_is_that_of_the_latest_moment() -> None:
    regret = regret_at(MOMENTS, 0.95, np.array([9, 10, 29, 30, 99]))
    assert regret == pytest.approx([math.inf, 0.45, 0.45, 0.05, 0.05])
    assert [images_to(MOMENTS, 0.95, regret) for regret in (0.5, 0.05, 0.01)] == [10, 30, math.inf]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [  # the least and greatest order statistics that hold the median in 95 % of cases, by table
        (range(1, 6), 0, math.inf),
        (range(1, 7), 1, 6),
        (range(1, 10), 2, 8),
        ([1, 2, 3, 4, 5, 6, *[math.inf] * 3], 2, math.inf),
        ([math.inf] * 9, math.inf, math.inf),
    ],
)
def test_interval_of_a_median_is_that_of_tables(
    values: Sequence[float], low: float, high: float
) -> None:
    found = median(list(values))
    assert (found.low, found.high) == (low, high)
    assert found.value == np.median(list(values)) or math.isinf(found.value)


def test_critical_difference_is_demsars() -> None:
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # his example, 3.2.2
    assert critical_difference(10, 30) == pytest.approx(3.164 * math.sqrt(110 / 180), abs=0.002)


def test_ranks_are_those_of_numpy_where_no_scores_are_equal_and_shared_where_they_are() -> None:
    scores = np.random.default_rng(0).random((20, 4))
    ranks = scores.argsort(axis=1).argsort(axis=1) + 1
    assert mean_ranks(scores) == pytest.approx(ranks.mean(axis=0))
    assert mean_ranks(np.array([[0.1, 0.1, 0.3]])) == pytest.approx([1.5, 1.5, 3])
    # Friedman's statistic, as Demšar writes it.
    statistic = 12 * 20 / (4 * 5) * ((ranks.mean(axis=0) ** 2).sum() - 4 * 25 / 4)
    assert friedman_p(scores) == pytest.approx(stats.chi2.sf(statistic, 3))


# ---- contestants


def test_random_search_draws_from_the_whole_space_and_the_same_again() -> None:
    one, other = RandomSearch(3, 9), RandomSearch(3, 9)
    jobs = [job for _ in range(300) if (job := one.ask())]
    assert jobs == [other.ask() for _ in range(300)]
    for name in SEARCHED[:3]:
        assert {job.configuration[name] for job in jobs} == set(range(32, 257, 32))
    rates = {round(job.configuration["dropout_rate"], 9) for job in jobs}
    assert rates == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    logarithms = [math.log10(job.configuration["learning_rate"]) for job in jobs]
    assert stats.kstest(logarithms, stats.uniform(-4, 2).cdf).pvalue > 0.001


def test_one_epoch_goes_on_with_the_best_and_spends_its_budget() -> None:
    tuner = OneEpoch(0, max_epochs=3, budget=10, best=2)
    jobs = [job for _ in range(6) if (job := tuner.ask())]
    assert tuner.ask() is None  # 6 of an epoch each, and 2 of 2 more
    for job, value in zip(jobs, [0.1, 0.5, 0.9, 0.5, 0.2, 0.3], strict=True):
        assert (job.begin, job.end) == (0, 1)
        assert tuner.tell(job, 1, value, is_last=True)
    expected = [Job(trial, jobs[trial].configuration, end=3, begin=1) for trial in (2, 1)]
    assert [tuner.ask(), tuner.ask(), tuner.ask()] == [*expected, None]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_one_epoch_trains_as_many_images_as_it_may(workers: int) -> None:
    replay = Replay(Surrogate(random_table()), workers, budget=100 * IMAGES)
    search(OneEpoch(0, 9, budget=100), replay, seed=0)
    assert replay.images == 100 * IMAGES


class Recording(Surrogate):
    """Remembers the configurations of the fits."""

    def __init__(self, rows: Table) -> None:
        super().__init__(rows)
        self.configurations: list[Mapping[str, float]] = []

    def curve(self, configuration: Mapping[str, float], seed: int) -> Curve:
        self.configurations.append(configuration)
        return super().curve(configuration, seed)


class Counting(Replay):
    """Counts the looks, by epochs."""

    def __init__(self, surrogate: Surrogate, workers: int, budget: int) -> None:
        super().__init__(surrogate, workers, budget)
        self.looks: Counter[float] = Counter()

    def next(self) -> tuple[int, Look | None, bool] | None:
        event = super().next()
        if event is not None and event[1] is not None:
            self.looks[event[1].epochs] += 1
        return event


@pytest.mark.parametrize("seed", range(5))
def test_synchronous_search_trains_what_its_plan_says(seed: int) -> None:
    plan = make_plan(9, 3)
    replay = Counting(Surrogate(random_table()), 1, round(plan.epochs_if_exact * IMAGES))
    ours.search(ours.Ours(promotion="synchronous", sampler="random"), [replay], seed)
    assert replay.images == replay.budget
    # Table 1 of the paper for R = 9 and η = 3: of 9, 5 and 3 trials, those that come so far.
    assert [replay.looks[epochs] for epochs in (1, 3, 9)] == [9 + 5 + 3, 3 + 5 + 3, 1 + 1 + 3]


def test_search_of_one_bracket_trains_what_its_plan_says() -> None:
    plan = make_plan(9, 3, brackets=1)
    replay = Counting(Surrogate(random_table()), 1, round(plan.epochs_if_exact * IMAGES))
    ours.search(ours.Ours(promotion="synchronous", sampler="random", brackets=1), [replay], seed=0)
    assert [replay.looks[epochs] for epochs in (1, 3, 9)] == [9, 3, 1]
    assert replay.images == 21 * IMAGES


@pytest.mark.parametrize("promotion", ["stopping", "asynchronous", "synchronous"])
@pytest.mark.parametrize("workers", [1, 8])
def test_search_is_the_same_again_and_spends_its_budget(promotion: Promotion, workers: int) -> None:
    surrogate = Surrogate(random_table())
    found = []
    for _ in range(2):
        replay = Replay(surrogate, workers, budget=60 * IMAGES)
        ours.search(ours.Ours(promotion=promotion, min_epochs=1 / 9), [replay], seed=1)
        assert replay.images > (60 - 2 * workers) * IMAGES
        found.append(replay.moments)
    assert found[0] == found[1]


def test_search_of_a_batch_size_begins_with_what_another_one_has_shown() -> None:
    before = {"other": Surrogate(random_table(batch_size=64))}
    errors = []
    for text in ("ours:sampler=gp", "ours:sampler=gp,after=other"):
        surrogates = [Recording(random_table()) for _ in range(5)]
        replays = [Replay(surrogate, 1, budget=60 * IMAGES) for surrogate in surrogates]
        play(Entry.parse(text), replays, range(5), None, before)
        first = [SPACE.points(surrogate.configurations[:8]) for surrogate in surrogates]
        errors.append(surrogates[0].regression.predict(np.concatenate(first))[:, -2].mean())
    assert errors[1] < errors[0] - 0.1  # logarithms
    replay = Replay(before["other"], 1, budget=100 * IMAGES)
    with pytest.raises(NotApplicable, match="not the same data set, or the same batch size"):
        play(Entry.parse("ours:after=other"), [replay], range(1), None, before)


def test_rung_of_which_a_table_knows_nothing_is_not_applicable() -> None:
    entry = Entry.parse("ours:min_epochs=1/27")
    replay = Replay(Surrogate(random_table()), 1, budget=1000)
    with pytest.raises(NotApplicable, match=r"the table has no look after 0\.03704 epochs"):
        play(entry, [replay], range(1), None, {})


def test_peer_proposes_and_prunes_as_its_library_does() -> None:
    sampler = optuna.samplers.TPESampler(seed=derive_seed(0, SAMPLER) % 2**31)
    trial = optuna.create_study(sampler=sampler).ask()
    with Peer(Path(sys.executable), "optuna_halving") as peer:
        for _ in range(2):  # a process serves several searches
            peer.start(0, 9, 450, {})
            good, bad = peer.ask(), peer.ask()
            assert good is not None and bad is not None
            assert (good.trial, good.begin, good.end) == (0, 0, 9)
            assert good.configuration["conv1"] == trial.suggest_int("conv1", 32, 256, step=32)
            assert [peer.tell(good, epoch, 0.9, False) for epoch in range(1, 5)] == [True] * 4
            # It counts epochs from 0, so that the rung at 1 comes after the second.
            assert [peer.tell(bad, epoch, 0.5, False) for epoch in (1, 2)] == [True, False]
        replay = Replay(Surrogate(random_table()), 2, budget=100 * IMAGES)
        peer.start(0, 9, 450, {})
        search(peer, replay, seed=0)
        assert replay.images == 100 * IMAGES
        peer.start(0, 9, 450, {"min_epochs": 3, "begin": "middle"})
        middle, bad = peer.ask(), peer.ask()
        assert middle is not None and bad is not None
        assert SPACE.points([middle.configuration])[0] == pytest.approx(SPACE.middle(), abs=1e-9)
        assert [peer.tell(middle, epoch, 0.9, False) for epoch in range(1, 5)] == [True] * 4
        assert [peer.tell(bad, e, 0.5, False) for e in range(1, 5)] == [True, True, True, False]
        with pytest.raises(NotApplicable, match="whole epochs"):
            peer.start(0, 9, 450, {"min_epochs": 1 / 3})


def test_peer_that_cannot_run_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named dehb' >&2\nexit 1\n")
    python.chmod(0o755)
    replay = Replay(Surrogate(random_table()), 1, budget=1000)
    with pytest.raises(NotApplicable, match="its program ended: No module named dehb"):
        play(Entry.parse("dehb"), [replay], range(1), python, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outs", "must name one of ours, random"),
        ("ours:promotion=late", "promotion must be one of synchronous"),
        ("one_epoch:best=x", "best must be a number"),
        ("ours:brackets=all", "brackets must be a number"),
        ("random:best=3", "options of random are none"),
        ("dehb:sampler=tpe", "options of dehb are factor, min_epochs"),
        ("dehb:begin=end", "begin must be one of middle"),
    ],
)
def test_unknown_tuner_or_option_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Entry.parse(text)


def test_what_is_kept_is_told_apart_by_the_code_that_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPOSITORY / "src", tmp_path / "src")
    monkeypatch.setattr(league, "_ROOT", tmp_path)

    def fingerprints() -> tuple[str, str]:
        found = league._fingerprints({"made_up": random_table()}, "process")
        return found["made_up", True], found["made_up", False]

    ours, others = fingerprints()
    for name, changes in {
        "src/search/one.py": (True, False),
        "src/search/cube.py": (True, True),
        "benchmarks/one.py": (True, False),
        "benchmarks/league/one.py": (True, True),
        "benchmarks/league/ours.py": (True, False),
        "benchmarks/league/table.py": (True, True),
        "benchmarks/peers/one.py": (True, True),
        "benchmarks/league/standings.py": (False, False),
        "benchmarks/results/.league/joblib/func_code.py": (False, False),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        before, (ours, others) = (ours, others), fingerprints()
        assert (before[0] != ours, before[1] != others) == changes, name


def test_league_of_ours_and_the_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "made_up", random_table())
    tuners = ["ours", "ours:promotion=synchronous,min_epochs=1/3", "random", "one_epoch", "dehb"]
    arguments = [
        *("--tables", json.dumps([str(tmp_path / "made_up")])),
        *("--tuners", json.dumps(tuners)),
        *("--workers", "[1,8]", "--seeds", "3", "--budget", "5"),
        *("--output", str(tmp_path)),
    ]
    assert league.COMMAND.main(arguments) == 0
    report = json.loads((tmp_path / "league.json").read_text())
    rows = report["rows"]
    assert [row["tuner"] for row in rows[:5]] == [
        *("ours", "ours synchronous min_epochs=1/3", "random", "one epoch", "dehb")
    ]
    assert [row["over the first's"] is None for row in rows[:4]] == [True, False, False, False]
    assert rows[4]["reason"] == "left out: `--python` of an environment that has it"
    assert [(test["workers"], test["tuners"], test["blocks"]) for test in report["tests"]] == [
        *((1, 4, 3), (8, 4, 3))
    ]
    for workers in (1, 8):
        ranked = [row for row in rows if row["workers"] == workers and "curve" in row]
        assert sum(row["rank at 1"] for row in ranked) == pytest.approx(1 + 2 + 3 + 4, abs=0.02)
        assert (tmp_path / f"league-made_up-{workers}.png").stat().st_size > 10_000
    assert report["provenance"]["command"].startswith("python -m benchmarks league")
    assert [row["resumes"] for row in rows[:2]] == ["never pauses", "goes on"]
    shown = capsys.readouterr().out
    titles = {line.strip() for line in shown.splitlines()}
    assert {"made_up, 1 worker", "made_up, 8 workers"} <= titles
    for row in rows[:4]:  # intervals are not broken
        assert {row["tuner"], row["regret"].partition(" ")[2]} <= {*re.split(r" *[│\n] *", shown)}

    # The same command searches nothing again, nor does another table, and a changed one everything.
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".league/**/output.pkl")}
    assert len(kept) == 2 * 4
    assert league.COMMAND.main(arguments) == 0
    assert json.loads((tmp_path / "league.json").read_text())["rows"] == rows
    assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.glob(".league/**/output.pkl")}
    write_table(tmp_path / "other", random_table(batch_size=64))
    both = json.dumps([str(tmp_path / "made_up"), str(tmp_path / "other")])
    random_only = ("--tuners", '["random"]', *arguments[4:])
    assert league.COMMAND.main(["--tables", both, *random_only]) == 0
    assert len([*tmp_path.glob(".league/**/output.pkl")]) == len(kept) + 2
    write_table(tmp_path / "made_up", random_table(batch_size=64))
    assert league.COMMAND.main([*arguments[:2], *random_only]) == 0
    assert json.loads((tmp_path / "league.json").read_text())["rows"][0] != rows[2]
