"""Compute a model's class probabilities of images; pick its most confident mistakes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.core.metrics import Mistake, surest_mistakes
from src.data.batches import EVALUATION_BATCH
from src.data.files import Images
from src.training.device import Compute, autocast
from src.training.network import TwoConvNet, to_inputs


@torch.inference_mode()
def read_probabilities(model: TwoConvNet, pixels: Tensor, compute: Compute) -> Tensor:
    """Compute the softmax of the logits in batches, by the network's own forward pass.

    Args:
        model: the network.
        pixels: uint8 (N, 28, 28), light strokes on black, upright.
        compute: device and precision.

    Returns:
        float32 (N, classes), on the CPU.
    """
    model = model.to(compute.device).eval()
    probabilities = []
    for batch in pixels.to(compute.device).split(EVALUATION_BATCH[compute.device.type]):
        with autocast(compute):
            logits = model(to_inputs(batch))
        probabilities.append(logits.float().softmax(dim=1).cpu())
    return torch.cat(probabilities)


_SHOWN = 24
"""Misread images that are returned at most."""


def worst_mistakes(
    images: Images, probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> dict[int, Mistake]:
    """Return the misread images of the highest probability by their index, the highest first.

    Args:
        images: the images with their labels, on the CPU.
        probabilities: (N, classes), of `read_probabilities`.
        class_names: the name of each class.
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
