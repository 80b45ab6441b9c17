"""What a model reads in images: classes counted where labels are known, probabilities where not."""

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
    """Compute the softmax of the logits, taking the plain path.

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
