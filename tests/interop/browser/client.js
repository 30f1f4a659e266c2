// What the interop tests do inside a page: publish by WHIP, play by WHEP, and measure what arrives.
// Every function takes one object and returns one plain object; a session is kept under the `id` it is given.
"use strict";

const sessions = new Map();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- sources ------------------------------------------------------------------------------------------------

/// A picture that flashes and a tone that beeps for 100 ms at each whole second of one audio clock.
/// `noise`: pixels that no encoder can do without, so that its rate is what it was asked for.
function flashAndBeep({ width = 640, height = 360, fps = 30, noise = false }) {
  const audio = new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
  const out = audio.createMediaStreamDestination();
  const tone = new OscillatorNode(audio, { frequency: 1000 });
  const gate = new GainNode(audio, { gain: 0 });
  tone.connect(gate).connect(out);
  tone.start();
  let scheduled = Math.ceil(audio.currentTime) + 1;
  const schedule = () => {
    for (; scheduled < audio.currentTime + 3; scheduled += 1) {
      gate.gain.setValueAtTime(0.5, scheduled);
      gate.gain.setValueAtTime(0, scheduled + 0.1);
    }
  };
  schedule();

  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  let count = 0;
  const grain = Object.assign(document.createElement("canvas"), { width, height });
  if (noise) {
    const pixels = new ImageData(grain.width, grain.height);
    for (let at = 0; at < pixels.data.length; at += 1) pixels.data[at] = at % 4 === 3 ? 255 : Math.random() * 256;
    grain.getContext("2d").putImageData(pixels, 0, 0);
  }
  const draw = () => {
    const seconds = audio.currentTime;
    pen.fillStyle = "#204060";
    pen.fillRect(0, 0, width, height);
    if (noise) {
      // a part of the picture: it is enough, and whoever encodes has other things to do
      const [x, y, w, h] = [width / 2, height / 2, width / 3, height / 3].map(Math.floor);
      pen.drawImage(grain, Math.floor(Math.random() * x), Math.floor(Math.random() * y), w, h, x, y, w, h);
    }
    pen.fillStyle = `hsl(${(count * 7) % 360} 70% 50%)`;
    pen.fillRect((count * 5) % width, height / 2, 40, 40); // something moves, so every frame differs
    pen.fillStyle = seconds >= 1 && seconds % 1 < 0.1 ? "#fff" : "#000";
    pen.fillRect(0, 0, 160, 160);
    count += 1;
  };
  const timers = [setInterval(schedule, 500), setInterval(draw, 1000 / fps)];
  draw();
  const stream = canvas.captureStream(fps);
  stream.addTrack(out.stream.getAudioTracks()[0]);
  return { stream, end: () => (timers.forEach(clearInterval), audio.close()) };
}

async function source({ source: kind = "flash", video = true, audio = true, ...size }) {
  const made = kind === "camera"
    ? { stream: await navigator.mediaDevices.getUserMedia({ video, audio }), end() {} }
    : flashAndBeep(size);
  for (const track of made.stream.getTracks()) {
    if ((track.kind === "video" && !video) || (track.kind === "audio" && !audio)) made.stream.removeTrack(track);
  }
  return made;
}

// ---- signalling ---------------------------------------------------------------------------------------------

function prefer(transceiver, kind, codec, side) {
  if (!codec) return;
  const wanted = (it) => it.mimeType.toLowerCase() === `${kind}/${codec}`.toLowerCase();
  const repair = (it) => /\/(rtx|red|ulpfec)$/.test(it.mimeType);
  const all = side.getCapabilities(kind).codecs;
  if (!all.some(wanted)) throw new Error(`this browser has no ${codec}`);
  transceiver.setCodecPreferences(all.filter((it) => wanted(it) || repair(it)));
}

/// Whether a header extension that the browser knows is offered, whatever it would do unasked: {URI: true or false}.
function extend(transceiver, extensions) {
  // Firefox cannot be asked.
  if (Object.keys(extensions).length === 0) return;
  const all = transceiver.getHeaderExtensionsToNegotiate();
  for (const [uri, offered] of Object.entries(extensions)) {
    const wanted = all.find((it) => it.uri === uri);
    if (!wanted) throw new Error(`this browser has no ${uri}`);
    wanted.direction = offered ? "sendrecv" : "stopped";
  }
  transceiver.setHeaderExtensionsToNegotiate(all);
}

