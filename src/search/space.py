"""The search space: an Optuna trial → typed hyperparameters."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from src.search.spec import Choices
from src.training.hyperparameters import Hyperparameters

UNITS = (32, 256, 32)
"""Lowest, highest and step of conv1, conv2 and dense_units."""

DROPOUT_RATE = (0.1, 0.9, 0.1)
"""Lowest, highest and step."""

LEARNING_RATE = (1e-4, 1e-2)
"""Lowest and highest; drawn on a logarithmic scale."""


def distributions(recipe: Choices) -> dict[str, BaseDistribution]:
    """Return what is searched, as Optuna records it with every trial.

    The batch size is fixed in a study, and so are options with one value.
    """
    return {
        **{
            name: IntDistribution(*UNITS[:2], step=UNITS[2])
            for name in ("conv1", "conv2", "dense_units")
        },
        "dropout_rate": FloatDistribution(*DROPOUT_RATE[:2], step=DROPOUT_RATE[2]),
        "learning_rate": FloatDistribution(*LEARNING_RATE, log=True),
        **{name: CategoricalDistribution(values) for name, values in _open(recipe).items()},
    }


def suggest(trial: optuna.Trial, batch_size: int, recipe: Choices) -> Hyperparameters:
    """Draw a configuration for this trial; asking again gives the same one."""
    params = {name: _draw(trial, name, kind) for name, kind in distributions(recipe).items()}
    return restore(params, batch_size, recipe)


def _draw(trial: optuna.Trial, name: str, kind: BaseDistribution) -> Any:
    match kind:
        case IntDistribution():
            return trial.suggest_int(name, kind.low, kind.high, step=kind.step)
        case FloatDistribution():
            return trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, kind.choices)
    raise TypeError(f"{name} has the distribution {kind}")


def restore(params: Mapping[str, Any], batch_size: int, recipe: Choices) -> Hyperparameters:
    """Return the configuration that a trial with these parameters was given."""
    fixed = {name: values[0] for name, values in recipe.items()}
    # Rounded, because 0.1 + 2 · 0.1 is 0.30000000000000004.
    dropout_rate = round(params["dropout_rate"], 1)
    values = {**fixed, **params, "dropout_rate": dropout_rate}
    return Hyperparameters(**values, batch_size=batch_size)


def arithmetic(params: Mapping[str, Any]) -> float:
    """Return how many products an image takes on its way through the network of a trial.

    Those of the logits are left out: they are a hundredth of the others at most.
    """
    conv1, conv2, dense_units = (params[name] for name in ("conv1", "conv2", "dense_units"))
    return float(24**2 * 9 * conv1 + 10**2 * 9 * conv1 * conv2 + 5**2 * conv2 * dense_units)


def describe() -> dict[str, list[float]]:
    """Return the ranges, as they are recorded with a study."""
    return {"units": [*UNITS], "dropout_rate": [*DROPOUT_RATE], "learning_rate": [*LEARNING_RATE]}


def _open(recipe: Choices) -> Choices:
    """Return the options that leave something to choose."""
    return {name: values for name, values in recipe.items() if len(values) > 1}
