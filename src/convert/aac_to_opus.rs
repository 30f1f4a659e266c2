//! AAC access units to 20 ms Opus packets.

use std::sync::Arc;

use bytes::Bytes;
use media::{AudioConfig, Codec, Frame, Time, TrackConfig};

use super::pcm::Pcm;
use super::resample::To48k;
use super::{Error, FAILURES_MAX, FOLLOW_SAMPLES_MAX, OPUS_LOOKAHEAD, RATE, RATE_HZ, aac};

/// Samples of one Opus packet: 20 ms, what every browser expects by default (RFC 7587 section 4.2).
const PACKET_SAMPLES: usize = 960;

/// Longest Opus packet of one frame in bytes (RFC 6716 section 3.2.1).
const PACKET_LEN_MAX: usize = 1275;

/// Source time stamps may be this far from the sample count before they are believed: 40 ms, at 48 kHz.
/// RTMP's are whole milliseconds and some encoders stamp by their clock; below 45 ms nobody sees sound and
/// picture apart (ITU-R BT.1359).
const DRIFT_SAMPLES_MAX: i64 = 1_920;

/// Bits per second when the caller has no wish: transparent enough for speech and music, at what WebRTC links
/// carry.
const BITRATE_MONO_BPS: u32 = 64_000;
const BITRATE_STEREO_BPS: u32 = 96_000;

/// What Opus can use of a bitrate (RFC 6716 section 2.1.1).
const BITRATE_BPS: std::ops::RangeInclusive<u32> = 6_000..=510_000;

/// Search effort, 0 to 10. 5 costs half of 10 and is not told apart at these bitrates.
const COMPLEXITY: u8 = 5;

/// Loss the encoder prepares for, in percent: without one it writes no in-band FEC even when FEC is on.
const EXPECTED_LOSS_PERCENT: u8 = 5;

/// One Opus packet of 20 ms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpusFrame {
    /// Where the packet starts on the source's time line, in samples at 48 kHz. Each packet is exactly 960
    /// after the one before, except after a jump of the source of 1 s or more: then this jumps as the source
    /// did. It is an RTP time (RFC 7587 section 4.1) but for an offset. It may be negative at the start.
    pub timestamp_48k: i64,
    /// The same as a time: that of the first sample a decoder gives for this packet.
    pub pts: Time,
    /// The packet.
    pub data: Bytes,
    /// Samples per channel at 48 kHz; 960.
    pub duration_samples: u32,
}

/// What went into and wrong in a conversion, each counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AacToOpusStats {
    /// Access units that could not be decoded and were replaced by silence.
    pub decode_failures: u64,
    /// Samples at 48 kHz of silence put in because the source had a hole.
    pub silence_samples: u64,
    /// Samples at 48 kHz left out because the source went back over what was sent.
    pub dropped_samples: u64,
    /// Jumps of the source that the output's time followed.
    pub jumps: u64,
}

/// Converts one AAC track to Opus. See the module for what its time stamps mean.
pub struct AacToOpus {
    config: Arc<TrackConfig>,
    bitrate_bps: u32,
    decoder: aac::Decoder,
    pcm: Pcm,
    /// Samples of the last decoded access unit; 0 before the first.
    au_len: usize,
    failures_in_a_row: u32,
    stretch: Option<Stretch>,
    sink: Option<Sink>,
    resampled: Vec<f32>,
    stats: AacToOpusStats,
}

/// Sound of one rate and layout without a hole.
struct Stretch {
    /// Source time of its first sample, at 48 kHz.
    start_48k: i64,
    /// Samples so far, at `rate_hz`.
    samples: i64,
    rate_hz: u32,
    channels: usize,
    /// `None` at 48 kHz.
    resampler: Option<To48k>,
    /// Samples at 48 kHz still to leave out, because their time was already sent.
    overlap_left: usize,
}

/// The FIFO from decoded lengths (1024 and whatever the resampler makes) to 960, and the encoder behind it.
struct Sink {
    encoder: ropus::Encoder,
    channels: usize,
    /// Interleaved; less than a packet between calls.
    fifo: Vec<f32>,
    /// Source time of the first sample in the FIFO, at 48 kHz.
    position_48k: i64,
}

impl AacToOpus {
    /// A converter of the AAC track `config`. `bitrate_bps` of 0 takes the default (64k mono, 96k stereo);
    /// others are brought into what Opus can do. Fails when no decoder takes the configuration.
    pub fn new(config: Arc<TrackConfig>, bitrate_bps: u32) -> Result<AacToOpus, Error> {
        Ok(AacToOpus {
            decoder: aac::Decoder::new(audio_config(&config)?)?,
            config,
            bitrate_bps,
            pcm: Pcm::new(),
            au_len: 0,
            failures_in_a_row: 0,
            stretch: None,
            sink: None,
            resampled: Vec::new(),
            stats: AacToOpusStats::default(),
        })
    }

