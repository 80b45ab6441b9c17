"""Every fast path against the plain one, and the plain one against what it says it is."""

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from src.data.catalog import DataSpec
from src.data.files import Images
from src.data.split import load_training_data
from src.training.augment import Distortion
from src.training.device import PLAIN_CPU, Compute, autocast
from src.training.fused import first_layer
from src.training.network import TwoConvNet, to_inputs
from src.training.pooling import pool_relu
from src.training.step import (
    GraphStep,
    MicroBatchStep,
    PlainStep,
    Recipe,
    logits_from_pixels,
    make_optimizer,
    make_step,
)
from src.training.task import add_counts, no_counts
from src.training.winograd import second_layer
from tests.conftest import REPOSITORY

BF16 = dataclasses.replace(PLAIN_CPU, precision="bf16")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(scope="module")
def images() -> Images:
    """Real digits: 300, so that batches of 200 leave a smaller last one."""
    return load_training_data(DataSpec(dataset="mnist_5k", limit=375), "nowhere").train


def make_net(conv1: int = 12, conv2: int = 16) -> TwoConvNet:
    torch.manual_seed(0)
    return TwoConvNet(conv1=conv1, conv2=conv2, dense_units=32, dropout_rate=0.4, classes=10)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let PyTorch compute in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def plain(net: TwoConvNet, compute: Compute) -> PlainStep:
    return PlainStep(net, make_optimizer(net, 1e-3), compute)


def take_steps(step: PlainStep, images: Images, number: int = 6, batch_size: int = 200) -> None:
    step.generator.manual_seed(1)
    order = torch.arange(len(images), device=images.labels.device)
    batches = order.split(batch_size)
    for i in range(number):
        step(images, batches[i % len(batches)])


