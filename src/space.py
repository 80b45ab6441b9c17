"""The search space: an Optuna trial → typed hyperparameters."""

import optuna

from src.config import Hyperparameters

FILTERS = {"low": 32, "high": 256, "step": 32}
"""Range of conv1, conv2 and dense_units."""
DROPOUT_RATE = {"low": 0.1, "high": 0.9, "step": 0.1}
LEARNING_RATE = {"low": 1e-4, "high": 1e-2}
"""Range of the learning rate, on a logarithmic scale."""


def suggest(trial: optuna.trial.BaseTrial, batch_size: int) -> Hyperparameters:
    """Draw a configuration for this trial; asking again gives the same one."""
    return Hyperparameters(
        conv1=trial.suggest_int("conv1", **FILTERS),
        conv2=trial.suggest_int("conv2", **FILTERS),
        dense_units=trial.suggest_int("dense_units", **FILTERS),
        # Rounded, because 0.1 + 2 · 0.1 is 0.30000000000000004.
        dropout_rate=round(trial.suggest_float("dropout_rate", **DROPOUT_RATE), 1),
        learning_rate=trial.suggest_float("learning_rate", **LEARNING_RATE, log=True),
        batch_size=batch_size,
    )


def describe() -> dict[str, dict[str, float]]:
    """Return the ranges, as they are recorded with a study."""
    return {
        "conv1": FILTERS,
        "conv2": FILTERS,
        "dense_units": FILTERS,
        "dropout_rate": DROPOUT_RATE,
        "learning_rate": LEARNING_RATE,
    }
