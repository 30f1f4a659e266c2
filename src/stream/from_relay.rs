//! An RTMP publisher's stream from another node: packets of the relay, put together to frames and into the log, as if the publisher were here. Started
//! with the first viewer of any kind; what viewers need is made of the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::relay::flow::{Flow, Out};
use bytes::{Bytes, BytesMut};
use media::payload::{self, Reorder};
use media::{AudioConfig, Codec, Frame, Kind, Packet, Time, TrackConfig};
use metrics::Conversion;
use sfu::{SourceId, TrackKey};
use tokio::sync::{mpsc, watch};

use super::conversions::derived;
use super::to_frames::Slew;
use super::{Shared, Stream};
use crate::relay::{Handle, Local, SOUND_LEN_MAX};

/// A hole waits this long for its packet: what viewers of RTMP may be late, less what frames wait elsewhere.
const REORDER_US: i64 = 1_000_000;
const REORDER_PACKETS_MAX: usize = 16_384;
/// Mail of the relay that waits: each is what came at one time.
const PACKETS_MAX: usize = 4_096;
/// Sound that was made may be so far ahead of the pictures: what a link and its repair put between them.
const AHEAD_US: i64 = 100_000;
/// Pictures that have not come for so long do not catch up.
const PAUSE_US: i64 = 300_000;
/// DTS offsets of frames that are not whole yet, by time stamp: more than are in a hole's wait.
const OFFSETS_MAX: usize = 1_024;

/// What the relay has of a track.
#[derive(Debug)]
pub enum FromPeer {
    /// What a track is from now on.
    Track {
        /// Which.
        key: TrackKey,
        /// Its first packet's number, when it begins, or begins anew.
        begins: Option<u64>,
        /// How sound is decoded.
        config: Option<AudioConfig>,
    },
    /// What came of it.
    Flows(TrackKey, Vec<Flow>),
}

/// Which sound is needed of a publisher of frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sounds {
    /// What it sends.
    pub(super) aac: bool,
    /// What is made of it at its node.
    pub(super) opus: bool,
}

/// Runs until it is aborted or the relay has no more.
pub(super) async fn run(
    stream: Arc<Stream>,
    relay: Arc<Handle>,
    source: SourceId,
    mut sounds: watch::Receiver<Sounds>,
) {
    let shared = stream.shared().clone();
    let (mut watching, mut packets) = Watching::new(&stream, relay, source);
    watching.watch(TrackKey::new(stream.id, Kind::Video), true);
    sounds.mark_changed();
    let mut tracks = Tracks::new(stream.codecs()[Kind::Video as usize].is_some());
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            came = packets.recv() => match came {
                Some(came) => tracks.take(came),
                None => return,
            },
            Ok(()) = sounds.changed() => {
                let Sounds { aac, opus } = *sounds.borrow_and_update();
                watching.watch(TrackKey::new(stream.id, Kind::Audio), aac);
                watching.watch(derived(&stream), opus);
            }
            _ = tick.tick() => {}
        }
        let now = shared.clock.now();
        while let Some((frame, capture)) = tracks.pop(now) {
            let captured = capture.plus_us(frame.dts.since(frame.pts));
            stream.take_frame(source, frame, captured, now);
        }
        let dropped = std::mem::take(&mut tracks.broken);
        shared.metrics.conversion_frames_dropped.of(Conversion::PacketsToFrames).add(dropped);
    }
}

/// The same of a browser that publishes at another node: AAC that is made there, for the pictures that are put together here. Runs until it is aborted or
/// the relay has no more.
pub(super) async fn run_aac(stream: Arc<Stream>, relay: Arc<Handle>, source: SourceId) {
    let shared = stream.shared().clone();
    let (mut watching, mut packets) = Watching::new(&stream, relay, source);
    watching.watch(derived(&stream), true);
    let (mut sound, mut slew) = (Aac::new(), Slew::default());
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            came = packets.recv() => match came {
                Some(came) => sound.take(came),
                None => return,
            },
            _ = tick.tick() => {}
        }
        // Its node has nothing to make AAC of.
        if let Some(codec) = stream.codecs()[Kind::Audio as usize].filter(|codec| *codec != Codec::Opus) {
            return stream.refuse_codec(source, codec);
        }
        let now = shared.clock.now();
        while let Some((frame, packet)) = sound.pop(now) {
            let at = slew.time(packet.timestamp, Codec::Aac.clock_hz(), packet.capture);
            stream.log.push_captured(source, Frame { dts: at, pts: at, ..frame }, at, now);
        }
    }
}

