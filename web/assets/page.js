// What the three pages share: the stream a path names, its addresses, small DOM helpers, figures as text.

export const RTMP_PORT = 1935;

// The node answers at once; whoever is silent for so long will not answer.
const REQUEST_MS_MAX = 10_000;

// `/play/APP/STREAM` or `/publish/APP/STREAM` -> the stream, its URL path, and its addresses on this host.
export function streamOfPath(pathname = location.pathname) {
  const [, , app = "", ...rest] = pathname.split("/").map(decodeSegment);
  return stream(app, rest.join("/"));
}

// A node with tokens: the page's own `?token=` is shown to the node, and handed on to the pages it links.
const TOKEN = new URLSearchParams(location.search).get("token");
const TOKEN_QUERY = TOKEN ? `?token=${encodeURIComponent(TOKEN)}` : "";

export function stream(app, name) {
  const path = `${encodeURIComponent(app)}/${name.split("/").map(encodeURIComponent).join("/")}`;
  return {
    app,
    name,
    title: `${app}/${name}`,
    play: `/play/${path}${TOKEN_QUERY}`,
    whip: `/whip/${path}`,
    whep: `/whep/${path}`,
    flv: `/${path}.flv${TOKEN_QUERY}`,
    rtmp: (port = RTMP_PORT) => `${rtmpServer(port)}/${path}${TOKEN_QUERY}`,
  };
}

export function rtmpServer(port = RTMP_PORT) {
  return `rtmp://${location.hostname}${port === RTMP_PORT ? "" : `:${port}`}`;
}

function decodeSegment(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

// --- the node's API ---

export class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "HttpError";
    this.status = status;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached");
    this.name = "Unreachable";
  }
}

// An answer of 2xx, or an error whose message can be shown as it is.
export async function request(url, init = {}) {
  let response;
  try {
    const headers = { ...init.headers, ...(TOKEN && { Authorization: `Bearer ${TOKEN}` }) };
    response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(REQUEST_MS_MAX), ...init, headers });
  } catch {
    throw new Unreachable();
  }
  if (!response.ok) throw await httpError(response);
  return response;
}

// The sentence a failed answer carries: JSON {error} or text/plain, else the status.
async function httpError(response) {
  const text = (await response.text().catch(() => "")).trim();
  let message = text;
  if ((response.headers.get("Content-Type") ?? "").includes("json")) {
    try {
      message = String(JSON.parse(text).error ?? text);
    } catch {
      // Not JSON after all: show it as it came.
    }
  }
  if (!message || message.startsWith("<")) message = `The server answered ${response.status} ${response.statusText}`.trim();
  return new HttpError(response.status, message.slice(0, 400));
}

export async function getJson(url) {
  const response = await request(url, { headers: { Accept: "application/json" } });
  return response.json();
}

// The list's entry of a stream: an object, null when nobody publishes it, undefined when the node cannot be asked.
export async function lookUp(wanted) {
  try {
    const { streams = [] } = await getJson("/api/v1/streams");
    const found = streams.find((s) => s.app === wanted.app && s.name === wanted.name);
    return found?.publish?.active ? found : null;
  } catch {
    return undefined;
  }
}

// --- DOM ---

export const $ = (id) => document.getElementById(id);

// An element with attributes and children. Text always goes in as text.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The line at the top right; state is live, busy, bad or empty.
export function setStatus(text, state = "") {
  const node = $("status");
  setText(node, text);
  node.dataset.state = state;
}

// The box below the picture; an empty text hides it.
export function setNotice(text) {
  const node = $("notice");
  setText(node, text);
  node.hidden = !text;
}

// Fills <dd data-figure=NAME> from an object of {NAME: text or [text, title]}; a missing one shows a dash.
export function showFigures(figures) {
  for (const node of document.querySelectorAll("[data-figure]")) {
    const [text, title] = [figures[node.dataset.figure] ?? "–"].flat();
    setText(node, text);
    if (title) node.title = title;
    else node.removeAttribute("title");
  }
}

// Buttons with data-copies=ID copy that element's text; `copyButton` makes one for a given text.
export function wireCopyButtons() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.addEventListener("click", () => copy(button, $(button.dataset.copies).textContent));
  }
}

export function copyButton(label, text) {
  const button = el("button", { type: "button", title: text }, label);
  button.addEventListener("click", () => copy(button, text));
  return button;
}

async function copy(button, text) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  button.textContent = (await writeClipboard(text)) ? "Copied" : "Copy failed";
  setTimeout(() => (button.textContent = label), 1500);
}

async function writeClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard API exists only on https and localhost; nodes are often looked at by address.
  }
  const field = el("textarea", { readonly: "", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

// --- numbers as text ---

export function bitrate(bitsPerSecond) {
  if (!Number.isFinite(bitsPerSecond)) return "–";
  if (bitsPerSecond >= 999_500) return `${(bitsPerSecond / 1e6).toFixed(2)} Mbit/s`;
  return `${Math.round(bitsPerSecond / 1000)} kbit/s`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "–";
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  const clock = `${two(Math.floor(s / 3600) % 24)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return s >= 86400 ? `${Math.floor(s / 86400)} d ${clock}` : clock;
}

export function millis(seconds) {
  return Number.isFinite(seconds) ? `${Math.round(seconds * 1000)} ms` : "–";
}

export function percent(part, whole) {
  return whole > 0 ? `${((100 * part) / whole).toFixed(part > 0 ? 2 : 0)} %` : "–";
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits between attempts: 0.5 s, doubling to 5 s, from the start again once an attempt has worked.
export class BackOff {
  #ms = 500;
  next() {
    const ms = this.#ms;
    this.#ms = Math.min(this.#ms * 2, 5000);
    return ms;
  }
  reset() {
    this.#ms = 500;
  }
}
