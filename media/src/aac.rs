//! AAC: `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1) and ADTS framing (section 1.A.2).

use bytes::Bytes;

use crate::AudioConfig;
use crate::h264::bits::BitReader;

/// Samples in one AAC-LC frame per channel. SBR doubles it on output.
pub const FRAME_SAMPLES: u32 = 1024;

/// Longest configuration in bytes. With a program config element it stays under 100; more is something else.
pub const ASC_LEN_MAX: usize = 256;

/// Sampling rates by index, ISO/IEC 14496-3 table 1.18. 13 and 14 are reserved, 15 means a rate in 24 bits.
const RATES_HZ: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Bounds of a rate in 24 bits: beyond them no sound card goes, and downstream buffers are sized by it.
const RATE_HZ_MIN: u32 = 4_000;
const RATE_HZ_MAX: u32 = 192_000;

const AAC_LC: u8 = 2;
const SBR: u8 = 5;
const PS: u8 = 29;

/// Why bytes are not the AAC they should be. The fault is the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a field.
    #[error("AAC: cut inside {0}")]
    Truncated(&'static str),
    /// Longer than [`ASC_LEN_MAX`].
    #[error("AAC: a configuration of {0} bytes, at most {ASC_LEN_MAX} are taken")]
    Long(usize),
    /// An audio object type that is no AAC.
    #[error("AAC: audio object type {0} is no AAC")]
    ObjectType(u8),
    /// A reserved rate index, or a rate out of bounds.
    #[error("AAC: sampling rate {0} (index below 16, or Hz) is not supported")]
    Rate(u32),
    /// Channel configuration 0 (layout in a program config element) or a reserved one.
    #[error("AAC: channel configuration {0} is not supported")]
    Channels(u8),
    /// No ADTS syncword where a frame begins.
    #[error("AAC: no ADTS syncword")]
    Sync,
}

impl AudioConfig {
    /// Reads an `AudioSpecificConfig`, as an RTMP or FLV sequence header carries it. `object_type` is 5 or 29 when SBR or
    /// PS is signalled, in either of the two ways; the rate is the core's, half of what comes out of the decoder then.
    pub fn from_asc(asc: Bytes) -> Result<AudioConfig, Error> {
        if asc.len() > ASC_LEN_MAX {
            return Err(Error::Long(asc.len()));
        }
        let mut bits = BitReader::new(&asc);
        let signalled = object_type(&mut bits)?;
        let sample_rate_hz = rate(&mut bits)?;
        let channel_config = field(&mut bits, 4, "channelConfiguration")?;
        let mut object = signalled;
        if matches!(signalled, SBR | PS) {
            // hierarchical signalling: the extension first, then the core
            let _output_rate_hz = rate(&mut bits)?;
            object = object_type(&mut bits)?;
        }
        // Main, LC, SSR, LTP, ER LC, ER LTP, ER LD, ER ELD, USAC: what players call AAC
        if !matches!(object, 1..=4 | 17 | 19 | 23 | 39 | 42) {
            return Err(Error::ObjectType(object));
        }
        let channels = channels_of(channel_config).ok_or(Error::Channels(channel_config))?;
        let object_type = match signalled {
            1..=4 => compatible_extension(&mut bits).unwrap_or(signalled),
            _ => signalled,
        };
        Ok(AudioConfig { asc, object_type, sample_rate_hz, channels })
    }

    /// The configuration of plain AAC-LC; `None` when the rate (4 to 192 kHz) or the number of channels (1 to 6, 8) has none.
    pub fn lc(sample_rate_hz: u32, channels: u8) -> Option<AudioConfig> {
        let channel_config = match channels {
            1..=6 => channels,
            8 => 7,
            _ => return None,
        };
        let index = RATES_HZ.iter().position(|rate_hz| *rate_hz == sample_rate_hz);
        // 5 bits object type, 4 bits index, perhaps 24 bits rate, 4 bits channels, 3 flags that are 0
        let asc = match index.and_then(|index| u16::try_from(index).ok()) {
            Some(index) => {
                let word = (u16::from(AAC_LC) << 11) | (index << 7) | (u16::from(channel_config) << 3);
                Bytes::copy_from_slice(&word.to_be_bytes())
            }
            None if (RATE_HZ_MIN..=RATE_HZ_MAX).contains(&sample_rate_hz) => {
                let word = (u64::from(AAC_LC) << 35)
                    | (15 << 31)
                    | (u64::from(sample_rate_hz) << 7)
                    | (u64::from(channel_config) << 3);
                Bytes::copy_from_slice(word.to_be_bytes().last_chunk::<5>()?)
            }
            None => return None,
        };
        Some(AudioConfig { asc, object_type: AAC_LC, sample_rate_hz, channels })
    }
}

