"""The network's second convolution, pooling and ReLU on CPU in float32, by Winograd's algorithm.

A 2×2 block of the convolution's sums takes 16 products a pair of channels instead of 36: F(2×2,
3×3) of Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.1.
Such a block is what the pooling then takes the largest of, so that the sums themselves are never
written: what is kept of them for the gradient is which of the four won. `TwoConvNet.classify` is
the reference.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.training.compiled import Array, compiled

_POINTS = 16
"""Where a 4×4 block of inputs and the kernel are evaluated; the products give four sums."""

_ALL = 5
"""The point whose product counts once in all four sums, so that its gradient is the bias's."""

_PART = 3 << 20
"""Bytes that a part's inputs and products take, so that they stay in cache."""

_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""Evaluates three taps at four points."""

_NOBODY = np.uint8(4)  # stands for the winner where ReLU gives 0, so that no gradient passes


def second_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``max_pool2d(conv2d(x, weight, bias), 2).relu()`` and its gradient.

    Args:
        x: float32 (B, C, 2H + 2, 2W + 2), fastest in channels_last layout.
        weight: float32 (K, C, 3, 3).
        bias: float32 (K,).

    Returns:
        (B, K, H, W), in channels_last layout.
    """
    result: Tensor = _SecondLayer.apply(x, weight, bias)
    return result


