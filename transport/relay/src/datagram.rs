//! Datagrams of the hop: a media packet (or half of one), the request for numbers that did not come, and the word that nothing more was sent.
//!
//! ```text
//! media  type(1) flags(1) link_seq(3) track(varint) sent(2) age_ms(varint) budget(1) seq(4)
//!        timestamp(4) [temporal(2)] [dts_offset(varint)] [descriptor_len(1) descriptor] payload
//! NACK   type(1) highest(varint) { behind(varint) count(varint) } ...
//! end    type(1) next(varint)
//! ```
//!
//! A media datagram may say instead that packets of its track do not come, as a node left them out: from number `seq` on as many as its payload says,
//! 4 bytes. Nobody waits for them.
//!
//! `link_seq` counts the datagrams of one hop, whatever they carry: it is what a NACK asks for, so that a hole made upstream is not asked for again
//! downstream. Of a media datagram's number there are the low 24 bits: the receiver knows the rest ([`whole_number`]). The usual header of a packet that
//! is younger than 64 ms has 18 bytes.

use bytes::Bytes;
use media::{Temporal, payload::TEMPORAL_LAYERS_MAX};

use crate::varint;

/// A media header without a descriptor, of a track whose number is below 2^14, at its longest.
pub const HEADER_LEN_USUAL: usize = 26;
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
/// The uppermost temporal layer.
const LAYER_MAX: u8 = (TEMPORAL_LAYERS_MAX as u8).saturating_sub(1);
/// Beside the type of media: its frame's temporal layer is there.
const TEMPORAL: u8 = 1 << 4;
/// Beside the type of media: it stands for packets that do not come.
const LEFT_OUT: u8 = 1 << 5;
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
}

