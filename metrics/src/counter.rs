//! Numbers that one thread writes and any thread reads, and numbers that many write.
//!
//! All accesses are relaxed: a scrape wants each number whole, not all of one instant.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A count that only grows, with **one writing thread**: an addition is a load and a store, without the locked
/// instruction of a shared counter. Two writers would lose counts (nothing worse).
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Counts one more.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down, with **one writing thread**.
#[derive(Default, Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A count that only grows, written by any thread.
#[derive(Default, Debug)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Counts one more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down, written by any thread.
#[derive(Default, Debug)]
pub struct SharedGauge(AtomicI64);

impl SharedGauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Changes it by `n`.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_count() {
        let (counter, gauge) = (Counter::default(), Gauge::default());
        counter.add(40);
        counter.increment();
        gauge.set(5);
        assert_eq!((counter.get(), gauge.get()), (41, 5));
        let (counter, gauge) = (SharedCounter::default(), SharedGauge::default());
        counter.add(40);
        counter.increment();
        gauge.set(5);
        gauge.add(-7);
        assert_eq!((counter.get(), gauge.get()), (41, -2));
    }

    #[test]
    fn shared_ones_lose_nothing_between_threads() {
        let (counter, gauge) = (SharedCounter::default(), SharedGauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.increment();
                        gauge.add(1);
                        gauge.add(-1);
                    }
                });
            }
        });
        assert_eq!((counter.get(), gauge.get()), (40_000, 0));
    }
}
