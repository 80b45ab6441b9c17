"""The network: two convolutions, two poolings, two dense layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def to_inputs(images: Tensor) -> Tensor:
    """Turn pixels, uint8 (B, 28, 28), into what the network reads: float32 0…1, (B, 1, 28, 28)."""
    return images.unsqueeze(1).to(torch.float32).div_(255)


class TwoConvNet(nn.Module):
    """Conv 3×3 → pool → conv 3×3 → pool → dense → dropout → logits, with Keras' defaults.

    Kernels start Glorot-uniform (Glorot & Bengio 2010, eq. 16) and biases at zero. Pooling comes
    before ReLU: both orders compute the same function, since ReLU is monotone, and this one
    touches a quarter of the values.

    Args:
        conv1: filters of the first convolution.
        conv2: filters of the second convolution.
        dense_units: units of the hidden dense layer.
        dropout_rate: share of the hidden dense layer's outputs dropped in training.
        classes: how many logits there are.
    """

    def __init__(
        self, *, conv1: int, conv2: int, dense_units: int, dropout_rate: float, classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, conv1, kernel_size=3)
        self.conv2 = nn.Conv2d(conv1, conv2, kernel_size=3)
        self.dense = nn.Linear(conv2 * 5 * 5, dense_units)
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.Linear(dense_units, classes)
        for name, values in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(values)
            else:
                nn.init.zeros_(values)
        self.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, (B, classes), from inputs 0…1, (B, 1, 28, 28)."""
        x = self.conv1(inputs)  # (B, conv1, 26, 26)
        x = functional.max_pool2d(x, 2).relu()  # (B, conv1, 13, 13)
        x = self.conv2(x)  # (B, conv2, 11, 11)
        x = functional.max_pool2d(x, 2).relu()  # (B, conv2, 5, 5)
        x = self.dense(x.flatten(1)).relu()  # (B, dense_units)
        logits: Tensor = self.logits(self.dropout(x))
        return logits
