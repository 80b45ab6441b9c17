"""What a trained model reads in images whose labels are known."""

import torch
from torch import Tensor

from src.data import Batches, Images
from src.data.batches import EVALUATION_BATCH
from src.device import Compute
from src.task import CharacterTask


@torch.inference_mode()
def confusion_counts(task: CharacterTask, images: Images, compute: Compute) -> Tensor:
    """Count images, held on the device of `compute`, by true and predicted class.

    Returns:
        int64 (classes, classes): a row for each true, a column for each predicted class.
    """
    task = task.to(compute.device).eval()
    classes = task.model.logits.out_features
    counts = torch.zeros(classes**2, dtype=torch.int64)
    with torch.autocast(compute.device.type, torch.bfloat16, enabled=compute.precision == "bf16"):
        for pixels, labels in Batches(images, EVALUATION_BATCH):
            predicted = task(pixels).argmax(dim=1)
            counts += torch.bincount(labels * classes + predicted, minlength=classes**2).cpu()
    return counts.view(classes, classes)
