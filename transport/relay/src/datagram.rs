//! Datagrams of the hop: a media packet (or half of one), one that goes on with a frame, the request for numbers that did not come, and the word that
//! nothing more was sent.
//!
//! ```text
//! media  type(1) flags(1) link_seq(3) track(varint) sent(2) age_ms(varint) budget(1) seq(4)
//!        timestamp(4) [temporal(2)] [dts_offset(varint)] [descriptor_len(1) descriptor] payload
//! next   type and back(1) link_seq(3) sent(1) [back(1) gap(1)] payload
//! NACK   type(1) highest(varint) { behind(varint) count(varint) } ...
//! end    type(1) next(varint)
//! ```
//!
//! The next packets of a frame say no more than what differs: the first of them is the media datagram whose number is `back` smaller, and so is its
//! packet's number; of `sent` there are the low 8 bits. Who has not got that waits for it; what is sent again is a media datagram in any case. Of a frame
//! that came with holes the packet's number is `gap` more, in two bytes beside a type that says no `back`.
//!
//! A datagram of media says whether another one follows at once: then nobody need say that it was the last, and a NACK may ask for the number behind it.
//!
//! What was sent whole and fits the path no longer goes again in halves of other numbers; under its own the header alone does, as a type of media.
//!
//! A media datagram may say instead that packets of its track do not come, as a node left them out: from number `seq` on as many as its payload says,
//! 4 bytes. Nobody waits for them.
//!
//! `link_seq` counts the datagrams of one hop, whatever they carry: it is what a NACK asks for, so that a hole made upstream is not asked for again
//! downstream. Of a media datagram's number there are the low 24 bits: the receiver knows the rest ([`whole_number`]). The usual header of a packet that
//! is younger than 64 ms has 18 bytes, that of a frame's next packets 5, or 7.

use bytes::Bytes;
use media::{Temporal, payload::TEMPORAL_LAYERS_MAX};

use crate::varint;

/// A media header without a descriptor, of a track whose number is below 2^14, at its longest.
pub const HEADER_LEN_USUAL: usize = 26;
/// So much less payload than the next has a frame's first packet, so that its datagram is never the longer one: its header has 13 bytes more, and an
/// acknowledgement that goes with it up to 12. quinn fills the packets of a batch for the kernel (GSO) to the length of the batch's first, up to 16 bytes each.
pub const FIRST_LESS: usize = 30;
/// Bits of a media datagram's number: half of them are two seconds of 40 Gbit/s.
const NUMBER_BITS: u32 = 24;
/// Of a packet so old nobody wants to know how old it is; it takes two bytes.
const AGE_MS_MAX: u16 = (1 << 14) - 1;
/// A budget is said in units of so many milliseconds, rounded up: up to 2.55 s.
const BUDGET_UNIT_MS: u16 = 10;
/// A packet that fits no datagram goes in two; none has more payload than this, in both halves.
pub const PAYLOAD_LEN_MAX: usize = 2_048;
/// Numbers one NACK may ask for, all ranges together: what a hop keeps track of.
pub const NACK_NUMBERS_MAX: u64 = 2_048;
/// Ranges of one NACK: at 3 bytes each they fit the smallest datagram (1200 bytes in all) with room to spare.
pub const NACK_RANGES_MAX: usize = 128;

const TYPE_WHOLE: u8 = 0;
const TYPE_FIRST_HALF: u8 = 1;
const TYPE_SECOND_HALF: u8 = 2;
const TYPE_NACK: u8 = 3;
const TYPE_END: u8 = 4;
const TYPE_HEADER: u8 = 5;
/// The uppermost temporal layer.
const LAYER_MAX: u8 = (TEMPORAL_LAYERS_MAX as u8).saturating_sub(1);
/// Beside the type of media: its frame's temporal layer is there.
const TEMPORAL: u8 = 1 << 4;
/// Beside the type of media: it stands for packets that do not come.
const LEFT_OUT: u8 = 1 << 5;
/// Beside the type of media: another datagram of media follows at once.
const MORE: u8 = 1 << 6;
/// The type of a frame's next packet; with [`MORE`], and with how far it is behind the first.
const TYPE_NEXT: u8 = 1 << 7;
/// Beside that: it is the last.
const LAST: u8 = 1 << 5;
/// So far behind the first at most: what waits when that one is lost.
pub const BACK_MAX: u8 = 31;
/// Packets that one datagram may say do not come: more than a GOP has.
pub const LEFT_OUT_MAX: u32 = 1 << 16;

