//! A track: its source, its numbering, its ring and who takes it. Whatever the source does (restart, other SSRC, other codec,
//! another protocol), the track's numbers and time go on.

use media::{Codec, Kind, Packet, Time};
use metrics::DropReason;

use crate::command::{ShardId, SourceId, TrackKey};
use crate::key_frame::SourceThrottle;
use crate::layers::Meter;
use crate::ring::{Ring, RingLimits};

/// Numbers left free when a source changes, so that packets of the new one that come out of order before its first still have a place,
/// and no number is used twice.
const SOURCE_GAP: u64 = 64;

/// Where key-frame requests of a track go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Upstream {
    /// Nobody sends yet.
    None,
    /// A WebRTC publisher on this shard, by its slot.
    Peer(usize),
    /// The control plane's packetizer: RTMP has no key-frame request; the ring answers.
    External,
    /// The shard where the track is at home.
    Home(ShardId),
}

/// One subscriber of a track: a peer's slot and which of its forwarders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Subscription {
    pub(crate) peer: usize,
    pub(crate) forwarder: usize,
}

/// A track on this shard.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) key: TrackKey,
    pub(crate) upstream: Upstream,
    pub(crate) ring: Ring,
    pub(crate) subscribers: Vec<Subscription>,
    /// Shards that mirror this track.
    pub(crate) mirrors: Vec<ShardId>,
    /// The control plane takes it too.
    pub(crate) tapped: bool,
    /// Numbers that came since the last fan-out, in arrival order.
    pub(crate) fresh: Vec<u64>,
    pub(crate) key_frames: SourceThrottle,
    /// On a mirror: what [`Track::answers`] is at home.
    pub(crate) home_answers: bool,
    /// Of a track that is one of several encodings.
    pub(crate) meter: Option<Meter>,
    source: SourceId,
    /// Older ones are refused even if they came here last.
    fence: SourceId,
    numbering: Numbering,
    clock: ClockMap,
}

/// From the source's numbers and time to the track's.
#[derive(Debug, Default)]
struct Numbering {
    rebase: bool,
    seq_delta: i64,
    time_delta: i64,
    /// The source's numbers below this have no place: the track's before them are another source's.
    floor: u64,
    /// The newest packet's: number, time stamp, arrival, clock.
    last: Option<(u64, i64, Time, u32)>,
}

/// A packet before the track has given it its numbers.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) seq: u64,
    pub(crate) timestamp: i64,
    pub(crate) codec: Codec,
    pub(crate) marker: bool,
    /// Known for sources that carry it; otherwise from sender reports.
    pub(crate) capture: Option<Time>,
    pub(crate) key_start: bool,
    pub(crate) discardable: bool,
    pub(crate) payload: bytes::Bytes,
}

/// RTP time to capture time: by arrival until the source's reports say better.
#[derive(Debug, Default)]
struct ClockMap {
    anchor: Option<(i64, Time)>,
}

impl ClockMap {
    fn capture(&mut self, timestamp: i64, clock_hz: u32, arrival: Time) -> Time {
        let (ticks, at) = *self.anchor.get_or_insert((timestamp, arrival));
        at.plus_us(Time::from_ticks(timestamp.saturating_sub(ticks), clock_hz).us())
    }
}

impl Track {
    pub(crate) fn new(key: TrackKey, upstream: Upstream) -> Track {
        let limits = match key.kind {
            Kind::Audio => RingLimits::AUDIO,
            Kind::Video => RingLimits::VIDEO,
        };
        Track {
            key,
            upstream,
            ring: Ring::new(limits),
            subscribers: Vec::new(),
            mirrors: Vec::new(),
            tapped: false,
            fresh: Vec::new(),
            key_frames: SourceThrottle::new(),
            home_answers: true,
            meter: None,
            source: SourceId::default(),
            fence: SourceId::default(),
            numbering: Numbering::default(),
            clock: ClockMap::default(),
        }
    }

    /// Takes `source` as the one that feeds the track, if none newer did. Returns whether it may.
    pub(crate) fn adopt(&mut self, source: SourceId, upstream: Upstream) -> bool {
        if source < self.fence {
            return false;
        }
        if source > self.source {
            (self.source, self.fence) = (source, source);
            self.upstream = upstream;
            self.restart();
        }
        source == self.source
    }

    /// Whether `source` would be a new one.
    pub(crate) fn is_new(&self, source: SourceId) -> bool {
        source > self.source && source >= self.fence
    }

    /// The stream has this source now, whether or not it sends this track.
    pub(crate) fn fence(&mut self, source: SourceId) {
        if source > self.fence {
            self.fence = source;
            self.upstream = Upstream::None;
            self.restart_meter();
        }
    }

    fn restart_meter(&mut self) {
        if let Some(meter) = &mut self.meter {
            *meter = Meter::default();
        }
    }

    /// The source began anew (another SSRC, a hole too large to be loss): its numbers and time are no guide to the track's.
    pub(crate) fn restart(&mut self) {
        self.numbering.rebase = true;
        self.clock.anchor = None;
        self.restart_meter();
        self.key_frames.source_changed();
    }

    /// The source left: nobody answers key-frame requests until another comes.
    pub(crate) fn orphan(&mut self, source: SourceId) {
        if source == self.source {
            self.upstream = Upstream::None;
        }
    }

