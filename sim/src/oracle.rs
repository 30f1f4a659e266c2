//! What holds for every stream that the node sends, at every packet, whatever the path does. An oracle sees what leaves the node, before the path,
//! and what reached the node of the peer's requests.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use media::{Codec, Kind, Time, payload};
use rtc::rtcp;
use rtc::rtp::{Header, Unwrapper};

use crate::offer;

/// Resends may be this share of the payload bytes sent, with so much at the start, and at most so much saved up.
const RESEND_SHARE_PERCENT: i64 = 15;
const RESEND_START_BYTES: i64 = 30_000;
const RESEND_SAVED_BYTES_MAX: i64 = 120_000;
/// Between two answers for one number while the node knows no round trip, less what milliseconds round away.
const RESEND_UNKNOWN_US: i64 = 48_000;
/// Of the round trip between two answers; the node's guard is 90 %.
const RESEND_RTT_PERCENT: i64 = 85;
/// Key frames asked of a publisher: two a second, two saved up, 330 ms apart.
const KEY_FRAME_US_MIN: i64 = 330_000;
const KEY_FRAMES_A_SECOND: i64 = 2;
const KEY_FRAMES_SAVED_MAX: i64 = 2;
/// A key frame's packets may be under way this long before it must be whole: repair at the publisher's side.
const KEY_FRAME_WHOLE_US: i64 = 1_500_000;

/// The rule that was broken, and how.
pub type Breach = String;

/// What an oracle is told about a peer.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// SSRCs that the node was given for it.
    pub audio_ssrc: u32,
    /// See `audio_ssrc`.
    pub video_ssrc: u32,
    /// See `audio_ssrc`.
    pub rtx_ssrc: u32,
    /// Retransmissions have a stream of their own.
    pub rtx: bool,
    /// What the node gets comes in order and whole: then it sends in order, too. False where a publisher's path loses or reorders.
    pub in_order: bool,
    /// The round trip of its path without queues.
    pub rtt_us: i64,
}

/// Bytes that the node sent, by what they were for, headers included.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SentBytes {
    /// Video, each packet once.
    pub video: u64,
    /// Retransmissions that were asked for.
    pub resent: u64,
    /// Retransmissions that nobody asked for: probes, and what feedback said is lost.
    pub copies: u64,
    /// Padding alone.
    pub padding: u64,
    /// Audio.
    pub audio: u64,
}

impl SentBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.video + self.resent + self.copies + self.padding + self.audio
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    time: i64,
    marker: bool,
    len: usize,
    hash: u64,
    /// Asked for and not answered since.
    asked: bool,
    answered: Option<Time>,
}

#[derive(Debug, Default)]
struct Stream {
    unwrapper: Unwrapper,
    sent: BTreeMap<u64, Packet>,
}

/// NAL units of a frame with an IDR in it.
#[derive(Debug)]
struct KeyFrame {
    since: Time,
    sps: bool,
    pps: bool,
    idr: bool,
}

/// The oracle of one peer.
#[derive(Debug)]
pub struct Oracle {
    /// The path may change.
    pub facts: Facts,
    /// Packets that the node says it sent again to probe, or since feedback said that they are lost. What is sent again unasked is one of them.
    pub copies_said: u64,
    copies: u64,
    /// Sent so far.
    pub bytes: SentBytes,
    video: Stream,
    audio: Stream,
    rtx: Stream,
    /// Asked for, and never sent: the node did not have them.
    asked_unsent: BTreeSet<u64>,
    key_frames: BTreeMap<i64, KeyFrame>,
    resend_bytes: i64,
    rtt_known: bool,
    /// The round trip before the path changed: what the node measures meanwhile is between the two.
    rtt_us_before: i64,
    /// The first clock that the node sent on this path (middle 32 bits): a report on it, or on a later one, tells it the round trip.
    clock: Option<u32>,
    /// By SSRC: when it was asked last, and requests saved up, in millionths, with when that was counted.
    asked: BTreeMap<u32, (Option<Time>, i64, Time)>,
    /// Requests for key frames that the node made of this peer.
    pub key_frames_asked: u32,
    /// Numbers that the peer asked for and that reached the node.
    pub numbers_asked: u64,
    /// Of those, answers.
    pub numbers_answered: u64,
    /// The number that was answered last.
    pub last_answer: Option<u16>,
}

