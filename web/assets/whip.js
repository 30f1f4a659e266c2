// A WHIP session: local tracks over WebRTC to the node.
import { Session } from "./signal.js";
import { readSent } from "./stats.js";

// Codecs in the order they are offered after the preferred one.
const CODECS = ["h264", "vp8", "vp9", "av1"];

export class WhipPublisher extends Session {
  #url;
  // One change of the encodings at a time: a second one would not be of what the first has left.
  #applied = Promise.resolve();

  constructor(url) {
    super();
    this.#url = url;
  }

  // media: a MediaStream; codec: one of CODECS; bitrateMax in bit/s for the picture; simulcast: in three sizes.
  async start(media, { codec, bitrateMax, simulcast }) {
    const pc = this.open();
    for (const track of media.getTracks()) {
      const video = track.kind === "video";
      const transceiver = pc.addTransceiver(track, {
        direction: "sendonly",
        streams: [media],
        sendEncodings: video ? encodings(bitrateMax, simulcast) : [],
      });
      if (video) prefer(transceiver, codec);
    }
    if ((await this.exchange(this.#url)) && simulcast) this.#followWishes();
  }

  // The node says which encodings somebody watches. What nobody does costs neither this machine nor its network; while the node cannot
  // be heard all are sent.
  #followWishes() {
    const apply = (wanted) => {
      this.#applied = this.#applied.then(() => activate(this.pc, wanted)).catch(() => {});
    };
    this.listen(
      "wanted",
      ({ encodings }) => apply(new Map(encodings.map(({ encodingId, active }) => [encodingId, active]))),
      () => apply(new Map()),
    );
  }

  sample() {
    return readSent(this.pc);
  }
}

// A quarter of the width has a sixteenth of the pixels and needs about a twelfth of the bits.
function encodings(maxBitrate, simulcast) {
  if (!simulcast) return [{ maxBitrate }];
  return [
    { rid: "q", scaleResolutionDownBy: 4, maxBitrate: Math.round(maxBitrate / 12) },
    { rid: "h", scaleResolutionDownBy: 2, maxBitrate: Math.round(maxBitrate / 4) },
    { rid: "f", maxBitrate },
  ];
}

// Encodings that are not in the map are sent.
async function activate(pc, wanted) {
  const sender = pc.getSenders().find(({ track }) => track?.kind === "video");
  const parameters = sender?.getParameters();
  if (!parameters?.encodings?.length) return;
  let changed = false;
  for (const encoding of parameters.encodings) {
    const active = wanted.get(encoding.rid) ?? true;
    changed ||= active !== encoding.active;
    encoding.active = active;
  }
  if (changed) await sender.setParameters(parameters);
}

// The codecs of CODECS that this browser can send.
export function sendable() {
  const mimes = new Set((globalThis.RTCRtpSender?.getCapabilities?.("video")?.codecs ?? []).map((c) => c.mimeType.toLowerCase()));
  return CODECS.filter((codec) => mimes.has(`video/${codec}`));
}

// H.264 is offered first with the others behind it. Another codec is offered alone, since a node
// answers H.264 whenever it is offered, so that RTMP viewers can watch too.
function prefer(transceiver, codec) {
  const all = RTCRtpSender.getCapabilities?.("video")?.codecs;
  if (!all || !transceiver.setCodecPreferences) return;
  const isMedia = ({ mimeType }) => CODECS.includes(mimeType.slice(6).toLowerCase());
  const rank = ({ mimeType, sdpFmtpLine = "" }) => {
    const at = CODECS.indexOf(mimeType.slice(6).toLowerCase());
    if (mimeType.toLowerCase() !== "video/h264") return 10 * (at + 1);
    // Constrained baseline with packetization-mode 1 is what every receiver takes.
    return (sdpFmtpLine.includes("packetization-mode=1") ? 0 : 4) + (/profile-level-id=42e0/i.test(sdpFmtpLine) ? 0 : 1);
  };
  const wanted = all.filter((c) => isMedia(c) && (codec === "h264" || c.mimeType.toLowerCase() === `video/${codec}`));
  const repair = all.filter((c) => /\/(rtx|red|ulpfec|flexfec-03)$/i.test(c.mimeType));
  if (wanted.length) transceiver.setCodecPreferences([...wanted.sort((a, b) => rank(a) - rank(b)), ...repair]);
}
