//! A forwarder: one subscriber's view of one track. It maps the track's numbers and time to the subscriber's own, waits for key frames,
//! starts from the ring, answers NACKs from it, and knows what its sender report must say. It holds positions, not payloads.

mod switch;
mod vp8;

use std::collections::VecDeque;
use std::net::SocketAddr;

use media::{Codec, Packet, Time, payload};
use metrics::DropReason;
use rtc::rtp;
use rtc::sdp::NegotiatedMedia;
use rtc::session::Session;

use crate::ring::Ring;
use crate::shard::Egress;

/// RTP header without extensions, RTX's original number, and the longest SRTP tag.
pub(crate) const OVERHEAD_MAX: usize = 12 + 2 + 16;
/// Mappings remembered: a NACK older than so many source changes is too old anyway.
const RANGES_MAX: usize = 16;
/// Resend guard's table: one slot a number, by the low bits. 1024 is 2 s at 500 pps.
const RESENT_SLOTS: usize = 1_024;
/// A packet goes out again at most this often (LiveKit, JVB).
const COPIES_MAX: u8 = 3;
/// Resends may be this share of what is sent, counted in bytes over about a second, with a floor for sparse streams.
const RESEND_SHARE_PERCENT: u64 = 15;
const RESEND_FLOOR_BYTES: i64 = 30_000;
/// Without a report yet, a resend is repeated no sooner.
const RTT_UNKNOWN_US: i64 = 50_000;
/// A GOP from the ring is sent within about this time: soon enough to be live at once, slow enough for a last mile's queue.
const CATCH_UP_US: i64 = 250_000;
/// Of it so much goes at once, so that a key frame of ordinary size shows without waiting: 50 ms of a 10 Mbit/s link.
const FIRST_BYTES: usize = 64 * 1024;
/// Its time stamps are squeezed by this factor (33 ms to 2 ms a frame): played back as it was, browsers go fast forward or stay late
/// (srs#3298, janus-gateway#3068).
const SQUEEZE: i64 = 16;
/// A GOP shown again to a live viewer has half a frame's time to fit in. Frames keep time stamps of their own up to this factor: at 60 fps
/// they are 1500 ticks apart.
const SQUEEZE_MAX: i64 = 1_024;

/// From the track's numbers to the subscriber's, valid from `out_first` until the next range starts.
#[derive(Clone, Copy, Debug)]
struct Range {
    out_first: u64,
    in_first: u64,
    time_in: i64,
    time_out: i64,
    /// Time runs at `num / den` of the track's; `None` at the live point.
    squeeze: Option<(i64, i64)>,
}

impl Range {
    fn out_seq(&self, seq: u64) -> Option<u64> {
        Some(self.out_first + seq.checked_sub(self.in_first)?)
    }

    fn out_time(&self, timestamp: i64) -> i64 {
        let passed = timestamp - self.time_in;
        let passed = self
            .squeeze
            .map_or(passed, |(num, den)| (passed as i128 * num as i128 / den.max(1) as i128) as i64);
        self.time_out + passed
    }
}

/// Where a forwarder is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is sent until a key frame starts.
    AwaitKeyFrame,
    /// The ring's last GOP is being sent, next from `next`.
    CatchUp { next: u64, step_bytes: usize, first_bytes: usize },
    /// Each packet goes out as it comes.
    Live,
}

#[derive(Clone, Copy, Debug)]
struct Choice {
    codec: Codec,
    payload_type: u8,
    rtx_payload_type: Option<u8>,
}

/// Sent, for sender reports and figures.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) wire_bytes: u64,
}