impl Oracle {
    /// Nothing was sent yet.
    pub fn new(facts: Facts) -> Oracle {
        Oracle {
            facts,
            copies_said: 0,
            copies: 0,
            bytes: SentBytes::default(),
            video: Stream::default(),
            audio: Stream::default(),
            rtx: Stream::default(),
            asked_unsent: BTreeSet::new(),
            key_frames: BTreeMap::new(),
            resend_bytes: RESEND_START_BYTES,
            rtt_known: false,
            rtt_us_before: facts.rtt_us,
            clock: None,
            asked: BTreeMap::new(),
            key_frames_asked: 0,
            numbers_asked: 0,
            numbers_answered: 0,
            last_answer: None,
        }
    }

    /// The path has another round trip from now on.
    pub fn path(&mut self, rtt_us: i64) {
        (self.rtt_us_before, self.facts.rtt_us) = (self.facts.rtt_us, rtt_us);
        (self.rtt_known, self.clock) = (false, None);
    }

    /// An RTP packet left the node.
    pub fn sent_rtp(&mut self, packet: &[u8], now: Time) -> Result<(), Breach> {
        let header = Header::parse(packet).map_err(|error| format!("RTP that cannot be read: {error}"))?;
        let body = header.payload(packet);
        let len = packet.len() as u64;
        let (audio, video, rtx) = (self.facts.audio_ssrc, self.facts.video_ssrc, self.facts.rtx_ssrc);
        match header.ssrc {
            ssrc if ssrc == audio => {
                self.bytes.audio += len;
                self.first_time(Kind::Audio, &header, body, now)
            }
            ssrc if ssrc == video => {
                let seq = { self.video.unwrapper }.seq(header.sequence_number);
                if !self.facts.rtx && self.video.sent.contains_key(&seq) {
                    return self.again(seq, &header, body, len, now);
                }
                *(if body.is_empty() { &mut self.bytes.padding } else { &mut self.bytes.video }) += len;
                self.first_time(Kind::Video, &header, body, now)
            }
            ssrc if ssrc == rtx && self.facts.rtx => self.sent_rtx(&header, body, len, now),
            ssrc => Err(format!("an SSRC that it was not told of: {ssrc:08x}")),
        }
    }

    fn first_time(&mut self, kind: Kind, header: &Header<'_>, body: &[u8], now: Time) -> Result<(), Breach> {
        let stream = if kind == Kind::Video { &mut self.video } else { &mut self.audio };
        let highest = stream.unwrapper.seq_highest();
        let seq = stream.unwrapper.seq(header.sequence_number);
        if self.facts.in_order
            && highest.is_some_and(|highest| seq < highest)
            && !stream.sent.contains_key(&seq)
        {
            return Err(format!("{kind:?} number {seq} behind {}", highest.unwrap_or(0)));
        }
        self.fits(kind, seq, header, body, now)
    }

    /// A number's first packet, in its place among the others.
    fn fits(
        &mut self,
        kind: Kind,
        seq: u64,
        header: &Header<'_>,
        body: &[u8],
        now: Time,
    ) -> Result<(), Breach> {
        let stream = if kind == Kind::Video { &mut self.video } else { &mut self.audio };
        let time = stream.unwrapper.timestamp(header.timestamp);
        let packet = Packet {
            time,
            marker: header.marker,
            len: body.len(),
            hash: hash(body),
            asked: false,
            answered: None,
        };
        if let Some(before) = stream.sent.insert(seq, packet) {
            let bytes = if before.hash == packet.hash { "" } else { ", with other bytes" };
            return Err(format!("{kind:?} number {seq} twice{bytes}"));
        }
        let before = stream.sent.range(..seq).next_back().map(|(s, p)| (*s, *p));
        let after = stream.sent.range(seq + 1..).next().map(|(s, p)| (*s, *p));
        if let Some((s, p)) = before.filter(|(_, p)| p.time > time) {
            return Err(format!("{kind:?} time back by {} from number {s} to {seq}", p.time - time));
        }
        if let Some((s, p)) = after.filter(|(_, p)| p.time < time) {
            return Err(format!("{kind:?} time back by {} from number {seq} to {s}", time - p.time));
        }
        if kind == Kind::Audio {
            return Ok(());
        }
        self.resend_bytes =
            (self.resend_bytes + body.len() as i64 * RESEND_SHARE_PERCENT / 100).min(RESEND_SAVED_BYTES_MAX);
        self.frame_ends(seq)?;
        self.parameter_sets(header, time, body, now)
    }

