"""The result of a fit."""

from dataclasses import dataclass

from torch import Tensor

from src.core.interrupt import Interrupted
from src.training.history import Epoch


@dataclass(frozen=True)
class Fitted:
    """The result of a fit that has ended, however it did."""

    history: tuple[Epoch, ...]
    """Every epoch trained to its end."""
    best: Epoch | None
    """The epoch of the highest validation accuracy; None when the first one did not end well."""
    weights: dict[str, Tensor] | None
    """State of the `CharacterTask` at the end of the best epoch, on the CPU."""
    confusion: Tensor | None
    """Validation images by true and predicted class at that epoch, int64 (classes, classes)."""
    seconds: float
    """Wall time, that before an interruption included."""
    early_stopped: bool
    """Whether it ended because validation accuracy had stopped rising."""
    diverged: str | None
    """Why it was given up, if a loss was no number."""
    interrupted: Interrupted | None
    """Why it was stopped from outside, if it was."""
