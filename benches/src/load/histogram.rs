//! Times of a kind, in microseconds, with two digits kept; small enough to send from process to process each second.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values above this count as this: an hour.
const US_MAX: u64 = 3_600_000_000;

/// A histogram of microseconds. Its serial form is a list of `[value, count]`.
#[derive(Clone, Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

/// What is told of a histogram, in milliseconds; zeros when it is empty.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Half are at most this.
    pub p50: f64,
    /// 95 % are.
    pub p95: f64,
    /// 99 % are.
    pub p99: f64,
    /// 99.9 % are.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        let inner = hdrhistogram::Histogram::new_with_bounds(1, US_MAX, 2);
        Histogram(inner.expect("the bounds are in order and two digits are allowed"))
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, us: u64) {
        self.record_n(us, 1);
    }

    fn record_n(&mut self, us: u64, count: u64) {
        self.0.saturating_record_n(us.clamp(1, US_MAX), count);
    }

    /// Adds another's values.
    pub fn add(&mut self, other: &Histogram) {
        // Both have the same bounds, so nothing is out of range.
        let _ = self.0.add(&other.0);
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `percent` of all are at or below, in milliseconds; 0 of none.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        if self.is_empty() { 0.0 } else { self.0.value_at_percentile(percent) as f64 / 1_000.0 }
    }

    /// The figures that are told.
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            p50: self.percentile_ms(50.0),
            p95: self.percentile_ms(95.0),
            p99: self.percentile_ms(99.0),
            p999: self.percentile_ms(99.9),
            max: if self.is_empty() { 0.0 } else { self.0.max() as f64 / 1_000.0 },
        }
    }

    /// Values and how often each came, ascending.
    pub fn values(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values())
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Histogram, D::Error> {
        let mut histogram = Histogram::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            histogram.record_n(value, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_survive_the_way_between_processes() {
        let mut one = Histogram::default();
        (1..=1_000).for_each(|ms| one.record(ms * 1_000));
        let text = serde_json::to_string(&one).unwrap();
        let mut both: Histogram = serde_json::from_str(&text).unwrap();
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.01;
        let summary = both.summary();
        assert!(
            near(summary.p50, 500.0) && near(summary.p99, 990.0) && near(summary.max, 1_000.0),
            "{summary:?}"
        );
        assert_eq!(summary.count, 1_000);
        both.add(&one);
        assert_eq!(both.summary().count, 2_000);
        assert_eq!(Histogram::default().summary(), Summary::default());
    }
}
