"""(e) One optimizer step on a GPU against its roofline, and the published search projected.

The roofline: a step cannot take less than its operations at the matrix product's rate, nor less
than its bytes at the memory's rate, both measured in the same run. The projection multiplies
measured seconds an epoch by the epochs of the published search (30 epochs, factor 2, 5 iterations,
16 batch sizes, on 48,000 images), one trial after another.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import images
from src.data.batches import Chunks
from src.data.files import Images
from src.search.hyperband import make_plan
from src.training.device import Compute, choose_compute
from src.training.network import TwoConvNet
from src.training.step import PlainStep, make_optimizer, make_step

SHAPES = ((32, 64, 128), (128, 128, 128), (256, 160, 256))
BATCH_SIZES = (16, 64, 208)
TRAINING_IMAGES = 48_000
PUBLISHED = make_plan(max_epochs=30, reduction_factor=2, iterations=5)
PUBLISHED_BATCH_SIZES = range(16, 257, 16)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time steps as they are and recorded in a graph; without a GPU, measure nothing."""
    compute = choose_compute("auto", "auto")
    if compute.device.type != "cuda" and not options.quick:
        return {"rows": [], "notes": ["unmeasured: there is no CUDA GPU here"]}
    data = images.load(None if compute.device.type == "cuda" else 625, options.data_dir)
    resident = data.train.to(compute.device)
    operations, bandwidth = _matrix_product_rate(compute), _memory_rate(compute)
    rows = [
        _row(shape, batch_size, resident, compute, operations, bandwidth)
        for shape in (SHAPES[:1] if options.quick else SHAPES)
        for batch_size in BATCH_SIZES
    ]
    notes = [
        f"{compute.name}, {compute.precision}: {operations / 1e12:.1f} TFLOP/s of a matrix "
        f"product, {bandwidth / 1e9:.0f} GB/s of a copy"
    ]
    return {"rows": rows, "notes": notes + _project(rows)}


def _row(
    shape: tuple[int, int, int],
    batch_size: int,
    train: Images,
    compute: Compute,
    operations: float,
    bandwidth: float,
) -> dict[str, Any]:
    seconds = {}
    for path in ("eager", "fast"):
        torch.manual_seed(0)
        model = TwoConvNet(
            conv1=shape[0], conv2=shape[1], dense_units=shape[2], dropout_rate=0.3, classes=10
        ).to(compute.device)
        optimizer = make_optimizer(model, 1e-3)
        step = (
            PlainStep(model, optimizer, compute)
            if path == "eager"
            else make_step(model, optimizer, compute, batch_size)
        )
        batches = [b for chunk in Chunks(train, batch_size, 0) for b in chunk.batches()]
        whole = [batch for batch in batches if len(batch) == batch_size]

        def epoch(step: PlainStep = step, whole: list[torch.Tensor] = whole) -> None:
            for indices in whole:
                step(train, indices)

        seconds[path] = _time(epoch, compute) / len(whole)
    flops, traffic = training_operations(shape) * batch_size, _bytes(shape, batch_size)
    floor = max(flops / operations, traffic / bandwidth)
    return {
        "conv1-conv2-dense": "-".join(map(str, shape)),
        "batch size": batch_size,
        "eager µs/step": round(seconds["eager"] * 1e6, 1),
        "fast µs/step": round(seconds["fast"] * 1e6, 1),
        "roofline µs/step": round(floor * 1e6, 1),
        "images/s": round(batch_size / seconds["fast"]),
        "% of roofline": round(100 * floor / seconds["fast"], 1),
    }


def training_operations(shape: tuple[int, int, int]) -> float:
    """Return the floating-point operations of one image's training: 2 a multiply-add.

    The backward pass computes twice the products of the forward pass, but no gradient of pixels.
    """
    conv1, conv2, dense = shape
    first = 24 * 24 * 9 * conv1
    rest = 10 * 10 * 9 * conv1 * conv2 + 25 * conv2 * dense + dense * 10
    return 2.0 * (2 * first + 3 * rest)


def _bytes(shape: tuple[int, int, int], batch_size: int) -> float:
    """Return the least bytes that a step of separate kernels must move, activations in bf16.

    Each activation is written once and read once in either direction, and so is its gradient;
    Adam reads and writes weights and two moments in float32, and reads the gradient.
    """
    conv1, conv2, dense = shape
    activations = 24 * 24 * conv1 + 12 * 12 * conv1 + 10 * 10 * conv2 + 25 * conv2 + dense
    parameters = 10 * conv1 + (9 * conv1 + 1) * conv2 + (25 * conv2 + 1) * dense + 10 * dense
    return batch_size * activations * 2 * 6.0 + parameters * 4 * 7.0


def _matrix_product_rate(compute: Compute) -> float:
    size = 8192 if compute.device.type == "cuda" else 512
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=compute.device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / _time(lambda: torch.mm(a, b), compute)


def _memory_rate(compute: Compute) -> float:
    numbers = 2**28 if compute.device.type == "cuda" else 2**22
    source = torch.ones(numbers, device=compute.device)
    target = torch.empty_like(source)
    return 2.0 * 4 * numbers / _time(lambda: target.copy_(source), compute)


def _time(work: Callable[[], object], compute: Compute, repeats: int = 5) -> float:
    """Return the seconds that the work takes: the median of several times, after a first one."""
    seconds = []
    for _ in range(repeats + 1):
        _wait(compute)
        started = time.perf_counter()
        work()
        _wait(compute)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[repeats // 2]


def _wait(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize()


def _project(rows: list[dict[str, Any]]) -> list[str]:
    """Project the published search from the mean of the shapes at each measured batch size."""
    per_epoch = {}
    for batch_size in BATCH_SIZES:
        rates = [row["images/s"] for row in rows if row["batch size"] == batch_size]
        per_epoch[batch_size] = sum(TRAINING_IMAGES / rate for rate in rates) / len(rates)
    nearest = [
        per_epoch[min(BATCH_SIZES, key=lambda measured: abs(measured - wanted))]
        for wanted in PUBLISHED_BATCH_SIZES
    ]
    hours = sum(nearest) * PUBLISHED.epochs_if_exact / 3600
    return [
        f"the published search, {PUBLISHED.epochs_if_exact:,} epochs at each of "
        f"{len(PUBLISHED_BATCH_SIZES)} batch sizes if halving is exact: {hours:.2f} hours of "
        "training steps (seconds an epoch: mean of the shapes, of the nearest measured batch size)"
    ]
