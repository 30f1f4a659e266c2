//! `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3.1) and what the sequence parameter set in it says.

use bytes::{BufMut, Bytes, BytesMut};
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::{BitReader, ByteReader};

use super::nal::{self, nal_type, trim_trailing_zeros};
use super::{Error, PARAMETER_SET_LEN_MAX};
use crate::VideoConfig;

/// The fastest frame rate that VUI timing is believed; beyond it the field holds something else.
const FPS_MAX: f64 = 1000.0;

impl VideoConfig {
    /// Reads a record, as an RTMP or FLV sequence header carries it. The record kept in the result says 4-byte lengths, whatever
    /// it said before (see [`avcc_length_size`] for those of the frames that follow); nothing else in it is changed.
    ///
    /// Fails when the record is cut, has no SPS or no PPS, or has an SPS that cannot be read.
    pub fn from_avcc(record: Bytes) -> Result<VideoConfig, Error> {
        let _ = avcc_length_size(&record)?;
        let mut record = BytesMut::from(&record[..]); // a copy: the record outlives the message it came in
        if let Some(byte) = record.get_mut(4) {
            *byte |= 0xFF; // reserved ones, lengthSizeMinusOne = 3
        }
        let record = record.freeze();
        let sets = ParameterSets::parse(&record)?;
        let first_sps = *sets.sps.first().ok_or(Error::Missing("SPS"))?;
        let first_pps = *sets.pps.first().ok_or(Error::Missing("PPS"))?;
        let facts = Facts::read(first_sps)?;
        let (sps, pps) = (record.slice_ref(first_sps), record.slice_ref(first_pps));
        Ok(VideoConfig { sps, pps, width: facts.width, height: facts.height, fps: facts.fps, avcc: record })
    }

    /// Makes the record from one SPS and one PPS, each with its NAL header.
    pub fn from_parameter_sets(sps: Bytes, pps: Bytes) -> Result<VideoConfig, Error> {
        VideoConfig::from_parameter_set_lists(&[sps], &[pps])
    }

    /// Makes the record from all parameter sets of a stream; the first SPS gives size and rate.
    pub fn from_parameter_set_lists(sps: &[Bytes], pps: &[Bytes]) -> Result<VideoConfig, Error> {
        let first = sps.first().ok_or(Error::Missing("SPS"))?;
        check(first, nal::SPS)?;
        let facts = Facts::read(first)?;
        let [profile, constraints, level] = profile_level_id(first).ok_or(Error::Missing("SPS"))?;

        let mut record = BytesMut::with_capacity(256);
        // version 1, the SPS's own profile and level, 4-byte lengths
        record.put_slice(&[1, profile, constraints, level, 0xFF]);
        // numOfSequenceParameterSets has 5 bits under three ones, numOfPictureParameterSets has 8
        let sps_count = u8::try_from(sps.len()).ok().filter(|n| *n <= 31).ok_or(Error::ParameterSetCount)?;
        let pps_count = u8::try_from(pps.len()).map_err(|_| Error::ParameterSetCount)?;
        record.put_u8(0xE0 | sps_count);
        put_sets(&mut record, sps, nal::SPS)?;
        record.put_u8(pps_count);
        put_sets(&mut record, pps, nal::PPS)?;
        if let Some([chroma_format, luma_minus8, chroma_minus8]) = facts.high {
            record.put_slice(&[0xFC | chroma_format, 0xF8 | luma_minus8, 0xF8 | chroma_minus8, 0]);
        }
        VideoConfig::from_avcc(record.freeze())
    }
}

fn put_sets(record: &mut BytesMut, sets: &[Bytes], wanted: u8) -> Result<(), Error> {
    for set in sets {
        check(set, wanted)?;
        let len = u16::try_from(set.len()).map_err(|_| Error::ParameterSetLong(set.len()))?;
        record.put_u16(len);
        record.put_slice(set);
    }
    Ok(())
}

fn check(set: &[u8], wanted: u8) -> Result<(), Error> {
    if set.len() > PARAMETER_SET_LEN_MAX {
        return Err(Error::ParameterSetLong(set.len()));
    }
    match nal_type(set) {
        found if found == wanted => Ok(()),
        found => Err(Error::NalType { wanted, found }),
    }
}