fn field(bits: &mut BitReader<'_>, count: u32, what: &'static str) -> Result<u8, Error> {
    bits.bits(count).and_then(|value| u8::try_from(value).ok()).ok_or(Error::Truncated(what))
}

/// `GetAudioObjectType()`: 5 bits, 31 escapes to 32 and 6 bits more.
fn object_type(bits: &mut BitReader<'_>) -> Result<u8, Error> {
    match field(bits, 5, "audioObjectType")? {
        31 => Ok(field(bits, 6, "audioObjectTypeExt")?.saturating_add(32)),
        short => Ok(short),
    }
}

fn rate(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    match field(bits, 4, "samplingFrequencyIndex")? {
        15 => {
            let rate_hz = bits.bits(24).ok_or(Error::Truncated("samplingFrequency"))?;
            let fine = (RATE_HZ_MIN..=RATE_HZ_MAX).contains(&rate_hz);
            if fine { Ok(rate_hz) } else { Err(Error::Rate(rate_hz)) }
        }
        index => RATES_HZ.get(usize::from(index)).copied().ok_or(Error::Rate(u32::from(index))),
    }
}

/// Channels of a channelConfiguration, ISO/IEC 14496-3 table 1.19.
const fn channels_of(channel_config: u8) -> Option<u8> {
    match channel_config {
        1..=6 => Some(channel_config),
        7 | 12 | 14 => Some(8),
        11 => Some(7),
        _ => None,
    }
}

/// Backward compatible signalling of SBR and PS behind the `GASpecificConfig` of an object type 1 to 4: 5 or 29 when it is
/// there and says that they are present.
fn compatible_extension(bits: &mut BitReader<'_>) -> Option<u8> {
    let _frame_length_flag = bits.bit()?;
    if bits.bit()? {
        let _core_coder_delay = bits.bits(14)?;
    }
    if bits.bit()? {
        return None; // extensionFlag is 0 for these object types
    }
    let present = bits.bits(11)? == 0x2B7 && bits.bits(5)? == u32::from(SBR) && bits.bit()?;
    if !present {
        return None;
    }
    let ps = rate(bits).is_ok() && bits.left_bits() >= 12 && bits.bits(11)? == 0x548 && bits.bit()?;
    Some(if ps { PS } else { SBR })
}

/// One frame of an ADTS stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdtsFrame<'a> {
    /// Core sampling rate in Hz.
    pub sample_rate_hz: u32,
    /// Number of channels.
    pub channels: u8,
    /// The access unit, without the ADTS header.
    pub data: &'a [u8],
}

/// The frames of an ADTS stream, such as a `.aac` file. Ends after the first error.
pub fn adts_frames(stream: &[u8]) -> AdtsFrames<'_> {
    AdtsFrames { rest: stream }
}

/// See [`adts_frames`].
#[derive(Clone, Debug)]
pub struct AdtsFrames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AdtsFrames<'a> {
    type Item = Result<AdtsFrame<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = split_adts(self.rest);
        self.rest = result.as_ref().map_or(&[], |(_, rest)| rest);
        Some(result.map(|(frame, _)| frame))
    }
}

