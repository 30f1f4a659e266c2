//! A forwarder: one subscriber's view of one track. It maps the track's numbers and time to the subscriber's own, waits for key frames,
//! starts from the ring ([`backlog`]), answers NACKs from it ([`repair`]), and knows what its sender report must say. It holds positions, not
//! payloads.

mod backlog;
mod repair;
mod switch;
mod temporal;
mod vp8;
mod write;

use std::net::SocketAddr;

use media::payload::dependency;
use media::{Codec, Kind, Packet, Time, payload};
use metrics::{DropReason, ShardMetrics};
use rtc::sdp::NegotiatedMedia;
use rtc::session::Session;

use crate::estimate::Estimator;
use crate::gate::Gate;
use crate::ranges::{IdDeltas, Range, Ranges};
use crate::ring::Ring;
use crate::shard::Egress;
use repair::{RESEND_FLOOR_BYTES, RESEND_SHARE_PERCENT};
use temporal::TemporalGate;
use write::Header;

/// RTP header with the transport-wide number, RTX's original number, and the longest SRTP tag.
pub(crate) const OVERHEAD_MAX: usize = 12 + 8 + 2 + 16;
/// The time stamps of a GOP from the ring are squeezed by this factor (33 ms to 2 ms a frame): played back as it was, browsers go fast
/// forward or stay late (srs#3298, janus-gateway#3068).
const SQUEEZE: i64 = 16;
/// A GOP shown again to a live viewer has half a frame's time to fit in. Frames keep time stamps of their own up to this factor: at 60 fps
/// they are 1500 ticks apart.
const SQUEEZE_MAX: i64 = 1_024;
/// Frames within this part of a second are live: what a queue may hold back and give at once.
const LIVE_PER_S: u32 = 5;

/// Where a forwarder is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is sent until a key frame starts.
    AwaitKeyFrame,
    /// The ring's last GOP is being sent, next from `next`. From `join` on, a number and what is added to the time, it is the live point.
    CatchUp { next: u64, join: Option<(u64, i64)> },
    /// Each packet goes out as it comes; from `next` on they wait in the ring for the pacer.
    Live { next: Option<u64> },
}

/// What a packet leaves by.
pub(crate) struct Way<'a, E> {
    pub(crate) session: &'a mut Session,
    pub(crate) to: SocketAddr,
    pub(crate) metrics: &'a ShardMetrics,
    /// Gives transport-wide numbers, where the session has them.
    pub(crate) estimator: Option<&'a mut Estimator>,
    pub(crate) numbered: bool,
    /// The probe that is under way.
    pub(crate) probe: Option<u8>,
    pub(crate) now: Time,
    pub(crate) out: &'a mut E,
}

#[derive(Clone, Copy, Debug)]
struct Choice {
    codec: Codec,
    payload_type: u8,
    rtx_payload_type: Option<u8>,
    /// Its packets carry transport-wide numbers under this id.
    twcc: Option<u8>,
    /// The same for dependency descriptors.
    descriptor: Option<u8>,
}

/// Sent, for sender reports and figures.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) wire_bytes: u64,
    /// Video frames whose end was sent.
    pub(crate) frames: u64,
    /// Of the packets, those that were retransmissions.
    pub(crate) resent: u64,
    /// Of those, the ones that nobody asked for: feedback said that they are lost.
    pub(crate) resent_unasked: u64,
    /// Their bytes, asked for or not.
    pub(crate) resent_bytes: u64,
    /// Of the packets, those that were sent again as part of a probe, unasked.
    pub(crate) probe_copies: u64,
    /// Their bytes.
    pub(crate) probe_copy_bytes: u64,
    /// Of the bytes, those of packets of padding.
    pub(crate) padding_bytes: u64,
    /// Frames left out because the link takes fewer.
    pub(crate) frames_left_out: u64,
    /// Frames left out because they are of a temporal layer above the subscriber's.
    pub(crate) frames_above: u64,
    /// Frames whose end was dropped for another reason.
    pub(crate) frames_dropped: u64,
}

