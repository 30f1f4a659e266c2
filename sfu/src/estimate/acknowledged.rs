//! The bitrate that arrives, by the receiver's clock, and by ours.

use media::Time;

/// Bytes are counted over so much of the receiver's time for a first sample, then for each next one.
const WINDOW_FIRST_US: i64 = 500_000;
const WINDOW_US: i64 = 150_000;
/// A sample far from the estimate is trusted less: its standard deviation, in kbit/s, is this share of the distance.
const UNCERTAINTY: f64 = 10.0;
/// How much the truth is thought to wander between samples, (kbit/s)^2.
const DRIFT: f64 = 5.0;
/// So much that a next sample replaces the estimate.
const CHANGE: f64 = 1e9;
/// Our own clock's window.
const OWN_WINDOW_US: i64 = 500_000;
/// Whether packets arrive slower than they were sent is seen in so much of either clock: some frames of a video, and no more of a queue.
const BEHIND_WINDOW_US: i64 = 200_000;

#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// Arrival of the last packet.
    last_us: Option<i64>,
    window_us: i64,
    window_bytes: u64,
    kbps: Option<f64>,
    variance: f64,
    own: OwnClock,
}

/// The same bytes over the time in which we sent them: what a peer cannot speed up by lying about arrivals.
#[derive(Debug, Default)]
struct OwnClock {
    from: Option<Time>,
    bytes: u64,
    bps: u64,
    behind: Behind,
}

/// Whether the last window's packets took longer to arrive than to be sent, by a quarter: at what rate they came then. The window is what lies
/// between packets that follow each other: over a gap, where a feedback was lost, it stands still.
#[derive(Debug, Default)]
struct Behind {
    /// When the last packet was sent, and arrived.
    last: Option<(Time, i64)>,
    sent_us: i64,
    arrived_us: i64,
    bytes: u64,
    bps: Option<u64>,
}

impl Acknowledged {
    /// Bits per second of the receiver's clock.
    pub(super) fn bps(&self) -> Option<u64> {
        self.kbps.map(|kbps| (kbps * 1000.0) as u64)
    }

    /// The part of [`Acknowledged::bps`] that our own clock confirms: the base of every increase.
    pub(super) fn confirmed_bps(&self) -> Option<u64> {
        self.bps().map(|bps| bps.min(self.own.bps))
    }

    /// Packets arrive slower than they were sent, at this rate: that is the link's doing, however few were sent.
    pub(super) fn behind_bps(&self) -> Option<u64> {
        self.own.behind.bps
    }

    pub(super) fn on_packet(&mut self, sent: Time, arrival_us: i64, bytes: usize) {
        self.own.on_packet(sent, arrival_us, bytes);
        let window_us = if self.kbps.is_some() { WINDOW_US } else { WINDOW_FIRST_US };
        // Reordered packets stand still in time.
        let step_us = self.last_us.map_or(0, |last| arrival_us.saturating_sub(last).max(0));
        self.last_us = Some(self.last_us.map_or(arrival_us, |last| last.max(arrival_us)));
        self.window_us = self.window_us.saturating_add(step_us);
        if step_us > window_us {
            // Nothing for a whole window: what was counted before says nothing about this one.
            self.window_bytes = 0;
            self.window_us %= window_us;
        }
        if self.window_us >= window_us {
            let sample = self.window_bytes as f64 * 8000.0 / window_us as f64;
            self.window_us -= window_us;
            self.window_bytes = 0;
            self.on_sample(sample);
        }
        self.window_bytes = self.window_bytes.saturating_add(bytes as u64);
    }

    /// A feedback was lost, or the receiver's clock set: the window lacks packets. The first one goes on: it is the
    /// longest, and with a third of the feedback lost would never be whole.
    pub(super) fn on_gap(&mut self) {
        self.own.behind.last = None;
        if self.kbps.is_some() {
            (self.last_us, self.window_us, self.window_bytes) = (None, 0, 0);
        }
    }

