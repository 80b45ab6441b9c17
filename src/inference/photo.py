"""Convert a picture of one character to EMNIST's form: 28×28, light on black, upright, centred.

EMNIST's own images were made of binary scans of NIST's forms: blurred by a Gaussian (sigma 1),
cropped to the strokes, centred in a square with the aspect ratio kept, given a margin of 2 pixels
and sampled down to 28×28 with bicubic interpolation (Cohen, Afshar, Tapson, van Schaik 2017,
"EMNIST: an extension of MNIST to handwritten letters", section II). A picture from elsewhere also
has paper, light and a pen of its own, which are taken away first.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from src.core.errors import UserError
from src.inference.picture_files import with_8_bits

WHITE, BLACK = 255, 0

SIDE = 28
"""Side of an EMNIST image, in pixels."""

_EXTENT = 22.0
"""Longer side of the strokes' bounding box at half intensity, in EMNIST's pixels: the median of
1,500 training images each of its digits and letters."""

_STROKE = 2.5
"""Thinner strokes are made this wide, in EMNIST's pixels. Three quarters of the same images have
broader ones (median 3.0); broader ones are left as they are."""

_BLUR = 0.5
"""Sigma of the Gaussian in EMNIST's pixels. Photographs of its images then have the same
shares of dark, grey and bright pixels as the images themselves."""

_FINE = 8
"""Pixels a side to which a pixel of the result is drawn, before blurring."""

_WORKING_SIDE = 1024
"""Longer side to which pictures are brought before they are looked at, in pixels."""

_CHARACTER_SIDE = 256
"""Longer side of a character at least when its strokes are measured, in pixels."""

_ONE_COLOUR, _MANY_COLOURS = 5.0, 30.0
"""Standard deviations of what is opaque, of 255: up to the first it is of one colour; beyond the
second it has strokes and paper, and between them, where it is most of the picture."""

_WINDOW = 0.25
"""What is narrower than this is no background; in longer sides of the picture."""

_SPARSE = 8
"""Every so many rows and columns tell how the light falls."""

_FILLED = 0.95
"""What takes more than this share of a side of the picture surrounds the character …"""

_LEAST_REST = 0.2
"""… if what remains is as long as this share of the picture's longer side."""

_LEAST_CONTRAST = 10
"""Strokes that stand out less from their background are none; of 255."""

_LEAST_CONTRAST_TO_NOISE = 6
"""The same in standard deviations of the background."""

_SMALLEST_DOT = 0.3
"""Smallest mark, in squares of the stroke width: the tip of a round pen leaves 0.79."""

_Grey = NDArray[np.float32]

_Mask = NDArray[np.bool_]