impl Sent {
    /// Both together.
    pub(crate) fn plus(self, other: Sent) -> Sent {
        Sent {
            packets: self.packets + other.packets,
            payload_bytes: self.payload_bytes + other.payload_bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
            frames: self.frames + other.frames,
            resent: self.resent + other.resent,
            resent_unasked: self.resent_unasked + other.resent_unasked,
            resent_bytes: self.resent_bytes + other.resent_bytes,
            probe_copies: self.probe_copies + other.probe_copies,
            probe_copy_bytes: self.probe_copy_bytes + other.probe_copy_bytes,
            padding_bytes: self.padding_bytes + other.padding_bytes,
            frames_left_out: self.frames_left_out + other.frames_left_out,
            frames_above: self.frames_above + other.frames_above,
            frames_dropped: self.frames_dropped + other.frames_dropped,
        }
    }

    /// What was sent after `before`.
    pub(crate) fn since(self, before: Sent) -> Sent {
        Sent {
            packets: self.packets - before.packets,
            payload_bytes: self.payload_bytes - before.payload_bytes,
            wire_bytes: self.wire_bytes - before.wire_bytes,
            frames: self.frames - before.frames,
            resent: self.resent - before.resent,
            resent_unasked: self.resent_unasked - before.resent_unasked,
            resent_bytes: self.resent_bytes - before.resent_bytes,
            probe_copies: self.probe_copies - before.probe_copies,
            probe_copy_bytes: self.probe_copy_bytes - before.probe_copy_bytes,
            padding_bytes: self.padding_bytes - before.padding_bytes,
            frames_left_out: self.frames_left_out - before.frames_left_out,
            frames_above: self.frames_above - before.frames_above,
            frames_dropped: self.frames_dropped - before.frames_dropped,
        }
    }
}

/// What a sender report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SenderTime {
    pub(crate) at: Time,
    pub(crate) rtp: u32,
}

/// One subscriber's view of one track.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) media: NegotiatedMedia,
    pub(crate) ssrc: u32,
    pub(crate) sent: Sent,
    pub(crate) last_report: Option<Time>,
    rtx_ssrc: u32,
    choice: Option<Choice>,
    state: State,
    ranges: Ranges,
    start: (u64, i64),
    highest: Option<u64>,
    /// The track's number of the packet with the highest.
    highest_in: u64,
    /// The time stamps, in the track's time, of the frame sent last and of the one left out last.
    frame_time: Option<i64>,
    left_out_time: Option<i64>,
    /// The track's last number that was left out, while nothing is sent behind it.
    left_out: Option<u64>,
    /// Among them numbers are missing, which may be of other frames.
    left_out_holes: bool,
    /// Why; `None` in a catch-up.
    left_out_for: Option<DropReason>,
    /// Frames that were, while nothing is sent behind them.
    left_out_frames: u16,
    gate: Gate,
    temporal: TemporalGate,
    last_time: i64,
    frame_open: bool,
    live_offset: Option<(i64, u32)>,
    key_out: u64,
    /// The time stamp of the key frame at `key_out`: parameter sets and first slice both say that it starts.
    key_time: Option<i64>,
    /// Where the GOP before that one began, if the one goes on where the other ended.
    before_key: Option<u64>,
    newest: Option<(i64, Time)>,
    newest_arrival: Time,
    /// Ticks that switches put time off by, beyond capture time; the same for what was sent last.
    ahead: i64,
    newest_ahead: i64,
    /// Key frames that a switch left out, one after another.
    refused: u8,
    /// Of a track that is one of several encodings, or has temporal layers.
    picture_ids: Option<vp8::PictureIds>,
    /// The newest of the frame numbers that dependency descriptors said.
    frame_number: Option<u16>,
    rtx_seq: u64,
    /// By number: its lower bits, when it went again last in milliseconds, and how often it was asked for.
    resent: Vec<repair::Resent>,
    budget: i64,
    /// The probe that packets were last sent again for, and where it goes on.
    probed: Option<(u8, u64)>,
}

impl<'a, E> Way<'a, E> {
    pub(crate) fn new(
        session: &'a mut Session,
        to: SocketAddr,
        metrics: &'a ShardMetrics,
        now: Time,
        out: &'a mut E,
    ) -> Way<'a, E> {
        Way { session, to, metrics, estimator: None, numbered: false, probe: None, now, out }
    }
}

