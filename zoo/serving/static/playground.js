// The page: finds the models, hands the drawing to all of them, and keeps going when the server does not.
import { facts, showAbout, signatureTable } from "./about.js";
import { signatures } from "./api.js";
import { ModelCard, away } from "./card.js";
import { Console } from "./console.js";
import { element, find, setText, showCommand } from "./dom.js";
import { Pad } from "./pad.js";

const EVERY = 2000; // ms between two looks at what is served
const SLOWEST = 5000; // of the waits for a server that does not answer
const OPEN_LISTS = 4; // other models whose metadata are shown at once
const wide = matchMedia("(min-width: 56rem)");

const page = {
  cards: new Map(),
  selected: null,
  pad: null,
  select,
  about: (card) => {
    select(card);
    showAbout(card);
  },
  answered: () => queue(summarize),
  note,
  lost,
  look: () => plan(0),
};
page.pad = new Pad(find("pad"), drawingChanged);
const form = new Console(page.pad);
let known = ""; // the last answer to `GET models`
let online = null;
let wait = 0;
let timer = 0;
let looking = false;
let noteTimer = 0;
let live = 0;
const queued = new Set();

/** Runs a function once before the next frame. */
function queue(work) {
  if (queued.has(work)) return;
  queued.add(work);
  requestAnimationFrame(() => {
    queued.delete(work);
    work();
  });
}

function drawingChanged(anew) {
  for (const card of page.cards.values()) {
    if (anew) card.blank();
    card.refresh();
  }
  queue(summarize);
}

// --- what is served ---

function plan(delay) {
  clearTimeout(timer);
  timer = setTimeout(look, delay);
}

