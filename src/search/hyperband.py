"""Hyperband's plan: which brackets there are, how many trials each rung gets, for how long.

Li, Jamieson, DeSalvo, Rostamizadeh, Talwalkar: "Hyperband: A Novel Bandit-Based Approach to
Hyperparameter Optimization", JMLR 18 (2018), Algorithm 1. All arithmetic is in integers, because
a floating-point logarithm loses a bracket where the budget is a power of the factor (243 = 3^5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from src.core.console import plural


@dataclass(frozen=True)
class Rung:
    """A decision point of a bracket: `trials` of them train until they have had `epochs`."""

    epochs: float
    """Epochs that a trial has trained, in all, when it stands on this rung: a whole number, or a
    part of the first."""
    trials: int
    """Trials that reach this rung when exactly one in `reduction_factor` is promoted."""


@dataclass(frozen=True)
class Bracket:
    """One run of successive halving, from many trials with few epochs to few with many."""

    s: int
    """How often this bracket cuts its trials; s = 0 trains all of them for the full budget."""
    rungs: tuple[Rung, ...]
    """From the first decision to the full budget: s + 1 of them."""

    @property
    def trials(self) -> int:
        """Trials that start in this bracket."""
        return self.rungs[0].trials

    @property
    def decision_epochs(self) -> tuple[float, ...]:
        """Epochs after which a trial may be pruned: every rung but the last, the full budget."""
        return tuple(rung.epochs for rung in self.rungs[:-1])


@dataclass(frozen=True)
class Plan:
    """A Hyperband search: the brackets of one iteration, run `iterations` times.

    A *slot* is one place in the plan, numbered from 0 in the order in which trials start: the
    brackets of the first iteration from the most to the least aggressive, then the next iteration.
    """

    max_epochs: int
    """Full budget R of one trial, in epochs."""
    reduction_factor: int
    """η: of the trials on a rung, one in this many is promoted."""
    iterations: int
    """How often the brackets are run."""
    brackets: tuple[Bracket, ...]
    """The brackets of one iteration, most aggressive first: all of Hyperband's, or the first."""
    parts: int = 1
    """An epoch has so many parts, of which every rung is a whole number: Optuna counts in them."""

    @property
    def looks(self) -> tuple[float, ...]:
        """The rungs within the first epoch, as shares of it, rising."""
        epochs = {rung.epochs for bracket in self.brackets for rung in bracket.rungs}
        return tuple(sorted(share for share in epochs if share < 1))

    @property
    def extent(self) -> str:
        """How much is run, in words: "2 iterations", or "2 iterations of 1 of its 4 brackets"."""
        run, there_are = len(self.brackets), self.brackets[0].s + 1
        some = "" if run == there_are else f" of {run} of its {there_are} brackets"
        return plural(self.iterations, "iteration") + some

    @property
    def trials_per_iteration(self) -> int:
        """Trials that one iteration starts."""
        return sum(bracket.trials for bracket in self.brackets)

    @property
    def trials(self) -> int:
        """Trials that the whole search starts."""
        return self.iterations * self.trials_per_iteration

    @property
    def epochs_if_exact(self) -> float:
        """Epochs of the whole search when exactly one trial in η is promoted at every rung."""
        per_iteration = 0.0
        for bracket in self.brackets:
            per_iteration += bracket.trials * bracket.rungs[0].epochs
            for lower, upper in pairwise(bracket.rungs):
                per_iteration += upper.trials * (upper.epochs - lower.epochs)
        return self.iterations * per_iteration

    @property
    def epochs_at_most(self) -> int:
        """Epochs of the whole search when no trial is ever pruned."""
        return self.trials * self.max_epochs

    @property
    def states_per_worker(self) -> int:
        """States of trials that lie on disk at once, at most, for each worker of a search whose
        trials wait on rungs.

        A run of a bracket begins when a worker finds nothing else to do, so that there are no more
        of them than workers; and of one, only those trials are kept that the lowest rung can
        promote.
        """
        return 1 + max((b.rungs[1].trials for b in self.brackets if b.s), default=0)

    def bracket_of(self, slot: int) -> Bracket:
        """Return the bracket that the trial in this slot belongs to."""
        return self.run_of(slot)[0]

    def run_of(self, slot: int) -> tuple[Bracket, range]:
        """Return the bracket that the trial in this slot belongs to, and the slots of its run."""
        begin = slot - slot % self.trials_per_iteration
        for bracket in self.brackets:
            if slot < begin + bracket.trials:
                return bracket, range(begin, begin + bracket.trials)
            begin += bracket.trials
        raise AssertionError("unreachable: the brackets hold every position of an iteration")

    def step(self, epochs: float) -> int:
        """Return epochs in Optuna's count: in the parts of an epoch."""
        return round(epochs * self.parts)