/// A datagram that was read; it borrows the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Datagram<'a> {
    /// Media.
    Media(Media, Body<'a>),
    /// Numbers that did not come.
    Nack(Nack<'a>),
    /// The next datagram of media will have this number: what is missing below it was lost. Said when nothing follows soon, and as a heartbeat.
    End(u64),
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
    /// The highest number the asker has.
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
        };
        let temporal = (self.temporal != Temporal::default()).then_some(self.temporal);
        let left_out = if self.left_out { LEFT_OUT } else { 0 };
        out.push(kind | left_out | temporal.map_or(0, |_| TEMPORAL));
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
        };
        Some((media, descriptor))
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
    let plain = kind & (TEMPORAL | LEFT_OUT) == 0;
    let part = match kind & !(TEMPORAL | LEFT_OUT) {
        TYPE_WHOLE => Part::Whole,
        TYPE_FIRST_HALF => Part::FirstHalf,
        TYPE_SECOND_HALF => Part::SecondHalf,
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn media() -> Media {
        Media {
            part: Part::Whole,
            flags: Flags::KEY.with(Flags::END_OF_FRAME),
            link_seq: 70_000,
            track: 3,
            sent: 258,
            age_ms: 37,
            budget_ms: 400,
            seq: 0x0102_0304,
            timestamp: 0xa0b0_c0d0,
            dts_offset: 0,
            temporal: Temporal::default(),
            left_out: false,
        }
    }

    #[test]
    fn a_temporal_layer_is_two_bytes_more() {
        let temporal = Temporal { id: 2, up_from: 1, up_to: 3 };
        let (media, mut out) = (Media { temporal, ..media() }, Vec::new());
        media.write(Body::default(), &mut out);
        assert_eq!((out[0], &out[18..]), (TEMPORAL, &[0, 0b1100_1010][..]));
        assert_eq!(read(&out), Ok(Datagram::Media(media, Body::default())));
        assert_eq!(read(&out[..19]), Err(Error::Short));
    }

    #[test]
    fn bytes_of_a_media_datagram() {
        let mut out = Vec::new();
        media().write(Body::default(), &mut out);
        let head = [0, 3, 1, 0x11, 0x70, 3, 1, 2, 37, 40, 1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0];
        assert_eq!(out, head);
        out.extend(b"payload");
        let body = Body { descriptor: b"", payload: b"payload" };
        assert_eq!(read(&out), Ok(Datagram::Media(media(), body)));
        let described = Body { descriptor: &[0x80, 0, 1], ..body };
        let mut out = Vec::new();
        media().write(described, &mut out);
        assert_eq!((out[1], &out[head.len()..]), (0x83, &b"\x03\x80\x00\x01payload"[..]));
        assert_eq!(read(&out), Ok(Datagram::Media(media(), described)));
        assert_eq!(read(&out[..head.len() + 3]), Err(Error::Short));
        for len in 0..head.len() {
            assert_eq!(read(&out[..len]), Err(Error::Short), "{len}");
        }
    }

    #[test]
    fn what_does_not_fit_the_header_is_as_near_as_can_be() {
        let mut out = Vec::new();
        let far = Media { link_seq: (5 << NUMBER_BITS) + 7, age_ms: u16::MAX, budget_ms: 401, ..media() };
        far.write(Body::default(), &mut out);
        let near = Media { link_seq: 7, age_ms: AGE_MS_MAX, budget_ms: 410, ..media() };
        assert_eq!(read(&out), Ok(Datagram::Media(near, Body::default())));
        let longest = Media { budget_ms: u16::MAX, ..media() };
        out.clear();
        longest.write(Body::default(), &mut out);
        let Ok(Datagram::Media(read, _)) = read(&out) else { panic!() };
        assert_eq!(read.budget_ms, 2_550);
    }

    #[test]
    fn a_number_is_the_one_next_to_what_is_expected() {
        let all = 1_u64 << NUMBER_BITS;
        for next in [0, 1, 5, all / 2, all - 1, all, all + 3, 5 * all - 1, 5 * all, 9 * all + all / 2] {
            for back in 0..1_000.min(next) {
                assert_eq!(whole_number((next - back) % all, next), next - back, "{back} behind {next}");
            }
            for ahead in [0, 1, 1_000, 1_000_000] {
                assert_eq!(whole_number((next + ahead) % all, next), next + ahead, "{ahead} from {next}");
            }
        }
        assert!(whole_number(u64::MAX, varint::MAX) <= varint::MAX + all);
    }

    #[test]
    fn bytes_of_a_nack() {
        let mut out = Vec::new();
        assert_eq!(write_nack(&mut out, 1_000, &[(900, 1), (998, 3)]), 2);
        assert_eq!(out, [3, 0x43, 0xe8, 0x40, 100, 1, 2, 3]);
        let Ok(Datagram::Nack(nack)) = read(&out) else { panic!() };
        assert_eq!(nack.ranges().collect::<Vec<_>>(), [(900, 1), (998, 3)]);
    }

    #[test]
    fn bytes_of_an_end() {
        let mut out = Vec::new();
        write_end(&mut out, 1_000);
        assert_eq!(out, [4, 0x43, 0xe8]);
        assert_eq!(read(&out), Ok(Datagram::End(1_000)));
    }

    #[test]
    fn what_a_peer_may_not_ask_for() {
        let nack = |highest: u64, ranges: &[(u64, u64)]| {
            let mut out = vec![TYPE_NACK];
            varint::write(&mut out, highest);
            for (behind, count) in ranges {
                varint::write(&mut out, *behind);
                varint::write(&mut out, *count);
            }
            out
        };
        for bad in [
            nack(10, &[]),
            nack(10, &[(11, 1)]),
            nack(10, &[(3, 0)]),
            nack(10, &[(0, 2)]),
            nack(10, &[(5, 3), (3, 1)]),
            nack(10_000, &[(9_000, NACK_NUMBERS_MAX + 1)]),
            nack(10_000, &[(9_000, NACK_NUMBERS_MAX), (10, 1)]),
            nack(10_000, &(0..=NACK_RANGES_MAX as u64).map(|n| (5_000 - n * 2, 1)).collect::<Vec<_>>()),
            nack(u64::MAX, &[(0, u64::MAX)]),
        ] {
            assert_eq!(read(&bad), Err(Error::Nack), "{bad:?}");
        }
        assert_eq!(read(&nack(10, &[(5, 1)])[..3]), Err(Error::Short));
        let most: Vec<_> = (0..NACK_RANGES_MAX as u64).map(|n| (5_000 - n * 2, 1)).collect();
        assert!(read(&nack(10_000, &most)).is_ok());
    }

    #[test]
    fn unknown_types_and_lengths_are_refused() {
        assert_eq!(read(&[]), Err(Error::Short));
        assert_eq!(read(&[5, 0]), Err(Error::Type(5)));
        assert_eq!(read(&[4]), Err(Error::Short));
        let mut out = Vec::new();
        media().write(Body::default(), &mut out);
        out.resize(out.len() + PAYLOAD_LEN_MAX, 0);
        assert!(read(&out).is_ok());
        out.push(0);
        assert_eq!(read(&out), Err(Error::Long));
    }

    #[test]
    fn a_nack_writes_no_more_than_may_be_asked() {
        let ranges: Vec<(u64, u64)> = (0..200).map(|n| (n * 100, 40)).collect();
        let mut out = Vec::new();
        assert_eq!(write_nack(&mut out, 100_000, &ranges), NACK_NUMBERS_MAX as usize / 40);
        assert!(read(&out).is_ok() && out.len() < 1_100);
    }

    fn any_media() -> impl Strategy<Value = Media> {
        let part = prop_oneof![Just(Part::Whole), Just(Part::FirstHalf), Just(Part::SecondHalf)];
        let times = (any::<u16>(), 0..=AGE_MS_MAX, any::<u8>());
        let numbers = (0..1_u64 << NUMBER_BITS, 0..=varint::MAX, times, any::<(u32, u32, u32)>());
        let layers = (0..4_u8, 0..4_u8, 0..4_u8, any::<bool>());
        (part, 0..Flags::DTS_OFFSET, numbers, layers).prop_map(
            |(
                part,
                flags,
                (link_seq, track, (sent, age_ms, budget), rest),
                (id, up_from, up_to, left_out),
            )| {
                let (seq, timestamp, dts_offset) = rest;
                let budget_ms = u16::from(budget) * BUDGET_UNIT_MS;
                Media {
                    part,
                    flags: Flags(flags),
                    link_seq,
                    track,
                    sent,
                    age_ms,
                    budget_ms,
                    seq,
                    timestamp,
                    dts_offset,
                    temporal: Temporal { id, up_from, up_to },
                    left_out,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn media_round_trips(
            media in any_media(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
            descriptor in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let body = Body { descriptor: &descriptor, payload: &payload };
            let mut out = Vec::new();
            media.write(body, &mut out);
            prop_assert_eq!(read(&out), Ok(Datagram::Media(media, body)));
        }

        #[test]
        fn nacks_round_trip(steps in prop::collection::vec((1_u64..200, 1_u64..16), 1..60), start in 0_u64..1 << 40) {
            let mut next = start;
            let ranges: Vec<(u64, u64)> = steps.iter().map(|(gap, count)| {
                let first = next + gap;
                next = first + count;
                (first, *count)
            }).collect();
            let mut out = Vec::new();
            prop_assert_eq!(write_nack(&mut out, next, &ranges), ranges.len());
            let Ok(Datagram::Nack(nack)) = read(&out) else { panic!() };
            prop_assert_eq!(nack.ranges().collect::<Vec<_>>(), ranges);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Datagram::Nack(nack)) = read(&bytes) {
                let asked: u64 = nack.ranges().map(|(_, count)| count).sum();
                prop_assert!(asked > 0 && asked <= NACK_NUMBERS_MAX);
            }
        }
    }
}
