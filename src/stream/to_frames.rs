//! Packets to frames: the picture that a browser publishes, made ready for RTMP and FLV. It taps the track at its home shard, started with the first frame
//! viewer and ended with the last.

use std::sync::Arc;
use std::time::Duration;

use media::payload::{self, Reorder};
use media::{Codec, Frame, Kind, Packet, Time, TrackConfig};
use metrics::Conversion;
use sfu::{Command, SourceId, TrackKey};
use tokio::sync::mpsc;

use super::Stream;
use super::conversions::Counted;
use crate::media_plane::{Order, TAP_MAX};

/// A hole waits this long for its packet: NACKs come back within two round trips of most access networks.
pub(super) const REORDER_US: i64 = 200_000;
pub(super) const REORDER_PACKETS_MAX: usize = 2_048;
/// RTMP and FLV viewers start at key frames, which browsers send only when asked: ask this often while somebody watches.
const KEY_FRAME_EVERY_US: i64 = 4_000_000;
/// A needed key frame is asked for this often; the shard's own throttle is behind it.
const KEY_FRAME_RETRY_US: i64 = 1_000_000;
/// Time stamps move towards the sender reports' line by at most this share of the time passed: 5 %, unheard and unseen.
const SLEW_SHARE: i64 = 20;
/// Beyond this a step is better than a minute of slewing.
const SLEW_US_MAX: i64 = 3_000_000;

/// Runs until it is aborted. `publisher` is the fence of who publishes, `fence` this conversion's.
pub async fn run(stream: Arc<Stream>, publisher: SourceId, fence: SourceId) {
    let shared = stream.shared().clone();
    let _counted = Counted::new(&shared.metrics, Conversion::PacketsToFrames);
    let Some((_tap, mut video)) = Tap::new(&stream, Kind::Video, fence) else { return };
    let mut picture = Picture::new();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut frames = Vec::new();
    let mut before = payload::h264::Counts::default();
    loop {
        tokio::select! {
            packets = video.recv() => match packets {
                Some(packets) => picture.push(packets),
                None => return,
            },
            _ = tick.tick() => {}
        }
        let now = shared.clock.now();
        let refused = picture.pop(now, &mut frames);
        for frame in frames.drain(..) {
            shared.metrics.conversion_frames.of(Conversion::PacketsToFrames).add(1);
            let captured = frame.dts;
            stream.log.push_captured(publisher, frame, captured, now);
        }
        let counts = picture.depacketizer.counts();
        let (broken, waiting) = (counts.broken - before.broken, counts.waiting - before.waiting);
        before = counts;
        shared.metrics.conversion_errors.of(Conversion::PacketsToFrames).add(broken);
        shared.metrics.conversion_frames_dropped.of(Conversion::PacketsToFrames).add(waiting);
        if let Some(codec) = refused {
            return stream.refuse_codec(publisher, codec);
        }
        if picture.wants_key_frame(now) {
            let key = TrackKey::new(stream.id, Kind::Video);
            let _ = stream.home.order(Order::Shard(Command::RequestKeyFrame(key)));
        }
    }
}

/// A track's packets, from its home shard; no more when it is dropped.
pub(super) struct Tap {
    stream: Arc<Stream>,
    kind: Kind,
    fence: SourceId,
}

impl Tap {
    /// For the conversion of that fence; none when the shard is too busy to hear of it.
    pub(super) fn new(
        stream: &Arc<Stream>,
        kind: Kind,
        fence: SourceId,
    ) -> Option<(Tap, mpsc::Receiver<Vec<Packet>>)> {
        let (to, packets) = mpsc::channel(TAP_MAX);
        let tap = Tap { stream: stream.clone(), kind, fence };
        if stream.home.order(Order::Tap(TrackKey::new(stream.id, kind), fence, to)).is_err() {
            tracing::warn!(stream = %stream.name, ?kind, "the media plane is overloaded: no RTMP or FLV of this track");
            return None;
        }
        Some((tap, packets))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let key = TrackKey::new(self.stream.id, self.kind);
        let _ = self.stream.home.order(Order::Untap(key, self.fence));
    }
}