def bring_to_emnist(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert a picture of one character to EMNIST's form.

    Args:
        picture: of any size and mode, dark on light or light on dark.

    Returns:
        uint8 (28, 28), light strokes on black, upright.

    Raises:
        UserError: nothing is on the picture.
    """
    ink = _ink(_grey(picture))
    return _draw(_character(ink))


def _grey(picture: Image.Image) -> _Grey:
    """Return (height, width), 0…255, along the axis on which the picture's colours differ most."""
    colours = _colours(picture)
    side = max(colours.size)
    width, height = (max(1, round(length * _WORKING_SIDE / side)) for length in colours.size)
    colours = colours.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)
    pixels = np.asarray(colours, dtype=np.float32)
    if pixels.ndim == 2:
        return pixels
    spread = np.cov(pixels.reshape(-1, 3)[:: max(1, pixels.size // 300_000)], rowvar=False)
    axis = np.linalg.eigh(spread)[1][:, -1]
    grey: _Grey = pixels @ (axis / np.sqrt(3)).astype(np.float32)
    return grey


def _colours(picture: Image.Image) -> Image.Image:
    """Return the picture in mode L or RGB, with something behind it where it is transparent."""
    picture = with_8_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = picture.reduce(max(1, max(picture.size) // (2 * _WORKING_SIDE)))
        behind = Image.new("RGBA", picture.size, _behind(np.asarray(picture)))
        return Image.alpha_composite(behind, picture).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def _behind(pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Choose the colour to put behind a picture's transparent pixels.

    Args:
        pixels: (height, width, 4).

    Returns:
        RGB. Behind strokes alone, which are of one colour: black or white, whichever contrasts;
        behind a page with transparent corners: the colour of its paper.
    """
    opaque = pixels[pixels[..., 3] > 127][:, :3]
    if not len(opaque):
        return (WHITE, WHITE, WHITE)
    light = opaque.mean(axis=1)
    paper = 2 * len(opaque) > pixels[..., 0].size and light.std() > _ONE_COLOUR
    if paper or light.std() > _MANY_COLOURS:
        red, green, blue = np.median(opaque, axis=0).astype(int).tolist()
        return (red, green, blue)
    return (BLACK, BLACK, BLACK) if light.mean() > 127 else (WHITE, WHITE, WHITE)


def _ink(grey: _Grey) -> _Grey:
    """Subtract the background: 0 is paper, 1 a stroke, whichever is the darker.

    Raises:
        UserError: nothing stands out.
    """
    smooth = ndimage.gaussian_filter(grey - _light(grey), 1)
    side = max(grey.shape)
    details = smooth - ndimage.uniform_filter(smooth, side // 4)
    if (details.astype(np.float64) ** 3).mean() < 0:  # strokes are the few pixels that differ much
        smooth = -smooth
    window = round(_WINDOW * side)
    ink = smooth - ndimage.grey_opening(smooth, (window, window))
    ink -= np.median(ink)
    noise = 1.48 * np.median(np.abs(ink))  # standard deviation, were it normal
    strokes = ink[ink > _otsu(ink)]
    level = float(np.median(strokes)) if strokes.size else 0.0
    if level < max(_LEAST_CONTRAST, _LEAST_CONTRAST_TO_NOISE * noise):
        raise UserError("nothing is drawn on it")
    strokes_as_1: _Grey = ink / np.float32(level)
    return strokes_as_1


def _light(grey: _Grey) -> _Grey:
    """Fit a quadratic surface by least squares: uneven light."""
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in grey.shape)
    y, x = np.broadcast_arrays(rows[:, None], columns)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    few = terms[::_SPARSE, ::_SPARSE].reshape(-1, 6)
    factors = np.linalg.lstsq(few, grey[::_SPARSE, ::_SPARSE].ravel())[0]
    light: _Grey = terms @ factors
    return light


def _otsu(values: _Grey) -> float:
    """Return the threshold of maximal between-class variance (Otsu 1979, equation 18)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)
    above = values.size - below
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    return float(edges[1 + int(between.argmax())])


def _character(ink: _Grey) -> _Mask:
    """Return a mask of the strokes, cropped to them and enlarged where it is small."""
    box = _bounding_box(_without_specks(_without_surroundings(ink > 0.5)))
    rows, columns = (slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    part = Image.fromarray(ink[rows, columns])
    factor = _CHARACTER_SIDE / max(part.size)
    if factor > 1:
        part = part.resize(
            (round(part.width * factor), round(part.height * factor)), Image.Resampling.BICUBIC
        )
    mask = _without_specks(np.asarray(part) > 0.5)
    return mask[_bounding_box(mask)]


def _without_surroundings(mask: _Mask) -> _Mask:
    """Remove components that fill a side of the picture, such as the table beside the paper."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    filling = [
        np.bincount(side).argmax()
        for side in sides
        if np.bincount(side).max() > _FILLED * len(side)
    ]
    rest: _Mask = mask & ~np.isin(labels, filling)
    if not rest.any() or max(rest[_bounding_box(rest)].shape) < _LEAST_REST * max(mask.shape):
        return mask  # it was the character, on a picture cropped to it
    return rest


def _without_specks(mask: _Mask) -> _Mask:
    """Remove components smaller than a dot of the pen that drew the largest one."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    largest = int(areas.argmax())
    shape = labels == largest
    width = _stroke_width(shape[_bounding_box(shape)])
    kept: _Mask = (areas >= max(1.0, _SMALLEST_DOT * width**2))[labels]
    return kept


def _bounding_box(mask: _Mask) -> tuple[slice, slice]:
    """Return the rows and columns of a mask's bounding box."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _stroke_width(mask: _Mask) -> float:
    """Return the strokes' width in pixels: twice the distance from their middle to their edge."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    ridge = (depth == ndimage.maximum_filter(depth, 3)) & (depth > 0)
    return float(2 * np.median(depth[ridge]) - 1)


def _draw(mask: _Mask) -> NDArray[np.uint8]:
    """Draw a cropped character at EMNIST's size, with a pen as broad as EMNIST's at least."""
    extent = max(mask.shape)
    width = _stroke_width(mask)
    scale = _EXTENT / extent
    grow = 0.0
    if width * scale < _STROKE:
        # Strokes grow to both sides, and the character with them.
        scale = (_EXTENT - _STROKE) / (extent - width)
        grow = (_STROKE / scale - width) / 2
    square = SIDE / scale
    rim = int(square - min(mask.shape)) // 2 + 2
    near = ndimage.distance_transform_edt(~np.pad(mask, rim)) <= grow
    left, top = ((length - square) / 2 for length in near.T.shape)
    fine = Image.fromarray(near.astype(np.float32)).resize(
        (_FINE * SIDE, _FINE * SIDE),
        Image.Resampling.BOX,
        (left, top, left + square, top + square),
    )
    soft = Image.fromarray(ndimage.gaussian_filter(np.asarray(fine), _BLUR * _FINE))
    drawn = np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    levels: NDArray[np.uint8] = np.clip(np.rint(drawn * (255 / drawn.max())), 0, 255).astype(
        np.uint8
    )
    return levels