/// What is watched of a stream at the relay, with one number for each track, which no other watch has.
struct Watching {
    relay: Arc<Handle>,
    shared: Arc<Shared>,
    source: SourceId,
    sink: mpsc::Sender<FromPeer>,
    tracks: HashMap<TrackKey, u64>,
}

impl Watching {
    fn new(stream: &Stream, relay: Arc<Handle>, source: SourceId) -> (Watching, mpsc::Receiver<FromPeer>) {
        let (sink, packets) = mpsc::channel(PACKETS_MAX);
        let shared = stream.shared().clone();
        (Watching { relay, shared, source, sink, tracks: HashMap::new() }, packets)
    }

    /// From now on, or no more.
    fn watch(&mut self, key: TrackKey, on: bool) {
        if on && !self.tracks.contains_key(&key) {
            let (source, watch, sink) = (self.source, self.shared.draw_id(), self.sink.clone());
            self.tracks.insert(key, watch);
            self.relay.tell(Local::Watch { key, source, watch, sink });
        } else if !on && let Some(watch) = self.tracks.remove(&key) {
            self.relay.tell(Local::Unwatch(watch));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for watch in self.tracks.values() {
            self.relay.tell(Local::Unwatch(*watch));
        }
    }
}

struct Tracks {
    video: Reorder,
    aac: Aac,
    /// Made of the sound where it is published.
    opus: Reorder,
    depacketizer: payload::h264::Depacketizer,
    picture: Option<Arc<TrackConfig>>,
    opus_config: Arc<TrackConfig>,
    /// Sound waits for the first picture, or the line of both would begin too late for it; at most until then.
    held: Option<Held>,
    /// The newest picture's time, and when it came, until they have caught up with sound that is made: only what is live of that comes.
    catching_up: Option<(Time, Time)>,
    /// Sound that waits for them.
    next_opus: Option<Packet>,
    offsets: std::collections::BTreeMap<i64, u32>,
    counted: u64,
    broken: u64,
}

impl Tracks {
    fn new(has_picture: bool) -> Tracks {
        Tracks {
            video: reorder(),
            aac: Aac::new(),
            opus: reorder(),
            depacketizer: payload::h264::Depacketizer::of_pieces(),
            picture: None,
            opus_config: Arc::new(TrackConfig::Opus),
            held: has_picture.then_some(Held::ForAPicture),
            catching_up: has_picture.then_some((Time::ZERO, Time::ZERO)),
            next_opus: None,
            offsets: std::collections::BTreeMap::new(),
            counted: 0,
            broken: 0,
        }
    }

    fn take(&mut self, came: FromPeer) {
        let (FromPeer::Track { key, .. } | FromPeer::Flows(key, _)) = &came;
        match (key.kind, key.derived) {
            (Kind::Audio, false) => self.aac.take(came),
            (Kind::Audio, true) => take(&mut self.opus, came),
            (Kind::Video, _) => {
                if let FromPeer::Flows(_, flows) = &came {
                    self.note_offsets(flows);
                }
                take(&mut self.video, came);
            }
        }
    }

    fn note_offsets(&mut self, flows: &[Flow]) {
        for flow in flows {
            if let Flow::Packet(Out { packet, dts_offset, .. }) = flow {
                self.offsets.insert(packet.timestamp, *dts_offset);
            }
        }
        while self.offsets.len() > OFFSETS_MAX {
            self.offsets.pop_first();
        }
    }

    /// The next frame that is whole, and when it was captured.
    fn pop(&mut self, now: Time) -> Option<(Frame, Time)> {
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
            self.held = None;
            self.catching_up = self.catching_up.map(|_| (pts, now));
            let (key, discardable, data) = (unit.key, unit.discardable, unit.data);
            // Of the packet that it came out with, which may be the next frame's.
            let capture = packet.capture.plus_us(pts.since(Time::from_ticks(packet.timestamp, hz)));
            return Some((Frame { config, dts, pts, key, discardable, data }, capture));
        }
        if self.holds_sound(now) {
            return None;
        }
        if let Some((frame, packet)) = self.aac.pop(now) {
            return Some((frame, packet.capture));
        }
        while let Some(packet) = self.next_opus.take().or_else(|| self.opus.pop(now)) {
            if packet.codec != Codec::Opus {
                continue;
            }
            let frame = sound(self.opus_config.clone(), &packet, packet.payload.clone());
            if self.is_ahead(frame.pts, now) {
                self.next_opus = Some(packet);
                break;
            }
            return Some((frame, packet.capture));
        }
        None
    }