/// As SRS's own pages do: JSON there and back, code 0 is good. There is no session URL.
async function negotiateSrs(session, api, streamurl) {
  await session.pc.setLocalDescription();
  const offer = session.pc.localDescription.sdp;
  const response = await fetch(api, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ api, tid: "b33f", streamurl, clientip: null, sdp: offer }),
  });
  const answer = await response.json();
  session.http = { status: answer.code === 0 ? 201 : response.status, answer: answer.sdp ?? JSON.stringify(answer) };
  if (answer.code === 0) await session.pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
}

/// POSTs the offer and applies the answer. The session's URL, ETag and Link are what CORS lets a page read.
async function negotiate(session, url, { token, trickle = false, srs, without }) {
  if (srs) return negotiateSrs(session, url, srs);
  const { pc } = session;
  const candidates = [];
  pc.onicecandidate = ({ candidate }) => candidate?.candidate && candidates.push(candidate);
  await pc.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let offer = pc.localDescription.sdp;
  if (without) offer = offer.split("\r\n").filter((it) => !without.some((word) => it.includes(word))).join("\r\n");
  const response = await fetch(url, { method: "POST", headers, body: offer });
  const body = await response.text();
  session.http = {
    status: response.status,
    location: response.headers.get("Location"),
    etag: response.headers.get("ETag"),
    link: response.headers.get("Link"),
    type: response.headers.get("Content-Type"),
    offer,
    answer: body,
  };
  if (response.status !== 201) return;
  session.url = new URL(session.http.location, response.url).href;
  session.at.answered = performance.now();
  await pc.setRemoteDescription({ type: "answer", sdp: body });
  if (trickle) {
    while (pc.iceGatheringState !== "complete") await sleep(20);
    const sdp = pc.localDescription.sdp;
    const line = (name) => sdp.match(new RegExp(`^a=${name}:.*$`, "m"))[0];
    const first = sdp.match(/^m=.*$/m)[0];
    const lines = [line("ice-ufrag"), line("ice-pwd"), first, line("mid"),
      ...candidates.map((it) => `a=${it.candidate}`), "a=end-of-candidates"];
    const patch = await fetch(session.url, {
      method: "PATCH",
      headers: { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": session.http.etag },
      body: lines.join("\r\n") + "\r\n",
    });
    session.http.patch = patch.status;
  }
}

/// Restarts ICE by PATCH (RFC 9725 section 4.3.3) and waits until another pair is in use; how long that took.
async function restart({ id, ms = 10000 }) {
  const session = sessions.get(id);
  const { pc } = session;
  const before = (await pairInUse(pc))?.id;
  const started = performance.now();
  pc.restartIce();
  await pc.setLocalDescription();
  const sdp = pc.localDescription.sdp;
  const line = (text, name) => text.match(new RegExp(`^${name}.*$`, "m"))[0].trim();
  const response = await fetch(session.url, {
    method: "PATCH",
    headers: { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*" },
    body: ["a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:"].map((it) => line(sdp, it)).join("\r\n") + "\r\n",
  });
  const fragment = await response.text();
  const result = { status: response.status, etag: response.headers.get("ETag"), fragment, patched: performance.now() - started };
  if (response.status !== 200) return result;
  let answer = pc.currentRemoteDescription.sdp;
  for (const name of ["a=ice-ufrag:", "a=ice-pwd:"]) answer = answer.replace(new RegExp(`^${name}.*$`, "gm"), line(fragment, name));
  await pc.setRemoteDescription({ type: "answer", sdp: answer });
  for (let pair = null; performance.now() < started + ms; await sleep(10)) {
    pair = await pairInUse(pc);
    if (pair && pair.id !== before && pair.state === "succeeded" && pc.connectionState === "connected") {
      return { ...result, took: performance.now() - started };
    }
  }
  return { ...result, took: null };
}

async function pairInUse(pc) {
  const stats = await pc.getStats();
  const transport = [...stats.values()].find((it) => it.type === "transport");
  return stats.get(transport?.selectedCandidatePairId);
}

/// What the browser thinks that it may send, bit/s.
async function uplink({ id }) {
  return (await pairInUse(sessions.get(id).pc))?.availableOutgoingBitrate ?? null;
}

function open(id) {
  const session = { id, pc: new RTCPeerConnection({ bundlePolicy: "max-bundle" }), at: { started: performance.now() },
    states: [] };
  session.pc.onconnectionstatechange = () => {
    session.states.push(session.pc.connectionState);
    if (session.pc.connectionState === "connected") session.at.connected ??= performance.now();
  };
  sessions.set(id, session);
  return session;
}

const report = ({ http, states, pc }) => ({ ...http, states, connection: pc.connectionState });

async function connected(session, ms) {
  const until = performance.now() + ms;
  while (performance.now() < until && !["connected", "failed", "closed"].includes(session.pc.connectionState)) {
    await sleep(20);
  }
}

async function publish({ id, url, codec, audioCodec, bitrate, encodings, extensions = {}, waitMs = 8000, ...options }) {
  const session = open(id);
  session.source = await source(options);
  for (const track of session.source.stream.getTracks()) {
    const init = { direction: "sendonly", streams: [session.source.stream] };
    if (encodings && track.kind === "video") init.sendEncodings = encodings;
    const transceiver = session.pc.addTransceiver(track, init);
    prefer(transceiver, track.kind, track.kind === "video" ? codec : audioCodec, RTCRtpSender);
    if (track.kind === "video") extend(transceiver, extensions);
    session[track.kind] = transceiver;
  }
  await negotiate(session, url, options);
  if (session.http.status === 201) {
    await connected(session, waitMs);
    if (bitrate && session.video) {
      const parameters = session.video.sender.getParameters();
      parameters.encodings[0].maxBitrate = bitrate;
      await session.video.sender.setParameters(parameters);
    }
  }
  return report(session);
}

async function play({ id, url, codec, extensions = {}, waitMs = 8000, video = true, audio = true, ...options }) {
  const session = open(id);
  if (video) {
    const transceiver = session.pc.addTransceiver("video", { direction: "recvonly" });
    prefer(transceiver, "video", codec, RTCRtpReceiver);
    extend(transceiver, extensions);
  }
  if (audio) session.pc.addTransceiver("audio", { direction: "recvonly" });
  watch(session);
  await negotiate(session, url, options);
  if (session.http.status === 201) await connected(session, waitMs);
  return report(session);
}

/// Joins as a page would, watches for `watchMs` and leaves. When what happened, ms of this page's clock: `opened` (the RTCPeerConnection was made),
/// `posted`, `answered`, `applied`, `ice`, `connected`, `received` (all of the first frame shown), `decoded` (getStats counts a frame; it is
/// refreshed each 50 ms only), `shown`; the figures at the end; and of each frame when it was shown and its number, of pictures that carry one.
async function join({ id = "join", url, watchMs = 2000, codec }) {
  const at = { opened: performance.now() };
  const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  const session = { id, pc, at, frames: [] };
  sessions.set(id, session);
  prefer(pc.addTransceiver("video", { direction: "recvonly" }), "video", codec, RTCRtpReceiver);
  pc.addTransceiver("audio", { direction: "recvonly" });
  const mark = (name) => (at[name] ??= performance.now());
  const element = Object.assign(document.createElement("video"), { autoplay: true, playsInline: true });
  document.body.append(element);
  session.element = element;
  session.stream = element.srcObject = new MediaStream();
  pc.ontrack = ({ track }) => session.stream.addTrack(track);
  pc.oniceconnectionstatechange = () => pc.iceConnectionState === "connected" && mark("ice");
  pc.onconnectionstatechange = () => pc.connectionState === "connected" && mark("connected");
  const bits = 10;
  const pen = Object.assign(document.createElement("canvas"), { width: bits, height: 1 }).getContext("2d", { willReadFrequently: true });
  const onFrame = (now, meta) => {
    mark("shown");
    at.received ??= meta.receiveTime;
    pen.drawImage(element, 0, 0, 64 * bits, 64, 0, 0, bits, 1);
    const pixels = pen.getImageData(0, 0, bits, 1).data;
    let number = 0;
    for (let bit = 0; bit < bits; bit += 1) number += pixels[4 * bit + 1] > 128 ? 2 ** bit : 0;
    session.frames.push([now, number]);
    element.requestVideoFrameCallback(onFrame);
  };
  element.requestVideoFrameCallback(onFrame);
  await pc.setLocalDescription();
  mark("posted");
  const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: pc.localDescription.sdp });
  const sdp = await response.text();
  mark("answered");
  if (response.status !== 201) throw new Error(`${response.status}: ${sdp}`);
  session.url = new URL(response.headers.get("Location"), response.url).href;
  await pc.setRemoteDescription({ type: "answer", sdp });
  mark("applied");
  while (performance.now() < at.posted + watchMs) {
    if (at.decoded === undefined && (await figures({ id })).video?.framesDecoded > 0) mark("decoded");
    await sleep(10);
  }
  const seen = { at, last: await figures({ id }), frames: session.frames };
  await stop({ id });
  return seen;
}