fn split_adts(stream: &[u8]) -> Result<(AdtsFrame<'_>, &[u8]), Error> {
    let header = stream.first_chunk::<7>().ok_or(Error::Truncated("ADTS header"))?;
    let mut bits = BitReader::new(header);
    let mut next = |count| bits.bits(count).ok_or(Error::Truncated("ADTS header"));
    if next(12)? != 0xFFF {
        return Err(Error::Sync);
    }
    let _id_and_layer = next(3)?;
    let protection_absent = next(1)? == 1;
    let _profile = next(2)?;
    let index = next(4)?;
    let _private = next(1)?;
    let channel_config = next(3)?;
    let _original_to_copyright_start = next(4)?;
    let frame_len = next(13)? as usize;
    let rate = usize::try_from(index).ok().and_then(|index| RATES_HZ.get(index)).copied();
    let sample_rate_hz = rate.ok_or(Error::Rate(index))?;
    let channel_config = channel_config as u8;
    let channels = channels_of(channel_config).ok_or(Error::Channels(channel_config))?;
    let (frame, rest) = stream.split_at_checked(frame_len).ok_or(Error::Truncated("ADTS frame"))?;
    // a CRC of 2 bytes follows the header unless protection_absent
    let data = frame.get(if protection_absent { 7 } else { 9 }..).ok_or(Error::Truncated("ADTS frame"))?;
    Ok((AdtsFrame { sample_rate_hz, channels, data }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(asc: &[u8]) -> Result<(u8, u32, u8), Error> {
        AudioConfig::from_asc(Bytes::copy_from_slice(asc))
            .map(|c| (c.object_type, c.sample_rate_hz, c.channels))
    }

    #[test]
    fn configurations_of_real_encoders() {
        assert_eq!(read(&[0x12, 0x10]), Ok((2, 44_100, 2)));
        assert_eq!(read(&[0x11, 0x90]), Ok((2, 48_000, 2)));
        assert_eq!(
            read(&[0x12, 0x10, 0x56, 0xE5, 0x00]),
            Ok((2, 44_100, 2)),
            "ffmpeg: extension says no SBR"
        );
        assert_eq!(read(&[0x2B, 0x92, 0x08, 0x00]), Ok((5, 22_050, 2)), "HE-AAC, hierarchical");
        assert_eq!(read(&[0xEB, 0x8A, 0x08, 0x00]), Ok((29, 22_050, 1)), "HE-AACv2, hierarchical");
        assert_eq!(read(&[0x13, 0x90, 0x56, 0xE5, 0xA0]), Ok((5, 22_050, 2)), "HE-AAC, compatible");
    }

    #[test]
    fn compatible_ps() {
        // object 2, index 7, mono, flags | 0x2B7, 5, 1, index 4 | 0x548, 1
        let fields =
            [(2, 5), (7, 4), (1, 4), (0, 3), (0x2B7, 11), (5, 5), (1, 1), (4, 4), (0x548, 11), (1, 1)];
        let mut word = 0_u64;
        let mut bits = 0_usize;
        for (value, count) in fields {
            word = (word << count) | value;
            bits += count;
        }
        let asc = (word << (64 - bits)).to_be_bytes();
        assert_eq!(read(&asc[..bits.div_ceil(8)]), Ok((29, 22_050, 1)));
    }

    #[test]
    fn explicit_rate() {
        // 00010 1111 + 24 bits 10000 + 0010 + 000
        let config = AudioConfig::lc(10_000, 2).unwrap();
        assert_eq!(config.asc[..], [0x17, 0x80, 0x13, 0x88, 0x10]);
        assert_eq!(read(&config.asc), Ok((2, 10_000, 2)));
        assert_eq!(read(&[0x17, 0x80, 0x00, 0x00, 0x10]), Err(Error::Rate(0)));
    }

    #[test]
    fn refused() {
        assert_eq!(read(&[]), Err(Error::Truncated("audioObjectType")));
        assert_eq!(read(&[0x12]), Err(Error::Truncated("samplingFrequencyIndex")));
        assert_eq!(read(&[0x12, 0x00]), Err(Error::Channels(0)), "layout in a program config element");
        assert_eq!(read(&[0x12, 0x40]), Err(Error::Channels(8)));
        assert_eq!(read(&[0x16, 0x90]), Err(Error::Rate(13)));
        assert_eq!(read(&[0x42, 0x10]), Err(Error::ObjectType(8)), "CELP");
        assert_eq!(read(&[0; 300]), Err(Error::Long(300)));
        assert_eq!(AudioConfig::lc(48_000, 7), None);
        assert_eq!(AudioConfig::lc(1_000_000, 2), None);
    }

    #[test]
    fn adts() {
        // AAC-LC, 44100, stereo, frame of 7 + 3 bytes; then one with CRC
        let stream = [
            0xFF, 0xF1, 0x50, 0x80, 0x01, 0x5F, 0xFC, 1, 2, 3, 0xFF, 0xF0, 0x50, 0x80, 0x01, 0x5F, 0xFC, 9,
            9, 4,
        ];
        let frames: Result<Vec<_>, _> = adts_frames(&stream).collect();
        let frames = frames.unwrap();
        assert_eq!(frames[0], AdtsFrame { sample_rate_hz: 44_100, channels: 2, data: &[1, 2, 3] });
        assert_eq!(frames[1].data, [4]);
        assert_eq!(adts_frames(&stream[1..]).next(), Some(Err(Error::Sync)));
        assert_eq!(adts_frames(&stream[..9]).next(), Some(Err(Error::Truncated("ADTS frame"))));
    }

    proptest! {
        #[test]
        fn lc_round_trip(rate_hz in 0_u32..200_000, index in 0_usize..13, channels in 0_u8..10) {
            for rate_hz in [rate_hz, RATES_HZ[index]] {
                if let Some(config) = AudioConfig::lc(rate_hz, channels) {
                    prop_assert_eq!(AudioConfig::from_asc(config.asc.clone()), Ok(config));
                } else {
                    prop_assert!(!(4_000..=192_000).contains(&rate_hz) || matches!(channels, 0 | 7 | 9));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = AudioConfig::from_asc(Bytes::from(data.clone()));
            adts_frames(&data).for_each(drop);
            let mut adts = vec![0xFF, 0xF1];
            adts.extend_from_slice(&data);
            adts_frames(&adts).for_each(drop);
        }
    }
}
