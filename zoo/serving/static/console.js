// A form that sends JSON to any model, with an example made from the model's metadata.
import { dimensions, typeName } from "./about.js";
import { address, ask, curl, signatures } from "./api.js";
import { versionOptions } from "./card.js";
import { find, milliseconds, setOptions, setText, showCommand } from "./dom.js";

const MOST = 20000; // characters of an answer that are shown
const DEFAULT = "serving_default";
const WHITE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="; // one pixel

export class Console {
  #models = [];
  #found = {};
  #asked = "";

  constructor(pad) {
    this.pad = pad;
    this.form = find("form");
    this.fields = this.form.elements;
    this.fields.model.addEventListener("change", () => this.#model());
    this.fields.version.addEventListener("change", () => this.#load());
    this.fields.signature.addEventListener("change", () => this.#signature());
    this.fields.method.addEventListener("change", () => this.#example());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    find("console").addEventListener("toggle", () => this.#load());
  }

  update(models) {
    this.#models = models.filter((model) => model.versions.some((version) => version.state === "AVAILABLE"));
    setOptions(this.fields.model, this.#models.map(({ name }) => [name, name]));
    this.#model();
  }

  #model() {
    const model = this.#models.find(({ name }) => name === this.fields.model.value);
    if (!model) return;
    setOptions(this.fields.version, versionOptions(model));
    this.#load();
  }

  /** Gets the metadata, where they are wanted and not there yet. */
  async #load() {
    const wanted = address(this.fields.model.value, this.fields.version.value);
    if (!find("console").open || !this.fields.model.value || wanted === this.#asked) return;
    this.#asked = wanted;
    try {
      const found = await signatures(this.fields.model.value, this.fields.version.value);
      if (wanted !== this.#asked) return;
      this.#found = found;
    } catch {
      this.#asked = ""; // tried again with the next list of models
      return;
    }
    const names = Object.keys(this.#found);
    const first = names.includes(DEFAULT) ? DEFAULT : names[0];
    setOptions(this.fields.signature, names.map((name) => [name, name]), first);
    this.#signature();
  }

  #signature() {
    const method = this.#found[this.fields.signature.value]?.method_name?.split("/").at(-1);
    this.fields.method.value = ["classify", "regress"].includes(method) ? method : "predict";
    this.#example();
  }

  async #example() {
    const name = this.fields.signature.value;
    const signature = this.#found[name];
    if (!signature) return;
    const picture = (await this.pad.encoded()) ?? { b64: WHITE };
    const example = name === "classify" && this.#found.predict_bytes ? { image_bytes: { b64: picture.b64 } } : { x: 0.5 };
    this.fields.body.value = exampleBody(name, signature, this.fields.method.value, picture.b64, example);
  }

  async #send() {
    const path = address(this.fields.model.value, this.fields.version.value, `:${this.fields.method.value}`);
    const body = this.fields.body.value;
    const outcome = this.fields.outcome;
    setText(outcome, "…");
    const response = find("response");
    try {
      const answer = await ask(path, body);
      setText(outcome, `Status ${answer.status} · ${milliseconds(answer.ms)}`);
      const text = answer.text.replace(/([{,])("(?:[^"\\]|\\.)*":)/g, "$1\n $2 "); // numbers stay as they came
      setText(response, text.length > MOST ? `${text.slice(0, MOST)}\n… ${text.length - MOST} more characters` : text);
      showCommand(this.form.querySelector(".shell"), curl(path, body));
    } catch (error) {
      setText(outcome, error.name === "TimeoutError" ? "No answer within 15 seconds" : "The server does not answer");
      setText(response, "");
    }
    response.hidden = !response.textContent;
  }
}

/** A body of zeros and empty strings that the signature takes. */
function exampleBody(name, { inputs = {} }, method, b64, example) {
  const named = name === DEFAULT ? {} : { signature_name: name };
  if (method !== "predict") return laidOut({ ...named, examples: [example] });
  const aliases = Object.keys(inputs).sort();
  const rows = aliases.every((alias) => dimensions(inputs[alias])?.length && dimensions(inputs[alias])[0] < 0);
  const values = aliases.map((alias) => [alias, zeros(inputs[alias], rows, alias.endsWith("_bytes") ? { b64 } : "")]);
  const value = values.length === 1 ? values[0][1] : Object.fromEntries(values);
  return laidOut({ ...named, ...(rows ? { instances: [value] } : { inputs: value }) });
}

function zeros(info, row, text) {
  const type = typeName(info);
  const zero = type === "string" ? text : type === "bool" ? false : 0;
  const sizes = dimensions(info) ?? [1];
  return (row ? sizes.slice(1) : sizes).reduceRight((inner, size) => Array(Math.max(size, 1)).fill(inner), zero);
}

/** JSON in lines: what is short stays on one. */
function laidOut(data, indent = "") {
  const flat = JSON.stringify(data);
  if (flat.length + indent.length <= 100 || data === null || typeof data !== "object") return flat;
  const inner = `${indent} `;
  const list = Array.isArray(data);
  const parts = list ? data.map((value) => laidOut(value, inner)) : Object.entries(data).map(([key, value]) => `${JSON.stringify(key)}: ${laidOut(value, inner)}`);
  if (list && data.every((value) => value === null || typeof value !== "object")) return `[${parts.join(", ")}]`;
  return `${list ? "[" : "{"}\n${parts.map((part) => inner + part).join(",\n")}\n${indent}${list ? "]" : "}"}`;
}
