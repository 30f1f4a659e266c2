// The console: what is live on this node, asked for each second while the page is visible.
import {
  $, bitrate, copyButton, duration, el, getJson, request, RTMP_PORT, rtmpServer, setStatus, setText, stream, wireCopyButtons,
} from "./page.js";

const POLL_MS = 1000;
// Bitrates are means over this many polls.
const RATE_WINDOW = 5;

// key -> {row, cells, history}; rows stay in place so that a focus or an open menu is kept.
const rows = new Map();
const clientRows = new Map();
const linkRows = new Map();
let rtmpPort = RTMP_PORT;
let timer = null;

wire();
poll();

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await getJson("/api/v1/streams");
    if (Number.isInteger(answer.rtmp_port)) rtmpPort = answer.rtmp_port;
    show((answer.streams ?? []).filter((s) => s.publish?.active));
    // Without the right to manage the node there is nothing to show of its links.
    await getJson("/api/v1/nodes").then((answer) => showLinks(answer.nodes ?? {}), () => { $("links-panel").hidden = true; });
    if ($("clients-panel").open) showClients((await getJson("/api/v1/clients/")).clients ?? []);
    setStatus("Connected", "live");
  } catch (error) {
    setStatus(error.message, "bad");
  }
  clearTimeout(timer);
  timer = setTimeout(poll, POLL_MS);
}

function show(streams) {
  const totals = { viewers: 0, in: 0, out: 0 };
  sync($("rows"), rows, streams, (s) => `${s.app}/${s.name}`, makeRow, (entry, s) => {
    const rates = measure(entry, s);
    totals.viewers += viewersOf(s);
    totals.in += rates.in;
    totals.out += rates.out;
    fillRow(entry.cells, s, rates);
  });
  $("streams").hidden = streams.length === 0;
  $("empty").hidden = streams.length > 0;
  setText($("total-streams"), String(streams.length));
  setText($("total-viewers"), String(totals.viewers));
  setText($("total-in"), bitrate(totals.in));
  setText($("total-out"), bitrate(totals.out));
  setText($("how-ffmpeg"), `ffmpeg -re -i input.mp4 -c:v libx264 -preset veryfast -bf 0 -g 60 -c:a aac -f flv ${rtmpServer(rtmpPort)}/live/demo`);
  setText($("how-obs-server"), `${rtmpServer(rtmpPort)}/live`);
  setText($("how-obs-whip"), new URL("/whip/live/demo", location.href).href);
}

function makeRow(s) {
  const it = stream(s.app, s.name);
  const cells = {
    source: el("span", { class: "sub" }),
    video: el("span"),
    audio: el("span", { class: "sub" }),
    viewers: el("span"),
    viewersBy: el("span", { class: "sub" }),
    in: el("span"),
    out: el("span", { class: "sub" }),
    uptime: el("span"),
  };
  const cell = (label, ...children) => el("td", { "data-label": label }, el("div", {}, ...children));
  const row = el(
    "tr",
    {},
    cell("Stream", el("span", { class: "name" }, it.title), cells.source),
    cell("Tracks", cells.video, cells.audio),
    cell("Viewers", cells.viewers, cells.viewersBy),
    cell("Bitrate", cells.in, cells.out),
    cell("Uptime", cells.uptime),
    el(
      "td",
      { "data-label": "Watch" },
      el(
        "div",
        { class: "actions" },
        el("a", { class: "button primary", href: it.play, "aria-label": `Play ${it.title}` }, "Play"),
        el("a", { class: "button", href: `${it.play}${it.play.includes("?") ? "&" : "?"}via=flv`, "aria-label": `Play ${it.title} over FLV` }, "FLV"),
        copyButton("Copy RTMP", it.rtmp(rtmpPort)),
        copyButton("Copy FLV", new URL(it.flv, location.href).href),
      ),
    ),
  );
  return { row, cells, history: [] };
}

function fillRow(cells, s, rates) {
  const { whep = 0, rtmp = 0, flv = 0 } = s.viewers ?? {};
  const path = s.path?.length ? ` by ${s.path.join(", ")}` : "";
  setText(cells.source, s.source ? `from ${{ rtmp: "RTMP", whip: "WebRTC" }[s.source] ?? s.source}${path}` : "");
  setText(cells.video, s.video ? [s.video.codec, size(s.video), s.video.fps ? `${Math.round(s.video.fps)} fps` : ""].filter(Boolean).join(" · ") : "No video");
  setText(cells.audio, s.audio ? [s.audio.codec, s.audio.sample_rate ? `${s.audio.sample_rate / 1000} kHz` : "", { 1: "mono", 2: "stereo" }[s.audio.channel] ?? ""].filter(Boolean).join(" · ") : "No audio");
  setText(cells.viewers, String(viewersOf(s)));
  setText(cells.viewersBy, [[whep, "WebRTC"], [rtmp, "RTMP"], [flv, "FLV"]].filter(([n]) => n > 0).map(([n, by]) => `${n} ${by}`).join(" · "));
  setText(cells.in, `${bitrate(rates.in)} in`);
  setText(cells.out, `${bitrate(rates.out)} out`);
  setText(cells.uptime, duration(uptime(s)));
}

const size = ({ width, height }) => (width && height ? `${width}×${height}` : "");
const viewersOf = ({ viewers = {} }) => (viewers.whep ?? 0) + (viewers.rtmp ?? 0) + (viewers.flv ?? 0);
// `live_ms` as SRS has it is a Unix time; a number too small for one is the time it has been live.
const uptime = ({ live_ms }) => (live_ms > 1e12 ? Date.now() - live_ms : live_ms) / 1000;

