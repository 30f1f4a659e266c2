//! Opus packets to AAC-LC access units.

use std::sync::Arc;

use bytes::Bytes;
use media::{AudioConfig, Codec, Frame, Time, TrackConfig};
use ropus::DecodeMode;
use ropus::opus::decoder::opus_packet_get_nb_samples;

use super::pcm::sane;
use super::{Error, FAILURES_MAX, FOLLOW_SAMPLES_MAX, OPUS_LOOKAHEAD, RATE, RATE_HZ};

/// Stereo whatever the source: a browser's Opus may change between one packet and the next, an RTMP track may
/// not.
const CHANNELS: usize = 2;

/// Samples of one AAC-LC access unit.
const AU_SAMPLES: i64 = 1_024;

/// What the AAC encoder holds back, in samples: the overlap of one window. What a decoder gives for unit `n`
/// was put in as unit `n - 1`.
const AAC_LOOKAHEAD: i64 = AU_SAMPLES;

/// Longest Opus packet: 120 ms (RFC 6716 section 3.2.5). Also the longest hole that is concealed: beyond it
/// concealment has faded to noise.
const PACKET_SAMPLES_MAX: i64 = 5_760;

/// Concealment comes in multiples of 2.5 ms (RFC 6716 section 4.4, the shortest frame).
const CONCEAL_STEP: i64 = 120;

/// Smallest step between two packets that is taken for a loss rather than for a correction of the clock: 7
/// ms, below the 10 ms of the shortest packets in real use.
const LOSS_US_MIN: i64 = 7_000;

/// A time stamp moves against its neighbour by at most this, in microseconds: 4.7 % of a unit's 21.3 ms,
/// which no player mistakes for a jump. 100 ms are made good in 2.1 s.
const SLEW_US_MAX: i64 = 1_000;

/// A stamp goes this part of the way to where it should be, so that jitter of the input does not come out
/// again.
const SLEW_PART: i64 = 8;

/// Bits per second when the caller has no wish: what RTMP encoders send by default.
const BITRATE_DEFAULT_BPS: u32 = 128_000;

/// Below, the encoder has no bits for side information; above is its limit of 6144 bits a channel a unit.
const BITRATE_BPS: std::ops::RangeInclusive<u32> = 32_000..=512_000;

/// What went into and wrong in a conversion, each counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpusToAacStats {
    /// Packets that could not be decoded; their time is concealed with the next good one.
    pub decode_failures: u64,
    /// Samples at 48 kHz made by FEC or concealment.
    pub concealed_samples: u64,
    /// Samples at 48 kHz of silence put in because the source had a long hole.
    pub silence_samples: u64,
    /// Holes of more than 1 s, over which the output's time jumped.
    pub jumps: u64,
}

/// Converts one Opus track to AAC-LC, 48 kHz stereo. See the module for what its time stamps mean.
pub struct OpusToAac {
    config: Arc<TrackConfig>,
    decoder: ropus::Decoder,
    /// Room for the longest packet.
    pcm: Vec<f32>,
    sink: Sink,
    /// Where the packet before ended, on the input's time line; `None` before the first.
    input_end: Option<Time>,
    failures_in_a_row: u32,
    stats: OpusToAacStats,
}

/// The encoder and the clock that stamps its units.
struct Sink {
    encoder: syom::Encoder,
    planes: [Vec<f32>; CHANNELS],
    clock: Clock,
}

/// Stamps are a sample count plus an offset. The count is exact; the offset is what the input's time stamps
/// say, followed slowly.
#[derive(Default)]
struct Clock {
    /// Samples given to the encoder.
    samples: i64,
    /// Units the encoder gave.
    units: i64,
    /// Time of sample 0 as stamps have it now, in microseconds.
    offset_us: i64,
    /// Time of sample 0 as the last packet had it.
    wanted_us: i64,
}