impl Forwarder {
    /// `seed` draws the first sequence numbers and time stamp.
    pub(crate) fn new(media: NegotiatedMedia, ssrc: u32, rtx_ssrc: u32, seed: u64) -> Forwarder {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ u64::from(ssrc);
        Forwarder {
            media,
            ssrc,
            sent: Sent::default(),
            last_report: None,
            rtx_ssrc,
            choice: None,
            state: State::AwaitKeyFrame,
            ranges: Ranges::new(),
            // RFC 3550 5.1: a random start. Below 2^15, so that the receiver cannot take early loss for a wrap (RFC 3711 3.3.1).
            start: ((mixed & 0x7fff) + 1, (mixed >> 16 & 0xffff_ffff) as i64),
            highest: None,
            highest_in: 0,
            frame_time: None,
            left_out_time: None,
            left_out: None,
            left_out_holes: false,
            left_out_for: None,
            left_out_frames: 0,
            gate: Gate::Open,
            temporal: TemporalGate::new(),
            last_time: 0,
            frame_open: false,
            live_offset: None,
            key_out: 0,
            key_time: None,
            before_key: None,
            newest: None,
            newest_arrival: Time::ZERO,
            ahead: 0,
            newest_ahead: 0,
            refused: 0,
            picture_ids: None,
            frame_number: None,
            rtx_seq: (mixed >> 40 & 0x7fff) + 1,
            resent: Vec::new(),
            budget: RESEND_FLOOR_BYTES,
            probed: None,
        }
    }

    /// Starts from the ring when it has a whole GOP worth showing; otherwise waits. Returns whether a key frame must be asked for.
    /// `replay_age_us_max`: a GOP older than this is not replayed.
    pub(crate) fn start(&mut self, ring: &Ring, now: Time, replay_age_us_max: i64) -> bool {
        let usable = ring.key().filter(|key| {
            ring.whole_from(*key) && ring.get(*key).is_some_and(|p| now.since(p.arrival) <= replay_age_us_max)
        });
        match usable {
            Some(key) if self.catch_up_from(ring, key) => false,
            _ => {
                self.state = State::AwaitKeyFrame;
                true
            }
        }
    }

    /// A GOP came at once, of a conversion or another shard, while nothing was sent yet: it starts from the ring, as it would have if that had come
    /// first. Returns whether it does.
    pub(crate) fn starts_behind(&mut self, ring: &Ring, fresh: &[u64]) -> bool {
        if !self.is_unused() || !self.awaits_key_frame() {
            return false;
        }
        let Some(first) = ring.key().filter(|key| fresh.contains(key)).and_then(|key| ring.get(key)) else {
            return false;
        };
        let newest = ring.from(first.seq).next_back().map_or(0, |p| p.timestamp - first.timestamp);
        newest >= i64::from(first.codec.clock_hz() / LIVE_PER_S) && self.rewind(ring)
    }

    /// A packet that the track just got: whether it is to be sent now or, where the pacer says so, to [`Forwarder::wait`]. If not, it is in the
    /// ring and the pacer comes to it. `Err` says why it is not sent; [`DropReason::CodecNotNegotiated`] is final for the session.
    pub(crate) fn admit(&mut self, packet: &Packet) -> Result<bool, DropReason> {
        match self.state {
            State::CatchUp { next, .. } | State::Live { next: Some(next) } if packet.seq >= next => {
                return Ok(false);
            }
            State::AwaitKeyFrame => {}
            _ if !packet.fresh_source => {
                self.choose(packet)?;
                return Ok(true);
            }
            _ => {}
        }
        if !packet.key_start {
            self.state = State::AwaitKeyFrame;
            return Err(DropReason::AwaitKeyFrame);
        }
        self.choose(packet)?;
        self.join_live(packet);
        Ok(true)
    }

    /// What is admitted goes from this packet on when the pacer says so. A late one, which fills a hole, does not wait: then it is `false`.
    pub(crate) fn wait(&mut self, packet: &Packet) -> bool {
        let late = self.highest.is_some() && packet.seq <= self.highest_in;
        if late || self.is_behind() {
            return false;
        }
        self.state = State::Live { next: Some(packet.seq) };
        true
    }

