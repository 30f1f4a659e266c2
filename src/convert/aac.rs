//! AAC decoding by whichever decoder takes the stream: symphonia for AAC-LC (no unsafe code), syom for the
//! rest: HE-AAC v1 and v2, more than two channels, a channel layout inside the stream, 960-sample frames.

use bytes::Bytes;
use media::AudioConfig;
use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};
use symphonia::default::codecs::AacDecoder;

use super::Error;
use super::pcm::{Pcm, sane};

/// Up to this core rate a stream that says AAC-LC may be HE-AAC all the same: SBR that is not signalled ahead
/// (ISO/IEC 14496-3 1.6.5.3 implicit signalling) doubles the rate, to 48 kHz at most in practice.
const IMPLICIT_SBR_RATE_HZ_MAX: u32 = 24_000;

/// Failures from the start after which the other decoder is tried: some encoders send a configuration that
/// does not fit their frames (mono announced, stereo sent), which symphonia refuses and syom takes.
const FALLBACK_AFTER: u32 = 3;

/// Longest access unit in bytes, what ADTS's 13 bits of length allow. AAC's own bound is 768 bytes a channel.
const AU_LEN_MAX: usize = 8191;

/// Rates of ISO/IEC 14496-3 table 1.18, without the explicit ones: an arbitrary 24-bit rate would make a
/// resampler of arbitrary size.
const RATES_HZ: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// A decoder of one track.
pub(super) struct Decoder {
    asc: Bytes,
    engine: Engine,
    /// Failures before the first success.
    failures_at_start: u32,
    decoded_any: bool,
}

enum Engine {
    Lc(Box<AacDecoder>),
    Full(Box<syom::Decoder>),
}

impl Decoder {
    pub(super) fn new(config: &AudioConfig) -> Result<Decoder, Error> {
        let lc = config.object_type == 2
            && config.sample_rate_hz > IMPLICIT_SBR_RATE_HZ_MAX
            && matches!(config.channels, 1 | 2);
        let engine = match lc.then(|| lc_engine(&config.asc)).flatten() {
            Some(engine) => engine,
            None => full_engine(&config.asc).map_err(|e| Error::Config {
                object_type: config.object_type,
                sample_rate_hz: config.sample_rate_hz,
                reason: e.to_string(),
            })?,
        };
        Ok(Decoder { asc: config.asc.clone(), engine, failures_at_start: 0, decoded_any: false })
    }

    /// Decodes one access unit into `pcm`, which is left as it is on an error. An error is about this unit
    /// only: the next may be fine.
    pub(super) fn decode(&mut self, au: &[u8], pcm: &mut Pcm) -> Result<(), String> {
        if au.is_empty() || au.len() > AU_LEN_MAX {
            return Err(format!("an access unit of {} bytes", au.len()));
        }
        let result = self.engine.decode(au, pcm);
        match &result {
            Ok(()) => self.decoded_any = true,
            Err(_) => self.recover(),
        }
        result
    }

    fn recover(&mut self) {
        match &mut self.engine {
            Engine::Lc(_) => {
                self.failures_at_start += u32::from(!self.decoded_any);
                if self.failures_at_start == FALLBACK_AFTER
                    && let Ok(engine) = full_engine(&self.asc)
                {
                    self.engine = engine;
                }
            }
            // An error leaves it unusable until it is reset and told the configuration again.
            Engine::Full(decoder) => {
                decoder.reset();
                // The same bytes were taken before; if not, the next unit is an error too.
                let _ = decoder.set_asc(&self.asc);
            }
        }
    }
}

impl Engine {
    fn decode(&mut self, au: &[u8], pcm: &mut Pcm) -> Result<(), String> {
        match self {
            Engine::Lc(decoder) => {
                let packet = PacketRef::new(0, Timestamp::ZERO, Duration::new(1024), au);
                let buffer = decoder.decode_ref(&packet).map_err(|e| e.to_string())?;
                take_lc(&buffer, pcm)
            }
            Engine::Full(decoder) => {
                let mut taken = false;
                let result = decoder.decode_au(au, |frame| {
                    taken = true;
                    pcm.rate_hz = frame.sample_rate;
                    pcm.set_planes(frame.planar, frame.meta.labels());
                    Ok(())
                });
                result.map_err(|e| e.to_string())?;
                if taken { Ok(()) } else { Err("an access unit without sound".into()) }
            }
        }
    }
}

fn take_lc(buffer: &GenericAudioBufferRef<'_>, pcm: &mut Pcm) -> Result<(), String> {
    let channels = buffer.num_planes();
    if !matches!(channels, 1 | 2) || buffer.frames() == 0 {
        return Err(format!("decoded to {channels} channels of {} samples", buffer.frames()));
    }
    pcm.rate_hz = buffer.spec().rate();
    pcm.channels = channels;
    buffer.copy_to_vec_interleaved(&mut pcm.samples);
    pcm.samples.iter_mut().for_each(|x| *x = sane(*x));
    Ok(())
}

/// `None` when symphonia refuses.
fn lc_engine(asc: &[u8]) -> Option<Engine> {
    let mut params = AudioCodecParameters::new();
    params.for_codec(CODEC_ID_AAC).with_extra_data(asc.into());
    let decoder = AacDecoder::try_new(&params, &AudioDecoderOptions::default()).ok()?;
    Some(Engine::Lc(Box::new(decoder)))
}

fn full_engine(asc: &[u8]) -> syom::Result<Engine> {
    // Live: no end. The other bounds of the decoder (channels, sizes) stay.
    let options =
        syom::DecodeOptions::audio().with_max_duration_secs(f64::INFINITY).with_max_sample_rate(96_000);
    Ok(Engine::Full(Box::new(syom::Decoder::from_asc(asc, options)?)))
}

/// Refuses rates outside the table.
pub(super) fn check_rate(rate_hz: u32) -> Result<(), Error> {
    if RATES_HZ.contains(&rate_hz) { Ok(()) } else { Err(Error::Rate(rate_hz)) }
}