struct Picture {
    reorder: Reorder,
    depacketizer: payload::h264::Depacketizer,
    config: Option<Arc<TrackConfig>>,
    slew: Slew,
    seen: bool,
    key_at: Option<Time>,
    asked: Option<Time>,
}

impl Picture {
    fn new() -> Picture {
        Picture {
            reorder: Reorder::new(REORDER_US, REORDER_PACKETS_MAX),
            depacketizer: payload::h264::Depacketizer::new(),
            config: None,
            slew: Slew::default(),
            seen: false,
            key_at: None,
            asked: None,
        }
    }

    fn push(&mut self, packets: Vec<Packet>) {
        self.seen |= !packets.is_empty();
        for packet in packets {
            self.reorder.push(packet);
        }
    }

    /// Frames that are whole; the codec, when frames cannot carry it.
    fn pop(&mut self, now: Time, out: &mut Vec<Frame>) -> Option<Codec> {
        while let Some(packet) = self.reorder.pop(now) {
            if packet.codec != Codec::H264 {
                return Some(packet.codec);
            }
            // A malformed payload costs its frame: the depacketizer then waits for the next key frame.
            let Ok(Some(unit)) = self.depacketizer.push(&packet) else { continue };
            if let Some(config) = unit.config {
                self.config = Some(config);
            }
            let Some(config) = self.config.clone() else { continue };
            if unit.key {
                self.key_at = Some(now);
            }
            let at = self.slew.time(unit.timestamp, Codec::H264.clock_hz(), unit.capture);
            let (key, discardable, data) = (unit.key, unit.discardable, unit.data);
            out.push(Frame { config, dts: at, pts: at, key, discardable, data });
        }
        None
    }

    fn wants_key_frame(&mut self, now: Time) -> bool {
        let needed = self.depacketizer.needs_key_frame() || self.config.is_none();
        let stale = self.key_at.is_none_or(|at| now.since(at) > KEY_FRAME_EVERY_US);
        let due = self.asked.is_none_or(|at| now.since(at) > KEY_FRAME_RETRY_US);
        if !self.seen || !(needed || stale) || !due {
            return false;
        }
        self.asked = Some(now);
        true
    }
}

/// From RTP time to the capture line: starts on it at once, then follows its corrections without a step.
#[derive(Debug, Default)]
pub(super) struct Slew {
    anchor: Option<(i64, i64)>,
    last: i64,
}

impl Slew {
    pub(super) fn time(&mut self, timestamp: i64, clock_hz: u32, capture: Time) -> Time {
        let linear = Time::from_ticks(timestamp, clock_hz).us();
        let target = capture.us() - linear;
        let (offset, before) = self.anchor.unwrap_or((target, linear));
        let passed = (linear - before).max(0);
        let error = target - offset;
        let step = if error.abs() > SLEW_US_MAX {
            error
        } else {
            error.clamp(-passed / SLEW_SHARE, passed / SLEW_SHARE)
        };
        self.anchor = Some((offset + step, linear.max(before)));
        // Never back: a frame is at least a tick after the one before.
        self.last = (linear + offset + step).max(self.last + 1);
        Time(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_slews_to_the_report_and_never_steps_or_goes_back() {
        let mut slew = Slew::default();
        let mut last = None;
        for frame in 0..600_i64 {
            let timestamp = 123_456 + frame * 3_000;
            // From the 100th frame on, reports say capture was 80 ms earlier.
            let correction = if frame >= 100 { -80_000 } else { 0 };
            let capture = Time(1_000_000 + frame * 33_333 + correction);
            let at = slew.time(timestamp, 90_000, capture);
            if let Some(last) = last {
                let step = at.since(last);
                assert!((31_000..=35_500).contains(&step), "frame {frame}: {step}");
            }
            last = Some(at);
            if frame == 599 {
                assert!(at.since(capture).abs() < 1_000);
            }
        }
    }
}