class _SecondLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        images, rows, columns, _ = x.shape
        assert rows % 2 == columns % 2 == 0
        outputs = torch.empty(images, rows // 2 - 1, columns // 2 - 1, len(bias))
        winners = torch.empty(outputs.shape, dtype=torch.uint8)
        taps = torch.einsum("ai,bj,kcij->abck", _G, _G, weight).flatten(0, 1)  # (16, C, K)
        for some, inputs, products in _parts(x, len(bias)):
            _evaluate(x[some].numpy(), _lines(inputs, outputs.shape[2]))
            torch.bmm(inputs, taps, out=products)
            _pool(
                outputs[some].flatten(0, 2).numpy(),
                winners[some].flatten(0, 2).numpy(),
                products.numpy(),
                bias.detach().numpy(),
            )
        ctx.save_for_backward(x, taps, winners)
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, taps, winners = ctx.saved_tensors
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        x_gradient, taps_gradient = torch.empty_like(x), torch.zeros_like(taps)
        bias_gradient = torch.zeros(taps.shape[2])
        for some, inputs, products in _parts(x, taps.shape[2]):
            _unpool(
                gradient[some].flatten(0, 2).numpy(),
                winners[some].flatten(0, 2).numpy(),
                products.numpy(),
            )
            bias_gradient += products[_ALL].sum(dim=0)
            _evaluate(x[some].numpy(), _lines(inputs, winners.shape[2]))
            taps_gradient.baddbmm_(inputs.transpose(1, 2), products)
            torch.bmm(products, taps.transpose(1, 2), out=inputs)
            _add_up(x_gradient[some].numpy(), _lines(inputs, winners.shape[2]))
        weight_gradient = torch.einsum(
            "ai,bj,abck->kcij", _G, _G, taps_gradient.unflatten(0, (4, 4))
        )
        return x_gradient.permute(0, 3, 1, 2), weight_gradient, bias_gradient


def _parts(x: Tensor, filters: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Cut x, (B, rows, columns, C), into parts; lend memory for their inputs and products.

    These are (16, blocks, C) and (16, blocks, filters), in the same memory for all parts, because
    fresh memory costs as much as what is written there.
    """
    images, rows, columns, channels = x.shape
    blocks = (rows // 2 - 1) * (columns // 2 - 1)
    at_once = max(1, _PART // (_POINTS * blocks * (channels + filters) * x.element_size()))
    inputs = torch.empty(_POINTS * at_once * blocks * channels)
    products = torch.empty(_POINTS * at_once * blocks * filters)
    for first in range(0, images, at_once):
        some = slice(first, min(first + at_once, images))
        end = _POINTS * (some.stop - first) * blocks
        yield (
            some,
            inputs[: end * channels].view(_POINTS, -1, channels),
            products[: end * filters].view(_POINTS, -1, filters),
        )


def _lines(inputs: Tensor, columns: int) -> Array:
    """Show (16, blocks, C) as (16, rows of blocks, columns of blocks × C)."""
    lines: Array = inputs.view(_POINTS, -1, columns * inputs.shape[2]).numpy()
    return lines


# The loops over c are what the compiler makes SIMD of. Few write more than one place, as it could
# not tell those from each other. Those of the first four functions run over all blocks of a row,
# because the channels of one are few: a block's columns 0 and 2 are in `even`, 1 and 3 in `odd`.


@compiled
def _evaluate(x: Array, inputs: Array) -> None:
    """Evaluate each 4×4 block of x at the 16 points: Bᵀ d B."""
    images, rows, columns, channels = x.shape
    even = np.empty((columns // 2, channels), np.float32)
    odd = np.empty((columns // 2, channels), np.float32)
    x0, x2 = even.reshape(-1), even[1:].reshape(-1)
    x1, x3 = odd.reshape(-1), odd[1:].reshape(-1)
    across = np.empty((rows, 4, x2.size), np.float32)
    line = 0
    for n in range(images):
        for i in range(rows):
            for j in range(columns // 2):
                for c in range(channels):
                    even[j, c] = x[n, i, 2 * j, c]
                for c in range(channels):
                    odd[j, c] = x[n, i, 2 * j + 1, c]
            a0, a1, a2, a3 = across[i, 0], across[i, 1], across[i, 2], across[i, 3]
            _evaluate_four(x0, x1, x2, x3, a0, a1, a2, a3)
        for i in range(0, rows - 2, 2):
            for b in range(4):
                a0, a1 = across[i, b], across[i + 1, b]
                a2, a3 = across[i + 2, b], across[i + 3, b]
                p0, p1 = inputs[b, line], inputs[4 + b, line]
                p2, p3 = inputs[8 + b, line], inputs[12 + b, line]
                _evaluate_four(a0, a1, a2, a3, p0, p1, p2, p3)
            line += 1


@compiled
def _evaluate_four(
    x0: Array, x1: Array, x2: Array, x3: Array, p0: Array, p1: Array, p2: Array, p3: Array
) -> None:
    """Evaluate lines of four inputs each at the four points of a direction: Bᵀ d."""
    for c in range(len(p0)):
        p0[c] = x0[c] - x2[c]
    for c in range(len(p0)):
        p1[c] = x1[c] + x2[c]
    for c in range(len(p0)):
        p2[c] = x2[c] - x1[c]
    for c in range(len(p0)):
        p3[c] = x1[c] - x3[c]


@compiled
def _add_up(x: Array, inputs: Array) -> None:
    """Bring the gradient at the 16 points to each 4×4 block of x, B v Bᵀ, and add them up."""
    images, rows, columns, channels = x.shape
    even = np.empty((columns // 2, channels), np.float32)
    odd = np.empty((columns // 2, channels), np.float32)
    x0, x2 = even.reshape(-1), even[1:].reshape(-1)
    x1, x3 = odd.reshape(-1), odd[1:].reshape(-1)
    across = np.empty((rows, 4, x2.size), np.float32)
    line = 0
    for n in range(images):
        across.fill(0)
        for i in range(0, rows - 2, 2):
            for b in range(4):
                a0, a1 = across[i, b], across[i + 1, b]
                a2, a3 = across[i + 2, b], across[i + 3, b]
                p0, p1 = inputs[b, line], inputs[4 + b, line]
                p2, p3 = inputs[8 + b, line], inputs[12 + b, line]
                _add_four(a0, a1, a2, a3, p0, p1, p2, p3)
            line += 1
        for i in range(rows):
            even.fill(0)
            odd.fill(0)
            a0, a1, a2, a3 = across[i, 0], across[i, 1], across[i, 2], across[i, 3]
            _add_four(x0, x1, x2, x3, a0, a1, a2, a3)
            for j in range(columns // 2):
                for c in range(channels):
                    x[n, i, 2 * j, c] = even[j, c]
                for c in range(channels):
                    x[n, i, 2 * j + 1, c] = odd[j, c]


@compiled
def _add_four(
    x0: Array, x1: Array, x2: Array, x3: Array, p0: Array, p1: Array, p2: Array, p3: Array
) -> None:
    """Add what the four points of a direction bring to lines of four inputs each: B v."""
    for c in range(len(p0)):
        x0[c] += p0[c]
    for c in range(len(p0)):
        x1[c] += p1[c] - p2[c] + p3[c]
    for c in range(len(p0)):
        x2[c] += p1[c] + p2[c] - p0[c]
    for c in range(len(p0)):
        x3[c] -= p3[c]


@compiled
def _pool(outputs: Array, winners: Array, products: Array, bias: Array) -> None:
    """Interpolate the four sums of each block, Aᵀ m A, and keep the largest, if above 0."""
    blocks, filters = outputs.shape
    left, right = np.empty((4, filters), np.float32), np.empty((4, filters), np.float32)
    for block in range(blocks):
        for a in range(4):
            m0, m1 = products[4 * a, block], products[4 * a + 1, block]
            m2, m3 = products[4 * a + 2, block], products[4 * a + 3, block]
            p, q = left[a], right[a]
            for c in range(filters):
                p[c] = m0[c] + m1[c] + m2[c]
            for c in range(filters):
                q[c] = m1[c] - m2[c] - m3[c]
        output, winner = outputs[block], winners[block]
        for c in range(filters):
            s0 = left[0, c] + left[1, c] + left[2, c]
            s1 = right[0, c] + right[1, c] + right[2, c]
            s2 = left[1, c] - left[2, c] - left[3, c]
            s3 = right[1, c] - right[2, c] - right[3, c]
            best, k = s0, np.uint8(0)
            if s1 > best:  # of equals the first wins, as in PyTorch
                best, k = s1, np.uint8(1)
            if s2 > best:
                best, k = s2, np.uint8(2)
            if s3 > best:
                best, k = s3, np.uint8(3)
            best += bias[c]
            if best <= 0:  # false for NaN, of which a weight makes all four sums
                best, k = np.float32(0), _NOBODY
            output[c] = best
            winner[c] = k


@compiled
def _unpool(gradient: Array, winners: Array, products: Array) -> None:
    """Bring the gradient of each block's largest sum to the 16 products: A y Aᵀ."""
    blocks, filters = gradient.shape
    zero = np.float32(0)
    left, right = np.empty((4, filters), np.float32), np.empty((4, filters), np.float32)
    for block in range(blocks):
        d, k = gradient[block], winners[block]
        l0, l1, l2, l3 = left[0], left[1], left[2], left[3]
        r0, r1, r2, r3 = right[0], right[1], right[2], right[3]
        for c in range(filters):
            l0[c] = d[c] if k[c] == 0 else zero
        for c in range(filters):
            r0[c] = d[c] if k[c] == 1 else zero
        for c in range(filters):
            l3[c] = -d[c] if k[c] == 2 else zero
        for c in range(filters):
            r3[c] = -d[c] if k[c] == 3 else zero
        for c in range(filters):
            l1[c] = l0[c] - l3[c]
        for c in range(filters):
            l2[c] = l0[c] + l3[c]
        for c in range(filters):
            r1[c] = r0[c] - r3[c]
        for c in range(filters):
            r2[c] = r0[c] + r3[c]
        for a in range(4):
            m0, m1 = products[4 * a, block], products[4 * a + 1, block]
            m2, m3 = products[4 * a + 2, block], products[4 * a + 3, block]
            p, q = left[a], right[a]
            for c in range(filters):
                m0[c] = p[c]
            for c in range(filters):
                m1[c] = p[c] + q[c]
            for c in range(filters):
                m2[c] = p[c] - q[c]
            for c in range(filters):
                m3[c] = -q[c]
