// getStats() of a player and of a publisher, as plain running totals; rates are differences of two of them.

export async function readReceived(pc) {
  const { byType, codecOf, pair } = await report(pc);
  const inbound = byType("inbound-rtp");
  const video = inbound.find((s) => s.kind === "video");
  const audio = inbound.find((s) => s.kind === "audio");
  return {
    at: performance.now(),
    connectionState: pc?.connectionState ?? "new",
    rtt: pair?.currentRoundTripTime,
    video: video && {
      codec: codecOf(video),
      width: video.frameWidth,
      height: video.frameHeight,
      fps: video.framesPerSecond,
      bytes: video.bytesReceived ?? 0,
      packets: video.packetsReceived ?? 0,
      packetsLost: video.packetsLost ?? 0,
      framesDecoded: video.framesDecoded ?? 0,
      framesDropped: video.framesDropped ?? 0,
      keyFrames: video.keyFramesDecoded ?? 0,
      freezeCount: video.freezeCount ?? 0,
      freezeSeconds: video.totalFreezesDuration ?? 0,
      jitterBufferDelay: video.jitterBufferDelay ?? 0,
      jitterBufferEmitted: video.jitterBufferEmittedCount ?? 0,
      nackCount: video.nackCount ?? 0,
      pliCount: video.pliCount ?? 0,
    },
    audio: audio && {
      codec: codecOf(audio),
      bytes: audio.bytesReceived ?? 0,
      packets: audio.packetsReceived ?? 0,
      packetsLost: audio.packetsLost ?? 0,
      totalAudioEnergy: audio.totalAudioEnergy ?? 0,
      totalSamplesDuration: audio.totalSamplesDuration ?? 0,
      level: audio.audioLevel ?? 0,
      concealedSamples: audio.concealedSamples ?? 0,
      jitterBufferDelay: audio.jitterBufferDelay ?? 0,
      jitterBufferEmitted: audio.jitterBufferEmittedCount ?? 0,
    },
  };
}

export async function readSent(pc) {
  const { byType, codecOf, pair } = await report(pc);
  const outbound = byType("outbound-rtp");
  const remote = byType("remote-inbound-rtp");
  const source = byType("media-source");
  // Simulcast: the largest picture that is sent, and what all of them need.
  const height = (s) => (s.active === false ? 0 : (s.frameHeight ?? 0));
  const videos = outbound.filter((s) => s.kind === "video").sort((a, b) => height(b) - height(a));
  const [video] = videos;
  const sum = (name) => videos.reduce((total, s) => total + (s[name] ?? 0), 0);
  const audio = outbound.find((s) => s.kind === "audio");
  const videoRemote = remote.find((s) => s.kind === "video");
  const audioRemote = remote.find((s) => s.kind === "audio");
  const audioSource = source.find((s) => s.kind === "audio");
  return {
    at: performance.now(),
    connectionState: pc?.connectionState ?? "new",
    rtt: videoRemote?.roundTripTime ?? audioRemote?.roundTripTime ?? pair?.currentRoundTripTime,
    video: video && {
      codec: codecOf(video),
      width: video.frameWidth,
      height: video.frameHeight,
      fps: video.framesPerSecond,
      bytes: sum("bytesSent"),
      packets: sum("packetsSent"),
      encodings: videos.filter((s) => s.framesPerSecond > 0).map((s) => s.frameHeight),
      packetsLost: videoRemote?.packetsLost ?? 0,
      framesEncoded: video.framesEncoded ?? 0,
      keyFrames: video.keyFramesEncoded ?? 0,
      limitation: video.qualityLimitationReason,
      targetBitrate: video.targetBitrate,
      retransmittedPackets: video.retransmittedPacketsSent ?? 0,
      nackCount: video.nackCount ?? 0,
      pliCount: video.pliCount ?? 0,
    },
    audio: audio && {
      codec: codecOf(audio),
      bytes: audio.bytesSent ?? 0,
      packets: audio.packetsSent ?? 0,
      packetsLost: audioRemote?.packetsLost ?? 0,
      totalAudioEnergy: audioSource?.totalAudioEnergy ?? 0,
      level: audioSource?.audioLevel ?? 0,
    },
  };
}

export const bytesOf = (sample) => (sample?.video?.bytes ?? 0) + (sample?.audio?.bytes ?? 0);

// Bits a second between two samples; undefined for the first.
export function bitrateBetween(before, after) {
  if (!before || after.at <= before.at) return undefined;
  return Math.max(0, (8000 * (bytesOf(after) - bytesOf(before))) / (after.at - before.at));
}

// Codec names in their usual spelling: "H.264 + Opus".
export function codecNames(sample) {
  const spelled = { H264: "H.264", H265: "H.265", opus: "Opus" };
  return [sample.video?.codec, sample.audio?.codec].filter(Boolean).map((c) => spelled[c] ?? c).join(" + ") || "–";
}

// All bytes that came, media or not; fewer than before once another path is in use.
export async function bytesHeard(pc) {
  const { byType } = await report(pc);
  return byType("candidate-pair").reduce((total, s) => total + (s.bytesReceived ?? 0), 0);
}

async function report(pc) {
  const all = pc && pc.signalingState !== "closed" ? [...(await pc.getStats()).values()] : [];
  const byId = new Map(all.map((s) => [s.id, s]));
  const byType = (type) => all.filter((s) => s.type === type);
  const transport = byType("transport")[0];
  const pair = byId.get(transport?.selectedCandidatePairId) ?? byType("candidate-pair").find((s) => s.nominated && s.state === "succeeded");
  // "video/H264" -> "H264"
  const codecOf = (s) => byId.get(s.codecId)?.mimeType?.split("/")[1];
  return { byType, codecOf, pair };
}
