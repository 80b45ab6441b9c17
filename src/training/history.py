"""Loss and accuracy of a fit's epochs."""

from dataclasses import dataclass

SELECTED_ON = "val_accuracy"
"""The metric that early stopping, the search and the choice of the best epoch look at."""


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch; training values while the weights change."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Cross-entropy in nats."""
    train_accuracy: float
    """Share of the images, 0…1."""
    val_loss: float
    """Cross-entropy in nats."""
    val_accuracy: float
    """Share of the images, 0…1."""