impl OpusToAac {
    /// A converter. `bitrate_bps` of 0 takes the default (128k); others are brought into what the encoder can
    /// do.
    pub fn new(bitrate_bps: u32) -> Result<OpusToAac, Error> {
        let bps = if bitrate_bps == 0 { BITRATE_DEFAULT_BPS } else { bitrate_bps };
        let bps = bps.clamp(*BITRATE_BPS.start(), *BITRATE_BPS.end());
        let options = syom::EncodeOptions::raw().with_bitrate_bps(bps);
        let encoder = syom::Encoder::new(RATE_HZ, CHANNELS, &options).map_err(refused)?;
        let config = Arc::new(TrackConfig::Aac(AudioConfig {
            asc: Bytes::copy_from_slice(encoder.asc()),
            object_type: 2,
            sample_rate_hz: RATE_HZ,
            channels: CHANNELS as u8,
        }));
        let decoder = ropus::Decoder::new(RATE_HZ, ropus::Channels::Stereo).map_err(|e| Error::Decode {
            codec: Codec::Opus,
            count: 0,
            reason: e.to_string(),
        })?;
        Ok(OpusToAac {
            config,
            decoder,
            pcm: vec![0.0; PACKET_SAMPLES_MAX as usize * CHANNELS],
            sink: Sink { encoder, planes: Default::default(), clock: Clock::default() },
            input_end: None,
            failures_in_a_row: 0,
            stats: OpusToAacStats::default(),
        })
    }

    /// The configuration of every frame given: AAC-LC, 48 kHz, stereo. It never changes.
    pub fn config(&self) -> Arc<TrackConfig> {
        Arc::clone(&self.config)
    }

