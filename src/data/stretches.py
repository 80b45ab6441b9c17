"""The stretches of a fit: what it trains between two looks at the validation images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one epoch, up to a look: the whole epoch, or a part of the first."""

    epoch: int
    """Counted from 0."""
    begin: int
    """Steps of this epoch that are taken before."""
    end: int
    """Steps of this epoch that are taken when it ends."""
    epochs: float
    """Epochs that a fit has trained when it ends: a whole number after a whole epoch."""

    @property
    def ends_epoch(self) -> bool:
        """Whether it ends with an epoch."""
        return self.epochs == self.epoch + 1


def make_stretches(max_epochs: int, looks: Sequence[float], steps: int) -> tuple[Stretch, ...]:
    """Divide a fit at its looks: one after every epoch, and those within the first.

    Args:
        max_epochs: epochs of the fit.
        looks: shares of the first epoch, rising, in (0, 1). There is a look after the step in which
            such a share is reached; of two shares that one step reaches, the greater one counts.
        steps: of an epoch.
    """
    # A hair less, as a third of 243 steps may be a hair more than 81.
    ends = {math.ceil(look * steps - 1e-9): look for look in looks} | {steps: 1}
    first = [
        Stretch(epoch=0, begin=begin, end=end, epochs=epochs)
        for begin, (end, epochs) in zip([0, *ends], ends.items(), strict=False)
    ]
    later = [Stretch(epoch, 0, steps, epoch + 1) for epoch in range(1, max_epochs)]
    return (*first, *later)