    /// Whether made sound of that time is to wait for the pictures: they begin with a GOP that was there, and catch up with what is live.
    fn is_ahead(&mut self, at: Time, now: Time) -> bool {
        let ahead = self
            .catching_up
            .is_some_and(|(picture, came)| at.since(picture) > AHEAD_US && now.since(came) < PAUSE_US);
        if !ahead {
            self.catching_up = None;
        }
        ahead
    }

    fn holds_sound(&mut self, now: Time) -> bool {
        let comes = self.aac.reorder.next_deadline().or(self.opus.next_deadline()).is_some();
        match self.held {
            Some(Held::ForAPicture) if comes => self.held = Some(Held::Until(now.plus_us(REORDER_US))),
            Some(Held::Until(until)) if now >= until => self.held = None,
            _ => {}
        }
        self.held.is_some()
    }
}

fn reorder() -> Reorder {
    Reorder::new(REORDER_US, REORDER_PACKETS_MAX)
}

/// What came of a track, to be put in order.
fn take(of: &mut Reorder, came: FromPeer) {
    match came {
        FromPeer::Track { begins, .. } => {
            if let Some(seq) = begins {
                // What came of it before it was asked for again is another part of it.
                *of = reorder();
                of.begins(seq);
            }
        }
        FromPeer::Flows(_, flows) => {
            for flow in flows {
                match flow {
                    Flow::Packet(Out { packet, .. }) => of.push(packet),
                    Flow::LeftOut { seq, count } => of.leave_out(seq, count.into()),
                }
            }
        }
    }
}

/// A frame of sound, by its last packet.
fn sound(config: Arc<TrackConfig>, packet: &Packet, data: Bytes) -> Frame {
    let at = Time::from_ticks(packet.timestamp, packet.codec.clock_hz());
    Frame { config, dts: at, pts: at, key: true, discardable: false, data }
}

/// A track of AAC.
struct Aac {
    reorder: Reorder,
    config: Option<Arc<TrackConfig>>,
    /// Of a frame in pieces: those that came, and the next one's number.
    pieces: (BytesMut, u64),
}

impl Aac {
    fn new() -> Aac {
        Aac { reorder: reorder(), config: None, pieces: (BytesMut::new(), 0) }
    }

    fn take(&mut self, came: FromPeer) {
        if let FromPeer::Track { config: Some(config), .. } = &came {
            self.config = Some(Arc::new(TrackConfig::Aac(config.clone())));
        }
        take(&mut self.reorder, came);
    }

    /// The next frame that is whole, with its last packet.
    fn pop(&mut self, now: Time) -> Option<(Frame, Packet)> {
        while let Some(packet) = self.reorder.pop(now) {
            let Some(config) = self.config.clone().filter(|_| packet.codec == Codec::Aac) else { continue };
            let Some(data) = self.piece(&packet) else { continue };
            return Some((sound(config, &packet, data), packet));
        }
        None
    }

    /// A frame of sound, with its last piece.
    fn piece(&mut self, packet: &Packet) -> Option<Bytes> {
        let (pieces, next) = &mut self.pieces;
        if packet.key_start {
            pieces.clear();
        } else if packet.seq != *next || pieces.len() > SOUND_LEN_MAX {
            // A piece before it is lost, or it is no frame.
            pieces.clear();
            *next = 0;
            return None;
        }
        *next = packet.seq.saturating_add(1);
        if packet.key_start && packet.marker {
            return Some(packet.payload.clone());
        }
        pieces.extend_from_slice(&packet.payload);
        packet.marker.then(|| pieces.split().freeze())
    }
}

/// How long sound waits.
#[derive(Clone, Copy)]
enum Held {
    /// No sound came, and no picture.
    ForAPicture,
    /// Sound came.
    Until(Time),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::cut;

    fn sound(len: usize) -> Frame {
        let config =
            AudioConfig::from_asc(Bytes::from_static(&[0x11, 0x90])).expect("AAC-LC, 48 kHz, stereo");
        let data: Bytes = (0..len).map(|i| i as u8).collect();
        let at = Time::from_ms(40);
        let config = Arc::new(TrackConfig::Aac(config));
        Frame { config, dts: at, pts: at, key: true, discardable: false, data }
    }

