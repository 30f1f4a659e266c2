//! Media time: signed microseconds on one line per process. Only the node reads clocks; everything else is
//! given a `Time`.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the process's time line, in microseconds since the process started (arrival, deadlines), or
/// on a stream's own line (DTS, PTS). Arithmetic saturates: a hostile time stamp cannot overflow it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(pub i64);

impl Time {
    /// The start of the line.
    pub const ZERO: Time = Time(0);
    /// Later than everything: "no deadline".
    pub const MAX: Time = Time(i64::MAX);

    /// From whole milliseconds.
    pub const fn from_ms(ms: i64) -> Time {
        Time(ms.saturating_mul(1000))
    }

    /// Microseconds.
    pub const fn us(self) -> i64 {
        self.0
    }

    /// Whole milliseconds, rounded towards minus infinity.
    pub const fn ms(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Microseconds since `earlier`; negative when `earlier` is later.
    pub const fn since(self, earlier: Time) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `us` microseconds later.
    pub const fn plus_us(self, us: i64) -> Time {
        Time(self.0.saturating_add(us))
    }

    /// `ms` milliseconds later.
    pub const fn plus_ms(self, ms: i64) -> Time {
        Time(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// This time in ticks of a `rate_hz` clock, rounded down. At 90 000 Hz a whole millisecond is exact.
    pub const fn ticks(self, rate_hz: u32) -> i64 {
        let wide = (self.0 as i128).saturating_mul(rate_hz as i128).div_euclid(1_000_000);
        wide as i64
    }

    /// The time of `ticks` of a `rate_hz` clock. A rate of 0 gives zero.
    pub const fn from_ticks(ticks: i64, rate_hz: u32) -> Time {
        if rate_hz == 0 {
            return Time::ZERO;
        }
        let wide = (ticks as i128).saturating_mul(1_000_000);
        match wide.checked_div_euclid(rate_hz as i128) {
            Some(us) => Time(us as i64),
            None => Time::ZERO,
        }
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        self.plus_us(i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    /// The time passed since `earlier`, zero when it is later.
    fn sub(self, earlier: Time) -> Duration {
        Duration::from_micros(u64::try_from(self.since(earlier)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_exact_in_90_khz() {
        for ms in [-3_i64, 0, 1, 33, 4_294_967_296] {
            assert_eq!(Time::from_ms(ms).ticks(90_000), ms * 90);
            assert_eq!(Time::from_ticks(ms * 90, 90_000), Time::from_ms(ms));
        }
    }

    #[test]
    fn hostile_values_saturate() {
        assert_eq!(Time(i64::MAX).plus_ms(i64::MAX), Time::MAX);
        assert_eq!(Time(i64::MIN).since(Time(i64::MAX)), i64::MIN);
    }
}
