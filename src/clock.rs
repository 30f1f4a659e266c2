//! The only clock. Everything below `src/` is told the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use media::Time;

/// The process's time line: `Time::ZERO` is its start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    unix_us_at_zero: i64,
}

impl Clock {
    /// Starts the line now.
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { base: Instant::now(), unix_us_at_zero: i64::try_from(unix.as_micros()).unwrap_or(0) }
    }

    /// Now, monotonic.
    pub fn now(&self) -> Time {
        Time(i64::try_from(self.base.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// The instant of `Time::ZERO`.
    pub fn base(&self) -> Instant {
        self.base
    }

    /// Microseconds of the Unix epoch at `Time::ZERO`.
    pub fn unix_us_at_zero(&self) -> i64 {
        self.unix_us_at_zero
    }
}
