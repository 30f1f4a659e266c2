//! RTP headers (RFC 3550 section 5.1) and their extensions (RFC 8285), read in place and written in place.

/// The fixed header, in bytes.
pub const HEADER_LEN_MIN: usize = 12;
/// Extension profile of one-byte elements (RFC 8285 section 4.2).
const PROFILE_ONE_BYTE: u16 = 0xbede;
/// Extension profile of two-byte elements (RFC 8285 section 4.3); the low four bits are application bits.
const PROFILE_TWO_BYTE: u16 = 0x1000;
/// RFC 8285 section 4.2: "id 15 ... terminates processing", so ids of one-byte elements end at 14.
const ONE_BYTE_ID_MAX: u8 = 14;
/// A one-byte element codes its length minus one in four bits.
const ONE_BYTE_LEN_MAX: usize = 16;

/// Why bytes are no RTP packet. The fault is the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the header says it has.
    #[error("an RTP packet of {len} bytes has no room for its {what}")]
    Truncated {
        /// Bytes there were.
        len: usize,
        /// The part that does not fit.
        what: &'static str,
    },
    /// The version is not 2.
    #[error("RTP version {0} is not 2")]
    Version(u8),
    /// The padding count is zero or larger than the payload.
    #[error("an RTP padding count of {0} does not fit the packet")]
    Padding(u8),
}

/// A view of one packet's header. It borrows the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Marker: last packet of a video frame, first of an audio talk spurt.
    pub marker: bool,
    /// Payload type, 0-127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence_number: u16,
    /// Media time in ticks of the codec's clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Bytes before the payload: fixed header, CSRC list and extension.
    pub header_len: usize,
    /// Payload bytes, padding removed.
    pub payload_len: usize,
    profile: u16,
    elements: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads the header of a plain packet.
    pub fn parse(packet: &'a [u8]) -> Result<Header<'a>, Error> {
        let mut header = Header::parse_protected(packet)?;
        let padded = packet.first().is_some_and(|first| first & 0x20 != 0);
        if padded {
            // RFC 3550 section 5.1: "the last octet of the padding contains a count of how many padding octets
            // should be ignored, including itself".
            let count = packet.last().copied().unwrap_or(0);
            header.payload_len = match header.payload_len.checked_sub(usize::from(count)) {
                Some(len) if count > 0 => len,
                _ => return Err(Error::Padding(count)),
            };
        }
        Ok(header)
    }

    /// Reads the header of an SRTP packet. Its last bytes are cipher text and tag, so the padding count is not looked
    /// at: `payload_len` is all that follows the header.
    pub fn parse_protected(packet: &'a [u8]) -> Result<Header<'a>, Error> {
        let truncated = |what| Error::Truncated { len: packet.len(), what };
        let (fixed, after) =
            packet.split_first_chunk::<HEADER_LEN_MIN>().ok_or_else(|| truncated("fixed header"))?;
        let &[first, second, seq0, seq1, ts0, ts1, ts2, ts3, ssrc0, ssrc1, ssrc2, ssrc3] = fixed;
        let version = first >> 6;
        if version != 2 {
            return Err(Error::Version(version));
        }
        let csrc_len = usize::from(first & 0x0f).saturating_mul(4);
        let (_, after) = after.split_at_checked(csrc_len).ok_or_else(|| truncated("CSRC list"))?;
        let mut header = Header {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence_number: u16::from_be_bytes([seq0, seq1]),
            timestamp: u32::from_be_bytes([ts0, ts1, ts2, ts3]),
            ssrc: u32::from_be_bytes([ssrc0, ssrc1, ssrc2, ssrc3]),
            header_len: 0,
            payload_len: after.len(),
            profile: 0,
            elements: &[],
        };
        if first & 0x10 != 0 {
            let (&[profile0, profile1, words0, words1], after) =
                after.split_first_chunk::<4>().ok_or_else(|| truncated("extension header"))?;
            let len = usize::from(u16::from_be_bytes([words0, words1])).saturating_mul(4);
            let (elements, payload) =
                after.split_at_checked(len).ok_or_else(|| truncated("header extension"))?;
            header.profile = u16::from_be_bytes([profile0, profile1]);
            header.elements = elements;
            header.payload_len = payload.len();
        }
        header.header_len = packet.len().saturating_sub(header.payload_len);
        Ok(header)
    }

    /// The payload of the packet this header was read from, padding removed; empty when `packet` is another, shorter
    /// one.
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(self.header_len..).and_then(|rest| rest.get(..self.payload_len)).unwrap_or(&[])
    }

    /// The header extension's elements in order, as (id, value). A broken element ends the list.
    pub fn extensions(&self) -> Extensions<'a> {
        let form = match self.profile {
            PROFILE_ONE_BYTE => Form::OneByte,
            profile if profile & 0xfff0 == PROFILE_TWO_BYTE => Form::TwoByte,
            _ => Form::Unknown,
        };
        Extensions { form, rest: self.elements }
    }

    /// The value of the first element with this id.
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions().find(|(found, _)| *found == id).map(|(_, value)| value)
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
    Unknown,
}

