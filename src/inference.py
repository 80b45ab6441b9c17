"""What a model reads in images: classes counted where labels are known, probabilities where not."""

import torch
from torch import Tensor

from src.data import EVALUATION_BATCH
from src.device import Compute
from src.model import TwoConvNet, to_inputs
from src.step import autocast


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


def no_counts(model: TwoConvNet, device: torch.device) -> Tensor:
    """Return a confusion matrix, int64 (classes, classes), in which nothing is counted yet."""
    classes = model.logits.out_features
    return torch.zeros(classes, classes, dtype=torch.int64, device=device)


def add_counts(counts: Tensor, labels: Tensor, logits: Tensor) -> None:
    """Count a batch, labels (B,) and logits (B, classes), without waiting for the device."""
    cells = labels * len(counts) + logits.argmax(dim=1)
    counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
