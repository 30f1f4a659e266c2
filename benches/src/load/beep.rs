//! Hearing the clip's beep: the one thing in the sound whose moment is known. The beep of a full second belongs to the frame of that second,
//! so the difference of their times at a viewer is its A/V skew.

use anyhow::{Context, Result};

/// The beep has half the full scale; codecs smear less than a tenth before it.
const LOUD: f32 = 0.12;
/// What is quiet for so long has ended; the beep of 0.1 s does not go on.
const QUIET_S: f64 = 0.3;
/// A beep and a frame further apart do not belong together.
const APART_US_MAX: i64 = 450_000;
/// The longest packet of Opus, 120 ms at 48 kHz, two channels.
const OPUS_SAMPLES_MAX: usize = 2 * 5_760;
const OPUS_HZ: u32 = 48_000;

enum Decoder {
    Opus(Box<ropus::Decoder>, Vec<f32>),
    Aac(Box<syom::Decoder>),
}

/// Decodes sound and finds where beeps begin.
pub struct Ear {
    decoder: Decoder,
    quiet_s: f64,
    /// Where the last packet ended, to notice holes.
    end_us: Option<f64>,
}

impl Ear {
    /// For Opus.
    pub fn opus() -> Result<Ear> {
        let decoder = ropus::Decoder::new(OPUS_HZ, ropus::Channels::Stereo)?;
        Ok(Ear::new(Decoder::Opus(Box::new(decoder), vec![0.0; OPUS_SAMPLES_MAX])))
    }

    /// For AAC with this AudioSpecificConfig.
    pub fn aac(asc: &[u8]) -> Result<Ear> {
        let options = syom::DecodeOptions::audio().with_max_duration_secs(f64::INFINITY);
        let decoder = syom::Decoder::from_asc(asc, options).context("the AudioSpecificConfig")?;
        Ok(Ear::new(Decoder::Aac(Box::new(decoder))))
    }

    fn new(decoder: Decoder) -> Ear {
        Ear { decoder, quiet_s: 0.0, end_us: None }
    }

    /// Hears a packet whose first sample is presented at `at_us`; gives the time of the beep that begins in it. What cannot be decoded is
    /// passed over.
    pub fn hear(&mut self, packet: &[u8], at_us: i64) -> Option<i64> {
        let mut samples = Vec::new();
        let rate_hz = match &mut self.decoder {
            Decoder::Opus(decoder, pcm) => {
                let frames = decoder.decode_float(packet, pcm, ropus::DecodeMode::Normal).ok()?;
                samples.extend(pcm.chunks_exact(2).take(frames).map(|pair| pair[0]));
                OPUS_HZ
            }
            Decoder::Aac(decoder) => {
                let mut rate_hz = 0;
                let taken = decoder.decode_au(packet, |frame| {
                    rate_hz = frame.sample_rate;
                    samples.extend(frame.planar.first().into_iter().flat_map(|plane| plane.iter().copied()));
                    Ok(())
                });
                taken.ok()?;
                rate_hz
            }
        };
        if rate_hz == 0 {
            return None;
        }
        let step_us = 1e6 / f64::from(rate_hz);
        let at = at_us as f64;
        if self.end_us.is_none_or(|end| (at - end).abs() > 15_000.0) {
            self.quiet_s = 0.0; // a hole, or the start: what begins here may have begun before
        }
        self.end_us = Some(at + samples.len() as f64 * step_us);
        let mut found = None;
        for (i, sample) in samples.iter().enumerate() {
            if sample.abs() < LOUD {
                self.quiet_s += step_us / 1e6;
            } else {
                if self.quiet_s > QUIET_S {
                    found = Some((at + i as f64 * step_us) as i64);
                }
                self.quiet_s = 0.0;
            }
        }
        found
    }
}

/// Frames of full seconds and beeps, on one time line, until they meet.
#[derive(Debug, Default)]
pub struct Skew {
    frames: Vec<i64>,
    beeps: Vec<i64>,
}

/// Kept while their other half has not come: seconds that one may be behind.
const KEPT: usize = 8;

impl Skew {
    /// The frame of a full second is presented then; how much later its beep is, once both are known.
    pub fn frame(&mut self, at_us: i64) -> Option<i64> {
        meet(at_us, &mut self.frames, &mut self.beeps).map(|beep| beep - at_us)
    }

    /// A beep is.
    pub fn beep(&mut self, at_us: i64) -> Option<i64> {
        meet(at_us, &mut self.beeps, &mut self.frames).map(|frame| at_us - frame)
    }
}

fn meet(at_us: i64, own: &mut Vec<i64>, others: &mut Vec<i64>) -> Option<i64> {
    match others.iter().position(|other| (other - at_us).abs() <= APART_US_MAX) {
        Some(place) => Some(others.remove(place)),
        None => {
            if own.len() == KEPT {
                own.remove(0);
            }
            own.push(at_us);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beeps_and_frames_meet_in_either_order() {
        let mut skew = Skew::default();
        assert_eq!(skew.frame(1_000_000), None);
        assert_eq!(skew.beep(1_020_000), Some(20_000));
        assert_eq!(skew.beep(1_990_000), None);
        assert_eq!(skew.frame(2_000_000), Some(-10_000));
        assert_eq!((skew.beep(3_000_000), skew.frame(3_600_000)), (None, None), "too far apart");
        (0..100).for_each(|i| assert_eq!(skew.beep(10_000_000 + i * 1_000_000), None));
        assert!(skew.beeps.len() <= KEPT);
    }

    #[test]
    fn the_beep_is_heard_where_it_begins() {
        let encoder = ropus::Encoder::builder(OPUS_HZ, ropus::Channels::Stereo, ropus::Application::Audio);
        let mut encoder = encoder.bitrate(ropus::Bitrate::Bits(96_000)).build().unwrap();
        let mut ear = Ear::opus().unwrap();
        let mut out = [0; 1_500];
        let mut heard = Vec::new();
        for packet in 0..150 {
            let pcm: Vec<f32> = (0..960)
                .flat_map(|i| {
                    let second = ((packet * 960 + i) % 48_000) as f32 / 48_000.0;
                    // The beep begins at 0.5 s of each second.
                    let on = (0.5..0.6).contains(&second);
                    [if on { 0.5 * (std::f32::consts::TAU * 1_000.0 * second).sin() } else { 0.0 }; 2]
                })
                .collect();
            let len = encoder.encode_float(&pcm, &mut out).unwrap();
            heard.extend(ear.hear(&out[..len], packet as i64 * 20_000));
        }
        assert_eq!(heard.len(), 3, "{heard:?}");
        // 6.5 ms is the encoder's look-ahead.
        assert!(heard.iter().all(|at| ((at - 506_500) % 1_000_000).abs() < 1_500), "{heard:?}");
        assert_eq!(ear.hear(&[], 0), None);
    }
}
