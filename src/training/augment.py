"""Augment images: random affine and elastic distortions, on the images' device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

ROTATION = 10.0
"""Maximal rotation, in degrees, either way."""

SHEAR = 0.1
"""Maximal shear: pixels a row moves for each pixel of distance from the middle."""

SCALE = 0.1
"""Width and height are divided by factors between 1 - this and 1 + this, each on its own."""

SHIFT = 2.0
"""Maximal translation, in pixels, either way, along each axis."""

ELASTIC_SIGMA = 4.0
"""Standard deviation, in pixels, of the Gaussian that smooths random displacements."""

ELASTIC_ALPHA = 20.0
"""Factor of the smoothed displacements: the standard deviation of what comes out is 0.8 pixels."""

_SIDE = 28

_MIDDLE = (_SIDE - 1) / 2


class Distortion:
    """Random affine maps, elastic distortions, or both, drawn for each image.

    Elastic ones move every pixel by random numbers from -1 to 1, smoothed and enlarged (Simard,
    Steinkraus, Platt: "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", ICDAR 2003, section 2). Values between pixels are interpolated linearly; what comes
    from outside of an image is black.

    Args:
        affine: turn, shear, scale and shift.
        elastic: bend.
        device: where the images are.
    """

    def __init__(self, *, affine: bool, elastic: bool, device: torch.device) -> None:
        self._affine = affine
        self._elastic = elastic
        along = torch.arange(_SIDE, device=device) - _MIDDLE
        rows, columns = torch.meshgrid(along, along, indexing="ij")
        self._pixels = torch.stack([columns, rows, torch.ones_like(rows)], dim=2).view(-1, 3)
        """(784, 3): homogeneous coordinates x, y, 1 of each pixel, from the middle."""
        near = torch.exp(-((along[:, None] - along[None, :]) ** 2) / (2 * ELASTIC_SIGMA**2))
        self._smooth = near / (math.sqrt(2 * math.pi) * ELASTIC_SIGMA)
        """(28, 28): multiplying with it convolves rows or columns with the Gaussian."""

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return a distorted copy of pixels, uint8 (B, 28, 28)."""
        images = len(pixels)
        sources = self._pixels[:, :2].expand(images, -1, -1)  # (B, 784, 2), as x, y in pixels
        if self._affine:
            sources = self._pixels @ self.draw_maps(images, generator)
        if self._elastic:
            sources = sources + self._draw_bends(images, generator)
        grid = (sources / _MIDDLE).view(images, _SIDE, _SIDE, 2)
        distorted = functional.grid_sample(
            pixels.unsqueeze(1).float(), grid, padding_mode="zeros", align_corners=True
        )
        return distorted.squeeze(1).round_().to(torch.uint8)

    def draw_maps(self, images: int, generator: torch.Generator) -> Tensor:
        """Draw an affine map for each image, (B, 3, 2): from x, y, 1 to a pixel's source."""
        uniform = self._uniform((6, images), generator)
        angle, shear = uniform[0] * math.radians(ROTATION), uniform[1] * SHEAR
        wide, high = uniform[2:4] * SCALE + 1
        cos, sin = angle.cos(), angle.sin()
        shift_x, shift_y = uniform[4:6] * SHIFT
        to_x = torch.stack([wide * cos, wide * (shear * cos - sin), shift_x], dim=1)
        to_y = torch.stack([high * sin, high * (shear * sin + cos), shift_y], dim=1)
        return torch.stack([to_x, to_y], dim=2)

    def _draw_bends(self, images: int, generator: torch.Generator) -> Tensor:
        """Draw displacements for each image, (B, 784, 2), as x, y in pixels."""
        noise = self._uniform((images, 2, _SIDE, _SIDE), generator)
        bends = self._smooth @ noise @ self._smooth * ELASTIC_ALPHA
        return bends.flatten(2).transpose(1, 2)

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw numbers from -1 to 1."""
        return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1
