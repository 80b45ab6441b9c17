"""Loss and accuracy of a fit's epochs."""

from dataclasses import dataclass

SELECTED_ON = "val_accuracy"
"""The metric that early stopping, the search and the choice of the best epoch look at."""


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch, or over its part until a look; training values while weights change."""

    epoch: float
    """Epochs trained: a whole number but at a look within the first."""
    train_loss: float
    """Cross-entropy in nats."""
    train_accuracy: float
    """Share of the images, 0…1."""
    val_loss: float
    """Cross-entropy in nats."""
    val_accuracy: float
    """Share of the images, 0…1."""

    @property
    def is_whole(self) -> bool:
        """Whether it is no look within an epoch, where a part of the images validates."""
        return float(self.epoch).is_integer()