    /// Takes the next access unit in order; appends the packets that are complete now. A unit that cannot be
    /// decoded becomes silence; 50 in a row are an error. The frame's own configuration counts: it may
    /// change.
    pub fn push(&mut self, frame: &Frame, out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        self.follow_config(&frame.config)?;
        if !self.decode(&frame.data)? {
            return Ok(());
        }
        let pts_48k = frame.pts.ticks(RATE_HZ);
        if !self.stretch.as_ref().is_some_and(|stretch| stretch.continues(pts_48k, &self.pcm)) {
            self.begin_stretch(pts_48k, out)?;
        }
        self.convert(out)
    }

    /// Counters since the start.
    pub fn stats(&self) -> AacToOpusStats {
        self.stats
    }

    fn follow_config(&mut self, config: &Arc<TrackConfig>) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.config, config) {
            if self.config != *config {
                self.decoder = aac::Decoder::new(audio_config(config)?)?;
            }
            self.config = Arc::clone(config);
        }
        Ok(())
    }

    /// Fills `pcm`: with sound, or with silence for a unit that fails. False when there is no telling how
    /// much silence, because none was decoded before.
    fn decode(&mut self, au: &[u8]) -> Result<bool, Error> {
        match self.decoder.decode(au, &mut self.pcm) {
            Ok(()) => {
                aac::check_rate(self.pcm.rate_hz)?;
                self.au_len = self.pcm.len();
                self.failures_in_a_row = 0;
            }
            Err(reason) => {
                self.stats.decode_failures += 1;
                self.failures_in_a_row += 1;
                if self.failures_in_a_row >= FAILURES_MAX {
                    return Err(Error::Decode { codec: Codec::Aac, count: self.failures_in_a_row, reason });
                }
                self.pcm.silence(self.au_len);
            }
        }
        Ok(self.au_len > 0)
    }

    /// Ends the stretch there is and starts one at `pts_48k`, where the output follows: by silence over a
    /// hole, by leaving out what was already sent, or by a jump of its time when either would be too long.
    fn begin_stretch(&mut self, pts_48k: i64, out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        self.end_stretch(out)?;
        let (rate_hz, channels) = (self.pcm.rate_hz, self.pcm.channels);
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(Sink::new(channels, self.bitrate_bps, pts_48k)?),
        };
        sink.set_channels(channels, self.bitrate_bps)?;

        let mut start_48k = pts_48k;
        let mut overlap_left = 0;
        let hole = pts_48k.saturating_sub(sink.end_48k());
        if hole.abs() <= DRIFT_SAMPLES_MAX {
            // Only the format changed: go on where it ended.
            start_48k = sink.end_48k();
        } else if hole.abs() >= FOLLOW_SAMPLES_MAX {
            // Less than one packet waits, of sound on the other side of the jump.
            sink.fifo.clear();
            sink.position_48k = pts_48k;
            self.stats.jumps += 1;
        } else if hole > 0 {
            self.stats.silence_samples += hole.unsigned_abs();
            sink.push_silence(hole, out)?;
        } else {
            overlap_left = usize::try_from(-hole).unwrap_or(0);
            self.stats.dropped_samples += hole.unsigned_abs();
        }
        // ISO/IEC 14496-3: HE-AAC says 48 kHz only once it is decoded, so the resampler waits for that.
        let resampler = if rate_hz == RATE_HZ { None } else { Some(To48k::new(rate_hz, channels)?) };
        self.stretch = Some(Stretch { start_48k, samples: 0, rate_hz, channels, resampler, overlap_left });
        Ok(())
    }

    /// Pushes out what the resampler holds.
    fn end_stretch(&mut self, out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        let (Some(mut stretch), Some(sink)) = (self.stretch.take(), self.sink.as_mut()) else {
            return Ok(());
        };
        if let Some(resampler) = &mut stretch.resampler {
            self.resampled.clear();
            resampler.flush(&mut self.resampled)?;
            sink.push(stretch.after_overlap(&self.resampled), out)?;
        }
        Ok(())
    }

    fn convert(&mut self, out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        let (Some(stretch), Some(sink)) = (&mut self.stretch, &mut self.sink) else { return Ok(()) };
        stretch.samples += self.pcm.len() as i64;
        let samples = match &mut stretch.resampler {
            None => &self.pcm.samples,
            Some(resampler) => {
                self.resampled.clear();
                resampler.push(&self.pcm.samples, &mut self.resampled)?;
                &self.resampled
            }
        };
        sink.push(stretch.after_overlap(samples), out)
    }
}

