//! NAL units: their header, their two framings (AVCC lengths, Annex B start codes) and the few fields of slices and
//! parameter sets that a server needs.

use super::bits::BitReader;
use super::{Error, NAL_COUNT_MAX};

/// `nal_unit_type`, H.264 table 7-1: coded slice of a picture that is no IDR.
pub const SLICE: u8 = 1;
/// Coded slice of an IDR picture.
pub const IDR: u8 = 5;
/// Supplemental enhancement information.
pub const SEI: u8 = 6;
/// Sequence parameter set.
pub const SPS: u8 = 7;
/// Picture parameter set.
pub const PPS: u8 = 8;
/// Access unit delimiter.
pub const AUD: u8 = 9;
/// Filler data.
pub const FILLER: u8 = 12;

/// `nal_unit_type` of a NAL unit, 0 (unspecified) when it is empty.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1F)
}

/// `nal_ref_idc` of a NAL unit, 0 to 3.
pub fn nal_ref_idc(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| (header >> 5) & 3)
}

/// Whether this type carries picture data: slices and data partitions.
pub const fn is_picture(nal_type: u8) -> bool {
    matches!(nal_type, 1..=5)
}

/// Whether frames keep NAL units of this type. Parameter sets (7, 8, 13, 15) live in the configuration, AUD (9) and filler
/// (12) say nothing to a decoder. 0 and 24 to 31 are unspecified in H.264 and mean aggregation and fragmentation in RTP
/// (RFC 6184 table 1): one that is passed on as it is would be read as something else.
pub const fn is_kept(nal_type: u8) -> bool {
    !matches!(nal_type, 0 | SPS | PPS | AUD | FILLER | 13 | 15 | 24..)
}

/// The fields at the start of a slice header (H.264 section 7.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceStart {
    /// `first_mb_in_slice`: 0 in the first slice of a picture.
    pub first_mb: u32,
    /// `slice_type`, 0 to 9.
    pub slice_type: u32,
}

impl SliceStart {
    /// Reads it from a slice or data partition A; `None` for other NAL units and for broken ones.
    pub fn parse(nal: &[u8]) -> Option<SliceStart> {
        if !matches!(nal_type(nal), 1 | 2 | 5) {
            return None;
        }
        let rbsp = Prefix::of(nal);
        let mut bits = rbsp.reader(0)?;
        let first_mb = bits.ue()?;
        let slice_type = bits.ue()?;
        (slice_type <= 9).then_some(SliceStart { first_mb, slice_type })
    }

    /// A B slice: predicted from two lists, so it may be decoded before what it shows after.
    pub const fn is_b(self) -> bool {
        matches!(self.slice_type, 1 | 6)
    }
}

/// The id of a sequence or picture parameter set; `None` for other NAL units and for ids out of range.
pub fn parameter_set_id(nal: &[u8]) -> Option<u32> {
    let rbsp = Prefix::of(nal);
    match nal_type(nal) {
        // H.264 section 7.3.2.1.1: profile, constraints and level come first; ids are 0 to 31
        SPS => rbsp.reader(3)?.ue().filter(|id| *id <= 31),
        // H.264 section 7.3.2.2: ids are 0 to 255
        PPS => rbsp.reader(0)?.ue().filter(|id| *id <= 255),
        _ => None,
    }
}

/// The first bytes of a NAL unit's payload without emulation prevention (H.264 section 7.4.1: after 00 00, an 03 is not
/// part of the payload). 16 bytes hold two Exp-Golomb codes of any length.
struct Prefix {
    bytes: [u8; 16],
    len: usize,
}

impl Prefix {
    fn of(nal: &[u8]) -> Prefix {
        let mut prefix = Prefix { bytes: [0; 16], len: 0 };
        let mut zeros = 0_u32;
        for &byte in nal.iter().skip(1) {
            if zeros >= 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros.saturating_add(1) } else { 0 };
            let Some(slot) = prefix.bytes.get_mut(prefix.len) else { break };
            *slot = byte;
            prefix.len = prefix.len.saturating_add(1);
        }
        prefix
    }

    fn reader(&self, skip: usize) -> Option<BitReader<'_>> {
        Some(BitReader::new(self.bytes.get(skip..self.len)?))
    }
}

/// The NAL units of an AVCC buffer with lengths of `length_size` bytes (1, 2 or 4). Ends after the first error: a length beyond
/// the end, or more than [`NAL_COUNT_MAX`] units.
pub fn avcc_nals(data: &[u8], length_size: u8) -> AvccNals<'_> {
    AvccNals { rest: data, length_size, count: 0 }
}

/// See [`avcc_nals`].
#[derive(Clone, Debug)]
pub struct AvccNals<'a> {
    rest: &'a [u8],
    length_size: u8,
    count: usize,
}

impl<'a> Iterator for AvccNals<'a> {
    type Item = Result<&'a [u8], Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = self.take();
        if result.is_err() {
            self.rest = &[];
        }
        Some(result)
    }
}

