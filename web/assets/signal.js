// One WHIP (RFC 9725) or WHEP session: one POST with the offer, one DELETE at the end.
import { request } from "./page.js";

// A short loss of connectivity mends itself; a longer one is answered with a new session.
const DISCONNECTED_MS_MAX = 3000;

export class Session {
  pc = null;
  #location = null;
  #closed = false;
  #disconnectedAt = null;

  static supported() {
    return typeof RTCPeerConnection === "function";
  }

  // The peer connection to add tracks to before `exchange`.
  open() {
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    pc.onconnectionstatechange = () => {
      this.#disconnectedAt = pc.connectionState === "disconnected" ? performance.now() : null;
    };
    return (this.pc = pc);
  }

  // Sends the offer and applies the answer; true unless the session was closed meanwhile.
  async exchange(url, offer) {
    const { pc } = this;
    await pc.setLocalDescription(offer);
    // The node is ICE-lite with its candidates in the answer and learns ours from the checks we send,
    // so the offer goes out at once, without waiting for gathering.
    const response = await request(url, {
      method: "POST",
      headers: { "Content-Type": "application/sdp", Accept: "application/sdp" },
      body: pc.localDescription.sdp,
    });
    const location = response.headers.get("Location");
    this.#location = location && new URL(location, response.url).href;
    const sdp = await response.text();
    if (this.#closed) {
      this.#release();
      return false;
    }
    await pc.setRemoteDescription({ type: "answer", sdp });
    return true;
  }

  // What the node says of the stream's encodings and of which one this viewer gets; null when it cannot say. With a wish
  // ({maxHeight}, say, or {} for the best) it is told that first.
  async layers(wish) {
    if (!this.#location) return null;
    const url = `${this.#location}/layer`;
    try {
      if (wish) await request(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish) });
      return await (await request(url)).json();
    } catch {
      return null;
    }
  }

  // Why this session is over, or null.
  broken() {
    const state = this.pc?.connectionState;
    // The server's DTLS close_notify shows on the transport before anything else does.
    const transport = this.pc?.getTransceivers?.()[0]?.sender.transport?.state;
    if (state === "failed" || transport === "failed") return "The WebRTC connection failed";
    if (state === "closed" || transport === "closed") return "The server ended the session";
    if (this.#disconnectedAt !== null && performance.now() - this.#disconnectedAt > DISCONNECTED_MS_MAX) return "The connection was lost";
    return null;
  }

  connected() {
    return this.pc?.connectionState === "connected";
  }

  close() {
    this.#closed = true;
    this.#release();
    this.pc?.close();
  }

  // `keepalive` lets the DELETE go out while the page is being left.
  #release() {
    if (this.#location) fetch(this.#location, { method: "DELETE", keepalive: true }).catch(() => {});
    this.#location = null;
  }
}