// ---- what is seen and heard ---------------------------------------------------------------------------------

/// Shows the session's tracks and notes each frame: when it is shown, its RTP time, how bright the patch is.
function watch(session) {
  const element = Object.assign(document.createElement("video"), { autoplay: true, playsInline: true });
  element.style.width = "320px";
  document.body.append(element);
  const stream = new MediaStream();
  element.srcObject = stream;
  Object.assign(session, { element, stream, frames: [] });
  session.pc.ontrack = ({ track }) => {
    stream.addTrack(track);
    if (track.kind === "audio") listen(session, track).catch((error) => (session.listenError = String(error)));
  };
  const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const onFrame = (now, meta) => {
    const side = (160 * element.videoWidth) / (session.sourceWidth ?? element.videoWidth);
    pen.drawImage(element, side / 4, side / 4, side / 2, side / 2, 0, 0, 8, 8);
    const pixels = pen.getImageData(0, 0, 8, 8).data;
    let light = 0;
    for (let at = 0; at < pixels.length; at += 4) light += pixels[at + 1];
    session.at.firstFrame ??= performance.now();
    session.frames.push({ shown: meta.expectedDisplayTime, now, rtp: meta.rtpTimestamp, light: light / 64,
      width: meta.width, height: meta.height });
    if (session.frames.length > 20000) session.frames.splice(0, 10000);
    element.requestVideoFrameCallback(onFrame);
  };
  element.requestVideoFrameCallback(onFrame);
}