    /// Where the frame before `seq` or that of `seq` ends, a marker or a gap says so.
    fn frame_ends(&self, seq: u64) -> Result<(), Breach> {
        // Padding is between frames.
        let at = |seq: u64| self.video.sent.get(&seq);
        let mut before = seq - 1;
        while at(before).is_some_and(|p| p.len == 0) {
            before -= 1;
        }
        let mut after = seq + 1;
        while at(after).is_some_and(|p| p.len == 0) {
            after += 1;
        }
        let check = |first: u64, second: u64| match (at(first), at(second)) {
            (Some(a), Some(b)) if a.len == 0 || b.len == 0 => Ok(()),
            (Some(a), Some(b)) if a.time != b.time && !a.marker => Err(format!(
                "the frame that ends with number {first} was cut, and {second} follows without a gap"
            )),
            (Some(a), Some(b)) if a.time == b.time && a.marker => {
                Err(format!("number {second} goes on with a frame that ended with {first}"))
            }
            _ => Ok(()),
        };
        check(before, seq)?;
        check(seq, after)
    }

    fn parameter_sets(
        &mut self,
        header: &Header<'_>,
        time: i64,
        body: &[u8],
        now: Time,
    ) -> Result<(), Breach> {
        if header.payload_type == offer::H264 {
            let fresh = || KeyFrame { since: now, sps: false, pps: false, idr: false };
            for kind in nal_types(body) {
                let frame = match kind {
                    5 | 7 | 8 => self.key_frames.entry(time).or_insert_with(fresh),
                    _ => continue,
                };
                match kind {
                    5 => frame.idr = true,
                    7 => frame.sps = true,
                    _ => frame.pps = true,
                }
                if self.facts.in_order && kind == 5 && !(frame.sps && frame.pps) {
                    return Err(format!(
                        "a key frame without parameter sets at number {}",
                        header.sequence_number
                    ));
                }
            }
        }
        self.settled(now)
    }

    /// Key frames that had time enough to be whole.
    fn settled(&mut self, now: Time) -> Result<(), Breach> {
        while let Some(first) = self.key_frames.first_entry() {
            if now.since(first.get().since) < KEY_FRAME_WHOLE_US {
                return Ok(());
            }
            let (time, frame) = first.remove_entry();
            if frame.idr && !(frame.sps && frame.pps) {
                return Err(format!("the key frame of time {time} never got its parameter sets"));
            }
        }
        Ok(())
    }

    fn sent_rtx(&mut self, header: &Header<'_>, body: &[u8], len: u64, now: Time) -> Result<(), Breach> {
        let highest = self.rtx.unwrapper.seq_highest();
        let seq = self.rtx.unwrapper.seq(header.sequence_number);
        if highest.is_some_and(|highest| seq <= highest) {
            return Err(format!("RTX number {seq} behind {} or twice", highest.unwrap_or(0)));
        }
        let Some((original, rest)) = body.split_first_chunk::<2>() else {
            self.bytes.padding += len;
            return Ok(());
        };
        let original = { self.video.unwrapper }.seq(u16::from_be_bytes(*original));
        self.again(original, header, rest, len, now)
    }

    /// A number was sent again.
    fn again(
        &mut self,
        seq: u64,
        header: &Header<'_>,
        body: &[u8],
        len: u64,
        now: Time,
    ) -> Result<(), Breach> {
        let time = { self.video.unwrapper }.timestamp(header.timestamp);
        let Some(packet) = self.video.sent.get_mut(&seq) else {
            if !self.asked_unsent.remove(&seq) {
                return Err(format!("number {seq} sent again that was neither sent nor asked for"));
            }
            // It came to the node when the viewer's stream had passed its place.
            self.bytes.resent += len;
            return self.fits(Kind::Video, seq, header, body, now);
        };
        if (packet.hash, packet.time, packet.marker) != (hash(body), time, header.marker) {
            return Err(format!("number {seq} sent again with other bytes"));
        }
        let share = |rtt_us: i64| rtt_us * RESEND_RTT_PERCENT / 100;
        let spacing = match self.rtt_known {
            true => share(self.facts.rtt_us),
            false => share(self.facts.rtt_us.min(self.rtt_us_before)).min(RESEND_UNKNOWN_US),
        };
        if let Some(last) = packet.answered.filter(|last| now.since(*last) < spacing) {
            return Err(format!(
                "number {seq} sent again twice within a round trip: after {} us",
                now.since(last)
            ));
        }
        packet.answered = Some(now);
        if !std::mem::take(&mut packet.asked) {
            self.copies += 1;
            self.bytes.copies += len;
            if !self.facts.rtx || self.copies > self.copies_said {
                return Err(format!("number {seq} sent again without being asked for"));
            }
            return Ok(());
        }
        self.bytes.resent += len;
        self.numbers_answered += 1;
        self.last_answer = Some(seq as u16);
        self.resend_bytes -= body.len() as i64;
        if self.resend_bytes < 0 {
            return Err(format!("resends are {} bytes beyond their budget", -self.resend_bytes));
        }
        Ok(())
    }