/// What a packet is, beside its payload.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(u8);

impl Flags {
    /// A key frame starts with it.
    pub const KEY: Flags = Flags(1);
    /// The last packet of its frame.
    pub const END_OF_FRAME: Flags = Flags(1 << 1);
    /// Nothing refers to its frame.
    pub const DISCARDABLE: Flags = Flags(1 << 2);
    /// Of its track's odd or even epoch: see [`crate::control::Track::epoch`].
    pub const EPOCH: Flags = Flags(1 << 3);
    /// Sent again, for a NACK.
    pub const RETRANSMISSION: Flags = Flags(1 << 4);
    /// The first of another source of the same track: its numbers and time go on, its pictures do not.
    pub const FRESH_SOURCE: Flags = Flags(1 << 5);
    const DTS_OFFSET: u8 = 1 << 6;
    const DESCRIPTOR: u8 = 1 << 7;

    /// What a frame's first packet has alone.
    pub const OF_THE_FIRST: Flags = Flags::KEY.with(Flags::FRESH_SOURCE);

    /// These, and none of `other`.
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Both.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which part of a packet a datagram carries. A browser's packet of 1200 bytes does not fit a path of 1200.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// Its first half; the second has the next `link_seq`.
    FirstHalf,
    /// Its second half.
    SecondHalf,
    /// None of it, but its header: it goes on in halves, as the path became too narrow for it after it was sent, and what goes on with it need not wait.
    Header,
}

/// The header of a media datagram.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Media {
    /// Which part of the packet.
    pub part: Part,
    /// What it is.
    pub flags: Flags,
    /// The datagram's number on this hop, below 2^62; of one that was read its low 24 bits.
    pub link_seq: u64,
    /// The track, as the subscription named it, below 2^62.
    pub track: u64,
    /// When the datagram left, by its sender's clock, in quarters of a millisecond: wraps in 16 s.
    pub sent: u16,
    /// Since the packet came into the cluster, in milliseconds: what it waited at each node, and half a round trip of each hop. At most 16383.
    pub age_ms: u16,
    /// How old it may get and still be of use, in milliseconds.
    pub budget_ms: u16,
    /// The packet's number on its track, low 32 bits.
    pub seq: u32,
    /// Its presentation time in the codec's clock, low 32 bits.
    pub timestamp: u32,
    /// Presentation minus decoding time in the same clock, where they differ (B-frames).
    pub dts_offset: u32,
    /// Where its frame stands among the temporal layers: three bits each of `id`, `up_from` and `up_to`.
    pub temporal: Temporal,
    /// It is no packet: from `seq` on packets do not come, see [`left_out`].
    pub left_out: bool,
    /// The next number was ready to leave as this one did.
    pub more: bool,
}

/// A datagram that was read; it borrows the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Datagram<'a> {
    /// Media.
    Media(Media, Body<'a>),
    /// A frame's next packet, and its payload.
    Next(Next, &'a [u8]),
    /// Numbers that did not come.
    Nack(Nack<'a>),
    /// The next datagram of media will have this number: what is missing below it was lost. Said when nothing follows soon, and as a heartbeat.
    End(u64),
}

/// The header of a frame's next packet: all else is as the media datagram said whose number is `back` smaller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// As in [`Media`]; of one that was read its low 24 bits.
    pub link_seq: u64,
    /// How many numbers before it that was: 1 to [`BACK_MAX`].
    pub back: u8,
    /// How many packets of the track more than that: some between them did not come to the sender by then, or went before.
    pub gap: i8,
    /// As in [`Media`], the low 8 bits: it left less than 64 ms after that did for the first time.
    pub sent: u8,
    /// The last packet of its frame.
    pub last: bool,
    /// As in [`Media`].
    pub more: bool,
}

/// What a packet, or its half, carries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Body<'a> {
    /// The dependency descriptor of its frame, at most 255 bytes; empty without.
    pub descriptor: &'a [u8],
    /// RTP payload.
    pub payload: &'a [u8],
}

