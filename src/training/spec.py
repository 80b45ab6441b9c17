"""What a fit is given: all that its result follows from, beside the images."""

from dataclasses import dataclass
from pathlib import Path

from src.training.hyperparameters import Hyperparameters
from src.training.tensorboard import Curves


@dataclass(frozen=True)
class Job:
    """A trial to train."""

    hyperparameters: Hyperparameters
    max_epochs: int
    """Epochs at most."""
    patience: int | None
    """Epochs without a better validation accuracy before stopping; None: never."""
    seed: int
    """All that is random follows from it."""
    curves: Curves | None
    """Where to write the curves while it trains, if they are wanted."""
    state: Path | None
    """Where its state is kept, and found if it was interrupted."""