/// How long (1, 2 or 4 bytes) the NAL lengths are in the frames that belong to this record.
pub fn avcc_length_size(record: &[u8]) -> Result<u8, Error> {
    let Some([version, _, _, _, lengths]) = record.first_chunk::<5>() else {
        return Err(Error::Truncated { what: "avcC header", have: record.len() });
    };
    if *version != 1 {
        return Err(Error::Version(*version));
    }
    // ISO/IEC 14496-15 5.3.3.1.2: lengthSizeMinusOne is 0, 1 or 3
    match lengths & 3 {
        0 => Ok(1),
        1 => Ok(2),
        3 => Ok(4),
        other => Err(Error::LengthSize(other.saturating_add(1))),
    }
}

/// `profile-level-id` of SDP (RFC 6184 section 8.1): profile_idc, constraint flags, level_idc. `None` when the SPS is cut.
pub fn profile_level_id(sps: &[u8]) -> Option<[u8; 3]> {
    let [_, profile, constraints, level] = sps.first_chunk::<4>()?;
    Some([*profile, *constraints, *level])
}

/// Width and height in pixels, after cropping, that an SPS tells. `None` when it is broken.
pub fn size(sps: &[u8]) -> Option<(u32, u32)> {
    Facts::read(sps).ok().map(|facts| (facts.width, facts.height))
}

/// The parameter sets of a record, in its order. Sets that are empty are left out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ParameterSets<'a> {
    /// Sequence parameter sets, at most 31.
    pub sps: Vec<&'a [u8]>,
    /// Picture parameter sets, at most 255.
    pub pps: Vec<&'a [u8]>,
}

