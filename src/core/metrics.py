"""Compute classification metrics from a confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 of one class; 0 where a quotient is undefined."""

    name: str
    precision: float
    """Of the images read as this class, the share that are."""
    recall: float
    """Of the images of this class, the share read as it."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Images of this class."""


@dataclass(frozen=True)
class Confusion:
    """A cell off the diagonal: images of one class read as another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the images of the true class."""


class ConfusionMatrix:
    """Confusion matrix: images by true class (row) and predicted class (column).

    Args:
        counts: (classes, classes), whole numbers.
        class_names: what rows and columns stand for.
    """

    def __init__(self, counts: npt.ArrayLike, class_names: Sequence[str]) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.class_names = tuple(class_names)
        if self.counts.shape != (len(class_names), len(class_names)):
            raise ValueError(f"shape {self.counts.shape} does not fit {len(class_names)} classes")

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def correct(self) -> int:
        """Number of images on the diagonal."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float:
        """Share of the images read correctly."""
        return self.correct / self.images

    @property
    def macro_accuracy(self) -> float:
        """Mean recall of the classes that occur: every class counts the same."""
        return float(np.mean([c.recall for c in self.per_class() if c.support]))

    def per_class(self) -> list[ClassMetrics]:
        """Compute precision, recall and F1 of every class."""
        correct = np.diag(self.counts)
        read_as = self.counts.sum(axis=0)
        support = self.counts.sum(axis=1)
        return [
            ClassMetrics(
                name=name,
                precision=_quotient(correct[i], read_as[i]),
                recall=_quotient(correct[i], support[i]),
                f1=_quotient(2 * correct[i], read_as[i] + support[i]),
                support=int(support[i]),
            )
            for i, name in enumerate(self.class_names)
        ]

    def most_confused(self, most: int = 10) -> list[Confusion]:
        """List the largest cells off the diagonal, the largest first."""
        mistakes = self.counts - np.diag(np.diag(self.counts))
        support = self.counts.sum(axis=1)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
        pairs = [divmod(int(position), len(self.class_names)) for position in order]
        return [
            Confusion(
                true=self.class_names[true],
                predicted=self.class_names[predicted],
                count=int(mistakes[true, predicted]),
                share=_quotient(mistakes[true, predicted], support[true]),
            )
            for true, predicted in pairs
            if mistakes[true, predicted]
        ]


def count_confusion(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.int64]:
    """Count images by true and predicted class.

    Args:
        labels: (N,), 0 … classes - 1.
        predicted: (N,), likewise.
        classes: how many there are.

    Returns:
        (classes, classes): a row for each true, a column for each predicted class.
    """
    cells = np.bincount(labels * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def surest_mistakes(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], most: int
) -> list[int]:
    """Find the images misread with the highest probability, the surest first.

    Args:
        probabilities: (N, classes).
        labels: (N,).
        most: how many are returned at most.
    """
    read_as = probabilities.argmax(axis=1)
    (wrong,) = np.nonzero(read_as != labels)
    order = np.argsort(-probabilities[wrong, read_as[wrong]], kind="stable")
    return [int(image) for image in wrong[order][:most]]


def _quotient(a: int, b: int) -> float:
    return float(a) / float(b) if b else 0.0


@dataclass(frozen=True)
class Mistake:
    """An image that was read as something else."""

    pixels: npt.NDArray[np.uint8]
    """(28, 28), strokes bright on black."""
    true: str
    predicted: str
    probability: float
    """What the model gave its wrong reading."""
