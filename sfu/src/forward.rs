//! A forwarder: one subscriber's view of one track. It maps the track's numbers and time to the subscriber's own, waits for key frames,
//! starts from the ring, answers NACKs from it, and knows what its sender report must say. It holds positions, not payloads.

use std::net::SocketAddr;

use media::{Codec, Kind, Packet, Time, payload};
use metrics::{DropReason, ShardMetrics};
use rtc::rtp;
use rtc::sdp::NegotiatedMedia;
use rtc::session::Session;

use crate::estimate::Estimator;
use crate::gate::Gate;
use crate::pacer::{Pacer, Repair};
use crate::ranges::{Range, Ranges};
use crate::ring::Ring;
use crate::shard::Egress;

/// RTP header with the transport-wide number, RTX's original number, and the longest SRTP tag.
pub(crate) const OVERHEAD_MAX: usize = 12 + 8 + 2 + 16;
/// A packet of padding: as much as its count can say (RFC 3550 section 5.1), the count in the last byte.
const PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    padding[254] = 255;
    padding
};
/// Resend guard's table: one slot a number, by the low bits. 1024 is 2 s at 500 pps.
const RESENT_SLOTS: usize = 1_024;
/// A packet goes out again at most this often (LiveKit, JVB).
const COPIES_MAX: u8 = 3;
/// Resends may be this share of what is sent, counted in bytes over about a second, with a floor for sparse streams.
const RESEND_SHARE_PERCENT: u64 = 15;
const RESEND_FLOOR_BYTES: i64 = 30_000;
/// Without a report yet, a resend is repeated no sooner.
const RTT_UNKNOWN_US: i64 = 50_000;
/// The time stamps of a GOP from the ring are squeezed by this factor (33 ms to 2 ms a frame): played back as it was, browsers go fast forward or stay late
/// (srs#3298, janus-gateway#3068).
const SQUEEZE: i64 = 16;
/// A GOP shown again to a live viewer has half a frame's time to fit in. Frames keep time stamps of their own up to this factor: at 60 fps
/// they are 1500 ticks apart.
const SQUEEZE_MAX: i64 = 1_024;

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
}

/// Sent, for sender reports and figures.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) wire_bytes: u64,
    /// Of the packets, those that were retransmissions.
    pub(crate) resent: u64,
    /// Of the bytes, those of packets of padding.
    pub(crate) padding_bytes: u64,
    /// Frames left out because the link takes fewer.
    pub(crate) frames_left_out: u64,
}

impl Sent {
    /// Both together.
    pub(crate) fn plus(self, other: Sent) -> Sent {
        Sent {
            packets: self.packets + other.packets,
            payload_bytes: self.payload_bytes + other.payload_bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
            resent: self.resent + other.resent,
            padding_bytes: self.padding_bytes + other.padding_bytes,
            frames_left_out: self.frames_left_out + other.frames_left_out,
        }
    }