/// A NACK that was read: checked, and not unpacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nack<'a> {
    /// The highest number the asker has. It may be the last that is asked for: the peer said that it follows, and it did not.
    pub highest: u64,
    ranges: &'a [u8],
}

/// Why a datagram was refused. The peer wrote it: a node of this version never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// It ends before its header does.
    #[error("relay datagram cut short")]
    Short,
    /// A type this version does not know.
    #[error("relay datagram of type {0}")]
    Type(u8),
    /// Goes on with itself, or with what is further back than any.
    #[error("relay datagram that goes on with one {0} before it")]
    Back(u8),
    /// More payload than a packet has.
    #[error("relay datagram with more than {PAYLOAD_LEN_MAX} bytes of payload")]
    Long,
    /// Asks for too much, for nothing, or for what cannot have been sent.
    #[error("relay NACK out of bounds")]
    Nack,
    /// No packets are left out, or more than a track has.
    #[error("relay datagram that leaves out no packets, or too many")]
    LeftOut,
}

impl Media {
    /// Appends the datagram. A descriptor of more than 255 bytes is left out: none has so many.
    pub fn write(&self, body: Body<'_>, out: &mut Vec<u8>) {
        let kind = match self.part {
            Part::Whole => TYPE_WHOLE,
            Part::FirstHalf => TYPE_FIRST_HALF,
            Part::SecondHalf => TYPE_SECOND_HALF,
            Part::Header => TYPE_HEADER,
        };
        let temporal = (self.temporal != Temporal::default()).then_some(self.temporal);
        let left_out = if self.left_out { LEFT_OUT } else { 0 };
        let more = if self.more { MORE } else { 0 };
        out.push(kind | left_out | more | temporal.map_or(0, |_| TEMPORAL));
        let dts = if self.dts_offset > 0 { Flags::DTS_OFFSET } else { 0 };
        let descriptor = u8::try_from(body.descriptor.len()).ok().filter(|len| *len > 0);
        out.push(self.flags.0 | dts | descriptor.map_or(0, |_| Flags::DESCRIPTOR));
        let [.., n0, n1, n2] = self.link_seq.to_be_bytes();
        out.extend([n0, n1, n2]);
        varint::write(out, self.track);
        out.extend(self.sent.to_be_bytes());
        varint::write(out, self.age_ms.min(AGE_MS_MAX).into());
        out.push(u8::try_from(self.budget_ms.div_ceil(BUDGET_UNIT_MS)).unwrap_or(u8::MAX));
        out.extend(self.seq.to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        if let Some(Temporal { id, up_from, up_to }) = temporal {
            let [id, up_from, up_to] = [id, up_from, up_to].map(|layer| u16::from(layer & 7));
            out.extend((id | (up_from << 3) | (up_to << 6)).to_be_bytes());
        }
        if dts > 0 {
            varint::write(out, u64::from(self.dts_offset));
        }
        if let Some(len) = descriptor {
            out.push(len);
            out.extend(body.descriptor);
        }
        out.extend(body.payload);
    }

    fn read<'a>(part: Part, kind: u8, rest: &mut &'a [u8]) -> Option<(Media, &'a [u8])> {
        let (&[flags, n0, n1, n2], after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        let link_seq = u32::from_be_bytes([0, n0, n1, n2]).into();
        let track = varint::read(rest)?;
        let (&[l0, l1], after) = rest.split_first_chunk::<2>()?;
        *rest = after;
        let age_ms = varint::read(rest)?;
        let (&[budget, s0, s1, s2, s3, t0, t1, t2, t3], after) = rest.split_first_chunk::<9>()?;
        *rest = after;
        let mut temporal = Temporal::default();
        if kind & TEMPORAL != 0 {
            let (bits, after) = rest.split_first_chunk::<2>()?;
            *rest = after;
            let bits = u16::from_be_bytes(*bits);
            let layer = |shift: u16| (((bits >> shift) & 7) as u8).min(LAYER_MAX);
            temporal = Temporal { id: layer(0), up_from: layer(3), up_to: layer(6) };
        }
        let dts_offset = if flags & Flags::DTS_OFFSET != 0 { varint::read(rest)? } else { 0 };
        let mut descriptor: &[u8] = &[];
        if flags & Flags::DESCRIPTOR != 0 {
            let (&len, after) = rest.split_first()?;
            (descriptor, *rest) = after.split_at_checked(usize::from(len))?;
        }
        let media = Media {
            part,
            flags: Flags(flags & !(Flags::DTS_OFFSET | Flags::DESCRIPTOR)),
            link_seq,
            track,
            sent: u16::from_be_bytes([l0, l1]),
            age_ms: u16::try_from(age_ms).map_or(AGE_MS_MAX, |age_ms| age_ms.min(AGE_MS_MAX)),
            budget_ms: u16::from(budget).saturating_mul(BUDGET_UNIT_MS),
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            // 2^32 ticks of 90 kHz are 13 hours: what is longer is no offset, and is cut like the time stamps.
            dts_offset: dts_offset as u32,
            temporal,
            left_out: kind & LEFT_OUT != 0,
            more: kind & MORE != 0,
        };
        Some((media, descriptor))
    }
}

impl Next {
    /// Appends the datagram.
    pub fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        let last = if self.last { LAST } else { 0 };
        let more = if self.more { MORE } else { 0 };
        let [.., n0, n1, n2] = self.link_seq.to_be_bytes();
        let back = self.back & BACK_MAX;
        let in_type = if self.gap == 0 { back } else { 0 };
        out.extend([TYPE_NEXT | last | more | in_type, n0, n1, n2, self.sent]);
        if self.gap != 0 {
            out.extend([back, self.gap.cast_unsigned()]);
        }
        out.extend(payload);
    }

