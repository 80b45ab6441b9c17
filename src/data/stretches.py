"""The stretches of a fit: what it trains between two looks at the validation images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from src.core.errors import UserError


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


def refuse_looks_at_one_step(
    option: str, looks: Sequence[float], batch_sizes: Iterable[int], images: int
) -> None:
    """Make sure that an epoch has a step for each of its looks.

    Args:
        option: which the looks follow from.
        looks: shares of the first epoch.
        batch_sizes: of the fits.
        images: training images.

    Raises:
        UserError: two fall on one step, so that one would be left out.
    """
    for batch_size in batch_sizes:
        steps = -(-images // batch_size)
        if len(make_stretches(1, looks, steps)) <= len(looks):
            raise UserError(
                f"`{option}` asks for {len(looks)} rungs within the first epoch, of which two fall "
                f"on one of its {steps} steps at batch size {batch_size}; raise it, or leave out "
                "such batch sizes"
            )