/// Iterates the elements of a header extension (RFC 8285 sections 4.2 and 4.3).
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (id, len, after) = loop {
            let (&first, after) = self.rest.split_first()?;
            if first == 0 {
                // RFC 8285 section 4.1.1: a byte of zero is padding and stands alone.
                self.rest = after;
                continue;
            }
            break match self.form {
                Form::OneByte => {
                    let (id, len) = (first >> 4, usize::from(first & 0x0f).saturating_add(1));
                    match id {
                        // An id of 0 with a length is not allowed; it is skipped as RFC 8285 section 4.2 asks.
                        0 => {
                            self.rest = after.get(len..)?;
                            continue;
                        }
                        1..=ONE_BYTE_ID_MAX => (id, len, after),
                        _ => {
                            self.rest = &[];
                            return None;
                        }
                    }
                }
                Form::TwoByte => {
                    let (&len, after) = after.split_first()?;
                    (first, usize::from(len), after)
                }
                Form::Unknown => return None,
            };
        };
        let (value, rest) = after.split_at_checked(len).unwrap_or_default();
        if value.len() != len {
            self.rest = &[];
            return None;
        }
        self.rest = rest;
        Some((id, value))
    }
}

/// What [`write_header`] writes. No CSRC list and no padding: this server makes neither.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fields<'a> {
    /// See [`Header::marker`].
    pub marker: bool,
    /// 0-127; the top bit is cut off.
    pub payload_type: u8,
    /// See [`Header::sequence_number`].
    pub sequence_number: u16,
    /// See [`Header::timestamp`].
    pub timestamp: u32,
    /// See [`Header::ssrc`].
    pub ssrc: u32,
    /// Ids 1-14, values of 1-255 bytes. One of more than 16 bytes makes all of them two-byte elements, which the other side must have allowed
    /// (`a=extmap-allow-mixed`, RFC 8285 section 6).
    pub extensions: &'a [(u8, &'a [u8])],
}

/// Writes a header at the start of `out` and returns its length. Returns 0, and `out` holds nothing of use, when `out`
/// is too short or an element's id or length is out of range: both are the caller's mistake.
pub fn write_header(out: &mut [u8], fields: &Fields<'_>) -> usize {
    try_write_header(out, fields).unwrap_or(0)
}

/// Where [`write_header`] puts the value of its first element, when that is the longest and has `len` bytes.
pub const fn first_element_at(len: usize) -> usize {
    HEADER_LEN_MIN.saturating_add(if len > ONE_BYTE_LEN_MAX { 6 } else { 5 })
}

