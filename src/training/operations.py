"""The arithmetic that training the network takes."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Count = TypeVar("Count", float, NDArray[np.float64])


def training_operations(conv1: Count, conv2: Count, dense_units: Count, classes: int) -> Count:
    """Return the floating-point operations of one image's training, 2 a multiply-add.

    The backward pass computes twice the products of the forward pass, but no gradient of pixels.
    Pixels that no logit depends on are not computed: 24×24 remain after the first convolution, and
    10×10 after the second.
    """
    first = 24 * 24 * 9 * conv1
    rest = 10 * 10 * 9 * conv1 * conv2 + 25 * conv2 * dense_units + classes * dense_units
    return 2.0 * (2 * first + 3 * rest)
