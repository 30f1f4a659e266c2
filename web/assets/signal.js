// One WHIP (RFC 9725) or WHEP session: one POST with the offer, PATCH when its path is lost, one DELETE at the end.
import { HttpError, request, sleep } from "./page.js";
import { bytesHeard } from "./stats.js";

// A short loss of connectivity mends itself. A longer one is another network or a NAT that forgot us: ICE restarts over what path
// there is, in the same session. What is still lost then is answered with a new session.
const RESTART_AFTER_MS = 300;
const LOST_MS_MAX = 5000;

// So long the node may take to answer that a session is over.
const RELEASE_MS_MAX = 1000;

// The node says something to a viewer at least each 0.18 s, whether its publisher does or not: who hears nothing for longer is on a path that is lost
// (a NAT that forgot us, most often), seconds before the browser says so.
const SILENT_MS_MAX = 400;
const LISTEN_EVERY_MS = 100;

export class Session {
  pc = null;
  #location = null;
  #closed = false;
  #established = false;
  #lostAt = null;
  #restart = null;
  #restarts = 0;
  #refused = false;
  #events = null;

  static supported() {
    return typeof RTCPeerConnection === "function";
  }

  // The peer connection to add tracks to before `exchange`.
  open() {
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    pc.onconnectionstatechange = () => this.#follow(pc.connectionState);
    return (this.pc = pc);
  }

  // What is offered, at first and when ICE restarts.
  offer(options) {
    return this.pc.createOffer(options);
  }

  // Sends the offer and applies the answer; true unless the session was closed meanwhile.
  async exchange(url) {
    const { pc } = this;
    await pc.setLocalDescription(await this.offer());
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

  // Restarts ICE when nothing at all comes; again only when something came meanwhile.
  async listenForSilence() {
    let [heard, heardAt] = [0, null];
    for (; !this.#closed; await sleep(LISTEN_EVERY_MS)) {
      const bytes = await bytesHeard(this.pc);
      if (bytes !== heard) [heard, heardAt] = [bytes, performance.now()];
      else if (heardAt !== null && this.connected() && performance.now() - heardAt > SILENT_MS_MAX) {
        heardAt = null;
        await this.#restartIce();
      }
    }
  }

  // Server-sent events of the session, as JSON, until it is closed. `onerror`: they break off; the browser asks again by itself.
  listen(path, onmessage, onerror) {
    if (!this.#location || this.#closed) return;
    this.#events = new EventSource(`${this.#location}/${path}`);
    this.#events.onmessage = ({ data }) => onmessage(JSON.parse(data));
    this.#events.onerror = onerror;
  }

  // Why this session is over, or null.
  broken() {
    const state = this.pc?.connectionState;
    // The server's DTLS close_notify shows on the transport before anything else does.
    const transport = this.pc?.getTransceivers?.()[0]?.sender.transport?.state;
    if (transport === "failed" || (state === "failed" && !this.#established)) return "The WebRTC connection failed";
    if (state === "closed" || transport === "closed") return "The server ended the session";
    if (this.#refused || (this.#lostAt !== null && performance.now() - this.#lostAt > LOST_MS_MAX)) return "The connection was lost";
    return null;
  }

  connected() {
    return this.pc?.connectionState === "connected";
  }

  close() {
    this.#closed = true;
    this.#events?.close();
    clearTimeout(this.#restart);
    // The node ends the session at the connection's own goodbye too, and may not know it any more when that is the faster one.
    const { pc } = this;
    Promise.race([this.#release(), sleep(RELEASE_MS_MAX)]).then(() => pc?.close());
  }

  #follow(state) {
    if (this.#closed) return;
    if (state === "connected") {
      clearTimeout(this.#restart);
      this.#established = true;
      this.#lostAt = this.#restart = null;
    } else if (this.#established && (state === "disconnected" || state === "failed")) {
      this.#lostAt ??= performance.now();
      // Once for each loss.
      this.#restart ??= setTimeout(() => this.#restartIce(), RESTART_AFTER_MS);
    }
  }

  // RFC 9725 section 4.3.3. The node is ICE-lite, so our candidates need not be told: its answer is there when our checks begin.
  async #restartIce() {
    const { pc } = this;
    const restart = ++this.#restarts;
    try {
      await pc.setLocalDescription(await this.offer({ iceRestart: true }));
      const response = await request(this.#location, {
        method: "PATCH",
        headers: { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*" },
        body: fragment(pc.localDescription.sdp),
      });
      const renewed = await response.text();
      // A newer one has other credentials.
      if (this.#closed || restart !== this.#restarts) return;
      await pc.setRemoteDescription({ type: "answer", sdp: withCredentials(pc.currentRemoteDescription.sdp, renewed) });
    } catch (error) {
      // The session is gone, or the node restarts none: the next one need not wait.
      this.#refused = error instanceof HttpError;
    }
  }

  // `keepalive` lets the DELETE go out while the page is being left.
  async #release() {
    const location = this.#location;
    this.#location = null;
    if (location) await fetch(location, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

const line = (sdp, name) => sdp.match(new RegExp(`^${name}.*$`, "m"))?.[0] ?? "";

// The credentials of an offer, under the section that carries the bundle (RFC 8840 section 9).
function fragment(sdp) {
  const lines = ["a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:"].map((name) => line(sdp, name).trim());
  return `${lines.join("\r\n")}\r\n`;
}

// An answer with the credentials of a fragment; all else stays as it was negotiated.
function withCredentials(sdp, renewed) {
  for (const name of ["a=ice-ufrag:", "a=ice-pwd:"]) {
    sdp = sdp.replace(new RegExp(`^${name}.*$`, "gm"), () => line(renewed, name).trim());
  }
  return sdp;
}
