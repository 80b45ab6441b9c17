"""Successive halving: which trials go on past a rung, which have lost, and which have to wait.

Synchronous: when a rung's trials are all there, exactly the best 1/η of them go on (Li et al.,
"Hyperband", JMLR 18 (2018), Algorithm 1, lines 6 to 9). What does not hang on the trials that are
still missing is decided before they come. Asynchronous: whoever is among the best 1/η of those that
are there goes on at once, and who is not may do so later (Li et al., "A System for Massively
Parallel Hyperparameter Tuning", MLSys 2020, Algorithm 2).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from src.search.hyperband import Bracket
from src.workers.verdict import Verdict

Promotion = Literal["synchronous", "asynchronous", "stopping"]
"""How rungs decide; stopping: as soon as a trial arrives, and for good, as Optuna has it."""


def judge(
    bracket: Bracket,
    trials: Sequence[int],
    values: Sequence[Mapping[int, float]],
    ended: Collection[int],
    under_way: Collection[int] = (),
    early: int | None = None,
) -> dict[int, Verdict]:
    """Return what becomes of each trial that stands on a rung, at its highest.

    Args:
        bracket: the rungs.
        trials: all that start in one run of the bracket, of equal ones the better first.
        values: for each rung but the last, what the trials that have reached it had there.
        ended: those that train no more.
        under_way: those that train now; one that was promoted early may lie behind since.
        early: η, if the best 1/η of those that are there need not wait for the others.
    """
    verdicts: dict[int, Verdict] = {}
    alive = set(trials).difference(ended)
    expected = len(trials)
    for reached, promoted in zip(values, bracket.rungs[1:], strict=True):
        ranked = sorted(reached, key=lambda trial: (-reached[trial], trials.index(trial)))
        missing = len(alive.difference(reached))
        if early is None:
            missing = min(missing, max(0, expected - len(ranked)))
        most = promoted.trials
        sure = most - missing  # of the best, even if all that are missing were better
        if early is not None:
            sure = max(sure, len(ranked) // early)
            most = max(most, (len(ranked) + missing) // early)
        for place, trial in enumerate(ranked):
            verdicts[trial] = "go on" if place < sure else "pause" if place < most else "stop"
        alive.difference_update(set(ranked[most:]).difference(under_way))
        expected = most
    return verdicts
