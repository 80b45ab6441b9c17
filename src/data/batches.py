"""Draw batches as indices into images that stay on the device, in chunks of many batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from src.data.files import Images

CHUNK = {"cpu": 1024, "cuda": 65_536}
"""Images a chunk, by type of device: seconds of training between two checks for an interruption,
yet long beside Lightning's overhead per chunk."""

EVALUATION_BATCH = {"cpu": 128, "cuda": 2048}
"""Images of a validation or test batch, by type of device: as many as fit a CPU's cache, or fill a
GPU."""


@dataclass(frozen=True)
class Chunk:
    """Several consecutive batches of images, which Lightning handles as one."""

    images: Images
    """All images of the pass, on their device."""
    indices: Tensor
    """int64 (N,), on the same device: positions of the chunk's images, in order."""
    batch_size: int
    """Images a batch; the last may be smaller."""

    def batches(self) -> tuple[Tensor, ...]:
        """Return each batch's indices, int64 (B,)."""
        batches: tuple[Tensor, ...] = self.indices.split(self.batch_size)
        return batches


class Chunks:
    """Iterate once over images, chunk by chunk.

    Args:
        images: what to iterate over, on any device.
        batch_size: images a batch.
        seed: shuffles the images; without one they keep their order.
        begin: batches to leave out.
        end: batches after which to stop; None: none.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int | None = None,
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self._part = slice(begin * batch_size, None if end is None else end * batch_size)
        batches = max(1, CHUNK[images.labels.device.type] // batch_size)
        self._chunk = batches * batch_size

    def __len__(self) -> int:
        return -(-len(range(len(self.images))[self._part]) // self._chunk)

    def __iter__(self) -> Iterator[Chunk]:
        if self.seed is None:
            order = torch.arange(len(self.images))
        else:  # drawn on the CPU, so that every device sees the same order
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(len(self.images), generator=generator)
        for indices in order[self._part].to(self.images.labels.device).split(self._chunk):
            yield Chunk(self.images, indices, self.batch_size)
