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
}

impl Queue {
    /// A packet arrived, by the receiver's clock.
    pub(super) fn on_packet(&mut self, sent: Time, arrival_us: i64) {
        if sent.since(*self.since.get_or_insert(sent)) > LATE_US {
            (self.least_us, self.since) = ([None, self.least_us[0]], Some(sent));
        }
        let took_us = arrival_us.saturating_sub(sent.us());
        let [here, before] = self.least_us;
        let least_us = here.map_or(took_us, |least| least.min(took_us));
        self.least_us[0] = Some(least_us);
        self.us = took_us.saturating_sub(before.map_or(least_us, |before| before.min(least_us)));
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
}
