"""Samplers: what proposes the configuration of a trial, as a function of its place in the plan."""

import copy
from collections.abc import Callable, Container
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from src.search.experience import Observe
from src.search.gp_sampler import GPSampler
from src.search.space import arithmetic
from src.search.spec import Sampler

Distributions = dict[str, BaseDistribution]


def make_sampler(
    kind: Sampler,
    space: Distributions,
    batch_size: int,
    max_epochs: int,
    seed: int,
    observe: Observe,
    cost_exponent: float = 0.0,
) -> BaseSampler:
    """Return what proposes one trial's configuration from this space."""
    match kind:
        case "gp":
            return GPSampler(
                space, batch_size, max_epochs, seed, observe, arithmetic, cost_exponent
            )
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)


class _Seen:
    """A study to learn from: a trial that waits on a rung counts as one that was pruned there."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, **options: Any
    ) -> list[FrozenTrial]:
        trials = map(_as_seen, self._study._get_trials(deepcopy, None, **options))
        return [trial for trial in trials if states is None or trial.state in states]


def _seen(study: optuna.Study) -> optuna.Study:
    return cast(optuna.Study, _Seen(study))


def _as_seen(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.WAITING or not trial.intermediate_values:
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    return seen


class PlaceSampler(BaseSampler):
    """Gives every trial a sampler of its own, seeded by the trial's place, whatever ran before.

    Args:
        space: what is searched.
        make: makes a trial's sampler.
    """

    def __init__(self, space: Distributions, make: Callable[[FrozenTrial], BaseSampler]) -> None:
        self._space = space
        self._make = make
        self._current: BaseSampler

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's sampler."""
        self._current = self._make(trial)
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        """Return what is proposed together: all, so that no sampler looks for it in trials."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions
    ) -> dict[str, Any]:
        """Propose all parameters at once.

        A process can be killed between recording one and recording the next: those that were
        recorded stay, and the others must be what they would have been.
        """
        proposed = self._current.sample_relative(_seen(study), trial, search_space)
        return proposed or {
            name: self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Propose one parameter by itself."""
        seen = _seen(study)
        return self._current.sample_independent(seen, trial, param_name, param_distribution)
