"""The specification of a fit: all that its result follows from, beside the images."""

from dataclasses import dataclass
from pathlib import Path

from src.training.device import PLAIN_CPU, Compute
from src.training.hyperparameters import Hyperparameters
from src.training.tensorboard import TensorBoardRun


@dataclass(frozen=True)
class FitSpec:
    """One configuration to train."""

    hyperparameters: Hyperparameters
    max_epochs: int
    """Epochs at most."""
    patience: int | None
    """Epochs without a better validation accuracy before stopping; None: never."""
    seed: int
    """Initial weights, shuffling, dropout and distortions follow from it alone."""
    compute: Compute = PLAIN_CPU
    """Device and precision."""
    looks: tuple[float, ...] = ()
    """Shares of the first epoch, rising, in (0, 1), after which it is validated, too."""
    tensorboard: TensorBoardRun | None = None
    """Shows the curves while it trains and, at the end, the configuration with its result."""
    state: Path | None = None
    """File that keeps the fit's state between epochs; a fit that finds its own goes on from it,
    and on CPU ends with the numbers of a fit that was not interrupted."""
