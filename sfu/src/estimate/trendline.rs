//! Whether the queue grows: the slope of the smoothed delay over the last groups, against a threshold that adapts
//! (draft-ietf-rmcat-gcc-02 sections 5.3 to 5.5; the slope is the browsers' trendline in place of the Kalman filter).

use super::inter_arrival::Delta;

/// Groups the line is fitted to.
const WINDOW: usize = 20;
/// Weight of the old delay when a new one is smoothed in. The browsers' value; the 0.85 of the draft is the back-off.
const SMOOTHING: f64 = 0.9;
/// The slope is scaled to the threshold's milliseconds by the groups seen, at most so many, and the gain.
const GROUPS_MAX: u32 = 60;
const GAIN: f64 = 4.0;
/// Overuse must last so long before it is believed (section 5.4: 10 ms), and be seen twice.
const OVERUSE_MS: f64 = 10.0;

const THRESHOLD_START_MS: f64 = 12.5;
const THRESHOLD_MS_MIN: f64 = 6.0;
const THRESHOLD_MS_MAX: f64 = 600.0;
const K_UP: f64 = 0.0087;
const K_DOWN: f64 = 0.039;
/// A slope this far above the threshold is a spike (a route change) and does not adapt it (section 5.4).
const SPIKE_MS: f64 = 15.0;
/// Longest step of the adaptation.
const ADAPT_MS_MAX: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Usage {
    /// The queue drains.
    Under,
    #[default]
    Normal,
    /// The queue grows.
    Over,
}

#[derive(Debug)]
pub(super) struct Trendline {
    /// Arrival since the first group and smoothed delay, milliseconds; a ring.
    points: [(f64, f64); WINDOW],
    groups: u32,
    /// Where the next point goes.
    at: usize,
    arrival_ms: f64,
    delay_ms: f64,
    smoothed_ms: f64,
    threshold_ms: f64,
    previous_slope: f64,
    /// How long the slope has been above the threshold, and how often seen so.
    over: Option<(f64, u32)>,
    usage: Usage,
}

impl Default for Trendline {
    fn default() -> Trendline {
        Trendline {
            points: [(0.0, 0.0); WINDOW],
            groups: 0,
            at: 0,
            arrival_ms: 0.0,
            delay_ms: 0.0,
            smoothed_ms: 0.0,
            threshold_ms: THRESHOLD_START_MS,
            previous_slope: 0.0,
            over: None,
            usage: Usage::Normal,
        }
    }
}

impl Trendline {
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    #[cfg(test)]
    pub(super) fn threshold_ms(&self) -> f64 {
        self.threshold_ms
    }

    pub(super) fn on_delta(&mut self, delta: Delta) {
        let arrival_ms = delta.arrival_us as f64 / 1000.0;
        let sent_ms = delta.sent_us as f64 / 1000.0;
        self.groups = self.groups.saturating_add(1);
        self.arrival_ms += arrival_ms;
        self.delay_ms += arrival_ms - sent_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.delay_ms;
        if let Some(point) = self.points.get_mut(self.at) {
            *point = (self.arrival_ms, self.smoothed_ms);
        }
        self.at = (self.at + 1) % WINDOW;
        let full = self.groups as usize >= WINDOW;
        let slope = if full { self.slope().unwrap_or(self.previous_slope) } else { 0.0 };
        self.detect(slope, sent_ms, arrival_ms);
    }

    /// Least squares, with the means taken out first: arrival grows to days of milliseconds.
    fn slope(&self) -> Option<f64> {
        let n = WINDOW as f64;
        let mean_x = self.points.iter().map(|(x, _)| x).sum::<f64>() / n;
        let mean_y = self.points.iter().map(|(_, y)| y).sum::<f64>() / n;
        let mut numerator = 0.0;
        let mut denominator = 0.0;
        for (x, y) in self.points {
            numerator += (x - mean_x) * (y - mean_y);
            denominator += (x - mean_x) * (x - mean_x);
        }
        (denominator > 0.0).then(|| numerator / denominator)
    }

    fn detect(&mut self, slope: f64, sent_ms: f64, arrival_ms: f64) {
        let scaled_ms = f64::from(self.groups.min(GROUPS_MAX)) * slope * GAIN;
        if scaled_ms > self.threshold_ms {
            let (ms, seen) = match self.over {
                // Half, as it began somewhere in between.
                None => (sent_ms / 2.0, 1),
                Some((ms, seen)) => (ms + sent_ms, seen.saturating_add(1)),
            };
            self.over = Some((ms, seen));
            if ms > OVERUSE_MS && seen > 1 && slope >= self.previous_slope {
                self.over = Some((0.0, 0));
                self.usage = Usage::Over;
            }
        } else {
            self.over = None;
            self.usage = if scaled_ms < -self.threshold_ms { Usage::Under } else { Usage::Normal };
        }
        self.previous_slope = slope;
        self.adapt(scaled_ms.abs(), arrival_ms);
    }

    /// Section 5.4: fast down to the noise, slowly up to it, so that a flow driven by loss does not starve this one.
    fn adapt(&mut self, scaled_ms: f64, elapsed_ms: f64) {
        if scaled_ms > self.threshold_ms + SPIKE_MS {
            return;
        }
        let k = if scaled_ms < self.threshold_ms { K_DOWN } else { K_UP };
        self.threshold_ms += k * (scaled_ms - self.threshold_ms) * elapsed_ms.min(ADAPT_MS_MAX);
        self.threshold_ms = self.threshold_ms.clamp(THRESHOLD_MS_MIN, THRESHOLD_MS_MAX);
    }
}
