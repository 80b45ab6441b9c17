"""Provide a canvas to draw on, as the parts of a Gradio HTML component; decode its drawings.

Gradio's own ImageEditor (6.31) reports no first stroke and takes seconds for each further one. The
value of this component is a PNG of the drawing as a data URL, "" while it is empty, and is updated
while the pen moves.
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


def encode(picture: Image.Image) -> str:
    """Encode a picture as the canvas's value, shrunk to SIDE_AT_MOST."""
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((SIDE_AT_MOST, SIDE_AT_MOST))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return _URL + base64.b64encode(content.getvalue()).decode()


def decode(value: str) -> Image.Image:
    """Decode the canvas's value, which comes from a browser and may be anything.

    Raises:
        UserError: it is no drawing of the canvas.
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