// Bits a second in and out over the last polls; the node's own 30 s means until there are two.
function measure(entry, s) {
  const { history } = entry;
  history.push({ at: performance.now(), in: s.recv_bytes ?? 0, out: s.send_bytes ?? 0 });
  if (history.length > RATE_WINDOW + 1) history.shift();
  const [first, last] = [history[0], history.at(-1)];
  const ms = last.at - first.at;
  if (ms < POLL_MS / 2) return { in: (s.kbps?.recv_30s ?? 0) * 1000, out: (s.kbps?.send_30s ?? 0) * 1000 };
  // A counter that went back is a new publisher: never a negative rate.
  const rate = (way) => Math.max(0, (8000 * (last[way] - first[way])) / ms);
  return { in: rate("in"), out: rate("out") };
}

function showLinks({ node, links = [] }) {
  $("links-panel").hidden = !node;
  setText($("links-title"), `Links of node ${node} to others`);
  const ms = (it) => (it === null || it === undefined ? "–" : `${it.toFixed(1)} ms`);
  sync($("link-rows"), linkRows, links, (link) => link.node, makeLink, ({ cells }, link) => {
    const of = link.datagrams ?? {};
    setText(cells.state, link.up ? (link.draining ? "drains" : "up") : "down");
    setText(cells.rtt, link.up ? ms(link.rtt_ms) : "–");
    setText(cells.queue, link.up ? ms(link.queue_ms) : "–");
    setText(cells.loss, `${of.lost ?? 0} lost`);
    setText(cells.repaired, `${of.repaired ?? 0} of ${of.received ?? 0} repaired`);
    setText(cells.tracks, `${link.tracks_in} in · ${link.tracks_out} out`);
    const held = [[link.held_there, "there"], [link.held_here, "here"]].filter(([count]) => count);
    setText(cells.held, held.map(([count, where]) => `${count} held ${where}`).join(" · "));
  });
}

function makeLink(link) {
  const [state, repaired, held] = ["sub", "sub", "sub"].map((it) => el("span", { class: it }));
  const cells = { state, repaired, held, rtt: el("span"), queue: el("span"), loss: el("span"), tracks: el("span") };
  const cell = (label, ...children) => el("td", { "data-label": label }, el("div", {}, ...children));
  const row = el(
    "tr",
    {},
    cell("Node", el("span", { class: "name" }, link.node), cells.state),
    cell("Round trip", cells.rtt),
    cell("Queue", cells.queue),
    cell("Lost, repaired", cells.loss, cells.repaired),
    cell("Tracks", cells.tracks, cells.held),
  );
  return { row, cells };
}

function showClients(clients) {
  sync($("client-rows"), clientRows, clients, (c) => c.id, makeClient, ({ cells }, c) => setText(cells.alive, duration(c.alive)));
  $("clients").hidden = clients.length === 0;
  $("clients-note").hidden = clients.length > 0;
}

function makeClient(c) {
  const kinds = {
    "rtc-play": "WebRTC viewer",
    "rtmp-play": "RTMP viewer",
    "flv-play": "FLV viewer",
    "rtc-publish": "WebRTC publisher",
    "fmle-publish": "RTMP publisher",
  };
  const cells = { alive: el("span") };
  const kick = el("button", { type: "button", "aria-label": `Disconnect ${c.ip ?? ""} from ${c.url ?? ""}` }, "Disconnect");
  kick.addEventListener("click", () => disconnect(kick, c));
  const cell = (label, ...children) => el("td", { "data-label": label }, el("div", {}, ...children));
  const row = el(
    "tr",
    {},
    cell("Kind", kinds[c.type] ?? c.type ?? ""),
    cell("Stream", c.url ?? ""),
    cell("Address", c.ip ?? ""),
    cell("Connected", cells.alive),
    el("td", { "data-label": "Action" }, el("div", { class: "actions" }, kick)),
  );
  return { row, cells };
}

async function disconnect(button, c) {
  if (!confirm(`Disconnect this client from ${c.url}?`)) return;
  button.disabled = true;
  try {
    await request(`/api/v1/clients/${encodeURIComponent(c.id)}`, { method: "DELETE" });
    poll();
  } catch (error) {
    button.disabled = false;
    setStatus(error.message, "bad");
  }
}

// Makes the rows of `body` those of `items`, in their order, touching only what changed.
function sync(body, entries, items, keyOf, make, fill) {
  const seen = new Set();
  items.forEach((item, i) => {
    const key = keyOf(item);
    seen.add(key);
    let entry = entries.get(key);
    if (!entry) entries.set(key, (entry = make(item)));
    if (body.children[i] !== entry.row) body.insertBefore(entry.row, body.children[i] ?? null);
    fill(entry, item);
  });
  for (const [key, entry] of entries) {
    if (seen.has(key)) continue;
    entry.row.remove();
    entries.delete(key);
  }
}

function wire() {
  wireCopyButtons();
  document.addEventListener("visibilitychange", poll);
  $("clients-panel").addEventListener("toggle", poll);
  $("publish").addEventListener("submit", (event) => {
    event.preventDefault();
    const [app, name] = [$("new-app").value.trim(), $("new-stream").value.trim()];
    location.href = `/publish/${encodeURIComponent(app)}/${encodeURIComponent(name)}`;
  });
  getJson("/api/v1/versions")
    .then(({ data }) => setText($("version"), data?.version ?? ""))
    .catch(() => {});
}