impl Sent {
    /// What was sent after `before`.
    pub(crate) fn since(self, before: Sent) -> Sent {
        Sent {
            packets: self.packets - before.packets,
            payload_bytes: self.payload_bytes - before.payload_bytes,
            wire_bytes: self.wire_bytes - before.wire_bytes,
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
    /// In order of their making; a number is of the newest that it fits in.
    ranges: VecDeque<Range>,
    start: (u64, i64),
    highest: Option<u64>,
    last_time: i64,
    frame_open: bool,
    live_offset: Option<(i64, u32)>,
    key_out: u64,
    /// The time stamp of the key frame at `key_out`: parameter sets and first slice both say that it starts.
    key_time: Option<i64>,
    newest: Option<(i64, Time)>,
    newest_arrival: Time,
    /// Ticks that switches put time off by, beyond capture time.
    ahead: i64,
    /// Key frames that a switch left out, one after another.
    refused: u8,
    /// Of a track that is one of several encodings.
    picture_ids: Option<vp8::PictureIds>,
    rtx_seq: u64,
    resent: Vec<(u32, u32, u8)>,
    budget: i64,
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
            ranges: VecDeque::with_capacity(4),
            // RFC 3550 5.1: a random start. Below 2^15, so that the receiver cannot take early loss for a wrap (RFC 3711 3.3.1).
            start: ((mixed & 0x7fff) + 1, (mixed >> 16 & 0xffff_ffff) as i64),
            highest: None,
            last_time: 0,
            frame_open: false,
            live_offset: None,
            key_out: 0,
            key_time: None,
            newest: None,
            newest_arrival: Time::ZERO,
            ahead: 0,
            refused: 0,
            picture_ids: None,
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

    /// Sends a packet the track just got. `Err` says why not; [`DropReason::CodecNotNegotiated`] is final for the session.
    pub(crate) fn forward<E: Egress>(
        &mut self,
        packet: &Packet,
        session: &mut Session,
        to: SocketAddr,
        out: &mut E,
    ) -> Result<(), DropReason> {
        self.choose(packet)?;
        match self.state {
            State::CatchUp { .. } => return Ok(()), // it is in the ring; the catch-up comes to it
            State::Live if !packet.fresh_source => {}
            _ if packet.key_start => self.join_live(packet),
            _ => {
                self.state = State::AwaitKeyFrame;
                return Err(DropReason::AwaitKeyFrame);
            }
        }
        let range = self.ranges.back().copied().ok_or(DropReason::AwaitKeyFrame)?;
        self.send_mapped(packet, range, session, to, out)
    }

    /// Sends the next slice of a catch-up.
    pub(crate) fn catch_up<E: Egress>(
        &mut self,
        ring: &Ring,
        session: &mut Session,
        to: SocketAddr,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let State::CatchUp { mut next, step_bytes, first_bytes } = self.state else { return Ok(()) };
        let mut left = step_bytes.max(first_bytes) as i64;
        for packet in ring.from(next) {
            if left <= 0 {
                self.state = State::CatchUp { next, step_bytes, first_bytes: 0 };
                return Ok(());
            }
            if packet.fresh_source && packet.seq != next {
                // The source changed under way: what follows is another picture. It may have its key frame already.
                self.state = State::AwaitKeyFrame;
                let key = ring.key().filter(|key| *key >= packet.seq && ring.whole_from(*key));
                if let Some(key) = key {
                    self.catch_up_from(ring, key);
                }
                return Ok(());
            }
            self.choose(packet)?;
            // Squeezed, or behind the join and live.
            let Some(range) = self.ranges.iter().rev().find(|r| r.in_first <= packet.seq).copied() else {
                break;
            };
            left -= packet.payload.len() as i64;
            next = packet.seq + 1;
            match self.send_mapped(packet, range, session, to, out) {
                Ok(()) | Err(DropReason::SendBufferFull) => {}
                Err(why) => return Err(why),
            }
        }
        self.state = State::Live;
        Ok(())
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

    /// Answers a NACK for one number.
    pub(crate) fn resend<E: Egress>(
        &mut self,
        asked: u16,
        ring: &Ring,
        rtt_us: i64,
        now: Time,
        session: &mut Session,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let to = session.remote().ok_or(DropReason::AddressNotValidated)?;
        let highest = self.highest.ok_or(DropReason::ResendMissing)?;
        // The number nearest to the highest sent, by signed 16-bit difference.
        let back = (highest as u16).wrapping_sub(asked) as i16;
        let out_seq = highest.checked_add_signed(-i64::from(back)).ok_or(DropReason::ResendMissing)?;
        if out_seq > highest || out_seq < self.key_out {
            return Err(DropReason::ResendRefused);
        }
        let range = self.ranges.iter().rev().find(|r| r.out_first <= out_seq).copied();
        let range = range.ok_or(DropReason::ResendMissing)?;
        let packet =
            ring.get(range.in_first + (out_seq - range.out_first)).ok_or(DropReason::ResendMissing)?;
        let choice = self.choice.filter(|c| c.codec == packet.codec).ok_or(DropReason::ResendMissing)?;

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
        let cost = (packet.payload.len() + OVERHEAD_MAX) as i64;
        if self.budget < cost {
            return Err(DropReason::ResendRefused);
        }
        self.budget -= cost;
        (slot.1, slot.2) = (now_ms, slot.2 + 1);

        let time = range.out_time(packet.timestamp) as u32;
        match choice.rtx_payload_type {
            Some(rtx) => {
                let seq = self.rtx_seq;
                self.rtx_seq += 1;
                let header = Header {
                    seq,
                    time,
                    payload_type: rtx,
                    ssrc: self.rtx_ssrc,
                    original: Some(out_seq as u16),
                };
                self.write(packet, header, session, to, out)
            }
            // Same number, same bytes: under SRTP the same ciphertext again.
            None => {
                let header = Header {
                    seq: out_seq,
                    time,
                    payload_type: choice.payload_type,
                    ssrc: self.ssrc,
                    original: None,
                };
                self.write(packet, header, session, to, out)
            }
        }
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
        self.choice =
            Some(Choice { codec, payload_type: negotiated.pt, rtx_payload_type: negotiated.rtx_pt });
        if self.live_offset.is_some_and(|(_, hz)| hz != codec.clock_hz()) {
            self.live_offset = None;
        }
        Ok(())
    }

    /// Sends the ring from `key` on: squeezed up to the newest whole frame, so that all of it lies between what was sent and what
    /// comes next, and live behind it. Returns whether there is room for that.
    fn catch_up_from(&mut self, ring: &Ring, key: u64) -> bool {
        let Some(first) = ring.get(key) else { return false };
        if self.choose(first).is_err() {
            return false;
        }
        let out_first = self.next_out();
        match ring.from(key).rev().find(|p| p.marker) {
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
                self.push_range(Range {
                    out_first,
                    in_first: key,
                    time_in: first.timestamp,
                    time_out: low,
                    squeeze: Some((high - low, span)),
                });
                // The same numbering, so that a packet missing at the seam shows.
                self.push_range(Range {
                    out_first: out_first + (join.seq + 1 - key),
                    in_first: join.seq + 1,
                    time_in: 0,
                    time_out: offset,
                    squeeze: None,
                });
            }
            // The key frame itself is still coming in.
            None => {
                if self.highest.is_some() && first.timestamp + self.live_offset(first) <= self.last_time {
                    return false;
                }
                self.push_live_range(first);
            }
        }
        (self.key_out, self.key_time) = (out_first, Some(first.timestamp));
        let bytes: usize = ring.from(key).map(|p| p.payload.len()).sum();
        // A step each tick of 5 ms; never less than three packets.
        let step_bytes = (bytes / (CATCH_UP_US / 5_000) as usize).max(3_600);
        self.state = State::CatchUp { next: key, step_bytes, first_bytes: FIRST_BYTES };
        true
    }

    /// A new range that starts live at `packet`.
    fn join_live(&mut self, packet: &Packet) {
        self.push_live_range(packet);
        self.key_out = self.ranges.back().map_or(0, |r| r.out_first);
        self.key_time = Some(packet.timestamp);
        self.state = State::Live;
    }

    fn push_live_range(&mut self, packet: &Packet) {
        let mut offset = self.live_offset(packet);
        if self.highest.is_some() && packet.timestamp + offset <= self.last_time {
            // A GOP shown again ended less than a frame ahead, and the next source came sooner than a frame.
            offset = self.last_time + 1 - packet.timestamp;
            self.live_offset = Some((offset, packet.codec.clock_hz()));
        }
        let out_first = self.next_out();
        self.push_range(Range {
            out_first,
            in_first: packet.seq,
            time_in: 0,
            time_out: offset,
            squeeze: None,
        });
    }

    fn push_range(&mut self, range: Range) {
        if self.ranges.len() == RANGES_MAX {
            self.ranges.pop_front();
        }
        self.ranges.push_back(range);
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
        session: &mut Session,
        to: SocketAddr,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let seq = range.out_seq(packet.seq).ok_or(DropReason::TooOld)?;
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
            self.highest = Some(seq);
            self.last_time = self.last_time.max(time);
            // Padding is between frames.
            if !packet.payload.is_empty() {
                self.frame_open = !packet.marker && packet.codec.kind() == media::Kind::Video;
            }
            if range.squeeze.is_none() {
                self.newest = Some((packet.timestamp, packet.capture));
                self.newest_arrival = packet.arrival;
            }
            if packet.key_start
                && packet.codec.kind() == media::Kind::Video
                && self.key_time != Some(packet.timestamp)
            {
                (self.key_out, self.key_time) = (seq, Some(packet.timestamp));
            }
        }
        let earned = (packet.payload.len() as u64 * RESEND_SHARE_PERCENT / 100) as i64;
        self.budget = (self.budget + earned).min(RESEND_FLOOR_BYTES * 4);
        self.write(packet, header, session, to, out)
    }

    fn write<E: Egress>(
        &mut self,
        packet: &Packet,
        header: Header,
        session: &mut Session,
        to: SocketAddr,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let buffer = out.reserve(packet.payload.len() + OVERHEAD_MAX).ok_or(DropReason::SendBufferFull)?;
        let header_len = rtp::write_header(
            buffer,
            &rtp::Fields {
                marker: packet.marker,
                payload_type: header.payload_type,
                sequence_number: header.seq as u16,
                timestamp: header.time,
                ssrc: header.ssrc,
                extensions: &[],
            },
        );
        let mut len = header_len;
        if let Some(original) = header.original {
            // RFC 4588 section 4: the original sequence number leads the payload.
            buffer[len..len + 2].copy_from_slice(&original.to_be_bytes());
            len += 2;
        }
        buffer[len..len + packet.payload.len()].copy_from_slice(&packet.payload);
        if let Some(ids) = self.picture_ids.as_mut().filter(|_| packet.codec == Codec::Vp8) {
            let is_newest = header.original.is_none() && self.highest == Some(header.seq);
            ids.rewrite(&mut buffer[len..len + packet.payload.len()], is_newest);
        }
        len += packet.payload.len();
        let sealed = session.protect_rtp(buffer, len, header_len, (header.seq >> 16) as u32)?;
        out.commit(sealed, to);
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
