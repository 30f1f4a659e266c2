// The publish page: a camera or a screen, and a microphone, to the node by WHIP.
import {
  $, BackOff, bitrate, duration, el, HttpError, millis, percent, setNotice, setStatus, showFigures, sleep, streamOfPath, wireCopyButtons,
} from "./page.js";
import { bitrateBetween, codecNames } from "./stats.js";
import { sendable, WhipPublisher } from "./whip.js";

// Height -> [width, most bit/s of the picture].
const SIZES = { 480: [854, 1_200_000], 720: [1280, 2_500_000], 1080: [1920, 4_500_000] };
const FRAME_RATE = 30;
const TICK_MS = 1000;

const wanted = streamOfPath();
const query = new URLSearchParams(location.search);
const preview = $("preview");

let media = null;
let publisher = null;
// Resolved by the Stop button, by the end of the screen share, and when the page is left.
let stop = () => {};

globalThis.millrace = {
  get pc() {
    return publisher?.pc ?? null;
  },
  // Running totals of what is sent now; video and audio are null while absent.
  async stats() {
    const sample = publisher ? await publisher.sample() : { connectionState: "new" };
    return { ...sample, video: sample.video || null, audio: sample.audio || null };
  },
};

wire();
await listDevices();
if (query.get("auto") === "1") publish();

async function publish() {
  const stopped = new Promise((resolve) => (stop = resolve)).then(() => true);
  lock(true);
  setNotice("");
  setStatus("Opening the devices…", "busy");
  try {
    media = await capture();
    preview.srcObject = media;
    listDevices(); // Names of devices are told only after permission.
    for (const track of media.getVideoTracks()) track.addEventListener("ended", () => stop());
    await sessions(stopped);
    setStatus("Not publishing");
  } catch (error) {
    setStatus("Not publishing", "bad");
    setNotice(explain(error));
  } finally {
    publisher?.close();
    publisher = null;
    for (const track of media?.getTracks() ?? []) track.stop();
    media = null;
    preview.srcObject = null;
    $("level").value = 0;
    showFigures({});
    lock(false);
  }
}

// Publishes until stopped, with a new session when one is lost. A refusal of the first is thrown.
async function sessions(stopped) {
  const backOff = new BackOff();
  const options = { codec: $("codec").value, bitrateMax: SIZES[$("resolution").value][1], simulcast: $("simulcast").checked };
  for (let established = false; ; ) {
    setStatus(established ? "Reconnecting…" : "Connecting…", "busy");
    publisher = new WhipPublisher(wanted.whip);
    let reason;
    try {
      await publisher.start(media, options);
      const outcome = await watch(stopped);
      if (outcome.stopped) return;
      established ||= outcome.connected;
      if (outcome.connected) backOff.reset();
      reason = outcome.reason;
      if (!established) throw new Error(reason);
    } catch (error) {
      // After a loss the server may still hold the old session: it is asked again until it lets go.
      if (!established) throw error;
      reason ??= explain(error);
    }
    publisher.close();
    setStatus(`${reason}. Trying again…`, "bad");
    if (await Promise.race([sleep(backOff.next()), stopped])) return;
  }
}

async function watch(stopped) {
  const since = performance.now();
  let before = null;
  let connected = false;
  for (;;) {
    if (await Promise.race([sleep(TICK_MS), stopped])) return { stopped: true };
    const reason = publisher.broken();
    if (reason) return { reason, connected };
    const sample = await publisher.sample();
    connected ||= publisher.connected();
    if (publisher.connected()) setStatus("Publishing", "live");
    showFigures(figures(before, sample, (performance.now() - since) / 1000));
    $("level").value = sample.audio?.level ?? 0;
    before = sample;
  }
}

async function capture() {
  if (!WhipPublisher.supported()) throw new Error("This browser has no WebRTC.");
  if (!navigator.mediaDevices) {
    throw new Error("Browsers open cameras, microphones and screens only for pages on https:// or on localhost. Open this page by one of those.");
  }
  const height = Number($("resolution").value);
  const size = { width: { ideal: SIZES[height][0] }, height: { ideal: height }, frameRate: { ideal: FRAME_RATE, max: FRAME_RATE } };
  const device = (select) => (select.value ? { deviceId: { exact: select.value } } : {});
  const audio = $("mic").checked && { ...device($("microphone")), channelCount: { ideal: 2 } };
  if (chosenVideo() === "camera") {
    return hinted(await navigator.mediaDevices.getUserMedia({ video: { ...size, ...device($("camera")) }, audio }), "motion");
  }
  // The sound of a shared tab or system is taken when the microphone is off: two sounds would need a mixer.
  const screen = await navigator.mediaDevices.getDisplayMedia({ video: size, audio: !audio });
  if (audio) {
    try {
      for (const track of (await navigator.mediaDevices.getUserMedia({ audio })).getTracks()) screen.addTrack(track);
    } catch (error) {
      for (const track of screen.getTracks()) track.stop();
      throw error;
    }
  }
  return hinted(screen, "detail");
}

