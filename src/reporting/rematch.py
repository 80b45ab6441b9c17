"""Compare what a search found with what was published, both trained again with the same seeds."""

from collections.abc import Mapping, Sequence
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


def matches(
    rematch: Rematch, published: Published, found: Mapping[int, Hyperparameters]
) -> list[Match]:
    """Return the batch sizes at which both sides have two seeds or more in common, in order.

    Args:
        rematch: the fits.
        published: whose configurations they are, on one side.
        found: the search's best configuration at each batch size; fits of what it has bettered
            since do not count.
    """
    those = []
    for batch_size, trial in sorted(published.by_batch_size.items()):
        theirs = _by_seed(rematch, "published", trial.hyperparameters)
        ours = _by_seed(rematch, "ours", found.get(batch_size))
        seeds = sorted(theirs.keys() & ours.keys())
        if len(seeds) > 1:
            those.append(
                Match(
                    batch_size=batch_size,
                    told=trial.val_accuracy,
                    published=_side([theirs[seed] for seed in seeds]),
                    ours=_side([ours[seed] for seed in seeds]),
                )
            )
    return those


def _by_seed(
    rematch: Rematch, whose: str, hyperparameters: Hyperparameters | None
) -> dict[int, RematchFit]:
    return {
        fit.seed: fit
        for fit in rematch.fits
        if fit.whose == whose and fit.hyperparameters == hyperparameters
    }


def _side(fits: Sequence[RematchFit]) -> Side:
    return Side(
        hyperparameters=fits[0].hyperparameters,
        accuracies=tuple(fit.val_accuracy for fit in fits),
        seconds=sum(fit.seconds for fit in fits) / len(fits),
    )
