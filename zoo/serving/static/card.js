// One served model beside the others: its answer, its latency and its feature maps.
import { address, ask, curl, curlFile, request } from "./api.js";
import { count, element, median, milliseconds, percent, setOptions, setText } from "./dom.js";

const ROWS = 5; // classes shown where their names are long
const MAPS = 64; // of a level
const RECENT = 9; // latencies of which the median is shown

export class ModelCard {
  answer = null; // { label, probabilities, known } or null
  command = ""; // what was sent, as a command line
  choice = ""; // "", "versions/2" or "labels/stable"
  #latencies = [];
  #dirty = false;
  #busy = false;
  #round = 0; // grows when what is under way is no longer wanted
  #names = null;

  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.title = element("button", { type: "button", class: "name", title: "Choose this model", onclick: () => page.select(this) }, name);
    this.version = element("select", { "aria-label": `Version of ${name}`, onchange: () => this.#choose(this.version.value) });
    this.label = element("span", { class: "label" });
    this.mark = element("span", { class: "mark" });
    this.share = element("p", { class: "share" });
    this.bars = element("div", { class: "bars", role: "img" });
    this.levels = element("div", { class: "levels" });
    this.inside = element("details", { class: "inside", ontoggle: () => this.inside.open && this.refresh() }, element("summary", {}, "Feature maps"), this.levels);
    this.note = element("p", { class: "note" });
    this.latency = element("span", { class: "latency", title: `Median of the last ${RECENT} answers, as this page measures it` });
    this.facts = element("span", { class: "facts" });
    const about = element("button", { type: "button", class: "link", onclick: () => page.about(this) }, "Card");
    this.root = element(
      "article",
      { class: "card panel", "aria-label": name },
      element("div", { class: "line" }, this.title, this.version),
      element("div", { class: "answer" }, element("div", {}, element("p", {}, this.label, this.mark), this.share), this.bars),
      this.note,
      this.inside,
      element("div", { class: "line foot" }, this.latency, this.facts, about),
    );
  }

  /** The version that is asked, as `GET models` describes it; undefined where none is loaded. */
  get current() {
    const [kind, value] = this.choice.split("/");
    const number = kind === "versions" ? Number(value) : kind === "labels" ? this.model.labels[value] : undefined;
    const loaded = this.model.versions.filter((version) => version.state === "AVAILABLE" && version.inputs);
    return number === undefined ? loaded.reduce((a, b) => (a && a.version > b.version ? a : b), undefined) : loaded.find((version) => version.version === number);
  }

  /** Takes over what the server says of the model. */
  update(model) {
    const before = this.model && this.#identity();
    this.model = model;
    const options = versionOptions(model);
    if (!options.some(([value]) => value === this.choice)) {
      this.page.note(`${this.name}: ${this.choice.replace("s/", " ")} is gone, asking the latest`);
      this.choice = "";
    }
    setOptions(this.version, options, this.choice);
    const current = this.current;
    this.root.classList.toggle("away", !current);
    this.inside.hidden = !current?.features;
    const accuracy = current?.card?.results?.test?.accuracy;
    const parameters = current?.card?.parameters;
    setText(this.facts, typeof accuracy === "number" ? `${percent(accuracy)} on test images` : typeof parameters === "number" ? `${count(parameters)} parameters` : "");
    if (!current) this.#say(away(model));
    if (before !== this.#identity()) this.#restart();
  }

  #identity() {
    const { version, card, classes } = this.current ?? {};
    return JSON.stringify([version, card?.sha256, classes]);
  }

  #choose(choice) {
    this.choice = choice;
    this.update(this.model);
    this.#restart();
    this.page.select(this);
  }

