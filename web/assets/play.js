// The play page: WebRTC first, FLV where WebRTC cannot pass, and a new attempt whenever either ends.
import {
  $, BackOff, bitrate, el, HttpError, lookUp, millis, percent, setNotice, setStatus, showFigures, sleep, streamOfPath, Unreachable, wireCopyButtons,
} from "./page.js";
import { bitrateBetween, bytesOf, codecNames } from "./stats.js";
import { FlvPlayer } from "./flv.js";
import { WhepPlayer } from "./whep.js";

const TICK_MS = 1000;
// A live stream that shows nothing for so long over WebRTC is tried over FLV.
const FIRST_PICTURE_MS_MAX = 6000;
// Media that stops for so long while the publisher is live means the session is dead.
const STALL_MS_MAX = 6000;

const wanted = streamOfPath();
const query = new URLSearchParams(location.search);
const video = $("video");
const backOff = new BackOff();

// What the viewer chose; null means WebRTC with FLV behind it.
let chosen = query.get("via");
if (chosen !== "flv" && chosen !== "webrtc") chosen = null;
let kind = chosen ?? "webrtc";
let player = null;
let interrupted = () => {};
// kind -> why its last attempt failed.
const failures = {};
// What the node said last of the stream's encodings.
let layers = null;

globalThis.millrace = {
  get pc() {
    return player?.pc ?? null;
  },
  // Running totals of what plays now; video and audio are null while absent.
  async stats() {
    const sample = player ? await player.sample() : { connectionState: "new" };
    return { via: kind, layers, ...sample, video: sample.video || null, audio: sample.audio || null };
  },
};

wire();
run();

async function run() {
  for (;;) {
    markKind();
    const switched = new Promise((resolve) => (interrupted = resolve));
    const outcome = await attempt(switched);
    player?.close();
    player = null;
    showFigures({});
    if (outcome.shown) backOff.reset();
    if (outcome.switched) {
      backOff.reset();
      continue;
    }
    if (outcome.tryOther && chosen === null) {
      failures[kind] = outcome.detail ?? outcome.reason;
      kind = kind === "webrtc" ? "flv" : "webrtc";
      if (kind === "flv") {
        setNotice(`Playing over FLV, because WebRTC did not work here: ${failures.webrtc}`);
        continue;
      }
      // Neither worked: say both, and wait as after any other failure.
      setNotice(`Neither way works now. WebRTC: ${failures.webrtc}. FLV: ${failures.flv}`);
    } else if (outcome.detail) {
      setNotice(outcome.detail);
    }
    setStatus(`${outcome.reason}. Trying again…`, outcome.waiting ? "busy" : "bad");
    await Promise.race([sleep(backOff.next()), switched]);
  }
}

// One session from start to end -> {reason, detail, shown, tryOther, waiting, switched}.
async function attempt(switched) {
  if (kind === "webrtc" && !WhepPlayer.supported()) return { reason: "This browser has no WebRTC", tryOther: true };
  setStatus("Connecting…", "busy");
  if (kind === "flv") {
    // HTTP-FLV has nothing to attach to before the stream is live.
    const live = await lookUp(wanted);
    if (live === null) return { reason: "Nobody is publishing this stream now", waiting: true };
    if (live === undefined) return { reason: "The server cannot be reached" };
  }
  player = kind === "webrtc" ? new WhepPlayer(video, wanted.whep) : new FlvPlayer(video, wanted.flv);
  try {
    await Promise.race([player.start(), switched]);
  } catch (error) {
    return refused(error);
  }
  return watch(switched);
}

function refused(error) {
  if (!(error instanceof HttpError)) {
    // Whatever is not the network's fault is this browser's refusal.
    return { reason: error.message, tryOther: !(error instanceof Unreachable) };
  }
  const { status, message: detail } = error;
  if (status === 404) return { reason: "Nobody is publishing this stream now", waiting: true };
  // The server will not serve this by WebRTC (a codec it cannot carry, say); the other way may do.
  const tryOther = status >= 400 && status < 500 && ![401, 403, 409, 429].includes(status);
  return { reason: "The server refused", detail, tryOther };
}

