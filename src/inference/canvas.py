"""A board to draw a character on, as the parts of a Gradio HTML component, and what comes off it.

Gradio's own board, ImageEditor (6.31), says nothing of the first stroke and takes seconds for each
further one. This one draws on a canvas; its value is a data URL of what is drawn, "" while it is
empty, and follows the pen while it moves.
"""

import base64
import io

from PIL import Image

from src.core.errors import UserError

SIDE_AT_MOST = 1024
"""Longer side of a drawing or picture, in pixels."""

_URL = "data:image/png;base64,"

_LENGTH_AT_MOST = 8 * 2**20

HTML = '<div class="paper empty"><canvas aria-label="Draw one character here"></canvas></div>'

CSS = """
.paper { position: relative; line-height: 0; }
canvas {
  width: 100%;
  aspect-ratio: 1;
  max-height: 75vh;
  object-fit: contain;
  background: #fff;  /* in the dark too: strokes are black */
  border-radius: 8px;
  box-shadow: 0 0 0 1px var(--border-color-primary);
  cursor: crosshair;
  touch-action: none;  /* a finger draws and does not scroll */
}
.paper.empty::after {
  content: "Draw one character here";
  position: absolute;
  inset: 0;
  display: grid;
  place-items: center;
  color: #6b7280;
  font-size: 18px;
  pointer-events: none;
}
"""

JS = """
const SIDE = 560;  // of the empty board, in pixels
const PEN = 1 / 16;  // in sides of the board
const WAIT = 60;  // milliseconds between two values

const paper = element.querySelector(".paper");
const board = element.querySelector("canvas");
const ink = board.getContext("2d", { willReadFrequently: true });
let value = "";  // what the board shows
let timer = null;
let drawing = null;  // the pointer that draws
let last;

function blank(width, height) {
  board.width = width;
  board.height = height;
  ink.fillStyle = "white";
  ink.fillRect(0, 0, width, height);
  ink.lineWidth = PEN * Math.max(width, height);
  ink.lineCap = ink.lineJoin = "round";
}

function changed() {
  paper.classList.remove("empty");
  timer ??= setTimeout(() => {
    timer = null;
    props.value = value = board.toDataURL();
  }, WAIT);
}

// Somebody else changed the value: it was cleared, or a picture was opened.
watch("value", async () => {
  const wanted = props.value ?? "";
  if (wanted === value) return;
  value = wanted;
  clearTimeout(timer);
  timer = drawing = null;
  paper.classList.toggle("empty", !wanted);
  if (!wanted) return blank(SIDE, SIDE);
  const picture = new Image();
  picture.src = wanted;
  await picture.decode();
  if (wanted !== value) return;
  blank(picture.width, picture.height);
  ink.drawImage(picture, 0, 0);
});

// Where on the board's pixels a pointer is. The board is shown whole, in the middle of its element.
function place(event) {
  const box = board.getBoundingClientRect();
  const scale = Math.max(board.width / box.width, board.height / box.height);
  return [
    (event.clientX - box.left - box.width / 2) * scale + board.width / 2,
    (event.clientY - box.top - box.height / 2) * scale + board.height / 2,
  ];
}

board.addEventListener("pointerdown", (event) => {
  if (drawing !== null || event.button !== 0) return;
  event.preventDefault();
  drawing = event.pointerId;
  board.setPointerCapture(drawing);
  last = place(event);
  ink.beginPath();
  ink.arc(...last, ink.lineWidth / 2, 0, 2 * Math.PI);  // a line of no length would be nothing
  ink.fillStyle = "black";
  ink.fill();
  changed();
});
board.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing) return;
  const events = event.getCoalescedEvents?.() ?? [];
  ink.beginPath();
  ink.moveTo(...last);
  for (const one of events.length ? events : [event]) ink.lineTo(...(last = place(one)));
  ink.stroke();
  changed();
});
for (const end of ["pointerup", "pointercancel"]) {
  board.addEventListener(end, (event) => {
    if (event.pointerId === drawing) drawing = null;
  });
}
blank(SIDE, SIDE);
"""


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
