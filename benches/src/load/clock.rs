//! The harness's clock: microseconds since the run began, the same in all its processes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::Time;

/// CLOCK_MONOTONIC, counted from the run's begin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Time zero.
    pub base: Instant,
    /// Nanoseconds of the Unix epoch at time zero, for the kernel's times of arrival.
    unix_ns: u64,
}

impl Clock {
    /// A clock whose zero was `epoch_us` microseconds after boot.
    pub fn since(epoch_us: u64) -> Clock {
        let passed = Duration::from_micros(udp::now_us().saturating_sub(epoch_us));
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            base: Instant::now().checked_sub(passed).unwrap_or_else(Instant::now),
            unix_ns: unix.saturating_sub(passed).as_nanos() as u64,
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.base.elapsed().as_micros() as i64)
    }

    /// A time in microseconds of the Unix epoch.
    pub fn unix_us(&self, time: Time) -> i64 {
        (self.unix_ns / 1_000) as i64 + time.us()
    }

    /// When data came, by the kernel; now, if it does not say.
    pub fn arrival(&self, unix_ns: Option<u64>) -> Time {
        unix_ns.map_or_else(|| self.now(), |ns| Time(ns.saturating_sub(self.unix_ns) as i64 / 1_000))
    }
}