    fn key() -> TrackKey {
        TrackKey::new(sfu::StreamId(1), Kind::Audio)
    }

    fn flow(packet: Packet) -> Flow {
        Flow::Packet(Out { packet, dts_offset: 0, config: Bytes::new(), ingest: Time::ZERO })
    }

    /// What comes out of a frame's packets without those of these numbers.
    fn through(frames: &[Frame], lost: &[u64]) -> Vec<Bytes> {
        let mut tracks = Tracks::new(false);
        let TrackConfig::Aac(config) = (*frames[0].config).clone() else { unreachable!("it is sound") };
        tracks.take(FromPeer::Track { key: key(), begins: Some(1), config: Some(config) });
        let mut seq = 0;
        for frame in frames {
            for packet in cut(frame, frame.pts, payload::PAYLOAD_LEN_MAX, &mut Vec::new()).packets {
                seq += 1;
                assert!(packet.payload.len() <= payload::PAYLOAD_LEN_MAX);
                if !lost.contains(&seq) {
                    tracks.take(FromPeer::Flows(key(), vec![flow(Packet { seq, ..packet })]));
                }
            }
        }
        let late = Time::from_ms(40).plus_us(REORDER_US);
        std::iter::from_fn(|| tracks.pop(late)).map(|(frame, _)| frame.data).collect()
    }

    #[test]
    fn long_frames_of_sound_cross_in_pieces() {
        let frames = [sound(300), sound(6_144), sound(2_200), sound(301)];
        let whole: Vec<Bytes> = frames.iter().map(|frame| frame.data.clone()).collect();
        assert_eq!(through(&frames, &[]), whole);
        // One packet, six, two, one: one with a hole is none, and the next is not hurt.
        for (lost, left) in [(2, [0, 2, 3]), (4, [0, 2, 3]), (7, [0, 2, 3]), (9, [0, 1, 3])] {
            assert_eq!(through(&frames, &[lost]), left.map(|at| whole[at].clone()), "without {lost}");
        }
        assert_eq!(through(&[sound(1 << 20), sound(5)], &[]), [sound(5).data], "that is no frame of AAC");
    }

    #[test]
    fn sound_waits_for_the_first_picture_and_not_for_ever() {
        let mut tracks = Tracks::new(true);
        let TrackConfig::Aac(config) = (*sound(5).config).clone() else { unreachable!("it is sound") };
        tracks.take(FromPeer::Track { key: key(), begins: Some(1), config: Some(config) });
        for packet in cut(&sound(5), Time::ZERO, payload::PAYLOAD_LEN_MAX, &mut Vec::new()).packets {
            tracks.take(FromPeer::Flows(key(), vec![flow(Packet { seq: 1, ..packet })]));
        }
        assert!(tracks.pop(Time::from_ms(50)).is_none());
        assert!(tracks.pop(Time::from_ms(50).plus_us(REORDER_US - 1)).is_none());
        assert!(tracks.pop(Time::from_ms(50).plus_us(REORDER_US)).is_some());
    }

    #[test]
    fn made_sound_waits_for_pictures_that_catch_up_and_no_longer() {
        let key = TrackKey { derived: true, ..key() };
        let opus = |seq: u64| {
            let frame = Frame { config: Arc::new(TrackConfig::Opus), ..sound(5) };
            let packets = cut(&frame, Time::ZERO, payload::PAYLOAD_LEN_MAX, &mut Vec::new()).packets;
            let packet = Packet { seq, timestamp: 48_000 * 3, ..packets[0].clone() };
            FromPeer::Flows(key, vec![flow(packet)])
        };
        let of = |picture_ms: i64, came: Time, now: Time| {
            let mut tracks = Tracks::new(true);
            (tracks.held, tracks.catching_up) = (None, Some((Time::from_ms(picture_ms), came)));
            (1..=2).for_each(|seq| tracks.take(opus(seq)));
            std::iter::from_fn(|| tracks.pop(now)).count()
        };
        let now = Time::from_ms(50_000);
        assert_eq!(of(1_000, now, now), 0, "two seconds ahead");
        assert_eq!(of(2_900, now, now), 2, "where the pictures are, nearly");
        assert_eq!(of(1_000, now.plus_us(-PAUSE_US), now), 2, "no pictures come");
    }
}
