"""Take one optimizer step on one batch: the plain path, and fast ones that must agree with it.

`PlainStep` is the reference. On CPU, `MicroBatchStep` computes the first layer, and what pays of
the second, in compiled loops, and cuts the batch so that what is kept for the backward pass stays
in cache. On CUDA, `GraphStep` records the plain step once and replays it, because launching its
kernels takes longer than they do.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from src.data.files import Images
from src.training.augment import Distortion
from src.training.device import Compute, autocast
from src.training.fused import first_layer
from src.training.network import TwoConvNet, to_inputs
from src.training.pooling import pool_relu
from src.training.winograd import second_layer

ADAM_EPSILON = 1e-7
"""Keras' default; PyTorch's is 1e-8."""

MICRO_BATCH = 128
"""Images at a time on CPU. With two processes on one cache it is up to 1.5 times as fast as whole
batches of 208 or 256, and faster than 64 (benchmarks/README.md)."""


def make_optimizer(
    model: TwoConvNet, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Adam:
    """Return Adam with Keras' defaults for a model that is on its device.

    Args:
        model: whose parameters it optimizes.
        learning_rate: its step size.
        weight_decay: share, times the learning rate, by which each step shrinks the parameters.
    """
    return torch.optim.Adam(
        model.parameters(),
        lr=learning_rate,
        eps=ADAM_EPSILON,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        fused=True,
        capturable=next(model.parameters()).is_cuda,
    )


def logits_from_pixels(model: TwoConvNet, pixels: Tensor, dropout: Tensor | None = None) -> Tensor:
    """Compute logits, (B, classes), from pixels, uint8 (B, 28, 28), in the fastest way there is."""
    if pixels.device.type != "cpu":
        logits: Tensor = model(to_inputs(pixels), dropout)
        return logits
    assert model.conv1.bias is not None
    assert model.conv2.bias is not None
    if torch.is_autocast_enabled("cpu"):
        x = first_layer(pixels, model.conv1.weight, model.conv1.bias, torch.bfloat16)
        return model.head(pool_relu(model.conv2(x)), dropout)
    x = first_layer(pixels, model.conv1.weight, model.conv1.bias, torch.float32)
    if (
        torch.get_num_threads() > 1
    ):  # PyTorch's convolution gains from them, `second_layer` does not
        return model.classify(x, dropout)
    return model.head(second_layer(x, model.conv2.weight, model.conv2.bias), dropout)


@dataclass(frozen=True)
class Recipe:
    """Options of a step beyond cross-entropy and Adam."""

    learning_rate: Callable[[int], float] | None = None
    """Adam's step size at a step, counted from 0; None: as the optimizer has it."""
    label_smoothing: float = 0.0
    """Share of every label that is spread evenly over all classes (Szegedy et al., CVPR 2016,
    section 7)."""
    distort: Distortion | None = None
    """Distorts the batch's images; None: they stay as they are."""
    average_over: int | None = None
    """Steps over which the weights are exponentially averaged; None: they are not."""


PLAIN = Recipe()


class PlainStep:
    """Forward, backward and Adam on a whole batch; sums losses and hits on the device.

    Args:
        model: on the device of `compute`.
        optimizer: of the model's parameters.
        compute: device and precision.
        recipe: options beyond cross-entropy and Adam.
    """

    def __init__(
        self,
        model: TwoConvNet,
        optimizer: torch.optim.Adam,
        compute: Compute,
        recipe: Recipe = PLAIN,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.compute = compute
        self.recipe = recipe
        self.steps = 0
        """Steps taken so far; set it to resume a fit."""
        self.generator = torch.Generator(compute.device)
        """Draws dropout and distortions; seed it to make the steps reproducible."""
        self.totals = torch.zeros(2, dtype=torch.float64, device=compute.device)
        """Sum of the images' losses and number of correct images, since they were last zeroed."""
        self.averaged = copy.deepcopy(model) if recipe.average_over else None
        """The model with averaged weights, if the recipe averages them."""
        # On the device, because a recorded step looks at them there.
        self._rate = torch.zeros((), device=compute.device)
        self._pull = torch.zeros((), device=compute.device)

    @property
    def result(self) -> TwoConvNet:
        """The model to validate and to keep: the averaged one, if there is one."""
        return self.averaged or self.model

    def __call__(self, images: Images, indices: Tensor) -> None:
        """Take one step on the batch of images, int64 (B,), that the indices name."""
        if self.recipe.learning_rate is not None:
            rate = self.recipe.learning_rate(self.steps)
            (group,) = self.optimizer.param_groups
            group["lr"] = self._rate.fill_(rate) if group["capturable"] else rate
        if self.recipe.average_over is not None:
            # Shorter at first, as TensorFlow's ExponentialMovingAverage has it.
            self._pull.fill_(max(1 / self.recipe.average_over, 9 / (10 + self.steps)))
        self._take(images, indices)
        self.steps += 1

    def _take(self, images: Images, indices: Tensor) -> None:
        self.optimizer.zero_grad()
        self._differentiate(images, indices)
        self.optimizer.step()
        if self.averaged is not None:
            self._average(self.averaged)

    def _differentiate(self, images: Images, indices: Tensor) -> None:
        """Compute the gradients of the batch's mean loss."""
        dropout = self.model.draw_dropout(len(indices), self.generator)
        batch = images[indices]
        pixels = batch.pixels
        if self.recipe.distort is not None:
            pixels = self.recipe.distort(pixels, self.generator)
        self._backward(pixels, batch.labels, dropout)

    @torch.no_grad()
    def _average(self, averaged: TwoConvNet) -> None:
        for average, weights in zip(averaged.parameters(), self.model.parameters(), strict=True):
            average.lerp_(weights, self._pull)

    def _backward(self, pixels: Tensor, labels: Tensor, dropout: Tensor) -> None:
        with autocast(self.compute):
            logits = self.model(to_inputs(pixels), dropout)
        self._mean_loss(logits, labels, len(labels)).backward()

    def _mean_loss(self, logits: Tensor, labels: Tensor, batch: int) -> Tensor:
        """Return the contribution of these images to the mean cross-entropy of `batch` images."""
        logits = logits.float()  # bf16 would lose digits in the loss
        loss = functional.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=self.recipe.label_smoothing
        )
        self.totals[0] += loss.detach()
        self.totals[1] += (logits.argmax(dim=1) == labels).sum()
        return loss / batch


