//! H.264 byte formats: NAL units, access units in AVCC framing, and the decoder configuration record.
//!
//! Inside this process a frame is AVCC with 4-byte lengths, without parameter sets, delimiters and filler: parameter sets are
//! in the frame's [`VideoConfig`](crate::VideoConfig).

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) mod bits;
mod config;
pub mod nal;

pub use config::{ParameterSets, avcc_length_size, profile_level_id, size};
pub use nal::{SliceStart, annexb_nals, avcc_nals, nal_ref_idc, nal_type};

/// Most NAL units in one access unit. Encoders make one to a few dozen slices; a 1 MiB body of empty NAL units would
/// otherwise cost a quarter of a million loop rounds.
pub const NAL_COUNT_MAX: usize = 4096;

/// Longest access unit in bytes. An 8-bit 4K picture at the worst real quality stays under 2 MiB.
pub const FRAME_LEN_MAX: usize = 4 << 20;

/// Longest parameter set in bytes. With all scaling lists and HRD fields present an SPS is about 1.5 KiB.
pub const PARAMETER_SET_LEN_MAX: usize = 4096;

/// Why bytes are not the H.264 they should be. The fault is the peer's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a field.
    #[error("H.264: cut inside {what}, {have} bytes are left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// How many bytes there were.
        have: usize,
    },
    /// `configurationVersion` of avcC is not 1.
    #[error("H.264: avcC has version {0}, known is 1")]
    Version(u8),
    /// NAL lengths of 3 bytes, or of none.
    #[error("H.264: NAL lengths of {0} bytes; 1, 2 and 4 exist")]
    LengthSize(u8),
    /// The configuration lacks a parameter set.
    #[error("H.264: the configuration has no {0}")]
    Missing(&'static str),
    /// A NAL unit of another type than its place asks for.
    #[error("H.264: NAL unit type {wanted} expected, found {found}")]
    NalType {
        /// The type that belongs there.
        wanted: u8,
        /// The type that was there.
        found: u8,
    },
    /// The SPS cannot be read; the text is the parser's.
    #[error("H.264: unusable SPS: {0}")]
    Sps(String),
    /// A parameter set above [`PARAMETER_SET_LEN_MAX`].
    #[error("H.264: a parameter set of {0} bytes, at most {PARAMETER_SET_LEN_MAX} are taken")]
    ParameterSetLong(usize),
    /// More parameter sets than a record can hold.
    #[error("H.264: too many parameter sets")]
    ParameterSetCount,
    /// More NAL units than [`NAL_COUNT_MAX`].
    #[error("H.264: more than {NAL_COUNT_MAX} NAL units in one access unit")]
    NalCount,
    /// An access unit above [`FRAME_LEN_MAX`].
    #[error("H.264: an access unit of more than {FRAME_LEN_MAX} bytes")]
    FrameLong,
}

/// One access unit, checked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccessUnit {
    /// AVCC with 4-byte lengths, without SPS, PPS, AUD and filler. Empty when there was nothing else.
    pub data: Bytes,
    /// It has an IDR slice: a decoder can start here.
    pub key: bool,
    /// It has slices, and all have nal_ref_idc 0: no other picture refers to it (H.264 section 7.4.1).
    pub discardable: bool,
    /// It has a B slice.
    pub bframe: bool,
    /// The last SPS it carried.
    pub sps: Option<Bytes>,
    /// The last PPS it carried.
    pub pps: Option<Bytes>,
}

/// Reads an access unit in AVCC framing with lengths of `length_size` bytes. The data is shared with `body`, not copied, when
/// lengths have 4 bytes and what is stripped stands at the ends (as AUD, SPS and PPS do).
///
/// Some encoders send Annex B where AVCC belongs: a body that is not AVCC but begins with a start code is read as that.
pub fn access_unit_from_avcc(body: Bytes, length_size: u8) -> Result<AccessUnit, Error> {
    match read_avcc(&body, length_size) {
        Err(Error::Truncated { .. }) if body.starts_with(&[0, 0, 1]) || body.starts_with(&[0, 0, 0, 1]) => {
            access_unit_from_nals(annexb_nals(&body).map(|nal| body.slice_ref(nal)))
        }
        result => result,
    }
}