# ---- the fused first layer


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filters", [5, 32, 96])
def test_fused_layer_is_convolution_pooling_and_relu(
    filters: int, threads: int, images: Images
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(filters, 1, 3, 3, generator=generator).requires_grad_()
    bias = torch.randn(filters, generator=generator).requires_grad_()
    pixels = images.pixels[:37]
    sums = functional.conv2d(to_inputs(pixels)[..., :26, :26], weight, bias)
    expected = functional.max_pool2d(sums.relu(), 2)
    with torch_threads(threads):
        result = first_layer(pixels, weight, bias, torch.float32)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert result.is_contiguous(memory_format=torch.channels_last)
        gradient = torch.randn(result.shape, generator=generator)
        # Rounding may make another of two nearly equal pixels the largest of its window.
        for ours, theirs in zip(
            torch.autograd.grad(result, (weight, bias), gradient),
            torch.autograd.grad(expected, (weight, bias), gradient),
            strict=True,
        ):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_fused_layer_in_bf16_is_no_less_exact_than_the_plain_one(images: Images) -> None:
    net = make_net(conv1=64)
    exact = net.first_layer(to_inputs(images.pixels))
    with autocast(BF16):
        rounded = net.first_layer(to_inputs(images.pixels))
    assert net.conv1.bias is not None
    fused = first_layer(images.pixels, net.conv1.weight, net.conv1.bias, torch.bfloat16)
    assert fused.dtype == rounded.dtype == torch.bfloat16
    # Rounding to bf16's 8 significant bits is off by one in 2^8 at most.
    torch.testing.assert_close(fused.float(), exact, rtol=2**-8 + 1e-5, atol=1e-6)
    assert (fused.float() - exact).norm() <= (rounded.float() - exact).norm()

    gradient = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    parameters = (net.conv1.weight, net.conv1.bias)
    for ours, theirs, truth in zip(
        torch.autograd.grad(fused, parameters, gradient),
        torch.autograd.grad(rounded, parameters, gradient),
        torch.autograd.grad(exact, parameters, gradient.float()),
        strict=True,
    ):
        assert (ours - truth).norm() <= 1e-3 * truth.norm()
        assert (ours - truth).norm() <= (theirs - truth).norm()


FIRST_LAYER = """
import torch
from src.training.fused import first_layer
pixels = torch.arange(2 * 28 * 28, dtype=torch.uint8).view(2, 28, 28)
weight, bias = torch.ones(4, 1, 3, 3, requires_grad=True), torch.zeros(4, requires_grad=True)
for dtype in (torch.float32, torch.bfloat16):
    first_layer(pixels, weight, bias, dtype).sum().backward()
print(weight.grad.sum().item())
"""


def run_first_layer(environment: dict[str, str], cache: Path) -> tuple[str, str]:
    """Return the output and the errors of a process that keeps compiled code in the folder."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LAYER],
        cwd=REPOSITORY,
        env=environment | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("damage", "files"),
    [
        ("empty", "*.nbi"),
        *(
            pytest.param(damage, files, marks=pytest.mark.long)
            for damage in ("empty", "cut short", "zeros", "a folder")
            for files in ("*.nbi", "*.nbc", "*")
            if (damage, files) != ("empty", "*.nbi")
        ),
    ],
)
def test_damaged_cache_costs_the_compiling_and_one_line(
    files: str, damage: str, compiled: tuple[Path, str], tmp_path: Path, environment: dict[str, str]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(compiled[0], cache)
    damaged = [file for file in cache.rglob(files) if file.is_file()]
    assert damaged
    for file in damaged:
        content = file.read_bytes()
        file.unlink()
        if damage == "a folder":  # as unreadable to root as another user's file to anybody else
            file.mkdir()
        else:
            left = {"empty": b"", "cut short": content[: len(content) // 2]}
            file.write_bytes(left.get(damage, bytes(len(content))))
    out, err = run_first_layer(environment, cache)
    assert out == compiled[1]
    assert err.count("\n") == 1
    assert f"warning: {cache}" in err
    assert "going on without numba's cache" in err
    if damage != "a folder":
        assert run_first_layer(environment, cache) == (out, "")  # the cache is whole again


def test_cache_that_cannot_be_made_costs_the_compiling_alone(
    compiled: tuple[Path, str], tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    assert run_first_layer(environment, tmp_path / "file/cache") == (compiled[1], "")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Compiled code on disk, and what it computes."""
    cache = tmp_path_factory.mktemp("compiled")
    out, err = run_first_layer({**os.environ, "PYTHONPATH": str(REPOSITORY)}, cache)
    assert err == ""
    return cache, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_layer_lets_nan_through(dtype: torch.dtype, images: Images) -> None:
    bias = torch.tensor([0.0, float("nan")])
    result = first_layer(images.pixels[:3], torch.ones(2, 1, 3, 3), bias, dtype)
    assert result[:, 1].isnan().all()
    assert not result[:, 0].isnan().any()


# ---- the second pooling


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [5, 32, 96])
def test_pooling_is_pytorchs_to_the_last_bit(channels: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few different values, so that many windows have several that are the largest.
    x = (torch.randn(7, channels, 10, 10, generator=generator) * 2).round().bfloat16() / 2
    x[0] = -x[0].abs()
    x[1, :, 0, 0], x[1, :, 3, 3] = float("inf"), float("-inf")
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(7, channels, 5, 5, generator=generator).bfloat16()
    with torch_threads(threads):
        ours, theirs = pool_relu(x), functional.max_pool2d(x, 2).relu()
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        (back,), (wanted,) = (torch.autograd.grad(y, x, gradient) for y in (ours, theirs))
        torch.testing.assert_close(back, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [0x7FC0, -0x40, 0x7F81])  # NaN of either sign, and another one
def test_pooling_lets_nan_through(bits: int) -> None:
    x = torch.ones(2, 40, 4, 4, dtype=torch.int16).fill_(0x3F80)
    for place in ((0, 0), (1, 0), (0, 1), (1, 1)):
        here = x.clone()
        here[0, :, place[0], place[1]] = bits
        result = pool_relu(here.view(torch.bfloat16))
        assert result[0, :, 0, 0].isnan().all()
        assert result.isnan().sum() == 40


# ---- the second layer by Winograd's algorithm


@pytest.mark.parametrize(
    ("images", "channels", "filters", "rows", "columns"),
    [(1, 3, 5, 12, 12), (65, 32, 64, 12, 12), (9, 256, 160, 12, 12), (4, 8, 7, 6, 10)],
)
def test_second_layer_is_convolution_pooling_and_relu(
    images: int, channels: int, filters: int, rows: int, columns: int
) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normal(images, channels, rows, columns).to(memory_format=torch.channels_last)
    weight, bias = normal(filters, channels, 3, 3) / channels, normal(filters)
    exact = [values.requires_grad_() for values in (x, weight, bias)]
    ours = [values.detach().float().requires_grad_() for values in exact]
    expected = functional.max_pool2d(functional.conv2d(exact[0], exact[1], exact[2]), 2).relu()
    result = second_layer(ours[0], ours[1], ours[2])
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5)
    gradient = normal(*expected.shape)
    for back, wanted in zip(
        torch.autograd.grad(result, ours, gradient.float()),
        torch.autograd.grad(expected, exact, gradient),
        strict=True,
    ):
        assert back.shape == wanted.shape
        # Rounding may make another of two nearly equal sums the largest of its block.
        assert (back - wanted).norm() < 1e-2 * wanted.norm()
        assert (back - wanted).abs().median() < 1e-5 * wanted.abs().median()


