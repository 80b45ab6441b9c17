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