    /// Sends a packet that was admitted.
    pub(crate) fn send<E: Egress>(
        &mut self,
        packet: &Packet,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let (range, seq) = match self.ranges.last() {
            Some(range) if packet.seq >= range.in_first => {
                (range, range.out_first + (packet.seq - range.in_first))
            }
            _ => self.ranges.of_track(packet.seq).ok_or(DropReason::TooOld)?,
        };
        if self.left_out.is_some() && self.highest.is_none_or(|highest| seq > highest) {
            return Err(DropReason::TooOld); // of a frame that was left out
        }
        self.send_mapped(packet, range, seq, way)
    }

    /// Whether it is not at the ring's head, or past it with a gate that is not open.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.state, State::CatchUp { .. } | State::Live { next: Some(_) })
    }

    /// Temporal layers up to `limit` from the next frame on, of those up to `top`; `None`: all, where a decoder can follow.
    pub(crate) fn limit_temporal(&mut self, limit: Option<u8>, top: u8) {
        self.temporal.limit(limit, top);
    }

    /// The uppermost temporal layer that is sent; `None`: all.
    pub(crate) fn temporal(&self) -> Option<u8> {
        self.temporal.passes()
    }

    /// Whether fewer temporal layers are sent than are wanted.
    pub(crate) fn temporal_lags(&self) -> bool {
        self.temporal.lags()
    }

    /// Whether frames are left out up to the next key frame.
    pub(crate) fn holds_for_key_frame(&self) -> bool {
        self.gate == Gate::KeyFrame
    }

    /// Microseconds from the frame sent last to `packet`'s; 0 when they are one, or not known.
    pub(crate) fn interval_us(&self, packet: &Packet) -> i64 {
        let passed = self.frame_time.map_or(0, |before| packet.timestamp - before);
        Time::from_ticks(passed.max(0), packet.codec.clock_hz()).us()
    }

    /// Whether a catch-up is under way.
    pub(crate) fn is_catching_up(&self) -> bool {
        matches!(self.state, State::CatchUp { .. })
    }

    /// Whether it has sent nothing yet, and does not know what it will.
    pub(crate) fn is_unused(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it waits for a key frame.
    pub(crate) fn awaits_key_frame(&self) -> bool {
        self.state == State::AwaitKeyFrame
    }

    /// The receiver lost its picture: show it the ring's last GOP again, behind what it has. Returns whether it worked.
    pub(crate) fn rewind(&mut self, ring: &Ring) -> bool {
        if self.is_catching_up() {
            return true;
        }
        ring.key().is_some_and(|key| ring.whole_from(key) && self.catch_up_from(ring, key))
    }

    /// What it has sent so far, and whether it is the GOP of the ring.
    pub(crate) fn mark(&self) -> (Sent, bool) {
        (self.sent, self.is_catching_up())
    }

    /// The same of what was sent after `before`.
    pub(crate) fn since(&self, before: (Sent, bool)) -> (Sent, bool) {
        (self.sent.since(before.0), self.is_catching_up() | before.1)
    }

    /// Whether its first sender report is due: there is something to say, and nothing was said.
    pub(crate) fn owes_first_report(&self) -> bool {
        self.last_report.is_none() && self.newest.is_some()
    }

    /// The pair of wall time and RTP time for a sender report now; `None` before the first packet.
    pub(crate) fn sender_time(&self, now: Time) -> Option<SenderTime> {
        let (timestamp, capture) = self.newest?;
        let (offset, clock_hz) = self.live_offset?;
        let passed = Time(now.since(capture)).ticks(clock_hz);
        Some(SenderTime { at: now, rtp: (timestamp + offset + passed) as u32 })
    }

    /// The payload type for a packet's codec, and of H.264's for its profile.
    fn choose(&mut self, packet: &Packet) -> Result<(), DropReason> {
        let codec = packet.codec;
        if self.choice.is_some_and(|c| c.codec == codec) {
            return Ok(());
        }
        let profile = match codec {
            Codec::H264 => payload::h264::profile_level_id(&packet.payload),
            _ => None,
        };
        let negotiated = self.media.for_codec(codec, profile).ok_or(DropReason::CodecNotNegotiated)?;
        // A retransmission without RTX is the same bytes again: no room for another transport-wide number.
        let twcc = self.media.twcc_ext_id.filter(|_| negotiated.rtx_pt.is_some() || !negotiated.nack);
        let (payload_type, rtx_payload_type) = (negotiated.pt, negotiated.rtx_pt);
        let descriptor = self.media.dependency_ext_id;
        self.choice = Some(Choice { codec, payload_type, rtx_payload_type, twcc, descriptor });
        if self.live_offset.is_some_and(|(_, hz)| hz != codec.clock_hz()) {
            self.live_offset = None;
        }
        Ok(())
    }

    /// Goes to the ring's `key` and sends from there on: squeezed up to the newest whole frame, so that all of it lies between what was sent and what
    /// comes next, and live behind it. Returns whether there is room for that.
    fn catch_up_from(&mut self, ring: &Ring, key: u64) -> bool {
        let Some(first) = ring.get(key) else { return false };
        if self.choose(first).is_err() {
            return false;
        }
        let (out_first, ids) = (self.next_out(), self.ids_from(first));
        let join = match ring.from(key).rev().find(|p| p.marker) {
            Some(join) => {
                let offset = self.live_offset(join);
                let (span, join_out) = ((join.timestamp - first.timestamp).max(0), join.timestamp + offset);
                let high = match self.highest {
                    // A viewer at the live point has had `join_out`, perhaps more than once. The next frame is about as far off as the last
                    // one was; RTMP counts milliseconds, so half of that is safe to use, and an eighth is left in any case.
                    Some(_) => {
                        let before = ring.from(key).rev().find(|p| p.timestamp < join.timestamp);
                        let interval = before.map_or(0, |p| join.timestamp - p.timestamp);
                        let next = ring.get(join.seq + 1).map(|p| p.timestamp + offset);
                        join_out
                            .max(self.last_time + interval / 2)
                            .min(join_out + interval - interval / 8)
                            .min(next.map_or(i64::MAX, |time| time - 1))
                    }
                    None => join_out,
                };
                let low = self.highest.map_or(i64::MIN, |_| self.last_time + 1).max(high - span / SQUEEZE);
                if high < low || (high - low) * SQUEEZE_MAX < span {
                    return false;
                }
                self.ranges.push(Range {
                    out_first,
                    in_first: key,
                    time_in: first.timestamp,
                    time_out: low,
                    squeeze: Some((high - low, span)),
                    left_out: None,
                    ids,
                });
                Some((join.seq + 1, offset))
            }
            // The key frame itself is still coming in.
            None => {
                if self.highest.is_some() && first.timestamp + self.live_offset(first) <= self.last_time {
                    return false;
                }
                self.push_live_range(first);
                None
            }
        };
        self.begin_at_key(out_first, first.timestamp);
        self.forget_left_out();
        self.state = State::CatchUp { next: key, join };
        true
    }

    /// A new range that starts live at `packet`.
    fn join_live(&mut self, packet: &Packet) {
        self.push_live_range(packet);
        self.begin_at_key(self.ranges.last().map_or(0, |r| r.out_first), packet.timestamp);
        self.forget_left_out();
        // What is before it, of this track or another, was not sent and will not be.
        self.highest_in = packet.seq.saturating_sub(1);
        self.state = State::Live { next: None };
    }

    /// What is before the key frame with this number has no use.
    fn begin_at_key(&mut self, out_first: u64, timestamp: i64) {
        (self.key_out, self.key_time, self.before_key) = (out_first, Some(timestamp), None);
    }

    fn push_live_range(&mut self, packet: &Packet) {
        let mut offset = self.live_offset(packet);
        if self.highest.is_some() && packet.timestamp + offset <= self.last_time {
            // A GOP shown again ended less than a frame ahead, and the next source came sooner than a frame.
            offset = self.last_time + 1 - packet.timestamp;
            self.live_offset = Some((offset, packet.codec.clock_hz()));
        }
        let out_first = self.next_out();
        let (in_first, time_out, ids) = (packet.seq, offset, self.ids_from(packet));
        let (squeeze, left_out) = (None, None);
        self.ranges.push(Range { out_first, in_first, time_in: 0, time_out, squeeze, left_out, ids });
    }

    /// What makes the ids of a key frame, and of what follows it, go on from those that were sent.
    fn ids_from(&self, first: &Packet) -> IdDeltas {
        let ids = self.picture_ids.filter(|_| first.codec == Codec::Vp8);
        let ids = ids.map_or(IdDeltas::default(), |ids| ids.deltas(&first.payload));
        // Receivers leave out a structure whose frame is before the last one's.
        let number = self.frame_number.zip(dependency::frame_number(&first.descriptor));
        let frame = number.map_or(0, |(last, number)| last.wrapping_add(1).wrapping_sub(number));
        IdDeltas { frame, ..ids }
    }

    /// Frames that were left out on the way here have no numbers in the track: where those go on to the next frame, VP8's picture ids do, too.
    fn ids_behind_the_left_out(&mut self, packet: &Packet, range: Range, seq: u64) -> Range {
        let follows = packet.seq == self.highest_in + 1 && self.highest == Some(seq - 1) && !self.frame_open;
        let Some(ids) = self.picture_ids.filter(|_| follows && packet.codec == Codec::Vp8) else {
            return range;
        };
        let missing = ids.missing_before(&packet.payload, range.ids);
        if missing == 0 {
            return range;
        }
        let ids = match packet.key_start {
            true => self.ids_from(packet),
            false => IdDeltas { picture: range.ids.picture.wrapping_sub(missing), ..range.ids },
        };
        let range = Range { out_first: seq, in_first: packet.seq, left_out: None, ids, ..range };
        self.ranges.push(range);
        range
    }

    /// What is added to the track's time at the live point; fixed for the session while the clock rate is.
    fn live_offset(&mut self, packet: &Packet) -> i64 {
        let clock_hz = packet.codec.clock_hz();
        match self.live_offset {
            Some((offset, _)) => offset,
            None => {
                let first = if self.highest.is_some() {
                    self.last_time + i64::from(clock_hz / 50)
                } else {
                    self.start.1
                };
                let offset = first - packet.timestamp;
                self.live_offset = Some((offset, clock_hz));
                offset
            }
        }
    }

    /// The first number of a new range: skips one when the last frame sent was cut, so the receiver sees the gap.
    fn next_out(&self) -> u64 {
        match self.highest {
            Some(highest) => highest + 1 + u64::from(self.frame_open),
            None => self.start.0,
        }
    }

    fn send_mapped<E: Egress>(
        &mut self,
        packet: &Packet,
        range: Range,
        seq: u64,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let choice = self.choice.ok_or(DropReason::CodecNotNegotiated)?;
        let range =
            if self.picture_ids.is_some() { self.ids_behind_the_left_out(packet, range, seq) } else { range };
        let time = range.out_time(packet.timestamp);
        let header = Header {
            seq,
            time: time as u32,
            payload_type: choice.payload_type,
            ssrc: self.ssrc,
            original: None,
        };
        if self.highest.is_none_or(|highest| seq > highest) {
            (self.highest, self.highest_in) = (Some(seq), packet.seq);
            self.last_time = self.last_time.max(time);
            self.frame_time = Some(packet.timestamp);
            let video = packet.codec.kind() == Kind::Video;
            // Padding is between frames.
            if !packet.payload.is_empty() {
                self.frame_open = !packet.marker && video;
            }
            if range.squeeze.is_none() {
                self.newest = Some((packet.timestamp, packet.capture));
                (self.newest_arrival, self.newest_ahead) = (packet.arrival, self.ahead);
            }
            if packet.key_start && video && self.key_time != Some(packet.timestamp) {
                let before = self.key_out;
                self.begin_at_key(seq, packet.timestamp);
                self.before_key = Some(before);
            }
        }
        let earned = (packet.payload.len() as u64 * RESEND_SHARE_PERCENT / 100) as i64;
        self.budget = (self.budget + earned).min(RESEND_FLOOR_BYTES * 4);
        self.write(packet, range, header, way)?;
        self.sent.frames += u64::from(packet.marker && packet.codec.kind() == Kind::Video);
        Ok(())
    }
}
