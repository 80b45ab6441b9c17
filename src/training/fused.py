"""The network's first layer in one pass over the pixels, on CPU: conv 3×3 + bias → pool → ReLU.

The convolution's 24×24 sums for each filter are the largest thing the network makes, and PyTorch
writes and reads them several times: convolution, pooling with its 64-bit indices, the pooling's
gradient. Here the four sums of a pooling window never leave the registers; what is kept for the
gradient is one byte a window: which of the four won. `TwoConvNet.first_layer` is the reference.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.training.compiled import Array, compiled, in_threads, to_numpy

SIDE = 12
"""Rows and columns of what comes out: pooling windows of the 24×24 sums."""

_SCALE = np.float32(1 / 255)

_NOBODY = np.uint8(4)  # stands for the winner where ReLU gives 0, so that no gradient passes


def first_layer(pixels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute ``max_pool2d(conv2d(pixels / 255, weight, bias), 2).relu()`` and its gradient.

    Args:
        pixels: uint8 (B, 28, 28); their last two rows and columns are not read.
        weight: float32 (C, 1, 3, 3).
        bias: float32 (C,).
        dtype: float32 or bfloat16, of the result; the arithmetic is float32.

    Returns:
        (B, C, 12, 12), in channels_last layout.
    """
    result: Tensor = _FirstLayer.apply(pixels, weight, bias, dtype)
    return result


class _FirstLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> Tensor:
        filters = len(bias)
        taps = weight.view(filters, 9).t().contiguous()  # (9, C): a tap's filters side by side
        outputs = torch.empty(len(pixels), SIDE, SIDE, filters, dtype=dtype)
        winners = torch.empty(len(pixels), SIDE, SIDE, filters, dtype=torch.uint8)
        kernel = _forward if dtype == torch.float32 else _forward_bfloat16
        in_threads(
            lambda part: kernel(
                pixels[part].numpy(),
                taps.numpy(),
                bias.detach().numpy(),
                to_numpy(outputs[part]),
                winners[part].numpy(),
            ),
            len(pixels),
        )
        ctx.save_for_backward(pixels, winners)
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, None]:
        pixels, winners = ctx.saved_tensors
        filters = winners.shape[3]
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        kernel = _backward if gradient.dtype == torch.float32 else _backward_bfloat16

        def sums(part: slice) -> Tensor:
            taps_and_bias = torch.zeros(10, filters)
            kernel(
                pixels[part].numpy(),
                to_numpy(gradient[part]),
                winners[part].numpy(),
                taps_and_bias.numpy(),
            )
            return taps_and_bias

        taps_and_bias = torch.stack(in_threads(sums, len(pixels))).sum(dim=0)
        weight = taps_and_bias[:9].t().reshape(filters, 1, 3, 3)
        return None, weight, taps_and_bias[9], None


@compiled
def _four(row: Array, q: int) -> Any:
    """Return four neighbouring pixels as what the network reads, 0…1."""
    return (
        np.float32(row[q]) * _SCALE,
        np.float32(row[q + 1]) * _SCALE,
        np.float32(row[q + 2]) * _SCALE,
        np.float32(row[q + 3]) * _SCALE,
    )


# In both kernels p01 is the pixel in row 0, column 1 of the 4×4 that a pooling window sees; k is
# the place in the window, row by row. The loops over c are what the compiler makes SIMD of.