    fn read(kind: u8, rest: &[u8]) -> Result<Datagram<'_>, Error> {
        let (&[n0, n1, n2, sent], mut payload) = rest.split_first_chunk().ok_or(Error::Short)?;
        let (mut back, mut gap) = (kind & BACK_MAX, 0);
        if back == 0 {
            let (&[after, more], rest) = payload.split_first_chunk().ok_or(Error::Short)?;
            (back, gap, payload) = (after, more.cast_signed(), rest);
        }
        if !(1..=BACK_MAX).contains(&back) {
            return Err(Error::Back(back));
        }
        if payload.len() > PAYLOAD_LEN_MAX {
            return Err(Error::Long);
        }
        let link_seq = u32::from_be_bytes([0, n0, n1, n2]).into();
        let next = Next { link_seq, back, gap, sent, last: kind & LAST != 0, more: kind & MORE != 0 };
        Ok(Datagram::Next(next, payload))
    }

    /// As a media datagram with its whole number, by the one it goes on with: no more is known of it.
    pub fn media(&self, first: &Media) -> Media {
        // One that was sent again says no more when it was sent before.
        let later = self.sent.wrapping_sub(first.sent as u8);
        let later = if first.flags.has(Flags::RETRANSMISSION) { 0 } else { u16::from(later) };
        let own = Flags::OF_THE_FIRST.with(Flags::RETRANSMISSION).with(Flags::END_OF_FRAME);
        let last = if self.last { Flags::END_OF_FRAME } else { Flags::default() };
        let flags = first.flags.without(own).with(last);
        Media {
            flags,
            link_seq: self.link_seq,
            sent: first.sent.wrapping_add(later),
            age_ms: first.age_ms.saturating_add(later / 4),
            seq: first.seq.wrapping_add(self.back.into()).wrapping_add_signed(self.gap.into()),
            more: self.more,
            ..*first
        }
    }
}

/// The number whose low 24 bits are these, by the one expected next: the nearest to it (RFC 9000 appendix A.3).
pub fn whole_number(low: u64, next: u64) -> u64 {
    const ALL: u64 = 1 << NUMBER_BITS;
    let near = (next & !ALL.saturating_sub(1)) | (low & ALL.saturating_sub(1));
    if near.saturating_add(ALL / 2) <= next {
        near.saturating_add(ALL)
    } else if near > next.saturating_add(ALL / 2) {
        near.checked_sub(ALL).unwrap_or(near)
    } else {
        near
    }
}

/// The payload that says that so many packets do not come.
pub fn left_out(count: u32) -> Bytes {
    Bytes::copy_from_slice(&count.to_be_bytes())
}