fn try_write_header(out: &mut [u8], fields: &Fields<'_>) -> Option<usize> {
    let (fixed, rest) = out.split_first_chunk_mut::<HEADER_LEN_MIN>()?;
    let has_extension = !fields.extensions.is_empty();
    let [seq0, seq1] = fields.sequence_number.to_be_bytes();
    let [ts0, ts1, ts2, ts3] = fields.timestamp.to_be_bytes();
    let [ssrc0, ssrc1, ssrc2, ssrc3] = fields.ssrc.to_be_bytes();
    let first = 0x80 | if has_extension { 0x10 } else { 0 };
    let second = fields.payload_type & 0x7f | if fields.marker { 0x80 } else { 0 };
    *fixed = [first, second, seq0, seq1, ts0, ts1, ts2, ts3, ssrc0, ssrc1, ssrc2, ssrc3];
    if !has_extension {
        return Some(HEADER_LEN_MIN);
    }
    let (extension_header, elements) = rest.split_first_chunk_mut::<4>()?;
    let two_byte = fields.extensions.iter().any(|(_, value)| value.len() > ONE_BYTE_LEN_MAX);
    let mut len = 0_usize;
    for (id, value) in fields.extensions {
        if !(1..=ONE_BYTE_ID_MAX).contains(id) || value.is_empty() {
            return None;
        }
        let value_len = u8::try_from(value.len()).ok()?;
        let (head, mut after) = elements.get_mut(len..)?.split_first_mut()?;
        len = len.saturating_add(1).saturating_add(value.len());
        if two_byte {
            let (second, rest) = after.split_first_mut()?;
            (*head, *second, after) = (*id, value_len, rest);
            len = len.saturating_add(1);
        } else {
            *head = id << 4 | value_len.saturating_sub(1);
        }
        after.get_mut(..value.len())?.copy_from_slice(value);
    }
    let padded = len.next_multiple_of(4);
    elements.get_mut(len..padded)?.fill(0);
    let profile = if two_byte { PROFILE_TWO_BYTE } else { PROFILE_ONE_BYTE };
    let [profile0, profile1] = profile.to_be_bytes();
    let [words0, words1] = u16::try_from(padded / 4).ok()?.to_be_bytes();
    *extension_header = [profile0, profile1, words0, words1];
    Some(HEADER_LEN_MIN.saturating_add(4).saturating_add(padded))
}

/// Extends the 16-bit sequence numbers and 32-bit timestamps of one source to numbers that do not wrap, by the signed
/// difference to the highest so far (RFC 3550 appendix A.1's idea without its probation). Give it authenticated packets
/// only. A packet more than half the number space behind counts as ahead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unwrapper {
    seq_highest: Option<u64>,
    timestamp_highest: Option<i64>,
}

impl Unwrapper {
    /// Where counting starts: one cycle up, so that packets before the first one seen stay above zero.
    const SEQ_START: u64 = 1 << 16;
    const TIMESTAMP_START: i64 = 1 << 32;

    /// An unwrapper that has seen nothing.
    pub fn new() -> Unwrapper {
        Unwrapper::default()
    }

    /// The extended sequence number. Its low 16 bits are `seq`.
    pub fn seq(&mut self, seq: u16) -> u64 {
        let Some(highest) = self.seq_highest else {
            let first = Self::SEQ_START | u64::from(seq);
            self.seq_highest = Some(first);
            return first;
        };
        let ahead = seq.wrapping_sub(highest as u16) as i16;
        let extended = highest.saturating_add_signed(i64::from(ahead));
        self.seq_highest = Some(highest.max(extended));
        extended
    }

    /// The extended timestamp. Its low 32 bits are `timestamp`.
    pub fn timestamp(&mut self, timestamp: u32) -> i64 {
        let Some(highest) = self.timestamp_highest else {
            let first = Self::TIMESTAMP_START | i64::from(timestamp);
            self.timestamp_highest = Some(first);
            return first;
        };
        let ahead = timestamp.wrapping_sub(highest as u32) as i32;
        let extended = highest.saturating_add(i64::from(ahead));
        self.timestamp_highest = Some(highest.max(extended));
        extended
    }