def test_second_layer_lets_nan_through() -> None:
    x = torch.ones(3, 4, 12, 12).to(memory_format=torch.channels_last)
    weight, bias = torch.ones(2, 4, 3, 3), torch.tensor([0.0, float("nan")])
    result = second_layer(x, weight, bias)
    assert (result[:, 0] == 36).all()
    assert result[:, 1].isnan().all()
    x[1, 2] = float("nan")  # as a weight of the first layer makes it
    assert second_layer(x, weight, bias)[:, 0].isnan().all(dim=2).all(dim=1).tolist() == [
        *(False, True, False),
    ]
    weight[0, 3, 0, 2] = float("nan")
    assert second_layer(x, weight, bias).isnan().all()


def test_second_layer_is_for_float32_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, images: Images
) -> None:
    calls = []

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(torch.get_num_threads())
        return second_layer(arguments[0], arguments[1], arguments[2])

    monkeypatch.setattr("src.training.step.second_layer", counted)
    net = make_net()
    for compute in (PLAIN_CPU, BF16):
        for threads in (1, 2):
            with torch_threads(threads), autocast(compute):
                logits_from_pixels(net, images.pixels[:9])
    assert calls == [1]


# ---- steps


def test_plain_step_is_cross_entropy_and_adam_as_the_textbook_has_them(images: Images) -> None:
    net = make_net()
    reference = copy.deepcopy(net)
    step = plain(net, PLAIN_CPU)
    take_steps(step, images, number=3)

    generator = torch.Generator().manual_seed(1)
    moments = {name: (0 * p, 0 * p) for name, p in reference.named_parameters()}
    batches = torch.arange(len(images)).split(200)
    losses, right = 0.0, 0
    for t, indices in enumerate((batches[0], batches[1], batches[0]), start=1):
        kept = torch.rand(len(indices), 32, generator=generator) >= 0.4
        x = reference.classify(reference.first_layer(to_inputs(images.pixels[indices])), kept / 0.6)
        log_probabilities = x - x.exp().sum(dim=1, keepdim=True).log()
        labels = images.labels[indices]
        loss = -log_probabilities.gather(1, labels[:, None]).mean()
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(reference.named_parameters(), gradients, strict=True):
                # Kingma & Ba 2015, Algorithm 1.
                m, v = moments[name]
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                moments[name] = (m, v)
                p.sub_(1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-7))
        losses += loss.item() * len(indices)
        right += int((x.argmax(dim=1) == labels).sum())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-4, atol=2e-6)
    assert step.totals.tolist() == [pytest.approx(losses, rel=1e-5), right]


def test_parts_of_a_batch_add_up_to_its_gradient(images: Images) -> None:
    whole, parts = make_net(), make_net()
    for step in (  # the latter cuts it into 128, 128 and 44
        plain(whole, PLAIN_CPU),
        MicroBatchStep(parts, make_optimizer(parts, 1e-3), PLAIN_CPU),
    ):
        take_steps(step, images, number=1, batch_size=300)
    for name, parameter in whole.named_parameters():
        ours, theirs = parts.get_parameter(name).grad, parameter.grad
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).norm() < 1e-4 * theirs.norm(), name


