import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from src.training.hyperparameters import Hyperparameters
from src.training.network import SEEN, TwoConvNet, to_inputs

Array = npt.NDArray[np.float64]


def make_net(conv1: int, conv2: int, dense_units: int, classes: int = 10) -> TwoConvNet:
    torch.manual_seed(0)
    return TwoConvNet(
        conv1=conv1, conv2=conv2, dense_units=dense_units, dropout_rate=0.3, classes=classes
    )


def test_parameter_count_equals_keras() -> None:
    # Keras' model.count_params() for the same layers.
    assert sum(p.numel() for p in make_net(256, 160, 256).parameters()) == 1_398_186


@pytest.mark.parametrize(
    ("conv1", "conv2", "dense_units", "classes"), [(256, 160, 256, 10), (1, 2, 3, 4)]
)
def test_parameters_are_counted_without_a_network(
    conv1: int, conv2: int, dense_units: int, classes: int
) -> None:
    hyperparameters = Hyperparameters(
        conv1=conv1, conv2=conv2, dense_units=dense_units,
        dropout_rate=0.5, learning_rate=0.1, batch_size=8,
    )  # fmt: skip
    net = make_net(conv1, conv2, dense_units, classes)
    there = sum(p.numel() for p in net.parameters())
    assert hyperparameters.count_parameters(classes) == there


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


def test_pixels_that_are_left_out_reach_no_logit_in_the_published_layers() -> None:
    net = make_net(8, 16, 32)
    images = torch.rand(16, 1, 28, 28, requires_grad=True)
    x = functional.max_pool2d(net.conv1(images).relu(), 2)  # all 26×26 sums, pooled to 13×13
    x = functional.max_pool2d(net.conv2(x).relu(), 2)
    logits = net.logits(net.dense(x.flatten(1)).relu())
    torch.testing.assert_close(net(images), logits)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    assert seen[:SEEN, :SEEN].all()
    assert not seen[SEEN:].any()
    assert not seen[:, SEEN:].any()


def test_dropout_drops_its_share_and_keeps_the_expected_sum() -> None:
    net = make_net(32, 32, 256)  # rate 0.3
    factors = net.draw_dropout(1000, torch.Generator().manual_seed(0))
    assert factors.shape == (1000, 256)
    assert factors.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    share = (factors == 0).float().mean().item()
    assert share == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / factors.numel()))
    again = net.draw_dropout(1000, torch.Generator().manual_seed(0))
    assert torch.equal(factors, again)


def test_dropout_acts_on_the_hidden_dense_layer() -> None:
    net = make_net(32, 32, 256)
    inputs = torch.rand(8, 1, 28, 28)
    assert torch.equal(net(inputs, torch.zeros(8, 256)), net.logits.bias.expand(8, 10))
    torch.testing.assert_close(net(inputs, torch.ones(8, 256)), net(inputs))
