//! A latency histogram of plain counters.

use crate::Counter;

/// Upper bounds of the buckets, in microseconds: 1-2-5 steps, because the goal (1 ms at p99) is one of them.
/// What is longer than the last goes into a bucket of its own.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000];

/// How long things took, with **one writing thread**.
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: [Counter; LATENCY_BOUNDS_US.len()],
    longer: Counter,
    sum_us: Counter,
}

impl Histogram {
    /// Counts one that took `us` microseconds.
    #[inline]
    pub fn observe(&self, us: u64) {
        self.observe_n(us, 1);
    }

    /// Counts `n` that took `us` microseconds each (the packets of one batch).
    #[inline]
    pub fn observe_n(&self, us: u64, n: u64) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets.get(bucket).unwrap_or(&self.longer).add(n);
        self.sum_us.add(us.wrapping_mul(n));
    }

    /// For each bound, how many took at most that long.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0_u64;
        LATENCY_BOUNDS_US.iter().zip(&self.buckets).map(move |(bound, count)| {
            total = total.wrapping_add(count.get());
            (*bound, total)
        })
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(self.longer.get(), |sum, bucket| sum.wrapping_add(bucket.get()))
    }

    /// The sum of all, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_cumulative() {
        let histogram = Histogram::default();
        for us in [0, 20, 21, 1000, 1001, 500_000, 500_001, 7_000_000] {
            histogram.observe(us);
        }
        histogram.observe_n(100, 3);
        let at = |bound| histogram.cumulative().find(|(b, _)| *b == bound).map(|(_, n)| n);
        assert_eq!(
            [at(20), at(50), at(100), at(1000), at(2000)],
            [Some(2), Some(3), Some(6), Some(7), Some(8)]
        );
        assert_eq!(at(500_000), Some(9), "the two longest are in none");
        assert_eq!(histogram.count(), 11);
        assert_eq!(histogram.sum_us(), 20 + 21 + 1000 + 1001 + 500_000 + 500_001 + 7_000_000 + 300);
        assert!(LATENCY_BOUNDS_US.is_sorted());
    }
}
