"""Accuracies published before, for comparison with a search's results.

HCR-CNN tuned the same network with TensorFlow and Keras Tuner's Hyperband: 30 epochs, factor 2,
5 iterations, early stopping with patience 3. Each figure is the highest validation accuracy of all
trials, on the last 20 % of the official training images.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published search on one data set."""

    best: float
    """Highest validation accuracy of all trials, 0…1."""
    trials: int | None = None
    """As Keras Tuner counts them: each promotion to the next rung anew."""
    by_batch_size: dict[int, float] = field(default_factory=dict)
    """Highest validation accuracy at each batch size, 0…1, where that was published."""
    configuration: str | None = None
    """That of the best trial."""


PUBLISHED = {
    "mnist": Published(
        best=0.9945,
        trials=7360,
        by_batch_size={
            16: 0.99350, 32: 0.99375, 48: 0.99400, 64: 0.99383,
            80: 0.99317, 96: 0.99408, 112: 0.99350, 128: 0.99383,
            144: 0.99342, 160: 0.99383, 176: 0.99392, 192: 0.99400,
            208: 0.99450, 224: 0.99375, 240: 0.99358, 256: 0.99367,
        },
        configuration="256-160-256, dropout 0.3, learning rate 0.000804, batch size 208",
    ),
    "emnist_digits": Published(
        best=0.996125,
        trials=3676,
        configuration="128-160-224, dropout 0.6, learning rate 0.000256, batch size 224",
    ),
    "emnist_balanced": Published(best=0.890824),
}  # fmt: skip
"""By data set. For letters + digits only the figure on EMNIST Balanced was published."""