class MicroBatchStep(PlainStep):
    """The plain step on CPU, with the faster layers and in parts: their gradients add up."""

    def _backward(self, pixels: Tensor, labels: Tensor, dropout: Tensor) -> None:
        parts = (tensor.split(MICRO_BATCH) for tensor in (pixels, labels, dropout))
        for some_pixels, some_labels, dropped in zip(*parts, strict=True):
            with autocast(self.compute):
                logits = logits_from_pixels(self.model, some_pixels, dropped)
            self._mean_loss(logits, some_labels, len(labels)).backward()


class GraphStep(PlainStep):
    """The plain step on CUDA, recorded at the first batch and replayed at all of its size.

    The last, smaller batch of an epoch runs as it is, and so do all if recording fails.

    Args:
        model: on the device of `compute`.
        optimizer: of the model's parameters.
        compute: device and precision.
        batch_size: images of the batches to record.
        recipe: options beyond cross-entropy and Adam.
    """

    def __init__(
        self,
        model: TwoConvNet,
        optimizer: torch.optim.Adam,
        compute: Compute,
        batch_size: int,
        recipe: Recipe = PLAIN,
    ) -> None:
        super().__init__(model, optimizer, compute, recipe)
        self._batch_size = batch_size
        self._indices = torch.zeros(batch_size, dtype=torch.int64, device=compute.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images: Images | None = None  # those that the graph reads
        self.not_recorded: str | None = None
        """Why recording failed, if it did."""

    def _take(self, images: Images, indices: Tensor) -> None:
        if len(indices) == self._batch_size and self._graph is None and not self.not_recorded:
            self._try_to_record(images, indices)
        if len(indices) < self._batch_size or self._graph is None:
            super()._take(images, indices)
            return
        assert images is self._images
        self._indices.copy_(indices)
        self._graph.replay()

    def _try_to_record(self, images: Images, indices: Tensor) -> None:
        self._indices.copy_(indices)
        changed = [*self.model.parameters(), *self.result.parameters()]
        weights = [parameter.detach().clone() for parameter in changed]
        moments = {
            of: {name: value.clone() for name, value in state.items()}
            for of, state in self.optimizer.state.items()
        }
        totals, dropout_state = self.totals.clone(), self.generator.get_state()
        try:
            with torch.cuda.stream(torch.cuda.current_stream()):  # restored even if it breaks off
                self._graph = self._record(images)
            self._images = images
        except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
            cause = error.__context__ or error  # ending a broken recording raises again
            self.not_recorded = str(cause).split("\n", 1)[0]
            warnings.warn(
                f"training without a CUDA graph, which is slower: {self.not_recorded}",
                stacklevel=3,
            )
            self.generator = torch.Generator(self.compute.device)  # the old one may be unusable
        # Undo the steps taken on the way.
        self.totals.copy_(totals)
        self.generator.set_state(dropout_state)
        with torch.no_grad():
            for parameter, weight in zip(changed, weights, strict=True):
                parameter.copy_(weight)
        for of, state in self.optimizer.state.items():
            for name, value in state.items():
                if of in moments:  # of a fit that goes on after an interruption
                    value.copy_(moments[of][name])
                else:  # Adam's moments and step count start at zero
                    value.zero_()

    def _record(self, images: Images) -> torch.cuda.CUDAGraph:
        """Record a step as a CUDA graph, which replays it on the batch then in `_indices`."""
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up outside of the graph
            for _ in range(3):
                super()._take(images, self._indices)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            super()._take(images, self._indices)
        return graph


def make_step(
    model: TwoConvNet,
    optimizer: torch.optim.Adam,
    compute: Compute,
    batch_size: int,
    recipe: Recipe = PLAIN,
) -> PlainStep:
    """Return the fastest step for this device."""
    if compute.device.type == "cpu":
        return MicroBatchStep(model, optimizer, compute, recipe)
    return GraphStep(model, optimizer, compute, batch_size, recipe)
