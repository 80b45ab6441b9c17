"""The search space: an Optuna trial → typed hyperparameters."""

from typing import Any

import optuna

from src.config import Hyperparameters

UNITS = (32, 256, 32)
"""Lowest, highest and step of conv1, conv2 and dense_units."""
DROPOUT_RATE = (0.1, 0.9, 0.1)
"""Lowest, highest and step."""
LEARNING_RATE = (1e-4, 1e-2)
"""Lowest and highest; drawn on a logarithmic scale."""


DISTRIBUTIONS: dict[str, optuna.distributions.BaseDistribution] = {
    **{
        name: optuna.distributions.IntDistribution(UNITS[0], UNITS[1], step=UNITS[2])
        for name in ("conv1", "conv2", "dense_units")
    },
    "dropout_rate": optuna.distributions.FloatDistribution(
        DROPOUT_RATE[0], DROPOUT_RATE[1], step=DROPOUT_RATE[2]
    ),
    "learning_rate": optuna.distributions.FloatDistribution(*LEARNING_RATE, log=True),
}
"""What is searched, as Optuna records it with every trial; the batch size is fixed in a study."""


def suggest(trial: optuna.trial.BaseTrial, batch_size: int) -> Hyperparameters:
    """Draw a configuration for this trial; asking again gives the same one."""
    low, high, step = UNITS
    least, most, apart = DROPOUT_RATE
    return Hyperparameters(
        conv1=trial.suggest_int("conv1", low, high, step=step),
        conv2=trial.suggest_int("conv2", low, high, step=step),
        dense_units=trial.suggest_int("dense_units", low, high, step=step),
        # Rounded, because 0.1 + 2 · 0.1 is 0.30000000000000004.
        dropout_rate=round(trial.suggest_float("dropout_rate", least, most, step=apart), 1),
        learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATE, log=True),
        batch_size=batch_size,
    )


def restore(params: dict[str, Any], batch_size: int) -> Hyperparameters:
    """Return the configuration that a trial with these parameters was given."""
    return suggest(optuna.trial.FixedTrial(params), batch_size)


def describe() -> dict[str, list[float]]:
    """Return the ranges, as they are recorded with a study."""
    return {"units": [*UNITS], "dropout_rate": [*DROPOUT_RATE], "learning_rate": [*LEARNING_RATE]}
