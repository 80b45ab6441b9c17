"""One configuration of the network and its training."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from src.core import checks
from src.core.errors import UserError
from src.training.schedule import Schedule

Augmentation = Literal["none", "affine", "elastic", "affine_elastic"]

RECIPE = ("schedule", "label_smoothing", "augmentation", "weight_averaging", "weight_decay")
"""What a configuration can have beyond the published search space."""

_UNITS_AT_MOST = 2048


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """One configuration of the network and its training: what a trial tries."""

    conv1: int
    """Filters of the first convolution."""
    conv2: int
    """Filters of the second convolution."""
    dense_units: int
    """Units of the hidden dense layer."""
    dropout_rate: float
    """Share of the hidden dense layer's outputs dropped in training, 0 or more and below 1."""
    learning_rate: float
    """Adam's step size; with a schedule, the highest."""
    batch_size: int
    """Images an optimizer step."""
    schedule: Schedule = "constant"
    """How the learning rate goes over all epochs: constant; up and down again, to almost nothing
    (one_cycle); or down along half a cosine."""
    label_smoothing: float = 0.0
    """Share of every label that is spread over all classes in training, 0 or more and below 1."""
    augmentation: Augmentation = "none"
    """Whether training images are turned, sheared, scaled and shifted a little (affine), bent
    (elastic), or both, anew in every epoch."""
    weight_averaging: bool = False
    """Whether what validates and is kept is an average of the weights over about the last epoch."""
    weight_decay: float = 0.0
    """Share, times the learning rate, by which each step shrinks all weights beside what Adam does
    (AdamW: Loshchilov and Hutter, ICLR 2019, algorithm 2), 0 or more and below 1."""

    def __post_init__(self) -> None:
        for name in ("conv1", "conv2", "dense_units"):
            checks.within(name, getattr(self, name), 1, _UNITS_AT_MOST)
        checks.within("batch_size", self.batch_size, 1)
        checks.share("dropout_rate", self.dropout_rate)
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"`learning_rate` (={self.learning_rate}) must be above 0 and finite")
        checks.share("label_smoothing", self.label_smoothing)
        checks.share("weight_decay", self.weight_decay)

    def count_parameters(self, classes: int) -> int:
        """Return how many weights and biases the network has."""
        flattened = 5 * 5 * self.conv2  # what two valid 3×3 convolutions and poolings leave
        return (
            self.conv1 * (3 * 3 + 1)
            + self.conv2 * (3 * 3 * self.conv1 + 1)
            + self.dense_units * (flattened + 1)
            + classes * (self.dense_units + 1)
        )


def task_arguments(hyperparameters: Hyperparameters, classes: int) -> dict[str, Any]:
    """Return the arguments that `CharacterTask` takes for a configuration."""
    arguments = asdict(hyperparameters)
    del arguments["batch_size"]  # the data's affair
    return {**arguments, "classes": classes}
