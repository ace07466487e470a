// The drawing: strokes by mouse, touch, pen and keyboard, or an image file; and what is sent of it.
import { find, setText } from "./dom.js";

const PEN = 0.075; // of the side: about what a pen takes of a digit of the data sets
const SENT = 140; // pixels of the side of what is sent
const STEP = 0.04;
const READ_BY_SERVER = ["image/png", "image/jpeg", "image/gif", "image/bmp", "image/webp"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Pad {
  strokes = [];
  picture = null; // { bitmap, file } of an image file
  known = null; // the class of an example that is shown
  #sent = null;
  #held = new Set();
  #pen = { x: 0.5, y: 0.5, down: false, shown: false };
  #pointer = null;
  #show = 0;

  /** @param changed Called as changed(anew); `anew` where what was there before is gone. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => this.#held.delete(event.key));
    canvas.addEventListener("blur", () => this.#lift());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  get empty() {
    return !this.strokes.length && !this.picture;
  }

  clear() {
    this.#restart();
    this.#update(true);
  }

  undo() {
    if (this.picture) return this.clear();
    this.#show += 1;
    this.known = null;
    this.strokes.pop();
    this.#pen.down = false;
    this.#update(true);
  }

  /** Shows a file; rejects where the browser cannot read it as an image. */
  async open(file) {
    const bitmap = await createImageBitmap(file);
    this.#restart();
    this.picture = { bitmap, file: READ_BY_SERVER.includes(file.type) ? file : null }; // others go as the pad shows them
    this.#update(true);
  }

  /** Draws an example, point by point unless the reader asked for less motion. */
  replay(strokes, known) {
    this.#restart();
    const points = strokes.flatMap((stroke, index) => stroke.map((point) => [index, point]));
    const show = this.#show;
    const began = performance.now();
    let drawn = 0;
    const step = () => {
      if (show !== this.#show) return;
      const until = still.matches ? points.length : Math.ceil(points.length * Math.min((performance.now() - began) / 700, 1));
      for (; drawn < until; drawn += 1) (this.strokes[points[drawn][0]] ??= []).push(points[drawn][1]);
      this.known = drawn === points.length ? known : null;
      this.#update(false);
      if (drawn < points.length) requestAnimationFrame(step);
    };
    this.changed(true);
    step();
  }

  /** What is sent, { b64, name, blob }; `name` of a file. null of an empty drawing. */
  encoded() {
    if (this.empty) return Promise.resolve(null);
    this.#sent ??= this.#encode();
    return this.#sent;
  }

  async #encode() {
    const file = this.picture?.file;
    const blob = file ?? (await png(this.picture ? this.canvas : this.#paper()));
    const reader = new FileReader();
    const url = await new Promise((resolve, reject) => {
      Object.assign(reader, { onload: () => resolve(reader.result), onerror: reject });
      reader.readAsDataURL(blob);
    });
    return { b64: url.slice(url.indexOf(",") + 1), name: file?.name, blob };
  }

  /** Dark ink on white paper, whatever the page's colours are. */
  #paper() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SENT;
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SENT, SENT);
    drawStrokes(context, this.strokes, SENT, "#000");
    return canvas;
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const side = this.canvas.width;
    const colours = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, side, side);
    if (this.picture) {
      const { bitmap } = this.picture;
      const scale = side / Math.max(bitmap.width, bitmap.height);
      const [width, height] = [bitmap.width * scale, bitmap.height * scale];
      context.imageSmoothingEnabled = scale < 8;
      context.drawImage(bitmap, (side - width) / 2, (side - height) / 2, width, height);
    }
    drawStrokes(context, this.strokes, side, colours.getPropertyValue("--text"));
    if (this.#pen.shown) {
      context.beginPath();
      context.arc(this.#pen.x * side, this.#pen.y * side, (PEN / 2) * side, 0, 2 * Math.PI);
      context.lineWidth = 4;
      context.strokeStyle = context.fillStyle = colours.getPropertyValue("--accent");
      context.stroke();
      if (this.#pen.down) context.fill();
    }
    find("hint").hidden = !this.empty;
  }

  #restart() {
    this.#show += 1; // ends an example that is being drawn
    this.strokes = [];
    this.picture = this.known = null;
    this.#pen.down = false;
  }

  #update(anew) {
    this.#sent = null;
    this.paint();
    this.changed(anew);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #begin(point) {
    const anew = this.picture !== null;
    if (anew) this.#restart();
    this.#show += 1;
    this.known = null;
    this.strokes.push([point]);
    this.#update(anew);
  }

  #down(event) {
    if (event.button || this.#pointer !== null) return;
    this.#pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.#pen.shown = this.#pen.down = false;
    this.#begin(this.#point(event));
  }

  #move(event) {
    if (event.pointerId !== this.#pointer || !this.strokes.length) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.strokes.at(-1).push(...(events.length ? events : [event]).map((one) => this.#point(one)));
    this.#update(false);
  }

  #up(event) {
    if (event.pointerId === this.#pointer) this.#pointer = null;
  }

  #key(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.altKey || ((event.ctrlKey || event.metaKey) && key !== "z")) return;
    if (key in ARROWS) this.#steer(event);
    else if (key === " ") event.repeat || this.#toggle();
    else if (key === "c" || key === "Escape") this.clear();
    else if (key === "z" || key === "Backspace") this.undo();
    else return;
    event.preventDefault();
  }

  /** Two arrows held at the same time make a diagonal; with Shift the steps are small. */
  #steer(event) {
    this.#held.add(event.key);
    const pen = this.#pen;
    const step = event.shiftKey ? STEP / 4 : STEP;
    for (const key of this.#held) {
      pen.x = inside(pen.x + ARROWS[key][0] * step);
      pen.y = inside(pen.y + ARROWS[key][1] * step);
    }
    pen.shown = true;
    if (!pen.down || !this.strokes.length) return this.paint();
    this.strokes.at(-1).push([pen.x, pen.y]);
    this.#update(false);
  }

  #toggle() {
    const pen = this.#pen;
    const down = !pen.down;
    pen.shown = true;
    if (down) this.#begin([pen.x, pen.y]);
    pen.down = down;
    this.paint();
    setText(find("pen"), down ? "Pen down" : "Pen up");
  }

  #lift() {
    this.#held.clear();
    this.#pen.shown = this.#pen.down = false;
    this.paint();
  }
}

const inside = (value) => Math.min(Math.max(value, 0), 1);
const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** Draws smooth lines through the points: curves from middle to middle. */
function drawStrokes(context, strokes, side, colour) {
  context.lineWidth = PEN * side;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = colour;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * side, y * side]);
    context.beginPath();
    context.moveTo(...points[0]);
    points.slice(1, -1).forEach(([x, y], index) => {
      const [nextX, nextY] = points[index + 2];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    });
    context.lineTo(...points.at(-1));
    context.stroke();
  }
}