def make_plan(
    max_epochs: int,
    reduction_factor: int,
    iterations: int = 1,
    min_epochs: float = 1,
    brackets: int | None = None,
) -> Plan:
    """Lay out Hyperband's brackets for a budget of `max_epochs` a trial.

    The lowest rung is the lowest R·η^-k of at least `min_epochs` epochs. Where one of more than an
    epoch is no whole number it is rounded up, as Keras Tuner does: 30 epochs with factor 2 give
    rungs at 2, 4, 8, 15 and 30 epochs. Of the brackets, the first so many are kept, those with the
    most trials; None: all.
    """
    if max_epochs < 1:
        raise ValueError(f"`max_epochs` (={max_epochs}) must be >= 1")
    if reduction_factor < 2:
        raise ValueError(f"`reduction_factor` (={reduction_factor}) must be >= 2")
    if iterations < 1:
        raise ValueError(f"`iterations` (={iterations}) must be >= 1")
    if not 0 < min_epochs <= max_epochs:
        raise ValueError(f"`min_epochs` (={min_epochs}) must be > 0, and at most `max_epochs`")
    s_max = 0  # Algorithm 1: s_max = floor(log_η R), where min_epochs is 1
    while Fraction(max_epochs, reduction_factor ** (s_max + 1)) >= min_epochs:
        s_max += 1
    kept = s_max + 1 if brackets is None else brackets
    if not 1 <= kept <= s_max + 1:
        raise ValueError(f"`brackets` (={brackets}) must be >= 1, and at most {s_max + 1}")
    laid_out = []
    for s in range(s_max, s_max - kept, -1):
        # Algorithm 1, with B = (s_max + 1) R: n = ceil(B/R · η^s / (s + 1)), n_i = floor(n η^-i)
        n = _ceil_div((s_max + 1) * reduction_factor**s, s + 1)
        rungs = tuple(
            Rung(
                epochs=_rung_epochs(Fraction(max_epochs, reduction_factor ** (s - i))),
                trials=n // reduction_factor**i,
            )
            for i in range(s + 1)
        )
        laid_out.append(Bracket(s, rungs))
    within_an_epoch = Fraction(max_epochs, reduction_factor**s_max) < 1
    parts = reduction_factor**s_max if within_an_epoch else 1
    return Plan(max_epochs, reduction_factor, iterations, tuple(laid_out), parts)


def _rung_epochs(exact: Fraction) -> float:
    return math.ceil(exact) if exact >= 1 else float(exact)


def is_promoted(value: float, rung_values: Sequence[float], reduction_factor: int) -> bool:
    """Tell whether a trial goes on past a rung that `rung_values` (its own among them) reached.

    It does if it is in the top 1/η of them so far, or the best while there are fewer than η:
    asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter
    Tuning", MLSys 2020, Algorithm 2), for trials that cannot be resumed, as Optuna has it.
    """
    promotable = max(1, len(rung_values) // reduction_factor)
    return value >= sorted(rung_values, reverse=True)[promotable - 1]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