function hinted(stream, hint) {
  for (const track of stream.getVideoTracks()) track.contentHint = hint;
  return stream;
}

function explain(error) {
  if (error instanceof HttpError) return error.status === 409 ? `This stream is already being published. ${error.message}` : error.message;
  const known = {
    NotAllowedError: "The browser was not allowed to use the device.",
    NotFoundError: "There is no such device.",
    NotReadableError: "The device is in use by another program.",
    OverconstrainedError: "The device cannot do what was asked.",
  };
  return known[error.name] ?? error.message;
}

function figures(before, sample, seconds) {
  const picture = sample.video;
  const lost = (picture?.packetsLost ?? 0) + (sample.audio?.packetsLost ?? 0);
  const sent = (picture?.packets ?? 0) + (sample.audio?.packets ?? 0);
  const limits = { none: "nothing", cpu: "CPU", bandwidth: "bandwidth", other: "other" };
  return {
    bitrate: before ? bitrate(bitrateBetween(before, sample)) : undefined,
    fps: picture?.fps === undefined ? undefined : `${Math.round(picture.fps)} fps`,
    resolution: picture?.width && [`${picture.width}×${picture.height}`, `Heights sent now: ${picture.encodings.join(", ")}`],
    codecs: codecNames(sample),
    rtt: [millis(sample.rtt), "From the receiver reports of the node"],
    loss: [percent(Math.max(0, lost), sent), `${lost} of ${sent} packets, as the node reports`],
    limitation: limits[picture?.limitation] ?? picture?.limitation,
    uptime: duration(seconds),
  };
}

function chosenVideo() {
  return document.querySelector("input[name=video]:checked").value;
}

function wire() {
  document.title = `Publish ${wanted.title} · Millrace`;
  $("title").textContent = `Publish ${wanted.title}`;
  $("link-play").href = wanted.play;
  $("link-play").textContent = new URL(wanted.play, location.href).href;
  $("url-flv").textContent = new URL(wanted.flv, location.href).href;
  $("url-rtmp").textContent = wanted.rtmp();
  wireCopyButtons();

  const codecs = sendable();
  for (const option of $("codec").options) option.disabled = !codecs.includes(option.value);
  const set = (select, value) => {
    const option = [...select.options].find((o) => o.value === value && !o.disabled);
    if (option) select.value = value;
    return Boolean(option);
  };
  if (!set($("codec"), query.get("codec") ?? "h264")) set($("codec"), codecs[0]);
  set($("resolution"), query.get("resolution"));
  if (query.get("video") === "screen") document.querySelector("input[name=video][value=screen]").checked = true;
  if (query.get("simulcast") === "1") $("simulcast").checked = true;
  if (query.get("mic") === "0") $("mic").checked = false;

  const showSource = () => ($("camera").disabled = chosenVideo() === "screen");
  for (const radio of document.querySelectorAll("input[name=video]")) radio.addEventListener("change", showSource);
  showSource();

  $("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!media) publish();
  });
  $("stop").addEventListener("click", () => stop());
  // While publishing this mutes; a stream begun without sound stays without.
  $("mic").addEventListener("change", () => {
    for (const track of media?.getAudioTracks() ?? []) track.enabled = $("mic").checked;
  });
  navigator.mediaDevices?.addEventListener("devicechange", listDevices);
  addEventListener("pagehide", () => {
    publisher?.close();
    stop();
  });
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  const fill = (select, kind, fallback) => {
    const kept = select.value;
    const found = devices.filter((d) => d.kind === kind && d.deviceId && d.deviceId !== "default");
    select.replaceChildren(el("option", { value: "" }, fallback));
    for (const [i, d] of found.entries()) select.append(el("option", { value: d.deviceId }, d.label || `${fallback.replace("Default ", "")} ${i + 1}`));
    if (found.some((d) => d.deviceId === kept)) select.value = kept;
  };
  fill($("camera"), "videoinput", "Default camera");
  fill($("microphone"), "audioinput", "Default microphone");
}

function lock(publishing) {
  $("locked").disabled = publishing;
  $("start").hidden = publishing;
  $("stop").hidden = !publishing;
  if (publishing) $("stop").focus();
  $("mic").disabled = false;
}
