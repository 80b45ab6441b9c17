"""Results published before, for comparison with a search's results.

HCR-CNN (github.com/adibarra/HCR-CNN) tuned the same network with TensorFlow and Keras Tuner's
Hyperband: 30 epochs, factor 2, 5 iterations, early stopping with patience 3. Each accuracy is the
highest of all trials, on the last 20 % of the official training images, which also selected it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.training.hyperparameters import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class PublishedTrial:
    """The best published trial at one batch size."""

    val_accuracy: float
    """0…1."""
    hyperparameters: Hyperparameters


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published search on one data set."""

    best: float
    """Highest validation accuracy of all trials, 0…1."""
    trials: int | None = None
    """As Keras Tuner counts them: each promotion to the next rung anew."""
    by_batch_size: dict[int, PublishedTrial] = field(default_factory=dict)
    """The best trial at each batch size: of equal ones the first in the published table."""

    @property
    def best_trial(self) -> PublishedTrial | None:
        """The best of all, where its configuration was published."""
        return max(self.by_batch_size.values(), key=lambda one: one.val_accuracy, default=None)


_Row = tuple[int, float, int, int, int, float, float]


def _trials(rows: Sequence[_Row]) -> dict[int, PublishedTrial]:
    """Read rows of batch size, accuracy, conv1, conv2, dense units, dropout and learning rate."""
    return {
        batch_size: PublishedTrial(
            val_accuracy=accuracy,
            hyperparameters=Hyperparameters(
                conv1=conv1,
                conv2=conv2,
                dense_units=dense_units,
                dropout_rate=dropout_rate,
                learning_rate=learning_rate,
                batch_size=batch_size,
            ),
        )
        for batch_size, accuracy, conv1, conv2, dense_units, dropout_rate, learning_rate in rows
    }


PUBLISHED = {
    "mnist": Published(
        best=0.9945,
        trials=7360,
        by_batch_size=_trials((
            (16, 0.993500, 64, 128, 256, 0.5, 0.0003212616414464),
            (32, 0.993750, 192, 224, 192, 0.6, 0.0008446843921252),
            (48, 0.994000, 160, 256, 256, 0.4, 0.0003965562808481),
            (64, 0.993833, 160, 160, 192, 0.4, 0.00069811017202),
            (80, 0.993167, 128, 224, 128, 0.6, 0.0013782632487782),
            (96, 0.994083, 256, 128, 224, 0.6, 0.000590629626152),
            (112, 0.993500, 64, 192, 224, 0.2, 0.00062707922774),
            (128, 0.993833, 256, 128, 224, 0.6, 0.0004498157295773),
            (144, 0.993417, 128, 64, 224, 0.6, 0.0009895249588496),
            (160, 0.993833, 192, 224, 224, 0.8, 0.0010383613359866),
            (176, 0.993917, 64, 224, 96, 0.6, 0.0016651262529318),
            (192, 0.994000, 128, 192, 160, 0.5, 0.0013925336544278),
            (208, 0.994500, 256, 160, 256, 0.3, 0.0008044695963004),
            (224, 0.993750, 192, 224, 224, 0.6, 0.0004532400901025),
            (240, 0.993583, 96, 224, 192, 0.7, 0.0006648403575683),
            (256, 0.993667, 192, 192, 256, 0.5, 0.0006766435736156),
        )),
    ),
    "emnist_digits": Published(
        best=0.996125,
        trials=3676,
        by_batch_size=_trials((
            (32, 0.996021, 32, 256, 224, 0.5, 0.0001032951090119),
            (64, 0.996000, 224, 160, 192, 0.6, 0.0002782718519856),
            (96, 0.996083, 256, 256, 160, 0.5, 0.0008458403820081),
            (128, 0.996042, 256, 224, 192, 0.6, 0.0001749336928944),
            (160, 0.996042, 160, 96, 224, 0.5, 0.0002880815736174),
            (192, 0.996021, 192, 128, 192, 0.4, 0.0003206166563382),
            (224, 0.996125, 128, 160, 224, 0.6, 0.000255787353947),
            (256, 0.995938, 128, 160, 256, 0.6, 0.0004926945599952),
        )),
    ),
    "emnist_balanced": Published(best=0.890824),
}  # fmt: skip
"""By data set. For letters + digits only the figure on EMNIST Balanced was published."""