impl Stretch {
    /// The next sound belongs to this stretch: same format, and its time is what the sample count says, or
    /// nearly.
    fn continues(&self, pts_48k: i64, pcm: &Pcm) -> bool {
        let expected = self.start_48k + self.samples * RATE / i64::from(self.rate_hz.max(1));
        pcm.rate_hz == self.rate_hz
            && pcm.channels == self.channels
            && pts_48k.saturating_sub(expected).abs() <= DRIFT_SAMPLES_MAX
    }

    /// The part of `samples` whose time was not yet sent.
    fn after_overlap<'a>(&mut self, samples: &'a [f32]) -> &'a [f32] {
        let overlap = self.overlap_left.min(samples.len() / self.channels);
        self.overlap_left -= overlap;
        samples.get(overlap * self.channels..).unwrap_or_default()
    }
}

impl Sink {
    fn new(channels: usize, bitrate_bps: u32, position_48k: i64) -> Result<Sink, Error> {
        Ok(Sink { encoder: encoder(channels, bitrate_bps)?, channels, fifo: Vec::new(), position_48k })
    }

    /// Source time of the sample that comes next, at 48 kHz.
    fn end_48k(&self) -> i64 {
        self.position_48k + (self.fifo.len() / self.channels) as i64
    }

    /// Goes on in mono or stereo. A decoder follows from one packet to the next (RFC 6716 section 4.5).
    fn set_channels(&mut self, channels: usize, bitrate_bps: u32) -> Result<(), Error> {
        if channels == self.channels {
            return Ok(());
        }
        self.encoder = encoder(channels, bitrate_bps)?;
        self.fifo = if channels == 2 {
            self.fifo.iter().flat_map(|&x| [x, x]).collect()
        } else {
            self.fifo.chunks_exact(2).map(|pair| pair.iter().sum::<f32>() / 2.0).collect()
        };
        self.channels = channels;
        Ok(())
    }

    fn push_silence(&mut self, mut samples: i64, out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        const SILENCE: [f32; 2 * PACKET_SAMPLES] = [0.0; 2 * PACKET_SAMPLES];
        while samples > 0 {
            let part = samples.min(PACKET_SAMPLES as i64);
            self.push(SILENCE.get(..part as usize * self.channels).unwrap_or_default(), out)?;
            samples -= part;
        }
        Ok(())
    }

    /// Takes interleaved samples at 48 kHz; encodes every whole packet.
    fn push(&mut self, samples: &[f32], out: &mut Vec<OpusFrame>) -> Result<(), Error> {
        self.fifo.extend_from_slice(samples);
        let packet = PACKET_SAMPLES * self.channels;
        let mut taken = 0;
        while let Some(pcm) = self.fifo.get(taken..taken + packet) {
            let mut buffer = [0_u8; PACKET_LEN_MAX];
            let len = self
                .encoder
                .encode_float(pcm, &mut buffer)
                .map_err(|e| Error::Encode { codec: Codec::Opus, reason: e.to_string() })?;
            // What a decoder gives first was put in OPUS_LOOKAHEAD samples before this packet.
            let timestamp_48k = self.position_48k - OPUS_LOOKAHEAD;
            out.push(OpusFrame {
                timestamp_48k,
                pts: Time::from_ticks(timestamp_48k, RATE_HZ),
                data: Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default()),
                duration_samples: PACKET_SAMPLES as u32,
            });
            self.position_48k += PACKET_SAMPLES as i64;
            taken += packet;
        }
        self.fifo.drain(..taken);
        Ok(())
    }
}

fn audio_config(config: &TrackConfig) -> Result<&AudioConfig, Error> {
    match config {
        TrackConfig::Aac(audio) => Ok(audio),
        other => Err(Error::NotAac(other.codec())),
    }
}

fn encoder(channels: usize, bitrate_bps: u32) -> Result<ropus::Encoder, Error> {
    let (layout, default_bps) = match channels {
        1 => (ropus::Channels::Mono, BITRATE_MONO_BPS),
        _ => (ropus::Channels::Stereo, BITRATE_STEREO_BPS),
    };
    let bps = if bitrate_bps == 0 { default_bps } else { bitrate_bps };
    let bps = bps.clamp(*BITRATE_BPS.start(), *BITRATE_BPS.end());
    let refused = |reason: String| Error::Encode { codec: Codec::Opus, reason };
    let encoder = ropus::Encoder::builder(RATE_HZ, layout, ropus::Application::Audio)
        .bitrate(ropus::Bitrate::Bits(bps))
        .complexity(COMPLEXITY)
        .inband_fec(ropus::InbandFec::Enabled)
        .packet_loss_perc(EXPECTED_LOSS_PERCENT)
        .build()
        .map_err(|e| refused(e.to_string()))?;
    if i64::from(encoder.lookahead()) != OPUS_LOOKAHEAD {
        return Err(refused(format!(
            "a look-ahead of {} samples, not {OPUS_LOOKAHEAD}",
            encoder.lookahead()
        )));
    }
    Ok(encoder)
}