/// Notes when each beep begins, on the clock of performance.now(), as it would leave the loudspeaker.
async function listen(session, track) {
  const audio = new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
  const code = `registerProcessor("onset", class extends AudioWorkletProcessor {
    constructor() { super(); this.quiet = 1e9; }
    process([[left]]) {
      for (let at = 0; left && at < left.length; at += 1) {
        if (Math.abs(left[at]) > 0.05) {
          if (this.quiet > 12000) this.port.postMessage((currentFrame + at) / sampleRate);
          this.quiet = 0;
        } else this.quiet += 1;
      }
      return true;
    }
  });`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const meter = new AudioWorkletNode(audio, "onset");
  session.beeps = [];
  session.context = audio;
  meter.port.onmessage = ({ data }) => {
    const { contextTime, performanceTime } = audio.getOutputTimestamp();
    session.beeps.push(performanceTime + (data - contextTime) * 1000);
  };
  audio.createMediaStreamSource(new MediaStream([track])).connect(meter);
  const silent = new GainNode(audio, { gain: 0 });
  meter.connect(silent).connect(audio.destination);
}

/// The beginnings of flashes: a bright frame after a dark one.
function flashes(session) {
  const found = [];
  session.frames.forEach((frame, at) => {
    if (at > 0 && frame.light > 128 && session.frames[at - 1].light <= 128) found.push(frame.shown);
  });
  return found;
}