/// How many do not come, by the payload that says so: at least one.
pub fn left_out_count(payload: &[u8]) -> Result<u32, Error> {
    let count = u32::from_be_bytes(*payload.first_chunk().ok_or(Error::Short)?);
    if (1..=LEFT_OUT_MAX).contains(&count) { Ok(count) } else { Err(Error::LeftOut) }
}

/// Appends the word that the next datagram of media will have the number `next`.
pub fn write_end(out: &mut Vec<u8>, next: u64) {
    out.push(TYPE_END);
    varint::write(out, next);
}

/// Appends a NACK. `ranges` are first number and count, ascending and apart, all at or below `highest`. As many as one may have are written;
/// returns how many that were.
pub fn write_nack(out: &mut Vec<u8>, highest: u64, ranges: &[(u64, u64)]) -> usize {
    out.push(TYPE_NACK);
    varint::write(out, highest);
    // Behind the highest, so that most ranges take two bytes.
    let (mut numbers, mut written) = (0_u64, 0_usize);
    for &(first, count) in ranges.iter().take(NACK_RANGES_MAX) {
        numbers = numbers.saturating_add(count);
        if numbers > NACK_NUMBERS_MAX {
            break;
        }
        varint::write(out, highest.saturating_sub(first));
        varint::write(out, count);
        written = written.saturating_add(1);
    }
    written
}

impl<'a> Nack<'a> {
    /// First number and count of each range, oldest first.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let (highest, mut rest) = (self.highest, self.ranges);
        std::iter::from_fn(move || next_range(highest, &mut rest)?.ok())
    }

    fn check(highest: u64, ranges: &'a [u8]) -> Result<Nack<'a>, Error> {
        let (mut rest, mut numbers, mut next) = (ranges, 0_u64, 0_u64);
        for _ in 0..NACK_RANGES_MAX {
            let Some(range) = next_range(highest, &mut rest) else {
                return if numbers > 0 { Ok(Nack { highest, ranges }) } else { Err(Error::Nack) };
            };
            let (first, count) = range?;
            numbers = numbers.saturating_add(count);
            if first < next || numbers > NACK_NUMBERS_MAX {
                return Err(Error::Nack);
            }
            next = first.saturating_add(count);
        }
        if rest.is_empty() { Ok(Nack { highest, ranges }) } else { Err(Error::Nack) }
    }
}

/// The next range at the front of `rest`; `None` at its end.
fn next_range(highest: u64, rest: &mut &[u8]) -> Option<Result<(u64, u64), Error>> {
    if rest.is_empty() {
        return None;
    }
    let (Some(behind), Some(count)) = (varint::read(rest), varint::read(rest)) else {
        return Some(Err(Error::Short));
    };
    let first = highest.checked_sub(behind);
    // The range ends at `highest` at the latest.
    match first.filter(|_| count > 0 && count <= behind.saturating_add(1)) {
        Some(first) => Some(Ok((first, count))),
        None => Some(Err(Error::Nack)),
    }
}

/// Reads a datagram of a peer.
pub fn read(bytes: &[u8]) -> Result<Datagram<'_>, Error> {
    let (&kind, mut rest) = bytes.split_first().ok_or(Error::Short)?;
    if kind & TYPE_NEXT != 0 {
        return Next::read(kind, rest);
    }
    let plain = kind & (TEMPORAL | LEFT_OUT | MORE) == 0;
    let part = match kind & !(TEMPORAL | LEFT_OUT | MORE) {
        TYPE_WHOLE => Part::Whole,
        TYPE_FIRST_HALF => Part::FirstHalf,
        TYPE_SECOND_HALF => Part::SecondHalf,
        TYPE_HEADER => Part::Header,
        TYPE_NACK if plain => {
            let highest = varint::read(&mut rest).ok_or(Error::Short)?;
            return Ok(Datagram::Nack(Nack::check(highest, rest)?));
        }
        TYPE_END if plain => return Ok(Datagram::End(varint::read(&mut rest).ok_or(Error::Short)?)),
        _ => return Err(Error::Type(kind)),
    };
    let (media, descriptor) = Media::read(part, kind, &mut rest).ok_or(Error::Short)?;
    if rest.len() > PAYLOAD_LEN_MAX {
        return Err(Error::Long);
    }
    Ok(Datagram::Media(media, Body { descriptor, payload: rest }))
}

#[cfg(test)]
mod tests;
