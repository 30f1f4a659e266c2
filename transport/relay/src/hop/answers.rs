//! How long answers to requests take: a retransmission timer of the hop's own (RFC 6298). QUIC's round trip has the peer's delayed acknowledgements in it.

use super::RoundTrip;

/// An answer is so much later than usual without anything being lost, at least: timers and pacing.
const SLACK_US_MIN: i64 = 5_000;
/// RFC 6298 section 2.3: alpha and beta.
const SMOOTHED_PART: i64 = 8;
const DEVIATION_PART: i64 = 4;
/// The first answer says little of how much they differ.
const FIRST_DEVIATION_PART: i64 = 16;

/// Of one link.
#[derive(Clone, Copy, Default, Debug)]
pub struct Answers {
    /// The usual time and its mean deviation, in microseconds; `None` until one came.
    usual: Option<(i64, i64)>,
}

impl Answers {
    /// An answer came after so long. Only of what was asked for once, or nobody knows which request it answers (Karn's rule).
    pub fn came(&mut self, after_us: i64) {
        let Some((smoothed, deviation)) = &mut self.usual else {
            self.usual = Some((after_us, after_us / FIRST_DEVIATION_PART));
            return;
        };
        // RFC 6298 section 2.3: the deviation first, by the mean before.
        let off = after_us.saturating_sub(*smoothed);
        *deviation =
            deviation.saturating_add(off.saturating_abs().saturating_sub(*deviation) / DEVIATION_PART);
        *smoothed = smoothed.saturating_add(off / SMOOTHED_PART);
    }

    /// When an answer is there, usually, in microseconds; at the earliest until one came.
    pub fn usual_us(&self, trip: RoundTrip) -> i64 {
        self.usual.map_or(trip.min_us, |(smoothed, _)| smoothed)
    }

    /// After so long none comes any more.
    pub fn longest_us(&self, trip: RoundTrip) -> i64 {
        let (smoothed, deviation) =
            self.usual.unwrap_or_else(|| (trip.smoothed_us, trip.deviation_us.min(trip.min_us / 8)));
        smoothed.saturating_add(deviation.saturating_mul(4).max(SLACK_US_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: RoundTrip = RoundTrip { min_us: 100_000, smoothed_us: 110_000, deviation_us: 12_000 };

    #[test]
    fn it_waits_as_long_as_answers_take_and_not_as_long_as_acknowledgements() {
        let mut answers = Answers::default();
        assert_eq!((answers.usual_us(TRIP), answers.longest_us(TRIP)), (100_000, 158_000));
        for after_us in [101_000, 100_000, 102_000, 100_500].repeat(8) {
            answers.came(after_us);
        }
        assert!(answers.longest_us(TRIP) <= 106_000, "{answers:?}");
        for after_us in [100_000, 130_000].repeat(8) {
            answers.came(after_us);
        }
        assert!((150_000..190_000).contains(&answers.longest_us(TRIP)), "{answers:?}");
    }
}
