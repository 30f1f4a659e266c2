// A WHEP session: the stream's tracks over WebRTC into a <video>.
import { Session } from "./signal.js";
import { readReceived } from "./stats.js";

export class WhepPlayer extends Session {
  kind = "webrtc";
  #video;
  #url;

  constructor(video, url) {
    super();
    this.#video = video;
    this.#url = url;
  }

  async start() {
    const pc = this.open();
    const media = new MediaStream();
    pc.ontrack = ({ track }) => media.addTrack(track);
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });
    if (!(await this.exchange(this.#url))) return;
    this.#video.srcObject = media;
    this.listenForSilence();
  }

  async offer(options) {
    return withStereo(await super.offer(options));
  }

  sample() {
    return readReceived(this.pc);
  }

  close() {
    super.close();
    this.#video.srcObject = null;
  }
}

// RFC 7587 section 6.1: a receiver that prefers stereo says so; without it Chromium plays Opus in mono.
function withStereo({ type, sdp }) {
  const opus = /^a=rtpmap:(\d+) opus\/48000\/2/im.exec(sdp)?.[1];
  if (!opus) return { type, sdp };
  const line = new RegExp(`^(a=fmtp:${opus} )(?!.*stereo=)`, "m");
  return { type, sdp: sdp.replace(line, "$1stereo=1;") };
}