async function look() {
  if (looking) return;
  looking = true;
  try {
    const response = await fetch("models", { cache: "no-cache", signal: AbortSignal.timeout(SLOWEST) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const text = await response.text();
    if (text !== known) take(JSON.parse(text).models);
    known = text;
    found();
  } catch {
    down();
  }
  looking = false;
  plan(online ? EVERY : wait);
}

function found() {
  wait = 0;
  if (online === false) for (const card of page.cards.values()) card.refresh();
  if (!online) status("Live", "live");
  online = true;
}

function down() {
  wait = Math.min(wait ? wait * 1.6 : 400, SLOWEST);
  online = false;
  status("The server does not answer, trying again", "lost");
}

/** Called where a request was not answered. */
function lost() {
  if (online === false) return; // looked for already
  down();
  plan(wait);
}

function take(models) {
  const images = models.filter(({ name, versions }) => versions.some(({ image }) => image) || (page.cards.has(name) && !versions.some(({ inputs }) => inputs)));
  const names = new Set(images.map(({ name }) => name));
  for (const [name, card] of page.cards) {
    if (names.has(name)) continue;
    card.root.remove();
    page.cards.delete(name);
  }
  for (const model of images) {
    if (!page.cards.has(model.name)) addCard(model.name);
    page.cards.get(model.name).update(model);
  }
  for (const id of ["left", "answers"]) find(id).hidden = !images.length;
  if (!page.cards.has(page.selected?.name)) select(page.cards.values().next().value ?? null);
  showOthers(models.filter(({ name }) => !names.has(name)), images.length > 0);
  find("console").hidden = !models.length;
  if (!images.length && !known) find("console").open = true;
  form.update(models);
  const digits = [...page.cards.values()].some((card) => card.current?.classes.includes("0"));
  find("examples").hidden = !digits || !find("examples").children.length;
  find("hint").firstElementChild.textContent = digits ? "Draw a digit" : "Draw something";
  queue(summarize);
}

function addCard(name) {
  const card = new ModelCard(name, page);
  card.inside.open = find("maps").checked;
  page.cards.set(name, card);
  find("cards").append(card.root);
}

/** Models that take no images: what they are, and their metadata. */
function showOthers(models, besideImages) {
  find("others").hidden = !models.length && besideImages;
  setText(find("others-title"), besideImages ? "Also served" : models.length ? "Models" : "No model is served yet");
  const open = new Set([...find("list").querySelectorAll("details[open]")].map((node) => node.dataset.name));
  find("list").replaceChildren(...models.map((model) => otherModel(model, open.has(model.name) || (!known && !besideImages && models.length <= OPEN_LISTS))));
}

function otherModel(model, open) {
  const loaded = model.versions.filter((version) => version.state === "AVAILABLE").map((version) => version.version);
  const labels = Object.entries(model.labels).map(([label, version]) => `${label} (${version})`);
  const table = element("div", { class: "signatures" });
  const state = loaded.length ? `version ${loaded.join(", ")}` : away(model);
  const summary = element("summary", {}, element("b", {}, model.name), element("span", { class: "muted" }, ` ${state}`));
  const rows = [
    ["States", model.versions.map(({ version, state: one }) => `${version} ${one}`).join(", ")],
    ["Labels", labels.join(", ")],
    ["Problem", model.versions.map(({ error }) => error).filter(Boolean).join(" ")],
  ];
  const node = element("details", { class: "panel", "data-name": model.name }, summary, facts(rows.filter(([, value]) => value)), table);
  node.addEventListener("toggle", async () => {
    if (!node.open || !loaded.length || table.children.length) return;
    try {
      table.replaceChildren(signatureTable(await signatures(model.name, "")));
    } catch {
      lost();
    }
  });
  node.open = open;
  return node;
}

// --- what is shown of it ---

function select(card) {
  page.selected = card;
  for (const one of page.cards.values()) {
    one.root.classList.toggle("selected", one === card);
    one.title.setAttribute("aria-pressed", String(one === card));
  }
  queue(summarize);
}

/** The headline, the command, and after a pause what a screen reader says. */
function summarize() {
  const cards = [...page.cards.values()];
  const answers = cards.map((card) => card.answer).filter(Boolean);
  const text = answers.length ? verdict(answers) : cards.length === 1 ? cards[0].name : `${cards.length} models`;
  setText(find("verdict"), text);
  clearTimeout(live);
  live = setTimeout(() => setText(find("live"), answers.length ? text : ""), 700);
  const command = page.selected?.answer && page.selected.command;
  find("command").hidden = !command;
  if (command) showCommand(find("command").querySelector(".shell"), command);
  for (const id of ["undo", "clear"]) find(id).disabled = page.pad.empty;
}

function verdict(answers) {
  const votes = new Map();
  for (const { label } of answers) votes.set(label, (votes.get(label) ?? 0) + 1);
  const [label, most] = [...votes].sort((a, b) => b[1] - a[1])[0];
  if (answers.length === 1) return `It says ${label}`;
  if (most === 1) return `They say ${[...votes.keys()].slice(0, 4).join(", ")}`;
  return most === answers.length ? `All ${most} models say ${label}` : `${most} of ${answers.length} models say ${label}`;
}

function status(text, kind) {
  setText(find("status"), text);
  find("status").dataset.kind = kind;
}

/** Says something for a while. */
function note(text) {
  if (!online) return;
  status(text, "note");
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => online && status("Live", "live"), 8000);
}

function openMaps() {
  for (const card of page.cards.values()) card.inside.open = find("maps").checked;
}

// --- what the reader does ---

async function open(file) {
  if (!file) return;
  try {
    await page.pad.open(file);
  } catch {
    note(`${file.name || "This"} is not an image that can be shown`);
  }
}

const image = (list) => [...(list ?? [])].find((file) => file.type.startsWith("image/")) ?? list?.[0];
find("undo").addEventListener("click", () => page.pad.undo());
find("clear").addEventListener("click", () => page.pad.clear());
find("file").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
find("maps").addEventListener("change", openMaps);
addEventListener("paste", (event) => event.clipboardData.files.length && open(image(event.clipboardData.files)));
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    find("frame").classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget || find("frame").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("frame").classList.remove("over");
  open(image(event.dataTransfer.files));
});
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && plan(0));

/** Examples are strokes of points "xxyy", in hundredths of the side. */
async function loadExamples() {
  const examples = await (await fetch("static/strokes.json")).json();
  const points = (stroke) => stroke.split(" ").map((point) => [point.slice(0, 2) / 100, point.slice(2) / 100]);
  const show = (digit) => () => page.pad.replay(examples[digit].map(points), digit);
  const button = (digit) => element("button", { type: "button", onclick: show(digit), "aria-label": `Draw a ${digit}` }, digit);
  find("examples").replaceChildren(...Object.keys(examples).map(button));
}

find("maps").checked = wide.matches;
loadExamples().catch(() => {}).then(look);