fn read_avcc(body: &Bytes, length_size: u8) -> Result<AccessUnit, Error> {
    if body.len() > FRAME_LEN_MAX {
        return Err(Error::FrameLong);
    }
    let mut summary = Summary::default();
    let (mut kept_count, mut kept_len) = (0_usize, 0_usize);
    let mut run: Option<std::ops::Range<usize>> = None; // from the first kept NAL to the last
    let mut at = 0_usize;
    for nal in avcc_nals(body, length_size) {
        let nal = nal?;
        let start = at;
        at = at.saturating_add(usize::from(length_size)).saturating_add(nal.len());
        if summary.see(nal, || body.slice_ref(nal)) {
            kept_count = kept_count.saturating_add(1);
            kept_len = kept_len.saturating_add(nal.len());
            run = Some(run.map_or(start, |run| run.start)..at);
        }
    }
    let run = run.unwrap_or(0..0);
    let avcc_len = kept_len.saturating_add(kept_count.saturating_mul(4));
    if length_size == 4 && run.len() == avcc_len {
        return Ok(summary.into_unit(body.slice(run)));
    }
    let mut data = BytesMut::with_capacity(avcc_len);
    for nal in avcc_nals(body, length_size) {
        let nal = nal?;
        if nal::is_kept(nal_type(nal)) {
            put_nal(&mut data, nal)?;
        }
    }
    Ok(summary.into_unit(data.freeze()))
}

/// Puts an access unit together from its NAL units, each with its header and without length or start code.
pub fn access_unit_from_nals(nals: impl Iterator<Item = Bytes>) -> Result<AccessUnit, Error> {
    let mut summary = Summary::default();
    let mut data = BytesMut::new();
    for (count, nal) in nals.enumerate() {
        if count >= NAL_COUNT_MAX {
            return Err(Error::NalCount);
        }
        if summary.see(&nal, || nal.clone()) {
            put_nal(&mut data, &nal)?;
        }
    }
    Ok(summary.into_unit(data.freeze()))
}

/// Appends a NAL unit with its 4-byte length; refuses to grow beyond [`FRAME_LEN_MAX`].
pub(crate) fn put_nal(data: &mut BytesMut, nal: &[u8]) -> Result<(), Error> {
    let len_after = data.len().saturating_add(4).saturating_add(nal.len());
    let len = u32::try_from(nal.len()).map_err(|_| Error::FrameLong)?;
    if len_after > FRAME_LEN_MAX {
        return Err(Error::FrameLong);
    }
    data.put_u32(len);
    data.put_slice(nal);
    Ok(())
}

/// What the NAL units of an access unit say about it.
#[derive(Default)]
struct Summary {
    unit: AccessUnit,
    slices: bool,
    referenced: bool,
}

impl Summary {
    /// Takes note of a NAL unit; whether the frame keeps it.
    fn see(&mut self, nal: &[u8], share: impl FnOnce() -> Bytes) -> bool {
        let kind = nal_type(nal);
        match kind {
            nal::SPS => self.unit.sps = Some(share()),
            nal::PPS => self.unit.pps = Some(share()),
            _ if nal::is_picture(kind) => {
                self.slices = true;
                self.referenced |= nal_ref_idc(nal) != 0;
                self.unit.key |= kind == nal::IDR;
                self.unit.bframe |= SliceStart::parse(nal).is_some_and(SliceStart::is_b);
            }
            _ => {}
        }
        nal::is_kept(kind)
    }

    fn into_unit(self, data: Bytes) -> AccessUnit {
        AccessUnit { data, discardable: self.slices && !self.referenced, ..self.unit }
    }
}

#[cfg(test)]
pub(crate) mod vectors {
    //! Headers that x264 wrote, and the first bytes of its slices.
    use bytes::Bytes;

    pub(crate) const SPS_HIGH444_320X240: &[u8] = &[
        0x67, 0xf4, 0x00, 0x0d, 0x91, 0x9b, 0x28, 0x28, 0x3f, 0x60, 0x22, 0x00, 0x00, 0x03, 0x00, 0x02, 0x00,
        0x00, 0x03, 0x00, 0x78, 0x1e, 0x28, 0x53, 0x2c,
    ];
    pub(crate) const PPS_HIGH444: &[u8] = &[0x68, 0xeb, 0xe3, 0xc4, 0x48, 0x44];
    pub(crate) const SPS_BASELINE_1080P: &[u8] = &[
        0x67, 0x42, 0xc0, 0x28, 0xd9, 0x00, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04,
        0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x60, 0xc9, 0x20,
    ];
    pub(crate) const PPS_BASELINE: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];
    pub(crate) const SPS_MAIN_QCIF: &[u8] = &[
        0x67, 0x4d, 0x40, 0x0b, 0xec, 0xc1, 0x62, 0x76, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00,
        0x07, 0x81, 0xe2, 0x85, 0x33, 0x40,
    ];
    pub(crate) const PPS_MAIN: &[u8] = &[0x68, 0xe9, 0x78, 0x19, 0x4b, 0x20];
    pub(crate) const IDR_START: &[u8] = &[0x65, 0x88, 0x84, 0x00, 0x33, 0xff];
    pub(crate) const P_START: &[u8] = &[0x41, 0x9a, 0x24, 0x6c, 0x42, 0xbf];
    /// B, used as a reference.
    pub(crate) const B_REF_START: &[u8] = &[0x41, 0x9e, 0x42, 0x78, 0x85, 0x7f];
    /// B, nal_ref_idc 0.
    pub(crate) const B_START: &[u8] = &[0x01, 0x9e, 0x61, 0x74, 0x42, 0x7f];

    pub(crate) fn bytes(data: &[u8]) -> Bytes {
        Bytes::copy_from_slice(data)
    }

    pub(crate) fn avcc(nals: &[&[u8]]) -> Bytes {
        let mut data = Vec::new();
        for nal in nals {
            data.extend_from_slice(&(nal.len() as u32).to_be_bytes());
            data.extend_from_slice(nal);
        }
        data.into()
    }
}