impl<'a> ParameterSets<'a> {
    /// Reads the sets out of a record.
    pub fn parse(record: &'a [u8]) -> Result<ParameterSets<'a>, Error> {
        let short = |what| Error::Truncated { what, have: record.len() };
        let rest = record.get(5..).ok_or(short("avcC header"))?;
        let (sps_count, rest) = rest.split_first().ok_or(short("number of SPS"))?;
        let (sps, rest) = ParameterSets::list(rest, sps_count & 0x1F, nal::SPS)?;
        let (pps_count, rest) = rest.split_first().ok_or(short("number of PPS"))?;
        let (pps, _) = ParameterSets::list(rest, *pps_count, nal::PPS)?;
        Ok(ParameterSets { sps, pps })
    }

    fn list(mut rest: &'a [u8], count: u8, wanted: u8) -> Result<(Vec<&'a [u8]>, &'a [u8]), Error> {
        let mut sets = Vec::new();
        for _ in 0..count {
            let short = Error::Truncated { what: "parameter set", have: rest.len() };
            let (len, after) = rest.split_first_chunk::<2>().ok_or(short.clone())?;
            let (set, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(short)?;
            rest = after;
            if !set.is_empty() {
                check(set, wanted)?;
                sets.push(set);
            }
        }
        Ok((sets, rest))
    }
}

/// What we need to know from an SPS.
struct Facts {
    width: u32,
    height: u32,
    fps: Option<f32>,
    /// chroma_format_idc, bit_depth_luma_minus8, bit_depth_chroma_minus8 of profiles that have them.
    high: Option<[u8; 3]>,
}

impl Facts {
    fn read(sps: &[u8]) -> Result<Facts, Error> {
        let refused = |why: &dyn std::fmt::Debug| Error::Sps(format!("{why:?}"));
        // The parser refuses pictures above the limits of their level; encoders that lie about the level exist and decoders do not
        // mind. The level changes no other field, so the highest one, 6.2, is put in its place for reading.
        let mut lenient = trim_trailing_zeros(sps).to_vec();
        *lenient.get_mut(3).ok_or(Error::Truncated { what: "SPS", have: sps.len() })? = 62;
        let bits = BitReader::new(ByteReader::skipping_h264_header(&lenient[..]));
        let sps = SeqParameterSet::from_bits(bits).map_err(|e| refused(&e))?;
        let (width, height) = sps.pixel_dimensions().map_err(|e| refused(&e))?;
        if width == 0 || height == 0 {
            return Err(Error::Sps(format!("the picture is {width}x{height} after cropping")));
        }
        let fps = sps.fps().filter(|fps| *fps > 0.0 && *fps <= FPS_MAX).map(|fps| fps as f32);
        let chroma = &sps.chroma_info;
        let high = sps.profile_idc.has_chroma_info().then_some([
            chroma.chroma_format.to_u32().min(3) as u8,
            chroma.bit_depth_luma_minus8,
            chroma.bit_depth_chroma_minus8,
        ]);
        Ok(Facts { width, height, fps, high })
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn real_encoders() {
        for (sps, pps, width, height, fps, id) in [
            (SPS_HIGH444_320X240, PPS_HIGH444, 320, 240, 30.0, [0xF4, 0x00, 0x0D]),
            (SPS_BASELINE_1080P, PPS_BASELINE, 1920, 1080, 25.0, [0x42, 0xC0, 0x28]),
            (SPS_MAIN_QCIF, PPS_MAIN, 176, 144, 30.0, [0x4D, 0x40, 0x0B]),
        ] {
            let config = VideoConfig::from_parameter_sets(bytes(sps), bytes(pps)).unwrap();
            assert_eq!((config.width, config.height, config.fps), (width, height, Some(fps)));
            assert_eq!((&config.sps[..], &config.pps[..]), (sps, pps));
            assert_eq!(profile_level_id(&config.sps), Some(id));
            assert_eq!(avcc_length_size(&config.avcc), Ok(4));
            assert_eq!(VideoConfig::from_avcc(config.avcc.clone()), Ok(config));
        }
    }

    #[test]
    fn record_is_laid_out_as_14496_15_says() {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let mut expect = vec![1, 0x4D, 0x40, 0x0B, 0xFF, 0xE1, 0, SPS_MAIN_QCIF.len() as u8];
        expect.extend_from_slice(SPS_MAIN_QCIF);
        expect.extend_from_slice(&[1, 0, PPS_MAIN.len() as u8]);
        expect.extend_from_slice(PPS_MAIN);
        assert_eq!(config.avcc, expect);
        // 4:4:4, 8 bits
        let high = VideoConfig::from_parameter_sets(bytes(SPS_HIGH444_320X240), bytes(PPS_HIGH444)).unwrap();
        assert!(high.avcc.ends_with(&[0xFF, 0xF8, 0xF8, 0]));
    }

    #[test]
    fn two_byte_lengths_are_normalised() {
        let config = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap();
        let mut record = config.avcc.to_vec();
        record[4] = 0xFD;
        assert_eq!(avcc_length_size(&record), Ok(2));
        assert_eq!(VideoConfig::from_avcc(record.into()), Ok(config));
    }

    #[test]
    fn a_wrong_level_and_padding_are_forgiven() {
        let mut sps = SPS_BASELINE_1080P.to_vec();
        sps[3] = 10; // level 1 allows 176x144
        sps.extend_from_slice(&[0, 0, 0]);
        let config = VideoConfig::from_parameter_sets(sps.into(), bytes(PPS_BASELINE)).unwrap();
        assert_eq!((config.width, config.height), (1920, 1080));
        assert_eq!(config.avcc[3], 10, "the record keeps what the encoder said");
    }

    #[test]
    fn refused() {
        let good = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), bytes(PPS_MAIN)).unwrap().avcc;
        for len in 0..good.len() {
            assert!(VideoConfig::from_avcc(good.slice(..len)).is_err(), "cut at {len}");
        }
        let with = |at: usize, value: u8| {
            let mut record = good.to_vec();
            record[at] = value;
            VideoConfig::from_avcc(record.into()).unwrap_err()
        };
        assert_eq!(with(0, 2), Error::Version(2));
        assert_eq!(with(4, 0xFE), Error::LengthSize(3));
        assert_eq!(with(8, 0x68), Error::NalType { wanted: 7, found: 8 });
        assert_eq!(VideoConfig::from_avcc(bytes(&[1, 66, 0, 30, 0xFF, 0xE0, 0])), Err(Error::Missing("SPS")));
        let cut = VideoConfig::from_parameter_sets(bytes(&SPS_MAIN_QCIF[..8]), bytes(PPS_MAIN));
        assert!(matches!(cut, Err(Error::Sps(_))), "{cut:?}");
        let long = Bytes::from(vec![0x68; PARAMETER_SET_LEN_MAX + 1]);
        let long = VideoConfig::from_parameter_sets(bytes(SPS_MAIN_QCIF), long);
        assert_eq!(long, Err(Error::ParameterSetLong(PARAMETER_SET_LEN_MAX + 1)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            data in prop::collection::vec(any::<u8>(), 0..100),
            at in 0_usize..50, flip in any::<u8>(),
        ) {
            let _ = VideoConfig::from_avcc(Bytes::from(data.clone()));
            let mut sps = vec![0x67, 100, 0, 30];
            sps.extend_from_slice(&data);
            let _ = VideoConfig::from_parameter_sets(sps.into(), bytes(PPS_MAIN));
            let mut record =
                VideoConfig::from_parameter_sets(bytes(SPS_HIGH444_320X240), bytes(PPS_HIGH444)).unwrap().avcc.to_vec();
            if let Some(byte) = record.get_mut(at) {
                *byte ^= flip;
            }
            let _ = VideoConfig::from_avcc(record.into());
        }
    }
}