    /// Takes a packet of the source: gives it the track's numbers and puts it into the ring.
    pub(crate) fn ingest(&mut self, incoming: Incoming, now: Time) -> Result<(), DropReason> {
        let clock_hz = incoming.codec.clock_hz();
        let fresh_source = self.numbering.rebase;
        if fresh_source {
            self.rebase(&incoming, clock_hz, now);
        }
        let n = &self.numbering;
        if incoming.seq < n.floor {
            return Err(DropReason::TooOld);
        }
        let Some(seq) = incoming.seq.checked_add_signed(n.seq_delta) else { return Err(DropReason::TooOld) };
        let timestamp = incoming.timestamp.wrapping_add(n.time_delta);
        if let Some(meter) = &mut self.meter {
            meter.packet(incoming.codec, timestamp, &incoming.payload, incoming.key_start, now);
        }
        let capture = match incoming.capture {
            Some(capture) => capture,
            None => self.clock.capture(timestamp, clock_hz, now),
        };
        self.store(
            Packet {
                seq,
                timestamp,
                arrival: now,
                capture,
                codec: incoming.codec,
                marker: incoming.marker,
                key_start: incoming.key_start,
                discardable: incoming.discardable,
                fresh_source,
                payload: incoming.payload,
            },
            now,
        )
    }

    /// Puts a packet that already has the track's numbers (a mirror's) into the ring.
    pub(crate) fn store(&mut self, packet: Packet, now: Time) -> Result<(), DropReason> {
        let (seq, key_start) = (packet.seq, packet.key_start);
        let last = (seq, packet.timestamp, packet.arrival, packet.codec.clock_hz());
        self.ring.insert(packet, now)?;
        if self.numbering.last.is_none_or(|(highest, ..)| seq > highest) {
            self.numbering.last = Some(last);
        }
        if key_start {
            self.key_frames.arrived();
        }
        self.fresh.push(seq);
        Ok(())
    }

    /// A sender report tied the source's RTP time (extended, in its own numbering) to a capture time on our line.
    pub(crate) fn sender_report(&mut self, source: SourceId, timestamp: i64, capture: Time) {
        if source == self.source && !self.numbering.rebase {
            self.clock.anchor = Some((timestamp.wrapping_add(self.numbering.time_delta), capture));
        }
    }

    /// Whether the source makes a key frame when it is asked. RTMP sources do not.
    pub(crate) fn answers(&self) -> bool {
        match self.upstream {
            Upstream::External => false,
            Upstream::Home(_) => self.home_answers,
            Upstream::Peer(_) | Upstream::None => true,
        }
    }

    /// Nobody takes the track and nobody sends it.
    pub(crate) fn is_idle(&self) -> bool {
        self.subscribers.is_empty()
            && self.mirrors.is_empty()
            && !self.tapped
            && matches!(self.upstream, Upstream::None | Upstream::Home(_))
    }

    /// Whether a packet sent now would reach anybody.
    pub(crate) fn is_watched(&self) -> bool {
        !self.subscribers.is_empty() || !self.mirrors.is_empty() || self.tapped
    }

    fn rebase(&mut self, incoming: &Incoming, clock_hz: u32, now: Time) {
        let n = &mut self.numbering;
        n.rebase = false;
        n.floor = (incoming.seq + 1).saturating_sub(SOURCE_GAP);
        let Some((seq, timestamp, arrival, last_hz)) = n.last else {
            n.seq_delta = SOURCE_GAP as i64;
            n.time_delta = 0;
            return;
        };
        // Time goes on by what passed on the clock, at least one tick; after a codec change it is counted in the new clock.
        let before = Time::from_ticks(timestamp, last_hz).ticks(clock_hz);
        let passed = Time(now.since(arrival).max(1)).ticks(clock_hz).max(1);
        n.seq_delta = (seq + SOURCE_GAP) as i64 - incoming.seq as i64;
        n.time_delta = before.wrapping_add(passed).wrapping_sub(incoming.timestamp);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::StreamId;

    fn incoming(seq: u64, timestamp: i64) -> Incoming {
        Incoming {
            seq,
            timestamp,
            codec: Codec::Vp8,
            marker: true,
            capture: None,
            key_start: false,
            discardable: false,
            payload: Bytes::from_static(b"x"),
        }
    }

    fn track() -> Track {
        Track::new(TrackKey::new(StreamId(1), Kind::Video), Upstream::None)
    }

    #[test]
    fn numbers_and_time_go_on_when_the_source_changes() {
        let mut track = track();
        assert!(track.adopt(SourceId(1), Upstream::External));
        track.ingest(incoming(65_000, 1_000), Time::from_ms(0)).unwrap();
        track.ingest(incoming(65_001, 4_000), Time::from_ms(33)).unwrap();
        let before = track.ring.get(track.ring.head().unwrap()).unwrap().clone();
        assert!(track.adopt(SourceId(2), Upstream::External));
        track.ingest(incoming(7, 900_000_000), Time::from_ms(1_033)).unwrap();
        let after = track.ring.get(track.ring.head().unwrap()).unwrap();
        assert_eq!(after.seq, before.seq + SOURCE_GAP);
        assert!((89_999..=90_000).contains(&(after.timestamp - before.timestamp)), "one second passed");
        assert!(after.fresh_source && !before.fresh_source);
    }

    #[test]
    fn an_older_source_is_refused() {
        let mut track = track();
        assert!(track.adopt(SourceId(5), Upstream::External));
        assert!(!track.adopt(SourceId(4), Upstream::External));
        track.orphan(SourceId(4));
        assert_eq!(track.upstream, Upstream::External);
    }

    #[test]
    fn capture_time_follows_the_sender_report() {
        let mut track = track();
        track.adopt(SourceId(1), Upstream::External);
        track.ingest(incoming(1, 0), Time::from_ms(500)).unwrap();
        track.sender_report(SourceId(1), 9_000, Time::from_ms(550));
        track.ingest(incoming(2, 9_000), Time::from_ms(700)).unwrap();
        let head = track.ring.get(track.ring.head().unwrap()).unwrap();
        assert_eq!(head.capture, Time::from_ms(550));
    }
}