// Follows a running session each second until it ends.
async function watch(switched) {
  let before = null;
  let shown = false;
  let mediaAt = performance.now();
  // A new session knows nothing of what was chosen before.
  const height = Number($("height").value);
  if (height) await followLayers({ maxHeight: height });
  for (;;) {
    if (await Promise.race([sleep(TICK_MS), switched.then(() => true)])) return { switched: true };
    const now = performance.now();
    const sample = await player.sample();
    const moved = bytesOf(sample) > bytesOf(before);
    const reason = player.broken();
    // A hidden page may decode nothing: bytes are enough there.
    const pictured = sample.video?.framesDecoded > 0 || (document.hidden && moved);
    if (moved && (shown || pictured)) mediaAt = now;
    if (!shown && pictured) {
      shown = true;
      if (kind === "webrtc" || chosen) setNotice("");
    }
    if (reason) return ended(reason, shown);
    if (shown && now - mediaAt < 2 * TICK_MS) {
      setStatus(`Live over ${kind === "flv" ? "FLV" : "WebRTC"}`, "live");
    } else {
      const live = await lookUp(wanted);
      if (live === undefined && !player.connected()) return { reason: "The server cannot be reached", shown };
      if (live === null) {
        setStatus("Waiting for the publisher…", "busy");
        mediaAt = now;
      } else if (live && !live.video && live.audio && moved) {
        shown = true; // Sound only: there is no picture to wait for.
        mediaAt = now;
      } else {
        setStatus(shown ? "The stream has stalled…" : "Waiting for the first picture…", "busy");
        if (!shown && now - mediaAt > FIRST_PICTURE_MS_MAX) return { reason: `No picture came within ${FIRST_PICTURE_MS_MAX / 1000} s`, tryOther: true };
        if (shown && now - mediaAt > STALL_MS_MAX) return { reason: "The stream stalled", shown };
      }
    }
    await followLayers();
    showFigures(figures(before, sample));
    before = sample;
  }
}

// Offers the heights that there are, and says which one comes and why.
async function followLayers(wish) {
  layers = (await player?.layers?.(wish)) ?? null;
  const heights = [...new Set(layers?.encodings.map((e) => e.height).filter(Boolean))].sort((a, b) => b - a);
  $("heights").hidden = heights.length < 2;
  const shown = [...$("height").options].slice(1).map((o) => Number(o.value));
  if (heights.length < 2 || heights.join() === shown.join()) return;
  const kept = $("height").value;
  $("height").replaceChildren(el("option", { value: "" }, "Automatic"), ...heights.map((h) => el("option", { value: String(h) }, `${h}p`)));
  if (heights.includes(Number(kept))) $("height").value = kept;
}

// Of a choice the word that a person needs.
const REASONS = {
  only: "the only one", best: "the best", request: "as asked", estimate: "what the network carries", hold: "higher soon",
  starved: "the publisher sends no higher", paused_by_request: "paused", paused_by_estimate: "paused, the network is too slow",
};

async function ended(reason, shown) {
  const live = await lookUp(wanted);
  if (live === null) return { reason: "The stream ended", shown, waiting: true };
  if (live === undefined) return { reason: "The server cannot be reached", shown };
  return { reason, shown, tryOther: !shown };
}

function figures(before, sample) {
  const picture = sample.video;
  const seconds = before ? (sample.at - before.at) / 1000 : 0;
  const decoded = picture && before?.video ? (picture.framesDecoded - before.video.framesDecoded) / seconds : undefined;
  const fps = picture?.fps ?? decoded;
  const common = {
    path: kind === "flv" ? "HTTP-FLV" : "WebRTC",
    resolution: picture?.width ? `${picture.width}×${picture.height}` : undefined,
    fps: Number.isFinite(fps) ? `${Math.round(fps)} fps` : undefined,
    bitrate: before ? bitrate(bitrateBetween(before, sample)) : undefined,
    codecs: codecNames(sample),
    dropped: picture && String(picture.framesDropped),
    decoded: picture && String(picture.framesDecoded),
  };
  return kind === "flv" ? { ...common, ...flvFigures(sample) } : { ...common, ...webRtcFigures(before, sample) };
}

