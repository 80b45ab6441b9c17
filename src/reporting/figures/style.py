"""Set the style of pictures, in Okabe & Ito's colours (2008) for colour-blind readers."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from src.core.files import replacing

OKABE_ITO = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)

TRAIN, VALIDATION = OKABE_ITO[1], OKABE_ITO[0]

WIDTH = 8.8
"""Width in inches of a picture that fills the page; 10-point text is easy to read there."""

_STYLE: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}

_PANELS_A_ROW = 3

_FILE_DPI = 110

_PAGE_DPI = 180

PAGE_SCALE = 104 / _PAGE_DPI
"""Page pixels for one pixel of a picture: 8.8 inches are 915 pixels wide."""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Apply the style to what is drawn within; also a decorator."""
    with matplotlib.rc_context(_STYLE):
        yield


def panel_grid(panels: int) -> tuple[int, int]:
    """Return rows and columns for so many panels: as few rows as can be, then as full ones."""
    rows = -(-panels // _PANELS_A_ROW)
    return rows, -(-panels // rows)


def save(figure: Figure, path: Path) -> None:
    """Write a picture to a file of its own."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_FILE_DPI, format="png")


def to_png(figure: Figure) -> bytes:
    """Render a picture for a page as PNG, sharp on screens with small pixels too.

    Its colours are brought down to 256, which nobody sees and makes it a third as large.
    """
    content = io.BytesIO()
    figure.savefig(content, dpi=_PAGE_DPI, format="png")
    few = Image.open(content).convert("RGB").quantize(dither=Image.Dither.NONE)
    content = io.BytesIO()
    few.save(content, "PNG", optimize=True)
    return content.getvalue()