/// How much later the picture is than the sound, ms (positive: the picture is late).
///
/// `shown` is what a person meets: the flash on the screen against the beep in the loudspeaker, pair by pair. The
/// browser is part of that: it leaves up to 30 ms between the two playouts alone, and the WebAudio path to our meter
/// is longer than the one to the loudspeaker. How far apart it plays the two is known from the sender-report times of
/// what it is playing (`apart`); what is left, `skew`, is what the streams themselves carry, the node's part.
async function skew({ id, seconds = 8, settle = 3 }) {
  const session = sessions.get(id);
  await sleep(settle * 1000);
  const from = performance.now();
  const aparts = [];
  while (performance.now() < from + seconds * 1000) {
    const { video, audio } = await figures({ id });
    if (video?.estimatedPlayoutTimestamp && audio?.estimatedPlayoutTimestamp) {
      aparts.push(video.estimatedPlayoutTimestamp - audio.estimatedPlayoutTimestamp);
    }
    await sleep(200);
  }
  const beeps = (session.beeps ?? []).filter((it) => it > from);
  const seen = flashes(session).filter((it) => it > from - 500);
  const pairs = [];
  for (const beep of beeps) {
    const near = seen.map((it) => it - beep).sort((a, b) => Math.abs(a) - Math.abs(b))[0];
    if (near !== undefined && Math.abs(near) < 450) pairs.push(near);
  }
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1] ?? null;
  const [shown, apart] = [median(pairs), median(aparts)];
  return { skew: shown === null || apart === null ? null : shown + apart, shown, apart, pairs,
    beeps: beeps.length, flashes: seen.length, error: session.listenError ?? null };
}

/// How the output time went on, from a frame of `figures().frames` on: steps backwards, and steps beyond what really passed, in ms.
async function timeline({ id, from = 0 }) {
  const frames = sessions.get(id).frames.slice(from);
  let back = 0, jump = 0, gap = 0, where = null;
  for (let at = 1; at < frames.length; at += 1) {
    const media = ((frames[at].rtp - frames[at - 1].rtp) | 0) / 90;
    const real = frames[at].now - frames[at - 1].now;
    if (media < 0) back += 1;
    if (media - real > jump) [jump, where] = [media - real, { frame: at, media, real }];
    gap = Math.max(gap, real);
  }
  return { frames: frames.length, back, jump, where, gap };
}

async function figures({ id }) {
  const session = sessions.get(id);
  const stats = [...(await session.pc.getStats()).values()];
  const codecs = new Map(stats.filter((it) => it.type === "codec").map((it) => [it.id, it]));
  const pick = (type, kind) => {
    const it = stats.filter((it) => it.type === type && it.kind === kind)
      .sort((a, b) => (b.packetsReceived ?? b.packetsSent ?? 0) - (a.packetsReceived ?? a.packetsSent ?? 0))[0];
    return it && { ...it, codec: codecs.get(it.codecId)?.mimeType ?? null, fmtp: codecs.get(it.codecId)?.sdpFmtpLine };
  };
  const transport = stats.find((it) => it.type === "transport");
  const pair = stats.find((it) => it.id === transport?.selectedCandidatePairId);
  const since = (mark) => session.at[mark] === undefined ? null : session.at[mark] - session.at.started;
  return {
    connection: session.pc.connectionState,
    states: session.states,
    video: pick("inbound-rtp", "video") ?? null,
    audio: pick("inbound-rtp", "audio") ?? null,
    sentVideo: pick("outbound-rtp", "video") ?? null,
    sentAudio: pick("outbound-rtp", "audio") ?? null,
    remoteVideo: pick("remote-inbound-rtp", "video") ?? null,
    rtt: pair?.currentRoundTripTime ?? null,
    srtp: transport?.srtpCipher ?? null,
    dtls: transport?.tlsVersion ?? null,
    ms: { answered: since("answered"), connected: since("connected"), firstFrame: since("firstFrame") },
    size: session.element ? [session.element.videoWidth, session.element.videoHeight] : null,
    frames: session.frames?.length ?? 0,
    beeps: session.beeps?.length ?? 0,
  };
}

/// Polls `figures` until at least so much was decoded, or the time is over; returns the last figures either way.
async function until({ id, frames = 0, energy = 0, samples = 0, ms = 10000 }) {
  const end = performance.now() + ms;
  for (;;) {
    const now = await figures({ id });
    const enough = (now.video?.framesDecoded ?? 0) >= frames && (now.audio?.totalAudioEnergy ?? 0) >= energy
      && (now.audio?.totalSamplesReceived ?? 0) >= samples;
    if (enough || performance.now() > end) return { ...now, enough };
    await sleep(50);
  }
}

/// The layers of a session: what the node says of them, after asking for something when a wish is given.
async function layer({ id, wish }) {
  const { url, http } = sessions.get(id);
  const link = http.link?.match(/<([^>]*)>; *rel="urn:ietf:params:whep:ext:core:layer"/)?.[1];
  const at = new URL(link ?? `${url}/layer`, url);
  const init = wish && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish) };
  const asked = wish ? (await fetch(at, init)).status : null;
  return { linked: link !== undefined, asked, ...(await (await fetch(at)).json()) };
}

