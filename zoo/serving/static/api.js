// The server: addresses, requests, and the same request as a command line.

const LANES = 2; // requests at the same time, so that models do not slow each other down and latencies mean something
const PATIENCE = 15000;
const waiting = [[], []];
let free = LANES;

/** `v1/models/NAME`, `.../versions/2:predict` and the like; `choice` is "", "versions/2" or "labels/stable". */
export function address(name, choice, rest = "") {
  const parts = choice.split("/").map(encode).join("/");
  return `v1/models/${encode(name)}${parts && "/"}${parts}${rest}`;
}

export function encode(text) {
  return encodeURIComponent(text).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** Sends a request when a lane is free. Requests of priority 0 go first. Rejects where the server does not answer. */
export async function ask(path, body, priority = 0) {
  if (free > 0) free -= 1;
  else await new Promise((resolve) => waiting[priority].push(resolve));
  try {
    const began = performance.now();
    const options = body === undefined ? {} : { method: "POST", body };
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
    const text = await response.text();
    return { status: response.status, text, ms: performance.now() - began, data: parsed(text) };
  } finally {
    const next = waiting[0].shift() ?? waiting[1].shift();
    if (next) next();
    else free += 1;
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // as where a model answers NaN, which JSON does not have
  }
}

/** The signatures of a model, as the metadata have them, sorted. */
export async function signatures(name, choice) {
  const answer = await ask(address(name, choice, "/metadata"), undefined, 1);
  const found = Object.entries(answer.data?.metadata?.signature_def?.signature_def ?? {});
  return Object.fromEntries(found.filter(([name]) => !name.startsWith("__")).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const quote = (text) => (/^[\w:/.%@=+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const absolute = (path) => new URL(path, document.baseURI).href;

export const curl = (path, body) => `curl -s ${quote(absolute(path))} -d ${quote(body)}`;

/** The same for a file, whose content would be too long for a command line. */
export function curlFile(path, file) {
  const [before, after] = request("\n").split("\n");
  const parts = `printf ${quote(before)}; base64 < ${quote(file)} | tr -d '\\n'; printf ${quote(after)}`;
  return `(${parts}) | curl -s ${quote(absolute(path))} -d @-`;
}

/** A request for `predict_bytes`; the line break stands for what is put in later. */
export const request = (b64) => `{"signature_name":"predict_bytes","instances":[{"b64":"${b64}"}]}`;
