//! An RTMP publisher's stream from another node: packets of the relay, put together to frames and into the log, as if the publisher were here. Started
//! with the first viewer of any kind; what viewers need is made of the log.

use std::sync::Arc;
use std::time::Duration;

use media::payload::{self, Reorder};
use media::{AudioConfig, Codec, Frame, Kind, Packet, Time, TrackConfig};
use metrics::Conversion;
use sfu::SourceId;
use tokio::sync::mpsc;

use super::Stream;
use crate::relay::{Handle, Local};

/// A hole waits this long for its packet: what viewers of RTMP may be late, less what frames wait elsewhere.
const REORDER_US: i64 = 1_000_000;
const REORDER_PACKETS_MAX: usize = 16_384;
/// Mail of the relay that waits: each is what came at one time.
const PACKETS_MAX: usize = 4_096;
/// DTS offsets of frames that are not whole yet, by time stamp: more than are in a hole's wait.
const OFFSETS_MAX: usize = 1_024;

/// What the relay has of a track.
#[derive(Debug)]
pub enum FromPeer {
    /// How sound is decoded.
    Sound(AudioConfig),
    /// Packets, with presentation minus decode time in ticks.
    Packets(Vec<(Packet, u32)>),
}

/// Runs until it is aborted or the relay has no more.
pub async fn run(stream: Arc<Stream>, relay: Arc<Handle>, source: SourceId) {
    let (sink, mut packets) = mpsc::channel(PACKETS_MAX);
    relay.tell(Local::Watch(stream.id, source, sink));
    let _watch = Watching { relay, stream: stream.clone(), source };
    let shared = stream.shared().clone();
    let mut tracks = Tracks::new();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            came = packets.recv() => match came {
                Some(came) => tracks.take(came),
                None => return,
            },
            _ = tick.tick() => {}
        }
        let now = shared.clock.now();
        while let Some(frame) = tracks.pop(now) {
            stream.take_frame(source, frame, now);
        }
        let dropped = std::mem::take(&mut tracks.broken);
        shared.metrics.conversion_frames_dropped.of(Conversion::PacketsToFrames).add(dropped);
    }
}

struct Watching {
    relay: Arc<Handle>,
    stream: Arc<Stream>,
    source: SourceId,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.relay.tell(Local::Unwatch(self.stream.id, self.source));
    }
}

struct Tracks {
    video: Reorder,
    audio: Reorder,
    depacketizer: payload::h264::Depacketizer,
    picture: Option<Arc<TrackConfig>>,
    sound: Option<Arc<TrackConfig>>,
    offsets: std::collections::BTreeMap<i64, u32>,
    counted: u64,
    broken: u64,
}

impl Tracks {
    fn new() -> Tracks {
        let reorder = || Reorder::new(REORDER_US, REORDER_PACKETS_MAX);
        Tracks {
            video: reorder(),
            audio: reorder(),
            depacketizer: payload::h264::Depacketizer::new(),
            picture: None,
            sound: None,
            offsets: std::collections::BTreeMap::new(),
            counted: 0,
            broken: 0,
        }
    }

    fn take(&mut self, came: FromPeer) {
        match came {
            FromPeer::Sound(config) => self.sound = Some(Arc::new(TrackConfig::Aac(config))),
            FromPeer::Packets(packets) => {
                for (packet, offset) in packets {
                    match packet.codec.kind() {
                        Kind::Audio => self.audio.push(packet),
                        Kind::Video => {
                            self.offsets.insert(packet.timestamp, offset);
                            self.video.push(packet);
                        }
                    }
                }
                while self.offsets.len() > OFFSETS_MAX {
                    self.offsets.pop_first();
                }
            }
        }
    }

    /// The next frame that is whole.
    fn pop(&mut self, now: Time) -> Option<Frame> {
        while let Some(packet) = self.video.pop(now) {
            let unit = self.depacketizer.push(&packet);
            let broken = self.depacketizer.counts().broken;
            (self.broken, self.counted) = (self.broken + broken - self.counted, broken);
            let Ok(Some(unit)) = unit else { continue };
            self.picture = unit.config.or(self.picture.take());
            let Some(config) = self.picture.clone() else { continue };
            let hz = Codec::H264.clock_hz();
            let offset = self.offsets.get(&unit.timestamp).copied().unwrap_or(0);
            let (pts, dts) = (
                Time::from_ticks(unit.timestamp, hz),
                Time::from_ticks(unit.timestamp.saturating_sub(offset.into()), hz),
            );
            let (key, discardable, data) = (unit.key, unit.discardable, unit.data);
            return Some(Frame { config, dts, pts, key, discardable, data });
        }
        while let Some(packet) = self.audio.pop(now) {
            let Some(config) = self.sound.clone().filter(|_| packet.codec == Codec::Aac) else { continue };
            let at = Time::from_ticks(packet.timestamp, Codec::Aac.clock_hz());
            let data = packet.payload;
            return Some(Frame { config, dts: at, pts: at, key: true, discardable: false, data });
        }
        None
    }
}