@compiled
def _forward(pixels: Array, taps: Array, bias: Array, outputs: Array, winners: Array) -> None:
    for n in range(len(pixels)):
        image = pixels[n]
        for i in range(SIDE):
            r0, r1, r2, r3 = image[2 * i], image[2 * i + 1], image[2 * i + 2], image[2 * i + 3]
            for j in range(SIDE):
                q = 2 * j
                p00, p01, p02, p03 = _four(r0, q)
                p10, p11, p12, p13 = _four(r1, q)
                p20, p21, p22, p23 = _four(r2, q)
                p30, p31, p32, p33 = _four(r3, q)
                for c in range(len(bias)):
                    w0, w1, w2 = taps[0, c], taps[1, c], taps[2, c]
                    w3, w4, w5 = taps[3, c], taps[4, c], taps[5, c]
                    w6, w7, w8 = taps[6, c], taps[7, c], taps[8, c]
                    s0 = p00 * w0 + p01 * w1 + p02 * w2
                    s0 += p10 * w3 + p11 * w4 + p12 * w5
                    s0 += p20 * w6 + p21 * w7 + p22 * w8
                    s1 = p01 * w0 + p02 * w1 + p03 * w2
                    s1 += p11 * w3 + p12 * w4 + p13 * w5
                    s1 += p21 * w6 + p22 * w7 + p23 * w8
                    s2 = p10 * w0 + p11 * w1 + p12 * w2
                    s2 += p20 * w3 + p21 * w4 + p22 * w5
                    s2 += p30 * w6 + p31 * w7 + p32 * w8
                    s3 = p11 * w0 + p12 * w1 + p13 * w2
                    s3 += p21 * w3 + p22 * w4 + p23 * w5
                    s3 += p31 * w6 + p32 * w7 + p33 * w8
                    best, k = s0, np.uint8(0)
                    if s1 > best:  # of equals the first wins, as in PyTorch
                        best, k = s1, np.uint8(1)
                    if s2 > best:
                        best, k = s2, np.uint8(2)
                    if s3 > best:
                        best, k = s3, np.uint8(3)
                    best += bias[c]
                    if best <= 0:  # false for NaN, which goes on
                        best, k = np.float32(0), _NOBODY
                    outputs[n, i, j, c] = best
                    winners[n, i, j, c] = k


@compiled
def _backward(pixels: Array, gradient: Array, winners: Array, sums: Array) -> None:
    """Add the gradients of the 9 taps and of the bias, (10, C), to `sums`."""
    zero = np.float32(0)
    for n in range(len(pixels)):
        image = pixels[n]
        for i in range(SIDE):
            r0, r1, r2, r3 = image[2 * i], image[2 * i + 1], image[2 * i + 2], image[2 * i + 3]
            for j in range(SIDE):
                q = 2 * j
                p00, p01, p02, p03 = _four(r0, q)
                p10, p11, p12, p13 = _four(r1, q)
                p20, p21, p22, p23 = _four(r2, q)
                p30, p31, p32, p33 = _four(r3, q)
                for c in range(sums.shape[1]):
                    k = winners[n, i, j, c]
                    d = gradient[n, i, j, c]
                    d0 = d if k == 0 else zero
                    d1 = d if k == 1 else zero
                    d2 = d if k == 2 else zero
                    d3 = d if k == 3 else zero
                    sums[0, c] += p00 * d0 + p01 * d1 + p10 * d2 + p11 * d3
                    sums[1, c] += p01 * d0 + p02 * d1 + p11 * d2 + p12 * d3
                    sums[2, c] += p02 * d0 + p03 * d1 + p12 * d2 + p13 * d3
                    sums[3, c] += p10 * d0 + p11 * d1 + p20 * d2 + p21 * d3
                    sums[4, c] += p11 * d0 + p12 * d1 + p21 * d2 + p22 * d3
                    sums[5, c] += p12 * d0 + p13 * d1 + p22 * d2 + p23 * d3
                    sums[6, c] += p20 * d0 + p21 * d1 + p30 * d2 + p31 * d3
                    sums[7, c] += p21 * d0 + p22 * d1 + p31 * d2 + p32 * d3
                    sums[8, c] += p22 * d0 + p23 * d1 + p32 * d2 + p33 * d3
                    sums[9, c] += d0 + d1 + d2 + d3


# bfloat16 is the upper half of a float32: an image at a time is turned into the other, in cache.


@compiled
def _forward_bfloat16(
    pixels: Array, taps: Array, bias: Array, outputs: Array, winners: Array
) -> None:
    image = np.empty((1, SIDE, SIDE, len(bias)), np.float32)
    bits = image.view(np.uint32).reshape(-1)
    for n in range(len(pixels)):
        _forward(pixels[n : n + 1], taps, bias, image, winners[n : n + 1])
        halves = outputs[n].reshape(-1)
        for c in range(len(bits)):  # rounded to the nearest, of two equally near to the even one
            even = (bits[c] >> np.uint32(16)) & np.uint32(1)
            halves[c] = (bits[c] + np.uint32(0x7FFF) + even) >> np.uint32(16)


@compiled
def _backward_bfloat16(pixels: Array, gradient: Array, winners: Array, sums: Array) -> None:
    image = np.empty((1, SIDE, SIDE, sums.shape[1]), np.float32)
    bits = image.view(np.uint32).reshape(-1)
    for n in range(len(pixels)):
        halves = gradient[n].reshape(-1)
        for c in range(len(bits)):
            bits[c] = np.uint32(halves[c]) << np.uint32(16)
        _backward(pixels[n : n + 1], image, winners[n : n + 1], sums)
