"""The network's second pooling and its ReLU in one pass, on CPU in bfloat16.

PyTorch takes four: pooling, with an index of 64 bits for each window, ReLU, and the gradients of
both. Here what is kept for the gradient is which of a window's four values won; `classify` of
`TwoConvNet` is the reference.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.training.compiled import Array, compiled, in_threads, to_numpy

_BITS = torch.int16
"""Of numbers without a sign, the larger bfloat16 has the larger bits; a sign makes both smaller."""

_ZERO, _ONE, _TWO, _THREE = (np.int16(k) for k in range(4))

_NOBODY = np.int16(4)  # stands for the winner where ReLU gives 0, so that no gradient passes

_MAGNITUDE, _INFINITY, _NAN = np.int16(0x7FFF), np.int16(0x7F80), np.int16(0x7FC0)


def pool_relu(x: Tensor) -> Tensor:
    """Compute ``max_pool2d(x, 2).relu()`` and its gradient.

    Args:
        x: bfloat16 (B, C, 2H, 2W), on CPU.

    Returns:
        (B, C, H, W), in channels_last layout.
    """
    result: Tensor = _PoolRelu.apply(x)
    return result


class _PoolRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        images, rows, columns, channels = x.shape
        outputs = torch.empty(images, rows // 2, columns // 2, channels, dtype=x.dtype)
        winners = torch.empty(outputs.shape, dtype=_BITS)
        in_threads(
            lambda part: _forward(
                to_numpy(x[part], _BITS), to_numpy(outputs[part], _BITS), winners[part].numpy()
            ),
            images,
        )
        ctx.save_for_backward(winners)
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (winners,) = ctx.saved_tensors
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        images, rows, columns, channels = winners.shape
        result = torch.empty(images, 2 * rows, 2 * columns, channels, dtype=gradient.dtype)
        in_threads(
            lambda part: _backward(
                to_numpy(gradient[part], _BITS),
                winners[part].numpy(),
                to_numpy(result[part], _BITS),
            ),
            images,
        )
        return result.permute(0, 3, 1, 2)


# The loops over c are what the compiler makes SIMD of: hence one for each of four places, which it
# could not tell from each other.


@compiled
def _forward(x: Array, outputs: Array, winners: Array) -> None:
    for n in range(len(outputs)):
        for i in range(outputs.shape[1]):
            for j in range(outputs.shape[2]):
                x0, x1 = x[n, 2 * i, 2 * j], x[n, 2 * i, 2 * j + 1]
                x2, x3 = x[n, 2 * i + 1, 2 * j], x[n, 2 * i + 1, 2 * j + 1]
                output, winner = outputs[n, i, j], winners[n, i, j]
                for c in range(len(output)):
                    # NaN wins, whatever its sign, and goes on.
                    v0 = _NAN if (x0[c] & _MAGNITUDE) > _INFINITY else x0[c]
                    v1 = _NAN if (x1[c] & _MAGNITUDE) > _INFINITY else x1[c]
                    v2 = _NAN if (x2[c] & _MAGNITUDE) > _INFINITY else x2[c]
                    v3 = _NAN if (x3[c] & _MAGNITUDE) > _INFINITY else x3[c]
                    best, k = v0, _ZERO
                    if v1 > best:  # of equals the first wins, as in PyTorch
                        best, k = v1, _ONE
                    if v2 > best:
                        best, k = v2, _TWO
                    if v3 > best:
                        best, k = v3, _THREE
                    if best <= _ZERO:
                        best, k = _ZERO, _NOBODY
                    output[c], winner[c] = best, k


@compiled
def _backward(gradient: Array, winners: Array, result: Array) -> None:
    for n in range(len(gradient)):
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                d, k = gradient[n, i, j], winners[n, i, j]
                r0, r1 = result[n, 2 * i, 2 * j], result[n, 2 * i, 2 * j + 1]
                r2, r3 = result[n, 2 * i + 1, 2 * j], result[n, 2 * i + 1, 2 * j + 1]
                for c in range(len(d)):
                    r0[c] = d[c] if k[c] == _ZERO else _ZERO
                for c in range(len(d)):
                    r1[c] = d[c] if k[c] == _ONE else _ZERO
                for c in range(len(d)):
                    r2[c] = d[c] if k[c] == _TWO else _ZERO
                for c in range(len(d)):
                    r3[c] = d[c] if k[c] == _THREE else _ZERO