    /// What was sent after `before`.
    pub(crate) fn since(self, before: Sent) -> Sent {
        Sent {
            packets: self.packets - before.packets,
            payload_bytes: self.payload_bytes - before.payload_bytes,
            wire_bytes: self.wire_bytes - before.wire_bytes,
            resent: self.resent - before.resent,
            padding_bytes: self.padding_bytes - before.padding_bytes,
            frames_left_out: self.frames_left_out - before.frames_left_out,
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
    /// Why; `None` in a catch-up.
    left_out_for: Option<DropReason>,
    gate: Gate,
    last_time: i64,
    frame_open: bool,
    live_offset: Option<(i64, u32)>,
    key_out: u64,
    /// The time stamp of the key frame at `key_out`: parameter sets and first slice both say that it starts.
    key_time: Option<i64>,
    newest: Option<(i64, Time)>,
    rtx_seq: u64,
    resent: Vec<(u32, u32, u8)>,
    budget: i64,
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
            left_out_for: None,
            gate: Gate::Open,
            last_time: 0,
            frame_open: false,
            live_offset: None,
            key_out: 0,
            key_time: None,
            newest: None,
            rtx_seq: (mixed >> 40 & 0x7fff) + 1,
            resent: Vec::new(),
            budget: RESEND_FLOOR_BYTES,
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

    /// Sends what waits in the ring, as much as the pacer gives. `limited`: the link takes less than the source sends.
    pub(crate) fn advance<E: Egress>(
        &mut self,
        ring: &Ring,
        pacer: &mut Pacer,
        limited: bool,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let (State::CatchUp { mut next, .. } | State::Live { next: Some(mut next) }) = self.state else {
            return Ok(());
        };
        for packet in ring.from(next) {
            if !pacer.has_room() {
                self.move_to(next);
                return Ok(());
            }
            if packet.fresh_source && packet.seq != next {
                // The source changed under way: what follows is another picture. It may have its key frame already.
                if !self.change_source(packet, ring) {
                    return Ok(());
                }
            }
            self.choose(packet)?;
            next = packet.seq + 1;
            if let Some(why) = self.leaves_out(packet, ring, limited, way.now) {
                self.left_out = Some(packet.seq);
                if let Some(reason) = why {
                    way.metrics.dropped(reason);
                }
                continue;
            }
            self.go_on_at(packet);
            let Some((range, seq)) = self.ranges.of_track(packet.seq) else { continue };
            pacer.spend(packet.payload.len() + OVERHEAD_MAX);
            match self.send_mapped(packet, range, seq, way) {
                Ok(()) | Err(DropReason::SendBufferFull) => {}
                Err(why) => {
                    self.move_to(next);
                    return Err(why);
                }
            }
        }
        if let State::CatchUp { join: Some((first, offset)), .. } = self.state {
            self.push_join(first, offset);
        }
        // Frames are being left out: what comes goes past the gate.
        let holds = self.gate != Gate::Open || self.left_out.is_some();
        self.state = State::Live { next: holds.then_some(next) };
        Ok(())
    }

    /// Packets that wait in the ring, holes included.
    pub(crate) fn waiting(&self, ring: &Ring) -> usize {
        match (self.state, ring.head()) {
            (State::CatchUp { next, .. } | State::Live { next: Some(next) }, Some(head)) => {
                (head + 1).saturating_sub(next) as usize
            }
            _ => 0,
        }
    }

    /// The oldest packet that waits.
    pub(crate) fn oldest<'a>(&self, ring: &'a Ring) -> Option<&'a Packet> {
        match self.state {
            State::CatchUp { next, .. } | State::Live { next: Some(next) } => ring.from(next).next(),
            _ => None,
        }
    }

    /// Whether it is not at the ring's head, or past it with a gate that is not open.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.state, State::CatchUp { .. } | State::Live { next: Some(_) })
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

    /// A NACK for one number: what is to be sent again, when the guard allows it. Its cost is taken from the budget, which may be short then.
    pub(crate) fn repair_for(
        &mut self,
        asked: u16,
        ring: &Ring,
        rtt_us: i64,
        now: Time,
        index: u8,
    ) -> Result<Repair, DropReason> {
        let highest = self.highest.ok_or(DropReason::ResendMissing)?;
        // The number nearest to the highest sent, by signed 16-bit difference.
        let back = (highest as u16).wrapping_sub(asked) as i16;
        let out_seq = highest.checked_add_signed(-i64::from(back)).ok_or(DropReason::ResendMissing)?;
        if out_seq > highest || out_seq < self.key_out {
            return Err(DropReason::ResendRefused);
        }
        let (_, seq) = self.ranges.of_subscriber(out_seq).ok_or(DropReason::ResendMissing)?;
        let packet = ring.get(seq).ok_or(DropReason::ResendMissing)?;
        if self.choice.is_some_and(|c| c.rtx_payload_type.is_none() && c.twcc.is_some()) {
            return Err(DropReason::ResendRefused); // another header under the same number would repeat a nonce
        }

        if self.resent.is_empty() {
            self.resent = vec![(0, 0, 0); RESENT_SLOTS];
        }
        let slot = &mut self.resent[out_seq as usize % RESENT_SLOTS];
        let now_ms = now.ms() as u32;
        let guard_us = if rtt_us > 0 { rtt_us * 9 / 10 } else { RTT_UNKNOWN_US };
        if slot.0 == out_seq as u32 && slot.2 > 0 {
            let since_us = i64::from(now_ms.wrapping_sub(slot.1)) * 1_000;
            if since_us < guard_us || slot.2 >= COPIES_MAX {
                return Err(DropReason::ResendRefused);
            }
        } else {
            *slot = (out_seq as u32, now_ms, 0);
        }
        let cost = packet.payload.len() + OVERHEAD_MAX;
        (slot.1, slot.2) = (now_ms, slot.2 + 1);
        self.budget -= cost as i64;
        Ok(Repair { out_seq, forwarder: index, cost: cost as u16 })
    }