    /// Takes the next packet's payload and the capture time of the first sample in it; appends the units that
    /// are complete now.
    ///
    /// Packets come in sequence order, each once; `pts` goes with the RTP time, not with the arrival. Then a
    /// step forwards from the end of the packet before is a loss (or DTX): up to 120 ms is concealed (by the
    /// packet's FEC where it has one), up to 1 s is filled with silence, and over more the output's time
    /// jumps. Any other difference is a correction of the clock, which the stamps follow by at most 1 ms a
    /// unit. They never go back.
    ///
    /// A packet that cannot be decoded is counted and concealed with the next; 50 in a row are an error. The
    /// first unit's stamp is 27.8 ms before the first packet's, which may be negative.
    pub fn push(&mut self, payload: &[u8], pts: Time, out: &mut Vec<Frame>) -> Result<(), Error> {
        let samples = match packet_samples(payload) {
            Ok(samples) => samples,
            Err(reason) => return self.failed(reason),
        };
        let input_end = *self.input_end.get_or_insert_with(|| {
            self.sink.clock.start(pts);
            pts
        });
        let step_us = pts.since(input_end);
        if step_us >= LOSS_US_MIN.max(us(samples) * 3 / 4) {
            self.fill(payload, step_us, pts, out)?;
        }
        self.input_end = Some(pts);
        self.sink.clock.want(pts);
        match self.decoder.decode_float(payload, &mut self.pcm, DecodeMode::Normal) {
            Ok(samples) => {
                self.failures_in_a_row = 0;
                self.input_end = Some(pts.plus_us(us(samples as i64)));
                self.encode(samples, out)
            }
            Err(e) => self.failed(e.to_string()),
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> OpusToAacStats {
        self.stats
    }

    fn failed(&mut self, reason: String) -> Result<(), Error> {
        self.stats.decode_failures += 1;
        self.failures_in_a_row += 1;
        if self.failures_in_a_row >= FAILURES_MAX {
            return Err(Error::Decode { codec: Codec::Opus, count: self.failures_in_a_row, reason });
        }
        Ok(())
    }

    /// Fills a hole of `step_us` before the packet `next`, whose time is `pts`.
    fn fill(&mut self, next: &[u8], step_us: i64, pts: Time, out: &mut Vec<Frame>) -> Result<(), Error> {
        let missing = Time(step_us).ticks(RATE_HZ);
        if missing > FOLLOW_SAMPLES_MAX {
            // Complete the unit in the making, and one more for what it overlaps with, so that no old sound
            // is stamped with new time.
            let rest = AU_SAMPLES - self.sink.clock.samples % AU_SAMPLES;
            self.sink.silence(rest + AU_SAMPLES, &self.config, out)?;
            self.sink.clock.jump(pts);
            self.stats.jumps += 1;
            return Ok(());
        }
        let concealed = if missing <= PACKET_SAMPLES_MAX {
            // RFC 6716 section 2.1.7: the next packet may carry the lost one once more; the decoder conceals
            // what it does not.
            self.conceal(next, DecodeMode::Fec, missing, out)?
        } else {
            self.conceal(&[], DecodeMode::Normal, PACKET_SAMPLES_MAX, out)?
        };
        let silent = if missing > PACKET_SAMPLES_MAX { missing - concealed } else { 0 };
        self.stats.silence_samples += silent.unsigned_abs();
        self.sink.silence(silent, &self.config, out)
    }

    /// Makes up `samples` of sound, or the nearest count that the decoder can, and says how many.
    fn conceal(
        &mut self,
        payload: &[u8],
        mode: DecodeMode,
        samples: i64,
        out: &mut Vec<Frame>,
    ) -> Result<i64, Error> {
        let samples = (samples + CONCEAL_STEP / 2) / CONCEAL_STEP * CONCEAL_STEP;
        let samples = samples.clamp(CONCEAL_STEP, PACKET_SAMPLES_MAX);
        let room = self.pcm.get_mut(..samples as usize * CHANNELS).unwrap_or_default();
        if self.decoder.decode_float(payload, room, mode).is_err() {
            room.fill(0.0);
        }
        self.stats.concealed_samples += samples.unsigned_abs();
        self.encode(samples as usize, out)?;
        Ok(samples)
    }

    /// Encodes the first `samples` of `pcm`.
    fn encode(&mut self, samples: usize, out: &mut Vec<Frame>) -> Result<(), Error> {
        let pcm = self.pcm.get(..samples * CHANNELS).unwrap_or_default();
        for (channel, plane) in self.sink.planes.iter_mut().enumerate() {
            plane.clear();
            plane.extend(pcm.iter().skip(channel).step_by(CHANNELS).map(|&x| sane(x)));
        }
        self.sink.encode(&self.config, out)
    }
}

impl Sink {
    fn silence(
        &mut self,
        samples: i64,
        config: &Arc<TrackConfig>,
        out: &mut Vec<Frame>,
    ) -> Result<(), Error> {
        let mut left = samples.max(0);
        while left > 0 {
            let part = left.min(PACKET_SAMPLES_MAX);
            for plane in &mut self.planes {
                plane.clear();
                plane.resize(part as usize, 0.0);
            }
            self.encode(config, out)?;
            left -= part;
        }
        Ok(())
    }

    /// Encodes what is in `planes`.
    fn encode(&mut self, config: &Arc<TrackConfig>, out: &mut Vec<Frame>) -> Result<(), Error> {
        let Sink { encoder, planes: [left, right], clock } = self;
        clock.samples += left.len() as i64;
        let fed = encoder.feed(&[left, right], |unit| {
            let time = clock.stamp();
            out.push(Frame {
                config: Arc::clone(config),
                dts: time,
                pts: time,
                key: true,
                discardable: false,
                data: Bytes::copy_from_slice(unit.payload),
            });
            Ok(())
        });
        fed.map(|_| ()).map_err(refused)
    }
}

impl Clock {
    /// The first packet: its time is believed at once.
    fn start(&mut self, pts: Time) {
        self.want(pts);
        self.offset_us = self.wanted_us;
    }

    /// The sample that comes next has this time in the input. What a decoder gives for a packet was captured
    /// `OPUS_LOOKAHEAD` before the time the sender put on it.
    fn want(&mut self, pts: Time) {
        self.wanted_us = pts.us().saturating_sub(us(self.samples + OPUS_LOOKAHEAD));
    }

    /// After a long hole the new time is believed at once, but never backwards.
    fn jump(&mut self, pts: Time) {
        self.want(pts);
        self.offset_us = self.offset_us.max(self.wanted_us);
    }

    /// The stamp of the unit that the encoder gives now. It moves by a unit's length give or take
    /// `SLEW_US_MAX`, which is less: so stamps never go back.
    fn stamp(&mut self) -> Time {
        let error_us = self.wanted_us.saturating_sub(self.offset_us);
        let slew_us = (error_us / SLEW_PART).clamp(-SLEW_US_MAX, SLEW_US_MAX);
        self.offset_us = self.offset_us.saturating_add(slew_us);
        let sample = self.units * AU_SAMPLES - AAC_LOOKAHEAD;
        self.units += 1;
        Time::from_ticks(sample, RATE_HZ).plus_us(self.offset_us)
    }
}

/// Samples at 48 kHz that a packet says it has, 120 to 5760.
fn packet_samples(payload: &[u8]) -> Result<i64, String> {
    match opus_packet_get_nb_samples(payload, RATE_HZ as i32) {
        Ok(samples) if (1..=PACKET_SAMPLES_MAX).contains(&i64::from(samples)) => Ok(i64::from(samples)),
        Ok(samples) => Err(format!("a packet of {samples} samples")),
        Err(code) => Err(format!("a malformed packet of {} bytes (code {code})", payload.len())),
    }
}

/// Microseconds of a number of samples.
const fn us(samples: i64) -> i64 {
    samples.saturating_mul(1_000_000) / RATE
}

fn refused(e: syom::AacError) -> Error {
    Error::Encode { codec: Codec::Aac, reason: e.to_string() }
}
