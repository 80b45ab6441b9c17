"""The images that a model misreads most surely."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from src.data import Images
from src.figures import Mistake
from src.metrics import surest_mistakes

_SHOWN = 24
"""Misread images that are shown, at most."""


def worst_mistakes(
    images: Images, probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> dict[int, Mistake]:
    """Return the worst mistakes by the place of the image, the surest first.

    Args:
        images: what was read, with what it is; on the CPU.
        probabilities: (images, classes), what was read.
        class_names: what each class is called.
    """
    labels = images.labels.numpy()
    return {
        image: Mistake(
            pixels=images.pixels[image].numpy(),
            true=class_names[labels[image]],
            predicted=class_names[probabilities[image].argmax()],
            probability=round(float(probabilities[image].max()), 6),
        )
        for image in surest_mistakes(probabilities, labels, _SHOWN)
    }