impl<'a> AvccNals<'a> {
    fn take(&mut self) -> Result<&'a [u8], Error> {
        if !matches!(self.length_size, 1 | 2 | 4) {
            return Err(Error::LengthSize(self.length_size));
        }
        self.count = self.count.saturating_add(1);
        if self.count > NAL_COUNT_MAX {
            return Err(Error::NalCount);
        }
        let short = Error::Truncated { what: "NAL length", have: self.rest.len() };
        let (length, rest) = self.rest.split_at_checked(usize::from(self.length_size)).ok_or(short)?;
        let length = length.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
        let short = Error::Truncated { what: "NAL unit", have: rest.len() };
        let (nal, rest) = rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(nal)
    }
}

/// The NAL units of an Annex B byte stream: what stands between start codes (00 00 01), without trailing zero bytes, which are
/// not part of a NAL unit (H.264 section B.1). Bytes before the first start code are skipped.
pub fn annexb_nals(data: &[u8]) -> AnnexbNals<'_> {
    let (_, rest) = split_start_code(data);
    AnnexbNals { rest: rest.unwrap_or(&[]) }
}

/// See [`annexb_nals`].
#[derive(Clone, Debug)]
pub struct AnnexbNals<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AnnexbNals<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let (nal, rest) = split_start_code(self.rest);
            self.rest = rest.unwrap_or(&[]);
            let nal = trim_trailing_zeros(nal);
            if !nal.is_empty() {
                return Some(nal);
            }
        }
        None
    }
}

/// What stands before the first start code, and what after it.
fn split_start_code(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    match data.windows(3).position(|three| three == [0, 0, 1]) {
        Some(at) => (data.get(..at).unwrap_or(data), data.get(at.saturating_add(3)..)),
        None => (data, None),
    }
}

/// H.264 section 7.4.1: the last byte of a NAL unit is never 0, so zeros there are padding.
pub(crate) fn trim_trailing_zeros(nal: &[u8]) -> &[u8] {
    let len = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    nal.get(..len).unwrap_or(nal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slice_types() {
        // 1 first_mb 0, 00111 slice type 6; and 1, 00110 type 5 (P)
        assert_eq!(SliceStart::parse(&[0x01, 0b1001_1100]), Some(SliceStart { first_mb: 0, slice_type: 6 }));
        assert!(SliceStart::parse(&[0x01, 0b1001_1100]).unwrap().is_b());
        assert!(!SliceStart::parse(&[0x41, 0b1001_1000]).unwrap().is_b());
        assert_eq!(SliceStart::parse(&[0x67, 0xFF]), None, "not a slice");
        assert_eq!(SliceStart::parse(&[0x41]), None, "cut");
    }

    #[test]
    fn emulation_prevention_is_skipped() {
        // 17 zeros, a one and 17 bits: 00 00 | 03 | 0100 0000 0000 0000 00 = first_mb 131071, then slice type 0
        let nal = [0x65, 0x00, 0x00, 0x03, 0x40, 0x00, 0x10, 0xFF];
        assert_eq!(SliceStart::parse(&nal), Some(SliceStart { first_mb: 131_071, slice_type: 0 }));
    }

    #[test]
    fn annexb_both_start_codes() {
        let stream = [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 0x88, 0, 0, 0, 0, 1, 0x41, 0x9A, 0, 0];
        let nals: Vec<&[u8]> = annexb_nals(&stream).collect();
        assert_eq!(nals, [&[9, 0x10][..], &[0x65, 0x88], &[0x41, 0x9A]]);
        assert_eq!(annexb_nals(&[1, 2, 3]).count(), 0, "no start code, no NAL");
    }

    #[test]
    fn avcc_lengths() {
        let nals: Result<Vec<&[u8]>, Error> = avcc_nals(&[0, 2, 0x65, 1, 0, 1, 0x41], 2).collect();
        assert_eq!(nals.unwrap(), [&[0x65, 1][..], &[0x41]]);
        for (data, size) in [(&[0, 3, 1, 2][..], 2), (&[0, 0, 0][..], 4), (&[255, 255, 255, 255, 1][..], 4)] {
            assert!(matches!(avcc_nals(data, size).next(), Some(Err(Error::Truncated { .. }))));
        }
        assert_eq!(avcc_nals(&[0, 0, 1, 5], 3).next(), Some(Err(Error::LengthSize(3))));
        assert_eq!(avcc_nals(&[0; 5000], 1).last(), Some(Err(Error::NalCount)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data in prop::collection::vec(0_u8..8, 0..200), size in 0_u8..6) {
            avcc_nals(&data, size).for_each(drop);
            annexb_nals(&data).for_each(drop);
            SliceStart::parse(&data);
            parameter_set_id(&data);
        }

        #[test]
        fn annexb_round_trip(nals in prop::collection::vec(prop::collection::vec(1_u8.., 1..40), 0..10)) {
            let mut stream = Vec::new();
            for nal in &nals {
                stream.extend_from_slice(&[0, 0, 0, 1]);
                stream.extend_from_slice(nal);
            }
            prop_assert_eq!(annexb_nals(&stream).map(<[u8]>::to_vec).collect::<Vec<_>>(), nals);
        }
    }
}
