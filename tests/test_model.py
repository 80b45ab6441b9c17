import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from src.model import TwoConvNet, to_inputs

Array = npt.NDArray[np.float64]


def make_net(conv1: int, conv2: int, dense_units: int, classes: int = 10) -> TwoConvNet:
    torch.manual_seed(0)
    return TwoConvNet(
        conv1=conv1, conv2=conv2, dense_units=dense_units, dropout_rate=0.3, classes=classes
    )


def test_parameter_count_equals_keras() -> None:
    # Keras' model.count_params() for the same layers.
    assert sum(p.numel() for p in make_net(256, 160, 256).parameters()) == 1_398_186


def convolve(images: Array, kernels: Array, bias: Array) -> Array:
    """Valid cross-correlation: (B, H, W, C) with (3, 3, C, F) → (B, H-2, W-2, F)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    sums: Array = np.einsum("bhwcij,ijcf->bhwf", windows, kernels) + bias
    return sums


def pool(x: Array) -> Array:
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * height, : 2 * width]
    pooled: Array = x.reshape(len(x), height, 2, width, 2, -1).max(axis=(2, 4))
    return pooled


def test_forward_pass_equals_the_published_layers_in_numpy() -> None:
    # In the published order, ReLU before pooling, and in Keras' layout: channels last.
    net = make_net(32, 64, 96, classes=36).eval()
    torch.manual_seed(1)
    for parameter in net.parameters():  # biases too
        parameter.data.normal_(std=0.1)
    weights = {k: v.detach().double().numpy() for k, v in net.state_dict().items()}
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)

    x = images[..., None] / 255.0
    for layer in ("conv1", "conv2"):
        kernels = weights[f"{layer}.weight"].transpose(2, 3, 1, 0)
        x = pool(np.maximum(convolve(x, kernels, weights[f"{layer}.bias"]), 0))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # PyTorch flattens channels first
    x = np.maximum(x @ weights["dense.weight"].T + weights["dense.bias"], 0)
    expected = x @ weights["logits.weight"].T + weights["logits.bias"]

    logits = net(to_inputs(torch.from_numpy(images))).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        ("conv1", 9, 9 * 64),
        ("conv2", 9 * 64, 9 * 96),
        ("dense", 25 * 96, 128),
        ("logits", 128, 10),
    ],
)
def test_initial_weights_are_keras_glorot_uniform(layer: str, fan_in: int, fan_out: int) -> None:
    net = make_net(64, 96, 128)
    weight = net.get_parameter(f"{layer}.weight").detach()
    limit = math.sqrt(6 / (fan_in + fan_out))  # Glorot & Bengio 2010, eq. 16
    assert weight.abs().max() <= limit
    # A uniform distribution's deviation is limit / √3, here within what sampling allows.
    assert weight.std().item() == pytest.approx(
        limit / math.sqrt(3), rel=5 / math.sqrt(weight.numel())
    )
    assert not net.get_parameter(f"{layer}.bias").any()


def test_dropout_acts_in_training_only() -> None:
    net = make_net(32, 32, 256)
    inputs = torch.rand(8, 1, 28, 28)
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))