    /// The highest extended sequence number so far.
    pub fn seq_highest(&self) -> Option<u64> {
        self.seq_highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: [u8; 16] = [0x80, 0xe0, 0x12, 0x34, 0, 0, 0, 90, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4];

    #[test]
    fn plain_header() {
        let header = Header::parse(&PLAIN).unwrap();
        assert!(header.marker);
        assert_eq!((header.payload_type, header.sequence_number), (96, 0x1234));
        assert_eq!((header.timestamp, header.ssrc), (90, 0xdead_beef));
        assert_eq!((header.header_len, header.payload_len), (12, 4));
        assert_eq!(header.payload(&PLAIN), [1, 2, 3, 4]);
        assert_eq!(header.extensions().count(), 0);
    }

    #[test]
    fn csrc_extension_and_padding() {
        let mut packet = vec![0x80 | 0x20 | 0x10 | 2, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        packet.extend([0; 8]); // two CSRCs
        packet.extend([0xbe, 0xde, 0, 2, 0x12, b'a', b'b', b'c', 0, 0, 0x30, 9]);
        packet.extend([1, 2, 3, 0, 0, 3]);
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.header_len, header.payload_len), (32, 3));
        assert_eq!(header.extensions().collect::<Vec<_>>(), [(1, &b"abc"[..]), (3, &[9][..])]);
        assert_eq!(header.extension(3), Some(&[9][..]));
        assert_eq!(Header::parse_protected(&packet).unwrap().payload_len, 6);
    }

    #[test]
    fn two_byte_elements_and_id_15() {
        let two_byte = [0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x05, 0, 2, 20, 0, 0, 1, 2, 8, 9, 0];
        let header = Header::parse(&two_byte).unwrap();
        assert_eq!(header.extensions().collect::<Vec<_>>(), [(20, &[][..]), (1, &[8, 9][..])]);
        // id 15 stops: the element after it is not reported.
        let stops =
            [0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 2, 0x10, 1, 0xf0, 0, 0x20, 2, 0, 0];
        let header = Header::parse(&stops).unwrap();
        assert_eq!(header.extensions().collect::<Vec<_>>(), [(1, &[1][..])]);
    }

    #[test]
    fn broken_packets() {
        assert_eq!(Header::parse(&PLAIN[..11]), Err(Error::Truncated { len: 11, what: "fixed header" }));
        let with = |index: usize, byte: u8| {
            let mut packet = PLAIN;
            packet[index] = byte;
            packet
        };
        assert_eq!(Header::parse(&with(0, 0x40)), Err(Error::Version(1)));
        assert_eq!(Header::parse(&with(0, 0x82)), Err(Error::Truncated { len: 16, what: "CSRC list" }));
        assert_eq!(
            Header::parse(&with(0, 0x90)),
            Err(Error::Truncated { len: 16, what: "header extension" })
        );
        let mut padded = with(0, 0xa0);
        assert_eq!(Header::parse(&padded).unwrap().payload_len, 0);
        for count in [0, 5, 255] {
            padded[15] = count;
            assert_eq!(Header::parse(&padded), Err(Error::Padding(count)));
        }
    }