/// Asks for layers and waits until a picture of that height was decoded; how long that took, and in `steps` what the node said meanwhile.
async function untilHeight({ id, wish, height, ms = 10000 }) {
  const start = performance.now();
  const asked = wish ? await layer({ id, wish }) : null;
  const { frames } = sessions.get(id);
  const steps = [];
  for (;;) {
    const { video } = await figures({ id });
    const took = performance.now() - start;
    const now = await layer({ id });
    const said = `${now.encodingId} ${now.reason}, decoded ${video?.frameHeight}`;
    if (steps.at(-1)?.[1] !== said) steps.push([took, said]);
    if (video?.frameHeight === height || took > ms) {
      return { enough: video?.frameHeight === height, took, asked: asked?.asked, video, shown: frames.at(-1), steps,
        layer: now };
    }
    await sleep(20);
  }
}

/// What each encoder of a publisher has done.
async function encoders({ id }) {
  const stats = [...(await sessions.get(id).pc.getStats()).values()];
  return stats.filter((it) => it.type === "outbound-rtp" && it.kind === "video");
}

/// Frames a second that were decoded, or encoded by who publishes, over so many seconds; and what went wrong meanwhile.
async function pace({ id, seconds }) {
  const count = async () => {
    const { video, sentVideo } = await figures({ id });
    const it = video ?? sentVideo ?? {};
    return { at: performance.now(), frames: it.framesDecoded ?? it.framesEncoded ?? 0, plis: it.pliCount ?? 0,
      freezes: it.freezeCount ?? 0, nacks: it.nackCount ?? 0, keys: it.keyFramesEncoded ?? it.keyFramesDecoded ?? 0,
      mode: it.scalabilityMode ?? null };
  };
  const before = await count();
  await sleep(seconds * 1000);
  const after = await count();
  const passed = (key) => after[key] - before[key];
  return { fps: passed("frames") * 1000 / passed("at"), plis: passed("plis"), freezes: passed("freezes"),
    nacks: passed("nacks"), keys: passed("keys"), mode: after.mode };
}

/// Ends a session: by DELETE, or by vanishing as a closed laptop does.
async function stop({ id, remove = true }) {
  const session = sessions.get(id);
  sessions.delete(id);
  const status = remove && session.url ? (await fetch(session.url, { method: "DELETE" })).status : null;
  session.pc.close();
  session.source?.end();
  await session.context?.close();
  session.element?.remove();
  return { status };
}

async function request({ url, method = "GET", headers = {}, body }) {
  const response = await fetch(url, { method, headers, body });
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
}

/// Publisher and viewer joined with no node between them: what the meters themselves are worth.
async function direct({ codec, seconds = 6 }) {
  const [from, to] = [open("from"), open("to")];
  from.source = await source({});
  from.pc.onicecandidate = ({ candidate }) => to.pc.addIceCandidate(candidate);
  to.pc.onicecandidate = ({ candidate }) => from.pc.addIceCandidate(candidate);
  watch(to);
  for (const track of from.source.stream.getTracks()) {
    const transceiver = from.pc.addTransceiver(track, { direction: "sendonly", streams: [from.source.stream] });
    if (track.kind === "video") prefer(transceiver, "video", codec, RTCRtpSender);
  }
  await from.pc.setLocalDescription();
  await to.pc.setRemoteDescription(from.pc.localDescription);
  await to.pc.setLocalDescription();
  await from.pc.setRemoteDescription(to.pc.localDescription);
  const result = { ...(await skew({ id: "to", seconds })), figures: await figures({ id: "to" }) };
  await stop({ id: "from" });
  await stop({ id: "to" });
  return result;
}

async function capabilities() {
  const names = (side) => [...new Set(side.getCapabilities("video").codecs.map((it) => it.mimeType))];
  return { send: names(RTCRtpSender), receive: names(RTCRtpReceiver) };
}

window.interop = { join, layer, untilHeight, encoders, uplink, pace, publish, play, restart, skew, timeline, figures, until, stop, request, direct, capabilities };
