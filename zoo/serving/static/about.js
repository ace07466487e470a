// What is known about a model: its card in words, its signatures, its golden requests.
import { signatures } from "./api.js";
import { away } from "./card.js";
import { count, element, find, percent } from "./dom.js";

const number = (value) => typeof value === "number" && Number.isFinite(value);
const shape = (sizes) => (Array.isArray(sizes) ? sizes.join(" × ") : "");
const time = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

export function showAbout(card) {
  const dialog = find("about");
  const version = card.current;
  const table = element("div", { class: "signatures" }, "…");
  dialog.replaceChildren(
    element("div", { class: "line" }, element("h2", { id: "about-title" }, card.name), element("button", { type: "button", onclick: () => dialog.close() }, "Close")),
    element("p", { class: "muted" }, version ? `version ${version.version}` : away(card.model)),
    version?.card ? cardInWords(version.card) : element("p", {}, "This export has no card."),
    element("h3", {}, "Signatures"),
    table,
    version?.golden?.length ? element("p", { class: "muted" }, `Golden requests with their answers lie in the export for ${version.golden.join(", ")}.`) : null,
    version?.card ? element("details", {}, element("summary", {}, "The whole card"), element("pre", { tabindex: 0 }, JSON.stringify(version.card, null, 1))) : null,
  );
  dialog.onclick = (event) => event.target === dialog && dialog.close(); // beside it
  dialog.showModal();
  signatures(card.name, card.choice).then(
    (found) => table.replaceChildren(signatureTable(found)),
    () => table.replaceChildren("The server does not answer."),
  );
}

/** Card fields may be anything where an export is not the zoo's, so each is looked at before it is shown. */
function cardInWords(card) {
  const { recipe = {}, seeds = {}, results = {} } = card;
  const test = results?.test ?? {};
  const interval = Array.isArray(test.accuracy_interval) ? ` (95 % interval ${test.accuracy_interval.map((end) => percent(end, 2)).join(" to ")})` : "";
  const training = [recipe?.epochs && `${recipe.epochs} epochs`, recipe?.batch_size && `batches of ${recipe.batch_size}`, recipe?.optimizer].filter(Boolean).join(", ");
  const spread = number(seeds?.mean) && number(seeds.standard_deviation);
  const rows = [
    ["Test accuracy", number(test.accuracy) && `${percent(test.accuracy, 2)}${interval}`],
    ["Over seeds", spread && `${percent(seeds.mean, 2)} ± ${(seeds.standard_deviation * 100).toFixed(2)} (${seeds.count})`],
    ["Parameters", number(card.parameters) && count(card.parameters)],
    ["Input", shape(card.input_shape)],
    ["Classes", Array.isArray(card.class_names) && card.class_names.join(", ")],
    ["Trained on", card.dataset],
    ["Training", training && `${training}${number(card.seconds) && card.seconds ? `; ${time(card.seconds)}` : ""}`],
    ["Licence", card.license],
  ];
  return facts(rows.filter(([, value]) => value));
}

export const facts = (rows) => element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));

/** A table of signatures from a model's metadata. */
export function signatureTable(found) {
  const row = ([name, { method_name: method, inputs, outputs }]) =>
    element("tr", {}, element("th", { scope: "row" }, name, element("small", {}, method.split("/").at(-1))), element("td", {}, ...tensors(inputs)), element("td", {}, ...tensors(outputs)));
  const head = element("tr", {}, ...["Signature", "Takes", "Gives"].map((name) => element("th", { scope: "col" }, name)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...Object.entries(found).map(row)));
}

export const dimensions = ({ tensor_shape: known }) => (!known || known.unknown_rank ? null : (known.dim ?? []).map((one) => Number(one.size)));
export const typeName = ({ dtype }) => String(dtype).replace(/^DT_/, "").toLowerCase();

function tensors(infos = {}) {
  const text = (info) => {
    const sizes = dimensions(info);
    return `${typeName(info)} ${sizes ? `(${sizes.map((one) => (one < 0 ? "…" : one)).join(", ")})` : "of any shape"}`;
  };
  return Object.keys(infos).sort().map((name) => element("div", {}, element("code", {}, name), ` ${text(infos[name])}`));
}
