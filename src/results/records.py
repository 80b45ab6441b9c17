"""What a search records of its trials, and `evaluate` of its tests."""

from dataclasses import dataclass

from src.training.hyperparameters import Hyperparameters

LOST = "lost on the rung"
"""How the reason of a trial begins that a rung stopped."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial that has ended: one row of a search's CSV."""

    val_accuracy: float | None
    """The best epoch's share of validation images read correctly, 0…1; None before epoch 1."""
    hyperparameters: Hyperparameters
    epochs: int
    """Epochs trained."""
    trial: int
    """Optuna's number within the batch size's study."""
    state: str
    """Optuna's: COMPLETE, PRUNED (lost on a rung, diverged) or FAIL (an error, a lost worker)."""
    bracket: int
    """s of the trial's bracket: how often it cuts its trials."""
    seconds: float | None
    """Wall time of training."""
    reason: str
    """Why the trial ended when it did, if not by training all its epochs."""


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """One look at a test split: a line of the test log."""

    __test__ = False  # pytest would take it for tests

    date: str
    """In UTC, as ISO 8601 has it."""
    checkpoint: str
    checkpoint_sha256: str
    """Of the model's file."""
    dataset: str
    n_test: int
    """Images in the test split."""
    test_accuracy: float
    """Share of them that was read correctly, 0…1."""


@dataclass(frozen=True)
class Opened:
    """How often a test split was looked at, this time included."""

    times: int
    models: int
    """Different ones, by their files."""
