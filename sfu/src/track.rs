//! A track: its source, its numbering, its ring and who takes it. Whatever the source does (restart, other SSRC, other codec,
//! another protocol), the track's numbers and time go on.

use media::{Codec, Kind, Packet, Temporal, Time, payload};
use metrics::DropReason;

use crate::command::{ShardId, SourceId, TrackKey};
use crate::forward::OVERHEAD_MAX;
use crate::key_frame::SourceThrottle;
use crate::layers::EncodingMeter;
use crate::meter::Meter;
use crate::numbering::Numbering;
use crate::ring::{Ring, RingLimits};

/// A key frame of another shard or node this young answers a request for one: a source is asked no sooner for another, and who lost it sees it at once.
const ANSWERS_ITSELF_US: i64 = 300_000;

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
    /// What the source sends, as it would be sent on.
    pub(crate) meter: Meter,
    /// On a mirror: what [`Track::answers`] is at home.
    pub(crate) home_answers: bool,
    /// Of a track that is one of several encodings, or has temporal layers.
    pub(crate) encoding: Option<EncodingMeter>,
    source: SourceId,
    /// Older ones are refused even if they came here last.
    fence: SourceId,
    numbering: Numbering,
    clock: ClockMap,
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
    pub(crate) temporal: Temporal,
    pub(crate) descriptor: bytes::Bytes,
    /// Where the packets come with their numbers from, another source began.
    pub(crate) fresh_source: bool,
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
            meter: Meter::default(),
            home_answers: true,
            encoding: None,
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
        if let Some(meter) = &mut self.encoding {
            *meter = EncodingMeter::default();
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
        let fresh_source = self.numbering.rebase || incoming.fresh_source;
        let n = &mut self.numbering;
        if n.rebase {
            n.begin(incoming.seq, incoming.timestamp, clock_hz, now);
        }
        let seq = n.seq(incoming.seq).ok_or(DropReason::TooOld)?;
        let timestamp = n.time(incoming.seq, seq, incoming.timestamp, now);
        n.came(incoming.seq);
        let key_start = self.can_start_at(&incoming, seq, timestamp);
        if let Some(meter) = &mut self.encoding {
            let Incoming { codec, key_start, temporal, ref payload, .. } = incoming;
            meter.packet(codec, timestamp, payload, key_start, temporal.id, now);
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
                key_start,
                discardable: incoming.discardable,
                temporal: incoming.temporal,
                descriptor: incoming.descriptor,
                fresh_source,
                payload: incoming.payload,
            },
            now,
        )
    }

    /// Whether who has nothing yet can be given the track from this packet on. Not where an H.264 key frame lacks its parameter sets: another key
    /// frame is asked for then, if somebody waits.
    fn can_start_at(&self, incoming: &Incoming, seq: u64, timestamp: i64) -> bool {
        if !incoming.key_start || incoming.codec.kind() == Kind::Audio {
            return incoming.key_start;
        }
        if incoming.codec != Codec::H264 || payload::h264::profile_level_id(&incoming.payload).is_some() {
            return true;
        }
        // A slice: of the frame that started with its sets, or of a sender that gives them elsewhere, as one that begins with a slice does.
        let started =
            || self.ring.key().and_then(|key| self.ring.get(key)).is_some_and(|p| p.timestamp == timestamp);
        let before = seq.checked_sub(1).and_then(|before| self.ring.get(before));
        before.map_or(self.numbering.last.is_none(), |p| p.timestamp != timestamp || started())
    }

    /// Puts a packet that already has the track's numbers (a mirror's) into the ring.
    pub(crate) fn store(&mut self, packet: Packet, now: Time) -> Result<(), DropReason> {
        let (seq, key_start) = (packet.seq, packet.key_start);
        let last = (seq, packet.timestamp, packet.arrival, packet.codec.clock_hz());
        let len = packet.payload.len();
        self.ring.insert(packet, now)?;
        self.meter.add(len + OVERHEAD_MAX, now);
        if self.numbering.last.is_none_or(|(highest, ..)| seq > highest) {
            self.numbering.last = Some(last);
        }
        if key_start {
            self.key_frames.arrived(now);
        }
        self.fresh.push(seq);
        Ok(())
    }

    /// So many packets of the source, from this number on, do not come: on the way here their frames were left out. Where nothing behind them came yet
    /// the track's numbers have no hole for them, and nobody misses them. Else viewers do: a key frame is what helps.
    pub(crate) fn left_out(&mut self, source: SourceId, seq: u64, count: u32) {
        if source != self.source {
            return;
        }
        let (ring, sound) = (&self.ring, self.key.kind == Kind::Audio);
        let missed = self.numbering.leave_out(seq, count, |at| ring.get(at).map(|p| p.marker || sound));
        // What is before a key frame was cut.
        if !sound && missed.is_some_and(|missed| ring.key().is_none_or(|key| missed > key)) {
            self.key_frames.want();
        }
    }

    /// A sender report tied the source's RTP time (extended, in its own numbering) to a capture time on our line.
    pub(crate) fn sender_report(&mut self, source: SourceId, timestamp: i64, capture: Time) {
        if let Some(timestamp) = self.numbering.reported(timestamp).filter(|_| source == self.source) {
            self.clock.anchor = Some((timestamp, capture));
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

    /// Whether its newest key frame is what a request is to be answered with: the way to who could make another is long, and it came just now.
    pub(crate) fn answers_itself(&self, now: Time) -> bool {
        let newest = self.ring.key().and_then(|key| self.ring.get(key));
        matches!(self.upstream, Upstream::Home(_))
            && newest.is_some_and(|key| now.since(key.arrival) <= ANSWERS_ITSELF_US)
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
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::StreamId;
    use crate::numbering::SOURCE_GAP;

    fn incoming(seq: u64, timestamp: i64) -> Incoming {
        Incoming {
            seq,
            timestamp,
            codec: Codec::Vp8,
            marker: true,
            capture: None,
            key_start: false,
            discardable: false,
            temporal: Temporal::default(),
            descriptor: Bytes::new(),
            fresh_source: false,
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
    fn a_source_that_changed_at_another_node_is_another_one_here() {
        let mut track = track();
        assert!(track.adopt(SourceId(1), Upstream::External));
        for (seq, fresh_source) in [(10, true), (11, false), (75, true)] {
            track.ingest(Incoming { fresh_source, ..incoming(seq, 9) }, Time::ZERO).unwrap();
        }
        let fresh: Vec<bool> = track.ring.from(0).map(|p| p.fresh_source).collect();
        assert_eq!(fresh, [true, false, true]);
    }

    #[test]
    fn a_key_frame_without_its_parameter_sets_is_no_start() {
        let sets: &[u8] = &[0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce];
        let (idr, p): (&[u8], &[u8]) = (&[0x65, 0x88, 0x84], &[0x41, 0x9a]);
        let packet = |seq: u64, timestamp: i64, payload: &'static [u8]| Incoming {
            codec: Codec::H264,
            key_start: payload::key_start(Codec::H264, payload),
            payload: Bytes::from_static(payload),
            ..incoming(seq, timestamp)
        };
        let starts = |packets: &[(u64, i64, &'static [u8])]| {
            let mut track = track();
            track.adopt(SourceId(1), Upstream::External);
            for (seq, timestamp, payload) in packets {
                track.ingest(packet(*seq, *timestamp, payload), Time::ZERO).unwrap();
            }
            track.ring.from(0).filter(|p| p.key_start).map(|p| p.payload[0]).collect::<Vec<u8>>()
        };
        assert_eq!(starts(&[(1, 0, p), (2, 9, sets), (3, 9, idr), (4, 12, p)]), [0x78, 0x65]);
        assert_eq!(starts(&[(1, 0, p), (3, 9, idr), (4, 12, p)]), [], "lost");
        assert_eq!(
            starts(&[(1, 0, p), (3, 9, idr), (2, 9, sets)]),
            [0x78],
            "late, and in the ring before the rest"
        );
        assert_eq!(starts(&[(1, 0, p), (2, 9, sets), (4, 9, &[0x7c, 0x45]), (3, 9, idr)]), [0x78, 0x65]);
        assert_eq!(starts(&[(1, 0, p), (3, 9, &[0x68, 0xce]), (4, 9, idr)]), [], "half of them");
        for elsewhere in [&[(1, 0, p), (2, 9, idr)][..], &[(1, 0, idr), (2, 9, p)]] {
            assert_eq!(starts(elsewhere), [0x65], "a sender that gives them elsewhere");
        }
    }

    #[test]
    fn time_goes_on_when_the_sources_time_jumps() {
        let hour = 3_600 * 90_000;
        for jump in [hour, -hour, 6 * 90_000, -2 * 90_000] {
            let mut track = track();
            track.adopt(SourceId(1), Upstream::External);
            let times: Vec<i64> = [(1, 0), (2, 3_000), (4, 9_000 + jump), (3, 6_000), (5, 12_000 + jump)]
                .into_iter()
                .map(|(seq, timestamp)| {
                    track.ingest(incoming(seq, timestamp), Time::from_ms(seq as i64 * 33)).unwrap();
                    track.ring.get(track.ring.from(0).map(|p| p.seq).max().unwrap()).unwrap().timestamp
                })
                .collect();
            assert_eq!(times, [0, 3_000, 8_940, 8_940, 11_940], "{jump}: 66 ms after the second");
            let late = track.ring.from(0).nth(2).unwrap();
            assert_eq!(late.timestamp, 6_000, "what came late is of the line before the jump");
        }
        // A queue that empties, B-frames and a pause are none.
        let mut track = track();
        track.adopt(SourceId(1), Upstream::External);
        for (seq, timestamp, at_ms) in [(1, 0, 0), (2, 400_000, 100), (3, 320_000, 133), (4, 900_000, 9_000)]
        {
            track.ingest(incoming(seq, timestamp), Time::from_ms(at_ms)).unwrap();
            assert_eq!(track.ring.from(0).next_back().unwrap().timestamp, timestamp);
        }
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
        track.sender_report(SourceId(1), 3_600 * 90_000, Time::from_ms(600)); // a jump is ahead
        track.ingest(incoming(2, 9_000), Time::from_ms(700)).unwrap();
        let head = track.ring.get(track.ring.head().unwrap()).unwrap();
        assert_eq!(head.capture, Time::from_ms(550));
    }
}
