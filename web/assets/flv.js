// HTTP-FLV into a <video> through mpegts.js and Media Source Extensions: the fallback where WebRTC cannot pass.
import { request } from "./page.js";

export class FlvPlayer {
  kind = "flv";
  pc = null;
  #video;
  #url;
  #player = null;
  #broken = null;
  #info = {};
  #bytes = 0;

  constructor(video, url) {
    this.#video = video;
    this.#url = new URL(url, location.href).href;
  }

  async start() {
    const mpegts = await library();
    if (this.#broken) return; // closed meanwhile
    if (!mpegts.getFeatureList().mseLivePlayback) throw new Error("This browser cannot play FLV (no Media Source Extensions)");
    const player = mpegts.createPlayer(
      { type: "flv", isLive: true, url: this.#url },
      {
        enableWorker: false, // its workers are made from blobs of source text; a live stream does not need them
        enableStashBuffer: false,
        lazyLoad: false,
        statisticsInfoReportInterval: 1000,
        autoCleanupSourceBuffer: true,
        // Stay near live by playing slightly faster, never by a jump.
        liveSync: true,
        liveSyncMaxLatency: 1.2,
        liveSyncTargetLatency: 0.6,
        liveSyncPlaybackRate: 1.15,
      },
    );
    this.#player = player;
    player.on(mpegts.Events.MEDIA_INFO, (info) => (this.#info = info));
    // `speed` is the KiB received in the last second, and reports come once a second.
    player.on(mpegts.Events.STATISTICS_INFO, ({ speed }) => (this.#bytes += (speed ?? 0) * 1024));
    player.on(mpegts.Events.LOADING_COMPLETE, () => (this.#broken ??= "The stream ended"));
    player.on(mpegts.Events.ERROR, (type, detail, info) => this.#fail(type, detail, info));
    player.attachMediaElement(this.#video);
    player.load();
  }

  async #fail(type, detail, info) {
    if (this.#broken) return;
    this.#broken = String(info?.msg || detail || type);
    if (detail === "HttpStatusCodeInvalid") this.#broken = await refusal(this.#url);
  }

  broken() {
    return this.#broken;
  }

  connected() {
    return !this.#broken;
  }

  async sample() {
    const video = this.#video;
    const { buffered, currentTime, playbackRate, videoWidth, videoHeight } = video;
    const end = buffered.length ? buffered.end(buffered.length - 1) : NaN;
    const quality = video.getVideoPlaybackQuality?.() ?? {};
    const decoded = quality.totalVideoFrames ?? 0;
    return {
      at: performance.now(),
      connectionState: this.#broken ? "failed" : this.#bytes > 0 ? "connected" : "connecting",
      buffered: end - currentTime,
      playbackRate,
      video: {
        codec: codecName(this.#info.videoCodec),
        width: videoWidth,
        height: videoHeight,
        bytes: this.#bytes,
        framesDecoded: decoded,
        framesDropped: quality.droppedVideoFrames ?? 0,
        packetsLost: 0,
      },
      audio: this.#info.audioCodec && {
        codec: codecName(this.#info.audioCodec),
        bytes: video.webkitAudioDecodedByteCount ?? 0,
      },
    };
  }

  close() {
    this.#broken ??= "Closed";
    this.#player?.destroy();
    this.#player = null;
    this.#video.removeAttribute("src");
    this.#video.load();
  }
}

let loading = null;

// Loads mpegts.js the first time it is needed; most viewers never need it.
function library() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/assets/vendor/mpegts.js";
    script.onload = () => {
      const { mpegts } = globalThis;
      mpegts.LoggingControl.enableAll = false;
      resolve(mpegts);
    };
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error("The FLV player could not be loaded"));
    };
    document.head.append(script);
  });
  return loading;
}

// mpegts.js reports the status only: ask once more for the sentence.
async function refusal(url) {
  const stop = new AbortController();
  try {
    await request(url, { signal: stop.signal });
    return "The stream ended";
  } catch (error) {
    return error.message;
  } finally {
    stop.abort();
  }
}

// "avc1.42c01f" -> "H264"
function codecName(codec) {
  const prefix = codec?.split(".")[0];
  return { avc1: "H264", hvc1: "H265", hev1: "H265", av01: "AV1", vp09: "VP9", mp4a: "AAC" }[prefix] ?? prefix;
}
