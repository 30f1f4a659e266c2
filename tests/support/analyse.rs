//! Meters for the flash and the beep: when each begins, and how far apart they are.
use crate::ffmpeg;
use std::path::Path;

/// What a recording shows.
#[derive(Debug, Clone)]
pub struct Marks {
    /// Seconds, when the top left turns bright.
    pub flashes: Vec<f64>,
    /// Seconds, when the tone begins.
    pub beeps: Vec<f64>,
}

/// Finds flashes and beeps in a recording, by its own times.
#[track_caller]
pub fn marks(file: &Path) -> Marks {
    // the middle of the patch, which is 1/8 of the clip's width and 1/4 of a browser's
    let bright = "crop=iw/16:iw/16:iw/32:iw/32,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-";
    let (video, _) = ffmpeg::filter(file, "0:v:0", bright);
    let loud = "aresample=48000,asetnsamples=n=240:p=0,astats=metadata=1:reset=1,\
                ametadata=print:key=lavfi.astats.Overall.Peak_level:file=-";
    let (audio, _) = ffmpeg::filter(file, "0:a:0", loud);
    // the beep peaks at -6 dB, and codecs smear less than -20 dB before it
    Marks { flashes: onsets(&video, 120.0, 0.3), beeps: onsets(&audio, -20.0, 0.3) }
}

/// When a printed value rises over a threshold after it was under it for so many seconds.
fn onsets(text: &str, threshold: f64, quiet_s: f64) -> Vec<f64> {
    let mut found = Vec::new();
    let (mut time, mut last_high) = (0.0, f64::NEG_INFINITY);
    let mut first = true;
    for line in text.lines() {
        if let Some((_, seconds)) = line.split_once("pts_time:") {
            time = seconds.trim().parse().unwrap_or(time);
        } else if let Some((_, value)) = line.split_once('=') {
            let high = value.trim().parse::<f64>().is_ok_and(|it| it > threshold);
            if high {
                // a recording may start inside a flash: that is no beginning
                if time - last_high > quiet_s && !first {
                    found.push(time);
                }
                last_high = time;
            }
            first = false;
        }
    }
    found
}

impl Marks {
    /// Flash minus beep in ms, for each beep that has a flash within 450 ms.
    pub fn skews_ms(&self) -> Vec<f64> {
        let nearest = |beep: f64| {
            let all = self.flashes.iter().map(|flash| (flash - beep) * 1000.0);
            all.min_by(|a, b| a.abs().total_cmp(&b.abs())).filter(|it| it.abs() < 450.0)
        };
        self.beeps.iter().filter_map(|beep| nearest(*beep)).collect()
    }

    /// The median of [`Marks::skews_ms`].
    ///
    /// # Panics
    /// With fewer than `least` pairs: then nothing was measured.
    #[track_caller]
    pub fn skew_ms(&self, least: usize) -> f64 {
        let mut all = self.skews_ms();
        assert!(all.len() >= least, "{} pairs of flash and beep, {least} wanted: {self:?}", all.len());
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onsets_need_quiet_before() {
        let value = |time: f64, value: f64| format!("frame:0 pts:0 pts_time:{time}\nkey={value}\n");
        let text: String = [(0.0, 200.0), (0.1, 10.0), (1.0, 200.0), (1.03, 200.0), (1.1, 0.0), (2.0, 200.0)]
            .map(|(at, it)| value(at, it))
            .concat();
        assert_eq!(onsets(&text, 120.0, 0.3), vec![1.0, 2.0]);
    }

    #[test]
    fn skew_is_flash_minus_beep() {
        let marks = Marks { flashes: vec![1.04, 2.04, 3.04], beeps: vec![1.0, 2.0, 3.0, 9.0] };
        assert_eq!(marks.skew_ms(3).round(), 40.0);
    }
}
