//! Any AAC rate to 48 kHz. The filter's delay is taken out: output sample 0 is the time of input sample 0,
//! and `n` input samples give, after a flush, `n * 48000 / rate` output samples.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

use super::{Error, RATE_HZ};

/// Blocks a second, about: what the FFT works on at a time. Longer blocks cut off closer to the band's edge,
/// shorter ones hold sound back less. At 44.1 kHz a block is 588 samples in, 640 out: a delay of 7 ms.
const BLOCKS_PER_SECOND: u32 = 75;

/// Zero blocks that certainly push out what the filter holds (half a block) and what waits for a whole block.
const FLUSH_BLOCKS: usize = 3;

/// A resampler of one stretch of continuous sound.
pub(super) struct To48k {
    fft: Fft<f32>,
    from_hz: u32,
    channels: usize,
    /// Interleaved samples that wait for a whole block; less than a block between calls.
    waiting: Vec<f32>,
    block_out: Vec<f32>,
    /// Output samples of the filter's delay still to leave out.
    delay_left: usize,
    samples_in: u64,
    samples_out: u64,
}

impl To48k {
    /// `from_hz` is one of the AAC rates, `channels` 1 or 2.
    pub(super) fn new(from_hz: u32, channels: usize) -> Result<To48k, Error> {
        let fft = Fft::new(from_hz as usize, RATE_HZ as usize, block_in(from_hz), channels, FixedSync::Both)
            .map_err(|e| Error::Resample { from_hz, reason: e.to_string() })?;
        Ok(To48k {
            block_out: vec![0.0; fft.output_frames_max() * channels],
            delay_left: fft.output_delay(),
            fft,
            from_hz,
            channels,
            waiting: Vec::new(),
            samples_in: 0,
            samples_out: 0,
        })
    }

    /// Resamples interleaved `samples`; appends what comes out, which is up to two blocks late.
    pub(super) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), Error> {
        self.samples_in += (samples.len() / self.channels) as u64;
        self.waiting.extend_from_slice(samples);
        let block = self.fft.input_frames_next() * self.channels;
        let mut taken = 0;
        while let Some(input) = self.waiting.get(taken..taken + block) {
            let input = input.to_vec();
            self.block(&input, out)?;
            taken += block;
        }
        self.waiting.drain(..taken);
        Ok(())
    }

    /// Pushes out the rest, so that the output is as long as the input. Afterwards the resampler is done.
    pub(super) fn flush(&mut self, out: &mut Vec<f32>) -> Result<(), Error> {
        let due = self.samples_in * u64::from(RATE_HZ) / u64::from(self.from_hz.max(1));
        let block = self.fft.input_frames_next() * self.channels;
        for _ in 0..FLUSH_BLOCKS {
            let mut input = std::mem::take(&mut self.waiting);
            input.resize(block, 0.0);
            self.block(&input, out)?;
        }
        let too_many = usize::try_from(self.samples_out.saturating_sub(due)).unwrap_or(usize::MAX);
        out.truncate(out.len().saturating_sub(too_many.saturating_mul(self.channels)));
        Ok(())
    }

    fn block(&mut self, input: &[f32], out: &mut Vec<f32>) -> Result<(), Error> {
        let from_hz = self.from_hz;
        let refused = move |reason: String| Error::Resample { from_hz, reason };
        let frames_out = self.block_out.len() / self.channels;
        let from = InterleavedSlice::new(input, self.channels, input.len() / self.channels)
            .map_err(|e| refused(e.to_string()))?;
        let mut to = InterleavedSlice::new_mut(&mut self.block_out[..], self.channels, frames_out)
            .map_err(|e| refused(e.to_string()))?;
        let (_, made) =
            self.fft.process_into_buffer(&from, &mut to, None).map_err(|e| refused(e.to_string()))?;
        let late = self.delay_left.min(made);
        self.delay_left -= late;
        self.samples_out += (made - late) as u64;
        out.extend(self.block_out.iter().take(made * self.channels).skip(late * self.channels));
        Ok(())
    }
}

/// Samples of a block before resampling, such that it is a whole number of samples after it, and both are
/// even: the filter's delay is half a block, and can be taken out only when that is a whole number.
fn block_in(from_hz: u32) -> usize {
    let (mut a, mut b) = (from_hz.max(1), RATE_HZ);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let (unit_in, unit_out) = (from_hz.max(1) / a, RATE_HZ / a);
    let unit = if (unit_in | unit_out) % 2 == 0 { unit_in } else { 2 * unit_in };
    ((from_hz / BLOCKS_PER_SECOND).div_ceil(unit).max(1) * unit) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    /// A tone of each AAC rate comes out in phase, at its level, with the exact number of samples.
    #[test]
    fn in_phase_and_exactly_as_long() {
        for (rate, channels) in [(44_100, 2), (44_100, 1), (32_000, 2), (22_050, 1), (96_000, 2), (7_350, 1)]
        {
            let n = rate as usize / 2 + 77;
            let tone = |i: usize, hz: f32| 0.5 * (TAU * 440.0 * (i as f32) / hz).sin();
            let input: Vec<f32> =
                (0..n).flat_map(|i| std::iter::repeat_n(tone(i, rate as f32), channels)).collect();
            let mut resampler = To48k::new(rate, channels).unwrap();
            let mut out = Vec::new();
            for part in input.chunks(1024 * channels) {
                resampler.push(part, &mut out).unwrap();
                assert!(resampler.waiting.len() < 2 * rate as usize, "bounded");
            }
            resampler.flush(&mut out).unwrap();
            assert_eq!(out.len() / channels, n * 48_000 / rate as usize, "{rate} Hz");
            // away from both ends, where the tone starts and stops
            let middle = 4_800..out.len() / channels - 4_800;
            let worst = middle.map(|i| (out[i * channels] - tone(i, 48_000.0)).abs()).fold(0.0_f32, f32::max);
            assert!(worst < 2e-3, "{rate} Hz x{channels}: off by {worst}");
        }
    }

    #[test]
    fn the_band_is_flat_to_18_khz() {
        for hz in [1_000.0_f32, 10_000.0, 16_000.0, 18_000.0] {
            let input: Vec<f32> = (0..44_100).map(|i| 0.5 * (TAU * hz * i as f32 / 44_100.0).sin()).collect();
            let mut resampler = To48k::new(44_100, 1).unwrap();
            let mut out = Vec::new();
            resampler.push(&input, &mut out).unwrap();
            let middle = &out[4_800..40_000];
            let rms = (middle.iter().map(|x| x * x).sum::<f32>() / middle.len() as f32).sqrt();
            assert!((rms - 0.353_55).abs() < 0.01, "{hz} Hz: rms {rms}");
        }
    }
}