RECIPES = {
    "plain": Recipe(),
    "all": Recipe(
        learning_rate=lambda step: 1e-3 / (1 + step),
        label_smoothing=0.1,
        distort=Distortion(affine=True, elastic=True, device=torch.device("cpu")),
        average_over=3,
    ),
}


@pytest.mark.parametrize("threads", [1, 2])  # with one, Winograd's algorithm
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_steps_on_cpu_are_the_plain_steps(recipe: Recipe, threads: int, images: Images) -> None:
    nets = make_net(), make_net()
    reference = PlainStep(nets[0], make_optimizer(nets[0], 1e-3), PLAIN_CPU, recipe)
    step = make_step(nets[1], make_optimizer(nets[1], 1e-3), PLAIN_CPU, 200, recipe)
    assert isinstance(step, MicroBatchStep)
    with torch_threads(threads):
        for each in (reference, step):
            take_steps(each, images)
    assert step.totals.tolist() == pytest.approx(reference.totals.tolist(), rel=1e-4)
    for name, parameter in reference.result.named_parameters():
        # Adam divides by the gradient's size: where that is next to nothing, rounding shows.
        difference = (parameter - step.result.get_parameter(name)).abs()
        assert difference.mean() < 1e-5, name


def test_smoothed_labels_are_mixed_with_all_classes(images: Images) -> None:
    net = make_net()
    dropout = net.draw_dropout(200, torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = net(to_inputs(images.pixels[:200]), dropout)
    targets = 0.8 * functional.one_hot(images.labels[:200], 10) + 0.2 / 10
    expected = -(targets * logits.log_softmax(dim=1)).sum()
    step = PlainStep(net, make_optimizer(net, 1e-3), PLAIN_CPU, Recipe(label_smoothing=0.2))
    take_steps(step, images, number=1)
    assert step.totals[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_learning_rate_is_that_of_the_step(images: Images) -> None:
    rates = [1e-3, 0.0, 5e-4]
    net = make_net()
    step = PlainStep(
        net, make_optimizer(net, 1.0), PLAIN_CPU, Recipe(learning_rate=lambda step: rates[step])
    )
    moved = []
    for _ in rates:
        before = net.conv1.weight.detach().clone()
        take_steps(step, images, number=1)
        moved.append((net.conv1.weight - before).abs().max().item())
    assert moved[0] == pytest.approx(1e-3, rel=1e-2)  # Adam's first step is of this size
    assert moved[1] == 0
    assert 0 < moved[2] < 1e-3


def test_weights_decay_beside_what_adam_does(images: Images) -> None:
    nets = make_net(), make_net()
    before = {name: values.detach().clone() for name, values in nets[0].named_parameters()}
    for net, decay in zip(nets, (0.0, 0.5), strict=True):
        optimizer = make_optimizer(net, 1e-2, decay)
        take_steps(PlainStep(net, optimizer, PLAIN_CPU), images, number=1)
    for name, values in nets[0].named_parameters():
        shrunk = values - 1e-2 * 0.5 * before[name]  # line 12 of AdamW, algorithm 2, with η = 1
        torch.testing.assert_close(nets[1].get_parameter(name), shrunk, rtol=0, atol=1e-7)


def test_average_of_the_weights_is_exponential(images: Images) -> None:
    net = make_net()
    recipe = Recipe(average_over=2)
    step = PlainStep(net, make_optimizer(net, 1e-2), PLAIN_CPU, recipe)
    expected = net.dense.weight.detach().numpy().copy()
    for number in range(15):
        take_steps(step, images, number=1)
        pull = max(1 / 2, 9 / (10 + number))
        expected = (1 - pull) * expected + pull * net.dense.weight.detach().numpy()
    assert step.averaged is not None
    np.testing.assert_allclose(step.averaged.dense.weight.detach().numpy(), expected, atol=1e-6)
    assert step.result is step.averaged
    assert not torch.equal(step.averaged.dense.weight, net.dense.weight)


def test_every_step_in_bf16_uses_the_weights_of_the_step_before(images: Images) -> None:
    # Autocast keeps copies of the weights; were they kept too long, nothing would be learnt.
    final = {}
    for compute in (PLAIN_CPU, BF16):
        net = make_net()
        step = make_step(net, make_optimizer(net, 3e-3), compute, batch_size=300)
        take_steps(step, images, number=40, batch_size=300)
        counts = no_counts(net, compute.device)
        with torch.no_grad():
            add_counts(counts, images.labels, logits_from_pixels(net, images.pixels))
        assert counts.sum() == 300
        final[compute.precision] = counts.trace().item() / 300
    assert final["32"] > 0.8
    assert final["bf16"] == pytest.approx(final["32"], abs=0.05)


def test_step_that_cannot_be_recorded_runs_as_it_is_and_says_why(images: Images) -> None:
    nets = make_net(), make_net()
    reference = plain(nets[0], PLAIN_CPU)
    step = GraphStep(nets[1], make_optimizer(nets[1], 1e-3), PLAIN_CPU, batch_size=200)
    take_steps(reference, images)
    with pytest.warns(UserWarning, match="training without a CUDA graph") as caught:
        take_steps(step, images)
    assert len(caught) == 1
    assert step.not_recorded
    assert torch.equal(step.totals, reference.totals)
    for name, parameter in nets[0].named_parameters():
        assert torch.equal(parameter, nets[1].get_parameter(name))


@needs_cuda
@pytest.mark.parametrize("recipe", ["plain", "all"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_recorded_steps_are_the_plain_steps(precision: str, recipe: str, images: Images) -> None:
    compute = Compute("cuda", precision, "GPU")  # type: ignore[arg-type]  # of the two literals
    resident = images.to("cuda")
    nets = make_net().cuda(), make_net().cuda()
    wanted = RECIPES[recipe]
    if wanted.distort is not None:
        distort = Distortion(affine=True, elastic=True, device=compute.device)
        wanted = dataclasses.replace(wanted, distort=distort)
    reference = PlainStep(nets[0], make_optimizer(nets[0], 1e-3), compute, wanted)
    step = GraphStep(nets[1], make_optimizer(nets[1], 1e-3), compute, 200, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (reference, step):
            take_steps(each, resident)
    assert step.not_recorded is None
    assert step.totals.tolist() == pytest.approx(reference.totals.tolist(), rel=1e-2)
    for name, parameter in reference.result.named_parameters():
        difference = (parameter - step.result.get_parameter(name)).abs()
        assert difference.mean() < 1e-4, name


@needs_cuda
def test_dropout_differs_at_every_replay(images: Images) -> None:
    compute = Compute("cuda", "32", "GPU")
    net = make_net().cuda()
    step = GraphStep(
        net, make_optimizer(net, 1e-12), compute, batch_size=200
    )  # next to no learning
    resident, indices = images.to("cuda"), torch.arange(200, device="cuda")
    losses = []
    for _ in range(4):
        step.totals.zero_()
        step(resident, indices)
        losses.append(step.totals[0].item())
    assert len(set(losses)) == 4


@needs_cuda
def test_step_that_breaks_while_it_is_recorded_runs_as_it_is(images: Images) -> None:
    class Waits(Distortion):
        def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            pixels.sum().item()  # waits for the device, which no recording may
            return pixels

    compute = Compute("cuda", "32", "GPU")
    nets = make_net().cuda(), make_net().cuda()
    waits = Recipe(distort=Waits(affine=False, elastic=False, device=compute.device))
    reference = plain(nets[0], compute)
    step = GraphStep(nets[1], make_optimizer(nets[1], 1e-3), compute, 200, waits)
    resident = images.to("cuda")
    take_steps(reference, resident)
    with pytest.warns(UserWarning, match="training without a CUDA graph"):
        take_steps(step, resident)
    assert step.totals.tolist() == pytest.approx(reference.totals.tolist(), rel=1e-3)