#[cfg(test)]
mod tests {
    use super::vectors::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_of_real_frames() {
        let of = |nal: &[u8]| {
            let unit = access_unit_from_avcc(avcc(&[nal]), 4).unwrap();
            (unit.key, unit.discardable, unit.bframe)
        };
        assert_eq!(of(IDR_START), (true, false, false));
        assert_eq!(of(P_START), (false, false, false));
        assert_eq!(of(B_REF_START), (false, false, true));
        assert_eq!(of(B_START), (false, true, true));
        assert_eq!(of(&[0x06, 5, 1]), (false, false, false), "SEI alone is no frame to discard");
    }

    #[test]
    fn nothing_is_copied_when_the_ends_are_stripped() {
        let body = avcc(&[&[9, 0x10], SPS_MAIN_QCIF, PPS_MAIN, &[6, 5, 0], IDR_START, &[12, 255]]);
        let unit = access_unit_from_avcc(body.clone(), 4).unwrap();
        assert_eq!(unit.data, avcc(&[&[6, 5, 0], IDR_START]));
        assert!(body.as_ptr_range().contains(&unit.data.as_ptr()), "a slice of the body");
        assert_eq!(unit.sps.unwrap(), SPS_MAIN_QCIF);
        assert_eq!(unit.pps.unwrap(), PPS_MAIN);
    }

    #[test]
    fn stripped_inside_and_short_lengths() {
        let body = avcc(&[IDR_START, &[12, 255], &[], &[24, 0, 1], IDR_START]);
        assert_eq!(access_unit_from_avcc(body, 4).unwrap().data, avcc(&[IDR_START, IDR_START]));
        let mut short = vec![0, P_START.len() as u8];
        short.extend_from_slice(P_START);
        assert_eq!(access_unit_from_avcc(short.into(), 2).unwrap().data, avcc(&[P_START]));
        let none = access_unit_from_avcc(Bytes::new(), 4).unwrap();
        assert_eq!(none, AccessUnit::default());
    }

    #[test]
    fn annexb_in_the_place_of_avcc() {
        let mut body = vec![0, 0, 0, 1, 9, 0xF0, 0, 0, 0, 1];
        body.extend_from_slice(IDR_START);
        assert_eq!(access_unit_from_avcc(body.into(), 4).unwrap().data, avcc(&[IDR_START]));
    }

    #[test]
    fn bounds() {
        let many = vec![0_u8; 4 * (NAL_COUNT_MAX + 1)];
        assert_eq!(access_unit_from_avcc(many.into(), 4), Err(Error::NalCount));
        let long = Bytes::from(vec![0_u8; FRAME_LEN_MAX + 1]);
        assert_eq!(access_unit_from_avcc(long, 4), Err(Error::FrameLong));
        let long = [bytes(IDR_START), Bytes::from(vec![0x65; FRAME_LEN_MAX])];
        assert_eq!(access_unit_from_nals(long.into_iter()), Err(Error::FrameLong));
        let many = std::iter::repeat_n(bytes(IDR_START), NAL_COUNT_MAX + 1);
        assert_eq!(access_unit_from_nals(many), Err(Error::NalCount));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..300), size in 0_u8..6) {
            let _ = access_unit_from_avcc(Bytes::from(data), size);
        }

        #[test]
        fn both_ways_agree(
            nals in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..12),
            size in prop::sample::select(vec![1_u8, 2, 4]),
        ) {
            let mut body = Vec::new();
            for nal in &nals {
                body.extend_from_slice(&(nal.len() as u32).to_be_bytes()[4 - usize::from(size)..]);
                body.extend_from_slice(nal);
            }
            let whole = read_avcc(&Bytes::from(body), size).unwrap();
            let parts = access_unit_from_nals(nals.into_iter().map(Bytes::from)).unwrap();
            prop_assert_eq!(&whole, &parts);
            // and what comes out is stable
            prop_assert_eq!(read_avcc(&whole.data, 4).unwrap().data, whole.data);
        }
    }
}
