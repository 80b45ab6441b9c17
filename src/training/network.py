"""The network: two convolutions, two poolings, two dense layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SEEN = 26
"""Rows and columns of an image that reach the logits. Each pooling drops an odd last row and
column; without them, 26 give 24, 12, 10 and 5, where all 28 would give 26, 13, 11 and 5."""


def to_inputs(images: Tensor) -> Tensor:
    """Turn pixels, uint8 (B, 28, 28), into what the network reads: float32 0…1, (B, 1, 28, 28)."""
    return images.unsqueeze(1).to(torch.float32).div_(255)


class TwoConvNet(nn.Module):
    """Conv 3×3 → pool → conv 3×3 → pool → dense → dropout → logits, with Keras' defaults.

    Kernels start Glorot-uniform (Glorot & Bengio 2010, eq. 16) and biases at zero. Pooling comes
    before ReLU: both orders compute the same function, since ReLU is monotone, and this one
    touches a quarter of the values. Pixels that no logit depends on are not convolved.

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
        self.dropout_rate = dropout_rate
        self.logits = nn.Linear(dense_units, classes)
        for name, values in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(values)
            else:
                nn.init.zeros_(values)
        self.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in

    def forward(self, inputs: Tensor, dropout: Tensor | None = None) -> Tensor:
        """Compute logits, (B, classes), from inputs 0…1, (B, 1, 28, 28).

        Args:
            inputs: the images.
            dropout: what `draw_dropout` gave for this batch; None: nothing is dropped.
        """
        return self.classify(self.first_layer(inputs), dropout)

    def first_layer(self, inputs: Tensor) -> Tensor:
        """Convolve and pool the images: (B, 1, 28, 28) → (B, conv1, 12, 12)."""
        x = self.conv1(inputs[..., :SEEN, :SEEN])  # (B, conv1, 24, 24)
        return functional.max_pool2d(x, 2).relu()

    def classify(self, x: Tensor, dropout: Tensor | None = None) -> Tensor:
        """Compute logits, (B, classes), from what the first layer gave."""
        x = self.conv2(x)  # (B, conv2, 10, 10)
        return self.head(functional.max_pool2d(x, 2).relu(), dropout)

    def head(self, x: Tensor, dropout: Tensor | None = None) -> Tensor:
        """Compute logits, (B, classes), from what both convolutions gave: (B, conv2, 5, 5)."""
        x = self.dense(x.flatten(1)).relu()  # (B, dense_units)
        if dropout is not None:
            x = x * dropout
        logits: Tensor = self.logits(x)
        return logits

    def draw_dropout(self, images: int, generator: torch.Generator) -> Tensor:
        """Draw a factor for each hidden output, float32 (images, dense_units), on its device.

        It is 0 at the dropout rate and 1 / (1 - rate) otherwise, which keeps the expected sum
        (Srivastava et al., JMLR 2014, section 10). Drawn apart from the forward pass, it is the
        same for a batch however the batch is cut.
        """
        shape = (images, self.dense.out_features)
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return (uniform >= self.dropout_rate).float().div_(1 - self.dropout_rate)
