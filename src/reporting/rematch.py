"""Compare what a search found with what was published, both trained again with the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.core.intervals import Spread, difference, spread
from src.reporting.prior_work import Published
from src.results.records import Rematch, RematchFit
from src.training.hyperparameters import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class Side:
    """A configuration, trained with several seeds."""

    hyperparameters: Hyperparameters
    accuracies: tuple[float, ...]
    """Validation accuracy of each seed, 0…1."""
    seconds: float
    """Mean wall time of a fit."""

    @property
    def spread(self) -> Spread:
        """Mean, deviation and interval of the accuracies."""
        return spread(self.accuracies)


@dataclass(frozen=True, kw_only=True)
class Match:
    """What was published at one batch size, and what a search found."""

    batch_size: int
    told: float
    """The published accuracy: the highest of all trials at this batch size, 0…1."""
    published: Side
    ours: Side

    @property
    def difference(self) -> tuple[float, float, float]:
        """How much better ours is on average, and the 95 % interval of that (Welch)."""
        return difference(self.ours.accuracies, self.published.accuracies)


def matches(rematch: Rematch, published: Published) -> list[Match]:
    """Return the batch sizes that both sides have trained at with two seeds or more, in order."""
    found = []
    for batch_size, trial in sorted(published.by_batch_size.items()):
        here = [fit for fit in rematch.fits if fit.hyperparameters.batch_size == batch_size]
        theirs, ours = (
            [fit for fit in here if fit.whose == whose] for whose in ("published", "ours")
        )
        if min(len(theirs), len(ours)) > 1:
            found.append(
                Match(
                    batch_size=batch_size,
                    told=trial.val_accuracy,
                    published=_side(theirs),
                    ours=_side(ours),
                )
            )
    return found


def _side(fits: Sequence[RematchFit]) -> Side:
    return Side(
        hyperparameters=fits[0].hyperparameters,
        accuracies=tuple(fit.val_accuracy for fit in fits),
        seconds=sum(fit.seconds for fit in fits) / len(fits),
    )