    /// Another rate is sent from here on: the next sample stands for itself.
    pub(super) fn on_change(&mut self) {
        self.on_gap();
        self.variance = CHANGE;
    }

    /// A Bayesian update: the weight of a sample falls with its distance.
    fn on_sample(&mut self, sample: f64) {
        let Some(kbps) = self.kbps else {
            (self.kbps, self.variance) = (Some(sample), 50.0);
            return;
        };
        let deviation = UNCERTAINTY * (kbps - sample).abs() / kbps.max(1.0);
        let sample_variance = deviation * deviation;
        let variance = self.variance + DRIFT;
        let sum = (sample_variance + variance).max(f64::MIN_POSITIVE);
        self.kbps = Some(((sample_variance * kbps + variance * sample) / sum).max(0.0));
        self.variance = sample_variance * variance / sum;
    }
}

impl OwnClock {
    fn on_packet(&mut self, sent: Time, arrival_us: i64, bytes: usize) {
        self.behind.on_packet(sent, arrival_us, bytes);
        let us = sent.since(*self.from.get_or_insert(sent));
        // Described out of order: it would be counted into time in which it was not sent.
        if us < 0 {
            return;
        }
        if us >= OWN_WINDOW_US {
            self.bps = self.bytes.saturating_mul(8_000_000) / us.unsigned_abs();
            (self.from, self.bytes) = (Some(sent), 0);
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

impl Behind {
    fn on_packet(&mut self, sent: Time, arrival_us: i64, bytes: usize) {
        let Some((last_sent, last_us)) = self.last.replace((sent, arrival_us)) else { return };
        self.sent_us = self.sent_us.saturating_add(sent.since(last_sent));
        self.arrived_us = self.arrived_us.saturating_add(arrival_us.saturating_sub(last_us));
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.sent_us.max(self.arrived_us) >= BEHIND_WINDOW_US {
            let bps = self.bytes.saturating_mul(8_000_000) / self.arrived_us.max(1).unsigned_abs();
            self.bps = (self.arrived_us > self.sent_us.saturating_mul(5) / 4).then_some(bps);
            (self.sent_us, self.arrived_us, self.bytes) = (0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1200 bytes each 5 ms, which is 1.92 Mbit/s; each takes `arrives_us` to arrive after the one before.
    fn behind_bps(acknowledged: &mut Acknowledged, from: i64, arrives_us: i64) -> Option<u64> {
        for n in 0..100 {
            acknowledged.on_packet(
                Time((from + n) * 5_000),
                (from + n) * 5_000 + n * (arrives_us - 5_000),
                1_200,
            );
        }
        acknowledged.behind_bps()
    }

    #[test]
    fn a_link_that_is_full_shows_what_it_carries_in_two_tenths_of_a_second() {
        let mut acknowledged = Acknowledged::default();
        assert_eq!(behind_bps(&mut acknowledged, 0, 5_000), None);
        assert_eq!(behind_bps(&mut acknowledged, 100, 6_000), None, "a fifth more may be chance");
        let bps = behind_bps(&mut acknowledged, 200, 12_000).expect("it falls behind");
        assert!((780_000..=820_000).contains(&bps), "{bps}");
        assert_eq!(behind_bps(&mut acknowledged, 300, 5_000), None);
    }

    #[test]
    fn half_of_the_feedback_is_enough_to_see_what_a_full_link_carries() {
        let mut acknowledged = Acknowledged::default();
        for n in (0..400).filter(|n| n / 10 % 2 == 0) {
            if n % 10 == 0 {
                acknowledged.on_gap();
            }
            acknowledged.on_packet(Time(n * 5_000), n * 12_000, 1_200);
        }
        let bps = acknowledged.behind_bps().expect("it falls behind");
        assert!((780_000..=820_000).contains(&bps), "{bps}");
    }
}