    /// Whether more retransmissions wait than the budget has.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget < 0
    }

    /// A retransmission is not sent after all: it is no copy, and its bytes are another's.
    pub(crate) fn give_up(&mut self, repair: Repair) {
        self.budget += i64::from(repair.cost);
        let slot = &mut self.resent[repair.out_seq as usize % RESENT_SLOTS];
        if slot.0 == repair.out_seq as u32 {
            (slot.1, slot.2) = (0, slot.2.saturating_sub(1));
        }
    }

    /// Sends a packet again.
    pub(crate) fn repair<E: Egress>(
        &mut self,
        repair: Repair,
        ring: &Ring,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let out_seq = repair.out_seq;
        let (range, seq) = self.ranges.of_subscriber(out_seq).ok_or(DropReason::ResendMissing)?;
        let packet = ring.get(seq).ok_or(DropReason::ResendMissing)?;
        let choice = self.choice.filter(|c| c.codec == packet.codec).ok_or(DropReason::ResendMissing)?;
        let time = range.out_time(packet.timestamp) as u32;
        let header = match choice.rtx_payload_type {
            Some(payload_type) => {
                let (seq, ssrc) = (self.rtx_seq, self.rtx_ssrc);
                self.rtx_seq += 1;
                Header { seq, time, payload_type, ssrc, original: Some(out_seq as u16) }
            }
            // Same number, same bytes: under SRTP the same ciphertext again.
            None => {
                let (payload_type, ssrc) = (choice.payload_type, self.ssrc);
                Header { seq: out_seq, time, payload_type, ssrc, original: None }
            }
        };
        self.write(packet, range, header, way)?;
        self.sent.resent += 1;
        Ok(())
    }

    /// Sends a packet of padding, whose bytes on the wire it returns; 0 when it cannot now. In a stream of its own with RTX, which no decoder
    /// sees; else between frames, with a number of theirs.
    pub(crate) fn pad<E: Egress>(&mut self, way: &mut Way<'_, E>) -> Result<usize, DropReason> {
        let (Some(choice), Some(highest)) = (self.choice, self.highest) else { return Ok(0) };
        let time = self.last_time as u32;
        let header = match choice.rtx_payload_type {
            Some(payload_type) => {
                let seq = self.rtx_seq;
                self.rtx_seq += 1;
                Header { seq, time, payload_type, ssrc: self.rtx_ssrc, original: None }
            }
            None if self.frame_open || choice.twcc.is_none() => return Ok(0),
            None => {
                let (seq, payload_type) = (highest + 1, choice.payload_type);
                self.ranges.pad(seq, self.highest_in + 1);
                self.highest = Some(seq);
                Header { seq, time, payload_type, ssrc: self.ssrc, original: None }
            }
        };
        let before = self.sent.wire_bytes;
        self.write_out(&PADDING, false, true, header, way)?;
        let bytes = self.sent.wire_bytes - before;
        self.sent.padding_bytes += bytes;
        Ok(bytes as usize)
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
        self.choice = Some(Choice { codec, payload_type, rtx_payload_type, twcc });
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
        let out_first = self.next_out();
        let join = match ring.from(key).rev().find(|p| p.marker) {
            Some(join) => {
                let offset = self.live_offset(join);
                let (span, join_out) = ((join.timestamp - first.timestamp).max(0), join.timestamp + offset);
                let high = match self.highest {
                    // A viewer at the live point has had `join_out`. The next frame is about as far off as the last one was; RTMP
                    // counts milliseconds, so half of that is safe to use.
                    Some(_) => {
                        let before = ring.from(key).rev().find(|p| p.timestamp < join.timestamp);
                        let interval = before.map_or(0, |p| join.timestamp - p.timestamp);
                        let next = ring.get(join.seq + 1).map(|p| p.timestamp + offset);
                        join_out
                            .max(self.last_time + interval / 2)
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
        (self.key_out, self.key_time) = (out_first, Some(first.timestamp));
        self.forget_left_out();
        self.state = State::CatchUp { next: key, join };
        true
    }

    fn move_to(&mut self, at: u64) {
        match &mut self.state {
            State::CatchUp { next, .. } | State::Live { next: Some(next) } => *next = at,
            _ => {}
        }
    }

    /// The source changed among what waits. Returns whether `packet` is sent next.
    fn change_source(&mut self, packet: &Packet, ring: &Ring) -> bool {
        let live = matches!(self.state, State::Live { .. });
        if live && packet.key_start && self.choose(packet).is_ok() {
            self.join_live(packet);
            self.state = State::Live { next: Some(packet.seq) };
            return true;
        }
        self.state = State::AwaitKeyFrame;
        self.forget_left_out();
        let key = ring.key().filter(|key| *key >= packet.seq && ring.whole_from(*key));
        if let Some(key) = key {
            self.catch_up_from(ring, key);
        }
        false
    }

    /// Whether a packet that waits is left out with its frame, and for what: a catch-up shows references only.
    fn leaves_out(
        &mut self,
        packet: &Packet,
        ring: &Ring,
        limited: bool,
        now: Time,
    ) -> Option<Option<DropReason>> {
        if self.frame_time == Some(packet.timestamp) && self.left_out.is_none() {
            return None; // what began is brought to its end
        }
        let begins = self.left_out_time != Some(packet.timestamp) || self.left_out.is_none();
        let squeezed =
            matches!(self.state, State::CatchUp { join: Some((join, _)), .. } if packet.seq < join);
        let why = if !begins {
            Some(self.left_out_for)
        } else if squeezed && !limited {
            packet.discardable.then_some(None)
        } else {
            self.gate.refuses(packet, ring.key().is_some_and(|key| key > packet.seq), limited, now).map(Some)
        };
        if begins && let Some(reason) = why {
            (self.left_out_time, self.left_out_for) = (Some(packet.timestamp), reason);
            self.sent.frames_left_out += u64::from(reason.is_some());
        }
        why
    }

    /// `packet` is sent next: behind frames that were left out and at the live point of a catch-up a range begins.
    fn go_on_at(&mut self, packet: &Packet) {
        let join = match self.state {
            State::CatchUp { next, join: Some((first, offset)) } if packet.seq >= first => {
                self.state = State::CatchUp { next, join: None };
                Some((first, offset))
            }
            _ => None,
        };
        let Some(last) = self.left_out.take() else {
            if let Some((first, offset)) = join {
                self.push_join(first, offset);
            }
            return;
        };
        let Some(before) = self.ranges.last() else { return };
        let time = match join {
            Some((_, offset)) => Range { time_in: 0, time_out: offset, squeeze: None, ..before },
            None => before,
        };
        // What is missing right behind them is taken for this frame's.
        let (in_first, out_first) = (last + 1, self.next_out());
        self.ranges.push(Range { in_first, out_first, left_out: self.left_out_time, ..time });
        if packet.key_start {
            (self.key_out, self.key_time) = (out_first, Some(packet.timestamp));
        }
    }

    /// The live point of a catch-up: the same numbering, so that a packet missing at the seam shows.
    fn push_join(&mut self, first: u64, offset: i64) {
        let Some(before) = self.ranges.last() else { return };
        let out_first = before.out_first + (first - before.in_first);
        self.ranges.push(Range {
            out_first,
            in_first: first,
            time_in: 0,
            time_out: offset,
            squeeze: None,
            left_out: None,
        });
    }

    fn forget_left_out(&mut self) {
        (self.gate, self.left_out, self.left_out_time, self.frame_time) = (Gate::Open, None, None, None);
    }

    /// A new range that starts live at `packet`.
    fn join_live(&mut self, packet: &Packet) {
        self.push_live_range(packet);
        self.key_out = self.ranges.last().map_or(0, |r| r.out_first);
        self.key_time = Some(packet.timestamp);
        self.forget_left_out();
        self.state = State::Live { next: None };
    }

    fn push_live_range(&mut self, packet: &Packet) {
        let mut offset = self.live_offset(packet);
        if self.highest.is_some() && packet.timestamp + offset <= self.last_time {
            // A GOP shown again ended less than a frame ahead, and the next source came sooner than a frame.
            offset = self.last_time + 1 - packet.timestamp;
            self.live_offset = Some((offset, packet.codec.clock_hz()));
        }
        let out_first = self.next_out();
        let (in_first, time_out) = (packet.seq, offset);
        self.ranges.push(Range { out_first, in_first, time_in: 0, time_out, squeeze: None, left_out: None });
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
            }
            if packet.key_start && video && self.key_time != Some(packet.timestamp) {
                (self.key_out, self.key_time) = (seq, Some(packet.timestamp));
            }
        }
        let earned = (packet.payload.len() as u64 * RESEND_SHARE_PERCENT / 100) as i64;
        self.budget = (self.budget + earned).min(RESEND_FLOOR_BYTES * 4);
        self.write(packet, range, header, way)
    }

    fn write<E: Egress>(
        &mut self,
        packet: &Packet,
        range: Range,
        header: Header,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        // Late, and of a frame that was left out: its number is all that is wanted.
        let empty = range.left_out == Some(packet.timestamp);
        let (payload, marker) = if empty { (&[][..], false) } else { (&packet.payload[..], packet.marker) };
        self.write_out(payload, marker, false, header, way)
    }

    fn write_out<E: Egress>(
        &mut self,
        payload: &[u8],
        marker: bool,
        padding: bool,
        header: Header,
        way: &mut Way<'_, E>,
    ) -> Result<(), DropReason> {
        let buffer = way.out.reserve(payload.len() + OVERHEAD_MAX).ok_or(DropReason::SendBufferFull)?;
        let bytes = payload.len() + OVERHEAD_MAX;
        let (number, element);
        let extensions: &[(u8, &[u8])] = match (self.choice.and_then(|c| c.twcc), &mut way.estimator) {
            (None, Some(estimator)) if !way.numbered => {
                estimator.on_sent(bytes, way.probe, way.now);
                &[]
            }
            (Some(id), Some(estimator)) => {
                number = estimator.on_sent(bytes, way.probe, way.now).to_be_bytes();
                element = [(id, &number[..])];
                &element
            }
            _ => &[],
        };
        let header_len = rtp::write_header(
            buffer,
            &rtp::Fields {
                marker,
                payload_type: header.payload_type,
                sequence_number: header.seq as u16,
                timestamp: header.time,
                ssrc: header.ssrc,
                extensions,
            },
        );
        if padding {
            buffer[0] |= 0x20; // RFC 3550 section 5.1: P
        }
        let mut len = header_len;
        if let Some(original) = header.original {
            // RFC 4588 section 4: the original sequence number leads the payload.
            buffer[len..len + 2].copy_from_slice(&original.to_be_bytes());
            len += 2;
        }
        buffer[len..len + payload.len()].copy_from_slice(payload);
        len += payload.len();
        let sealed = way.session.protect_rtp(buffer, len, header_len, (header.seq >> 16) as u32)?;
        way.out.commit(sealed, way.to);
        self.sent.packets += 1;
        self.sent.payload_bytes += (len - header_len) as u64;
        self.sent.wire_bytes += len as u64;
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Header {
    seq: u64,
    time: u32,
    payload_type: u8,
    ssrc: u32,
    original: Option<u16>,
}
