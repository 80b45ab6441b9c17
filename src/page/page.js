// Draws on the board, and asks the server what is on it whenever that has changed.

const SIDE = 560; // of the empty board, in pixels
const PICTURE_SIDE = 1024; // at most; the server takes no larger one
const PEN = 1 / 16; // in sides of the board
const BARS = 10; // classes shown at most

const find = (id) => document.getElementById(id);
const board = find("board");
const ink = board.getContext("2d");
const seen = find("seen").getContext("2d");

let changes = 0; // counts what happened to the board or the choice of the model
let empty = true;
let problem = ""; // why the board is empty, if not because nothing was drawn
let asking = false;

function changed() {
  changes += 1;
  find("paper").classList.toggle("empty", empty);
  ask();
}

// One question at a time: what has changed during the answer is asked next.
async function ask() {
  if (asking) return;
  asking = true;
  find("answer").ariaBusy = "true";
  for (let asked = null; asked !== changes; ) {
    asked = changes;
    const answer = empty ? { message: problem } : await read();
    if (asked === changes || !empty) show(answer);
  }
  asking = false;
  find("answer").ariaBusy = "false";
}

async function read() {
  try {
    const png = await new Promise((done) => board.toBlob(done));
    const where = `read?model=${encodeURIComponent(find("model").value)}`;
    const response = await fetch(where, { method: "POST", body: png });
    return await response.json();
  } catch {
    return { message: "No answer: has the demo ended? Start it again, then reload this page." };
  }
}

function show({ message = "", classes = [], probabilities = [], seen: pixels = [], about = "" }) {
  find("message").textContent = message;
  find("message").hidden = !message;
  find("about").textContent = about;

  let order = [...classes.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const best = order[0];
  find("best").textContent = classes[best] ?? "";
  // Few classes keep their places, so that the eye can follow them while one draws.
  order = classes.length <= BARS ? [...classes.keys()] : order.slice(0, BARS);
  while (find("bars").children.length > order.length) find("bars").lastChild.remove();
  while (find("bars").children.length < order.length) find("bars").append(bar());
  order.forEach((i, place) => {
    const row = find("bars").children[place];
    const [name, share, text] = row.children;
    row.classList.toggle("best", i === best);
    name.textContent = classes[i];
    share.style.setProperty("--share", probabilities[i]);
    text.textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
  });

  const picture = seen.createImageData(28, 28);
  for (let i = 0; i < 28 * 28; i++) {
    picture.data.fill(pixels[i] ?? 0, 4 * i, 4 * i + 3);
    picture.data[4 * i + 3] = 255;
  }
  seen.putImageData(picture, 0, 0);
}

function bar() {
  const row = document.createElement("li");
  row.append(...["b", "i", "span"].map((tag) => document.createElement(tag)));
  return row;
}

function clear(reason = "") {
  blank(SIDE, SIDE);
  empty = true;
  problem = reason;
  changed();
}

function blank(width, height) {
  board.width = width;
  board.height = height;
  ink.fillStyle = "white";
  ink.fillRect(0, 0, width, height);
  ink.lineWidth = PEN * Math.max(width, height);
  ink.lineCap = ink.lineJoin = "round";
}

// Where on the board's pixels a pointer is. The board is shown whole, in the middle of its element.
function place(event) {
  const box = board.getBoundingClientRect();
  const scale = Math.max(board.width / box.width, board.height / box.height);
  return [
    (event.clientX - box.left - box.width / 2) * scale + board.width / 2,
    (event.clientY - box.top - box.height / 2) * scale + board.height / 2,
  ];
}

let drawing = null; // the pointer that draws
let last;

function draw(event) {
  if (event.pointerId !== drawing) return;
  const events = event.getCoalescedEvents?.() ?? [];
  ink.beginPath();
  ink.moveTo(...last);
  for (const one of events.length ? events : [event]) ink.lineTo(...(last = place(one)));
  ink.stroke();
  changed();
}

board.addEventListener("pointerdown", (event) => {
  if (drawing !== null || event.button !== 0) return;
  event.preventDefault();
  drawing = event.pointerId;
  board.setPointerCapture(drawing);
  last = place(event);
  ink.beginPath();
  ink.arc(...last, ink.lineWidth / 2, 0, 2 * Math.PI); // a dot; a line of no length is none
  ink.fillStyle = "black";
  ink.fill();
  empty = false;
  changed();
});
board.addEventListener("pointermove", draw);
for (const end of ["pointerup", "pointercancel"]) {
  board.addEventListener(end, (event) => {
    if (event.pointerId === drawing) drawing = null;
  });
}

find("clear").addEventListener("click", () => clear());

find("picture").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be opened again
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    clear(`${file.name} is no picture that this browser can show.`);
    return;
  }
  const scale = Math.min(1, PICTURE_SIDE / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((n) => Math.max(1, Math.round(n * scale)));
  blank(width, height);
  ink.drawImage(picture, 0, 0, width, height);
  empty = false;
  changed();
});

find("model").addEventListener("change", changed);

async function begin() {
  clear();
  const response = await fetch("models");
  for (const name of await response.json()) find("model").append(new Option(name));
}

begin();