    #[test]
    fn what_write_header_refuses() {
        let fields = |extensions| Fields { extensions, ..Fields::default() };
        let mut out = [0; 64];
        assert_eq!(write_header(&mut out[..11], &fields(&[])), 0);
        assert_eq!(write_header(&mut out[..19], &fields(&[(1, b"x")])), 0);
        assert_eq!(write_header(&mut out[..20], &fields(&[(1, b"x")])), 20);
        assert_eq!(write_header(&mut out, &fields(&[(15, b"x")])), 0);
        assert_eq!(write_header(&mut out, &fields(&[(0, b"x")])), 0);
        assert_eq!(write_header(&mut out, &fields(&[(1, b"")])), 0);
        assert_eq!(write_header(&mut out, &fields(&[(1, &[0; 17])])), 36, "two-byte elements");
        assert_eq!(write_header(&mut out[..35], &fields(&[(1, &[0; 17])])), 0);
        assert_eq!(write_header(&mut [0; 512], &fields(&[(1, &[0; 256])])), 0);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(unwrapper.seq(65_534), 65_536 + 65_534);
        assert_eq!(unwrapper.seq(1), 131_073);
        assert_eq!(unwrapper.seq(65_535), 131_071);
        assert_eq!(unwrapper.seq(0), 131_072);
        assert_eq!(unwrapper.seq_highest(), Some(131_073));
    }

    #[test]
    fn early_reordering_stays_above_zero() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(unwrapper.seq(0), 65_536);
        assert_eq!(unwrapper.seq(65_535), 65_535);
        assert_eq!(unwrapper.timestamp(0), 1 << 32);
        assert_eq!(unwrapper.timestamp(u32::MAX), (1 << 32) - 1);
        // However often old packets come, the reference stays at the highest.
        for seq in [32_768, 40_000, 32_768] {
            assert!(unwrapper.seq(seq) >= 32_768);
        }
    }

    #[test]
    fn timestamps_wrap() {
        let mut unwrapper = Unwrapper::new();
        let first = unwrapper.timestamp(u32::MAX - 100);
        assert_eq!(unwrapper.timestamp(2_899) - first, 3_000);
        assert_eq!(unwrapper.timestamp(u32::MAX) - first, 100);
        assert_eq!(unwrapper.timestamp(5_899) - first, 6_000);
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            marker: bool,
            payload_type in 0_u8..128,
            sequence_number: u16,
            timestamp: u32,
            ssrc: u32,
            elements in prop::collection::vec((1_u8..15, prop::collection::vec(any::<u8>(), 1..30)), 0..6),
            payload in prop::collection::vec(any::<u8>(), 0..32),
        ) {
            let extensions: Vec<(u8, &[u8])> = elements.iter().map(|(id, v)| (*id, v.as_slice())).collect();
            let fields =
                Fields { marker, payload_type, sequence_number, timestamp, ssrc, extensions: &extensions };
            let mut packet = [0xaa; 256];
            let len = write_header(&mut packet, &fields);
            prop_assert!(len >= HEADER_LEN_MIN);
            packet[len..len + payload.len()].copy_from_slice(&payload);
            let packet = &packet[..len + payload.len()];
            let header = Header::parse(packet).unwrap();
            prop_assert_eq!(header.header_len, len);
            prop_assert_eq!(header.payload(packet), payload.as_slice());
            prop_assert_eq!((header.marker, header.payload_type), (marker, payload_type));
            prop_assert_eq!((header.sequence_number, header.timestamp, header.ssrc), (sequence_number, timestamp, ssrc));
            prop_assert_eq!(header.extensions().collect::<Vec<_>>(), extensions);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut packet in prop::collection::vec(any::<u8>(), 0..96), rtp: bool) {
            if rtp && let Some(first) = packet.first_mut() {
                *first = *first & 0x3f | 0x80;
            }
            if let Ok(header) = Header::parse(&packet) {
                prop_assert!(header.header_len + header.payload_len <= packet.len());
                prop_assert!(header.extensions().count() <= packet.len());
            }
            let _ = Header::parse_protected(&packet);
        }

        #[test]
        fn unwrapping_keeps_the_low_bits(seqs in prop::collection::vec(any::<u16>(), 1..64), times in prop::collection::vec(any::<u32>(), 1..64)) {
            let mut unwrapper = Unwrapper::new();
            for seq in seqs {
                prop_assert_eq!(unwrapper.seq(seq) as u16, seq);
            }
            for time in times {
                prop_assert_eq!(unwrapper.timestamp(time) as u32, time);
            }
        }
    }
}
