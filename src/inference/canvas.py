"""A board to draw a character on, as the parts of a Gradio HTML component, and what comes off it.

Gradio's own board, ImageEditor (6.31), says nothing of the first stroke and takes seconds for each
further one. This one draws on a canvas; its value is a data URL of what is drawn, "" while it is
empty, and follows the pen while it moves.
"""

import base64
import io
from importlib import resources

from PIL import Image

from src.core.errors import UserError

SIDE_AT_MOST = 1024
"""Longer side of a drawing or picture, in pixels."""

_URL = "data:image/png;base64,"

_LENGTH_AT_MOST = 8 * 2**20

_FILES = resources.files(__package__)

HTML, CSS, JS = ((_FILES / f"canvas.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
"""Markup, style and script of the component."""


def put_on(picture: Image.Image) -> str:
    """Return the board's value that shows a picture, made smaller where it is large."""
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((SIDE_AT_MOST, SIDE_AT_MOST))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return _URL + base64.b64encode(content.getvalue()).decode()


def take_off(value: str) -> Image.Image:
    """Return what is drawn, from the board's value.

    Raises:
        UserError: no board has such a value.
    """
    if len(value) > _LENGTH_AT_MOST:
        raise UserError("the drawing is too large")
    try:
        content = base64.b64decode(value.removeprefix(_URL), validate=True)
        drawing = Image.open(io.BytesIO(content), formats=["PNG"])
        if max(drawing.size) > SIDE_AT_MOST:
            raise UserError(f"the drawing is larger than {SIDE_AT_MOST} pixels")
        drawing.load()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes its decoder raise
        raise UserError("the drawing is damaged") from error
    return drawing