function flvFigures(sample) {
  return {
    latency: [millis(sample.buffered), "End of what is buffered minus the playing position"],
    speed: [`${sample.playbackRate.toFixed(2)}×`, "Above 1 while catching up with live"],
  };
}

function webRtcFigures(before, sample) {
  const { rtt } = sample;
  const track = sample.video ?? sample.audio;
  const trackBefore = sample.video ? before?.video : before?.audio;
  const emitted = track && trackBefore ? track.jitterBufferEmitted - trackBefore.jitterBufferEmitted : 0;
  const buffer = emitted > 0 ? (track.jitterBufferDelay - trackBefore.jitterBufferDelay) / emitted : NaN;
  const lost = (sample.video?.packetsLost ?? 0) + (sample.audio?.packetsLost ?? 0);
  const got = (sample.video?.packets ?? 0) + (sample.audio?.packets ?? 0);
  return {
    latency: [millis(buffer + (rtt ?? 0) / 2), `Jitter buffer ${millis(buffer)} + half the round trip of ${millis(rtt)}`],
    jitterBuffer: [millis(buffer), "Mean time a frame waited in the jitter buffer during the last second"],
    rtt: [millis(rtt), "Round trip of the ICE candidate pair in use"],
    loss: [percent(Math.max(0, lost), lost + got), `${lost} packets lost, ${got} received since the start`],
    layer: layers?.encodings.length > 1 ? [`${layers.encodingId ?? "–"}, ${layers.height}p`, REASONS[layers.reason]] : undefined,
    freezes: sample.video && [`${sample.video.freezeCount} (${sample.video.freezeSeconds.toFixed(1)} s)`, "Freezes since the start, and their length together"],
  };
}

function wire() {
  document.title = `${wanted.title} · Millrace`;
  $("title").textContent = wanted.title;
  $("url-flv").textContent = new URL(wanted.flv, location.href).href;
  $("url-whep").textContent = new URL(wanted.whep, location.href).href;
  $("url-rtmp").textContent = wanted.rtmp();
  wireCopyButtons();

  for (const radio of document.querySelectorAll("input[name=via]")) {
    radio.addEventListener("change", () => {
      chosen = kind = radio.value;
      history.replaceState(null, "", `?via=${chosen}`);
      setNotice("");
      interrupted();
    });
  }

  $("height").addEventListener("change", () => {
    const height = Number($("height").value);
    followLayers(height ? { maxHeight: height } : {});
  });

  // Sound without a click is refused by browsers, so the page starts muted, unless asked by ?sound=1.
  video.muted = query.get("sound") !== "1";
  video.addEventListener("loadeddata", () => {
    video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return;
      video.muted = true;
      video.play().catch(() => {});
    });
  });
  const unmute = $("unmute");
  unmute.addEventListener("click", () => {
    video.muted = false;
    if (video.volume === 0) video.volume = 1;
    video.play().catch(() => {});
    video.focus();
  });
  const showUnmute = () => (unmute.hidden = !video.muted);
  video.addEventListener("volumechange", showUnmute);
  showUnmute();

  addEventListener("pagehide", () => player?.close());
  // Back from the back-forward cache: the session was ended when the page was left.
  addEventListener("pageshow", (event) => event.persisted && interrupted());
}

function markKind() {
  document.querySelector(`input[name=via][value=${kind}]`).checked = true;
  for (const node of document.querySelectorAll("[data-via]")) node.hidden = node.dataset.via !== kind;
}