  #restart() {
    this.#latencies = [];
    this.#names = null;
    this.blank();
    this.refresh();
  }

  /** Forgets the answer; what is under way will not be shown. */
  blank() {
    this.#round += 1;
    this.answer = null;
    for (const node of [this.label, this.share, this.latency]) setText(node, "");
    this.#judge("");
    this.#say(this.current ? "" : away(this.model));
    this.levels.replaceChildren();
    this.#drawBars();
    this.page.answered();
  }

  /** Asks about the present drawing, once more after the request that is under way. */
  async refresh() {
    this.#dirty = true;
    if (this.#busy) return;
    this.#busy = true;
    this.root.ariaBusy = "true";
    try {
      while (this.#dirty) {
        this.#dirty = false;
        if (this.current) await this.#ask();
      }
    } catch (error) {
      if (error.name === "TimeoutError") this.#say("No answer within 15 seconds");
      else this.page.lost(); // asks again when the server is back
    } finally {
      this.#busy = false;
      this.root.ariaBusy = "false";
    }
  }

  async #ask() {
    const round = this.#round;
    const { pad } = this.page;
    const picture = await pad.encoded();
    if (!picture || round !== this.#round) return;
    const { known } = pad;
    const path = address(this.name, this.choice, ":predict");
    const body = request(picture.b64);
    const answer = await ask(path, body);
    if (round !== this.#round) return;
    if (answer.status !== 200) return this.#refused(answer);
    const prediction = answer.data?.predictions?.[0];
    if (!Array.isArray(prediction?.probabilities)) return this.#say("The answer has no probabilities");
    this.#latencies = [...this.#latencies.slice(1 - RECENT), answer.ms];
    this.command = picture.name ? curlFile(path, picture.name) : curl(path, body);
    this.#show(prediction, known);
    if (this.inside.open && this.current?.features) await this.#look(picture, round);
  }

  #refused(answer) {
    this.#say(answer.data?.error ?? `Status ${answer.status}`);
    if (answer.status === 404) this.page.look(); // unloaded: what is there now?
    if ([404, 429, 503].includes(answer.status)) setTimeout(() => this.refresh(), 1000);
  }

  #say(text) {
    setText(this.note, text);
    this.note.hidden = !text;
  }

  #show({ probabilities, label, class_id: id }, known) {
    const best = id ?? probabilities.indexOf(Math.max(...probabilities));
    const text = String(label ?? this.#nameOf(best));
    this.answer = { label: text, probabilities, best, known };
    setText(this.label, text);
    this.label.classList.toggle("long", text.length > 2);
    setText(this.share, percent(probabilities[best]));
    this.#judge(known === null || !this.current?.classes.includes(known) ? "" : known === text ? "right" : "wrong");
    setText(this.latency, milliseconds(median(this.#latencies)));
    this.#say("");
    this.#drawBars();
    this.page.answered();
  }

  #judge(verdict) {
    setText(this.mark, { right: "✓", wrong: "✗" }[verdict] ?? "");
    this.mark.title = verdict;
    this.mark.className = `mark ${verdict}`;
  }

  #nameOf = (index) => this.current?.classes[index] ?? String(index);

  /** Columns for up to a dozen short names, else a row for each of the most probable classes. */
  #drawBars() {
    const { probabilities, best } = this.answer ?? {};
    const names = this.current?.classes ?? [];
    const size = probabilities?.length ?? names.length;
    const columns = size > 0 && size <= 12 && names.slice(0, size).every((name) => name.length <= 2);
    const order = [...Array(size).keys()];
    if (!columns && probabilities) order.sort((a, b) => probabilities[b] - probabilities[a]);
    const shown = columns ? order : order.slice(0, ROWS);
    this.bars.classList.toggle("columns", columns);
    this.bars.classList.toggle("rows", !columns);
    const wanted = `${columns} ${shown.length}`;
    if (this.#names !== wanted) {
      this.#names = wanted;
      this.bars.replaceChildren(...shown.map(() => element("div", {}, element("span", { class: "bar" }, element("i")), element("span", { class: "class" }))));
    }
    shown.forEach((index, place) => {
      const bar = this.bars.children[place];
      const share = probabilities?.[index] ?? 0;
      bar.classList.toggle("best", index === best);
      bar.title = `${this.#nameOf(index)}: ${percent(share, 2)}`;
      bar.firstChild.firstChild.style.setProperty("--share", share);
      setText(bar.lastChild, probabilities || columns ? this.#nameOf(index) : "");
    });
    const top = probabilities ? [...order].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 3) : [];
    this.bars.setAttribute("aria-label", top.map((index) => `${this.#nameOf(index)}: ${percent(probabilities[index])}`).join(", ") || "No answer yet");
  }

  /** Asks for the pixels that the model sees, and with them for the activations of every level. */
  async #look(picture, round) {
    const pixels = await ask(address(this.name, this.choice).replace("v1/models/", "prepare/"), picture.blob, 1);
    if (round !== this.#round || pixels.status !== 200) return;
    const answer = await ask(address(this.name, this.choice, ":predict"), pixels.text, 1);
    if (round !== this.#round || answer.status !== 200 || !this.answer) return;
    const levels = Object.entries(answer.data?.predictions?.[0] ?? {}).sort(fromInputToOutput);
    const wanted = [["input", pixels.data.instances[0]], ...levels];
    if (this.levels.children.length !== wanted.length) this.levels.replaceChildren(...wanted.map(() => figure()));
    wanted.forEach(([name, values], index) => draw(this.levels.children[index], name, values));
  }
}

/** The choices for a model: the latest, each loaded version, each label of one. */
export function versionOptions(model) {
  const loaded = model.versions.filter((version) => version.state === "AVAILABLE").map((version) => version.version);
  const labels = Object.entries(model.labels).filter(([, version]) => loaded.includes(version));
  return [
    ["", loaded.length ? `latest (${Math.max(...loaded)})` : "latest"],
    ...loaded.map((version) => [`versions/${version}`, `version ${version}`]),
    ...labels.map(([label, version]) => [`labels/${label}`, `${label} (${version})`]),
  ];
}

/** Why nothing of a model is loaded. */
export function away(model) {
  const failed = model.versions.find((version) => version.error);
  if (failed) return failed.error;
  return model.versions.some((version) => version.state === "LOADING" || version.state === "START") ? "Loading" : "Not loaded";
}

/** Maps come before units and large ones before small ones; of units the logits come last. */
function fromInputToOutput([one, a], [other, b]) {
  const height = (values) => (Array.isArray(values[0]) ? values.length : 0);
  return height(b) - height(a) || (one === "logits") - (other === "logits");
}

const figure = () => element("figure", {}, element("figcaption"), element("canvas", { role: "img" }));

/** Draws a level: the input as it is, maps side by side, units as a strip. Opacity is the root of the strength; below 0 is gray. */
function draw(place, name, values) {
  const [caption, canvas] = place.children;
  const dense = !Array.isArray(values[0]);
  const maps = dense ? [[values]] : values; // units are maps of one pixel
  const [height, width, depth] = [maps.length, maps[0].length, maps[0][0].length];
  const shown = dense ? depth : Math.min(depth, MAPS);
  const sizes = dense ? [depth] : depth > 1 ? [height, width, depth] : [height, width];
  setText(caption, `${name} · ${sizes.join(" × ")}`);
  canvas.setAttribute("aria-label", `${name}: ${shown} ${dense ? "units" : `maps of ${height} by ${width}`}`);
  place.className = dense || depth > 3 ? "maps" : "small";
  if (name === "input") {
    const gray = depth === 1;
    return paint(canvas, width, height, (set) => maps.forEach((row, y) => row.forEach((pixel, x) => set(x, y, pixel[0], gray ? pixel[0] : pixel[1], gray ? pixel[0] : pixel[2], 255))));
  }
  const columns = [8, 16, 32, 64][dense ? (depth > 256 ? 3 : 2) : shown > 16 ? 1 : 0];
  const across = Math.min(columns, shown);
  const gap = dense ? 0 : 1;
  const strongest = maps.flat(2).reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  const colours = getComputedStyle(place);
  const [above, below] = ["--accent", "--below"].map((colour) => rgb(colours.getPropertyValue(colour)));
  paint(canvas, across * (width + gap) - gap, Math.ceil(shown / across) * (height + gap) - gap, (set) => {
    for (let map = 0; map < shown; map += 1) {
      const [left, top] = [(map % across) * (width + gap), Math.floor(map / across) * (height + gap)];
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          const value = maps[y][x][map];
          set(left + x, top + y, ...(value < 0 ? below : above), 255 * Math.sqrt(Math.abs(value) / strongest));
        }
      }
    }
  });
}

/** Paints pixels by `fill(set)`, set(x, y, red, green, blue, opacity). */
function paint(canvas, width, height, fill) {
  const image = new ImageData(width, height);
  fill((x, y, ...colour) => image.data.set(colour, 4 * (y * width + x)));
  Object.assign(canvas, { width, height }).getContext("2d").putImageData(image, 0, 0);
}

const rgb = (hex) => [1, 3, 5].map((place) => parseInt(hex.trim().slice(place, place + 2), 16));
