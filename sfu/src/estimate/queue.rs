//! How long packets wait on the link: by how much their way takes longer than the fastest of late.

use media::Time;

/// The fastest of at least this time and at most twice as much: a path that became longer is known after it.
const LATE_US: i64 = 5_000_000;

/// The two clocks differ by what nobody knows; only differences of delays are used.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The least of this period and of the one before.
    least_us: [Option<i64>; 2],
    since: Option<Time>,
    us: i64,
    own: Own,
}

/// What would wait on a link of the estimate's rate: what was sent faster than that waits there as well, be it a key frame or a
/// probe, and says nothing against the estimate.
#[derive(Debug, Default)]
struct Own {
    us: f64,
    /// When the last packet was sent.
    sent: Option<Time>,
    /// By how much the last packet that arrived waited longer.
    beyond_us: i64,
}

impl Queue {
    /// A packet was described, arrived or lost: on a link of `bps` it makes those after it wait.
    pub(super) fn on_sent(&mut self, sent: Time, bytes: usize, bps: u64) {
        let passed_us = self.own.sent.map_or(0, |last| sent.since(last)).max(0);
        self.own.sent = Some(self.own.sent.map_or(sent, |last| last.max(sent)));
        self.own.us = (self.own.us - passed_us as f64).max(0.0) + bytes as f64 * 8e6 / bps.max(1) as f64;
    }

    /// A packet arrived, by the receiver's clock.
    pub(super) fn on_packet(&mut self, sent: Time, arrival_us: i64) {
        let period_us = sent.since(*self.since.get_or_insert(sent));
        if period_us > LATE_US {
            // Of before a pause nothing is known: clocks drift apart by 0.36 s an hour at 100 ppm.
            let before = self.least_us[0].filter(|_| period_us <= 2 * LATE_US);
            (self.least_us, self.since) = ([None, before], Some(sent));
        }
        let took_us = arrival_us.saturating_sub(sent.us());
        let [here, before] = self.least_us;
        let least_us = here.map_or(took_us, |least| least.min(took_us));
        self.least_us[0] = Some(least_us);
        self.us = took_us.saturating_sub(before.map_or(least_us, |before| before.min(least_us)));
        self.own.beyond_us = self.us.saturating_sub(self.own.us as i64);
        // The link was faster than that: what is gone there is gone.
        self.own.us = self.own.us.min(self.us as f64);
    }

    /// By how much more the last one waited than on a link of the estimate's rate, in microseconds; less than 0 where it waited less.
    pub(super) fn beyond_us(&self) -> i64 {
        self.own.beyond_us
    }

    /// What the last one waited, in microseconds.
    pub(super) fn us(&self) -> i64 {
        self.us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_the_fastest_has_waited_until_the_path_is_known_to_be_longer() {
        let mut queue = Queue::default();
        let mut waited = |ms: i64, took_ms: i64| {
            queue.on_packet(Time::from_ms(ms), (ms + took_ms) * 1_000);
            queue.us() / 1_000
        };
        assert_eq!((waited(0, -70), waited(20, -40), waited(40, -80)), (0, 30, 0), "clocks differ");
        assert_eq!((waited(60, 20), waited(4_900, 20)), (100, 100));
        assert_eq!(waited(5_100, 20), 100, "of the period before");
        assert_eq!((waited(10_200, 20), waited(10_300, 30)), (0, 10));
    }

    #[test]
    fn what_was_before_a_pause_says_nothing() {
        let mut queue = Queue::default();
        let mut waited = |ms: i64, took_ms: i64| {
            queue.on_packet(Time::from_ms(ms), (ms + took_ms) * 1_000);
            queue.us() / 1_000
        };
        assert_eq!((waited(0, 20), waited(20, 25)), (0, 5));
        // An hour later the receiver's clock is 360 ms ahead.
        assert_eq!((waited(3_600_000, 380), waited(3_600_020, 400)), (0, 20));
        // A pause no longer than a period's two is none.
        assert_eq!(waited(3_609_000, 400), 20);
    }
}
