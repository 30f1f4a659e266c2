//! Decoded sound: interleaved 32-bit float, one or two channels.

use syom::Channel;

/// One decoded access unit.
#[derive(Debug)]
pub(super) struct Pcm {
    /// Samples per second of one channel.
    pub(super) rate_hz: u32,
    /// 1 or 2.
    pub(super) channels: usize,
    /// `channels` values a sample, each finite and within -1 and 1.
    pub(super) samples: Vec<f32>,
}

impl Pcm {
    pub(super) fn new() -> Pcm {
        Pcm { rate_hz: 0, channels: 1, samples: Vec::new() }
    }

    /// Samples per channel.
    pub(super) fn len(&self) -> usize {
        self.samples.len() / self.channels.max(1)
    }

    /// Silence of `len` samples in the format there is.
    pub(super) fn silence(&mut self, len: usize) {
        self.samples.clear();
        self.samples.resize(len * self.channels, 0.0);
    }

    /// Takes decoded planes; more than two are mixed down to two. `labels` says what the planes are.
    pub(super) fn set_planes(&mut self, planes: &[&[f32]], labels: impl Iterator<Item = Channel>) {
        self.samples.clear();
        match *planes {
            [] => {}
            [mono] => {
                self.channels = 1;
                self.samples.extend(mono.iter().map(|&x| sane(x)));
            }
            [left, right] => {
                self.channels = 2;
                self.samples.extend(left.iter().zip(right).flat_map(|(&l, &r)| [sane(l), sane(r)]));
            }
            _ => self.downmix(planes, labels),
        }
    }

    /// Several channels to two, as ITU-R BS.775-3 table 2 weighs them (front 1, centre and surround 0.707, no
    /// LFE), scaled so that full scale everywhere does not clip.
    fn downmix(&mut self, planes: &[&[f32]], labels: impl Iterator<Item = Channel>) {
        const AT_3_DB: f32 = std::f32::consts::FRAC_1_SQRT_2;
        let len = planes.first().map_or(0, |p| p.len());
        self.channels = 2;
        self.samples.resize(len * 2, 0.0);
        let mut weight_sum = [0.0_f32; 2];
        for (plane, label) in planes.iter().zip(labels.chain(std::iter::repeat(Channel::Other))) {
            let weight = match label {
                Channel::FrontLeft => [1.0, 0.0],
                Channel::FrontRight => [0.0, 1.0],
                Channel::BackLeft | Channel::SideLeft => [AT_3_DB, 0.0],
                Channel::BackRight | Channel::SideRight => [0.0, AT_3_DB],
                Channel::FrontCenter => [AT_3_DB, AT_3_DB],
                Channel::Lfe => continue,
                _ => [0.5, 0.5],
            };
            weight_sum = [weight_sum[0] + weight[0], weight_sum[1] + weight[1]];
            for (pair, &x) in self.samples.chunks_exact_mut(2).zip(plane.iter()) {
                for (y, w) in pair.iter_mut().zip(weight) {
                    *y += w * sane(x);
                }
            }
        }
        let scale = 1.0 / weight_sum[0].max(weight_sum[1]).max(1.0);
        self.samples.iter_mut().for_each(|x| *x *= scale);
    }
}

/// A sample the encoders take: hostile streams decode to infinities and worse.
pub(super) fn sane(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(-1.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surround_is_mixed_without_clipping_and_without_lfe() {
        let one = [1.0_f32; 4];
        let zero = [0.0_f32; 4];
        let mut pcm = Pcm::new();
        let labels = || syom::mpeg_channels(6).iter().copied();
        pcm.set_planes(&[&one, &one, &one, &one, &one, &one], labels());
        assert_eq!((pcm.channels, pcm.len()), (2, 4));
        assert!(pcm.samples.iter().all(|x| (x - 1.0).abs() < 1e-6));
        pcm.set_planes(&[&zero, &zero, &zero, &one, &zero, &zero], labels());
        assert!(pcm.samples.iter().all(|&x| x == 0.0), "LFE is left out");
        pcm.set_planes(&[&one, &zero, &zero, &zero, &zero, &zero], labels());
        assert!(pcm.samples[0] > 0.4 && pcm.samples[1] == 0.0, "left stays left");
    }

    #[test]
    fn wild_samples_become_sane() {
        let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.0, -0.25];
        let mut pcm = Pcm::new();
        pcm.set_planes(&[&wild], std::iter::empty());
        assert_eq!(pcm.samples, [0.0, 1.0, -1.0, 1.0, -0.25]);
    }
}