    /// RTCP left the node.
    pub fn sent_rtcp(&mut self, compound: &[u8], now: Time) -> Result<(), Breach> {
        let mut asked = Vec::new();
        let clock = &mut self.clock;
        let parsed = rtcp::parse(compound, |event| match event {
            rtcp::Event::SenderReport { ntp, .. } => _ = clock.get_or_insert(rtcp::ntp_middle(ntp)),
            rtcp::Event::Pli { ssrc } | rtcp::Event::Fir { ssrc, .. } => asked.push(ssrc),
            _ => {}
        });
        parsed.map_err(|error| format!("RTCP that cannot be read: {error}"))?;
        for ssrc in asked {
            self.key_frames_asked += 1;
            let whole = 1_000_000;
            let fresh = (None, KEY_FRAMES_SAVED_MAX * whole, now);
            let (last, saved, counted) = self.asked.entry(ssrc).or_insert(fresh);
            if last.is_some_and(|last| now.since(last) < KEY_FRAME_US_MIN) {
                return Err(format!("a key frame of {ssrc:08x} asked for twice within 330 ms"));
            }
            let earned = now.since(*counted) * KEY_FRAMES_A_SECOND;
            // What is earned while the purse is being emptied counts, too: a request's worth of rounding.
            *saved = (*saved + earned).min(KEY_FRAMES_SAVED_MAX * whole) - whole;
            (*last, *counted) = (Some(now), now);
            if *saved < -whole / 100 {
                return Err(format!("key frames of {ssrc:08x} asked for more than twice a second"));
            }
        }
        Ok(())
    }

    /// RTCP of the peer reached the node.
    pub fn heard_rtcp(&mut self, compound: &[u8]) {
        let mut asked = Vec::new();
        let video = self.facts.video_ssrc;
        let (mut rtt_known, clock) = (self.rtt_known, self.clock);
        let on_this_path = |lsr: u32| lsr != 0 && clock.is_some_and(|c| lsr.wrapping_sub(c) as i32 >= 0);
        let _ = rtcp::parse(compound, |event| match event {
            rtcp::Event::Nack { ssrc, seqs } if ssrc == video => asked.extend_from_slice(seqs),
            rtcp::Event::Report { lsr, .. } => rtt_known |= on_this_path(lsr),
            _ => {}
        });
        self.numbers_asked += asked.len() as u64;
        for seq in asked {
            let seq = { self.video.unwrapper }.seq(seq);
            match self.video.sent.get_mut(&seq) {
                Some(packet) => packet.asked = true,
                None => _ = self.asked_unsent.insert(seq),
            }
        }
        self.rtt_known = rtt_known;
    }
}

/// With fixed keys: the same in every run.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Types of the NAL units that begin in a payload.
fn nal_types(body: &[u8]) -> Vec<u8> {
    let Some((&header, rest)) = body.split_first() else { return Vec::new() };
    match header & 0x1f {
        payload::h264::STAP_A => {
            media::h264::avcc_nals(rest, 2).map_while(Result::ok).map(media::h264::nal_type).collect()
        }
        payload::h264::FU_A => match rest.first() {
            Some(fu) if fu & 0x80 != 0 => vec![fu & 0x1f],
            _ => Vec::new(),
        },
        kind => vec![kind],
    }
}

/// Whether a payload begins a frame that a decoder can start at, and whether it begins any frame's first slice.
pub(crate) fn begins(codec: Codec, body: &[u8]) -> (bool, bool) {
    match codec {
        Codec::H264 => {
            let kinds = nal_types(body);
            (kinds.contains(&7), kinds.iter().any(|k| matches!(k, 1 | 5)))
        }
        _ => (payload::key_start(codec, body), body.first().is_some_and(|d| d & 0x10 != 0)),
    }
}

#[cfg(test)]
mod tests;
