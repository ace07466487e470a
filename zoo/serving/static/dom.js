// Small helpers. Data become text nodes and never markup.

/** element("p", { class: "x", onclick: f }, "text", node): false and undefined attributes are left out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const find = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // an unchanged live region stays silent
}

/** Fills a <select>, and keeps what is chosen where it is still there. */
export function setOptions(select, options, chosen = select.value) {
  const wanted = options.map(([value, text]) => `${value}\n${text}`).join("\n");
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  }
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0]?.[0] ?? "");
}

export function percent(share, digits = 1) {
  if (typeof share !== "number") return "";
  const limit = 100 - 0.5 / 10 ** digits;
  if (share < 1 && share * 100 > limit) return `> ${(100 - 1 / 10 ** digits).toFixed(digits)} %`;
  return `${(share * 100).toFixed(digits)} %`;
}

export const count = (number) => Number(number).toLocaleString("en");

export function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** A command line with a button that copies it. */
export function showCommand(place, command) {
  let line = place.querySelector("pre");
  if (!line) {
    line = element("pre", { tabindex: 0, "aria-label": "Command line" });
    place.replaceChildren(line, element("button", { type: "button", onclick: (event) => copy(line, event.target) }, "Copy"));
  }
  place.hidden = false;
  setText(line, command);
}

async function copy(line, button) {
  try {
    await navigator.clipboard.writeText(line.textContent);
  } catch {
    getSelection().selectAllChildren(line); // a page without HTTPS from another machine has no clipboard of its own
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
