//! Holes in what a viewer is sent: what its screen shows as a freeze, whoever's fault it is.

use media::Time;
use media::payload::TEMPORAL_LAYERS_MAX;

/// A hole longer than so many frame intervals is a freeze.
const INTERVALS: i64 = 3;
/// Frames until the interval is believed.
const LEARNED: u8 = 8;

/// The rhythm of one viewer's pictures as they are sent.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    last: Option<Time>,
    /// Of the pictures up to each temporal layer, and of all.
    rhythms: [Rhythm; TEMPORAL_LAYERS_MAX + 1],
    /// The one that is sent now, and that of the picture before.
    layers: usize,
    before: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    /// Mean time between two pictures, by eighths.
    interval_us: i64,
    seen: u8,
}

impl Gaps {
    /// What was sent at `now` ended `frames` pictures. Gives how long the hole before them was when it was a freeze: longer than three
    /// times the mean interval. A hole counts towards the mean as three intervals, so that a slower source is one of a few freezes.
    pub(crate) fn sent(&mut self, frames: u64, now: Time) -> Option<i64> {
        if frames == 0 {
            return None;
        }
        let gap_us = now.since(self.last.replace(now)?).max(0);
        let before = std::mem::replace(&mut self.before, self.layers);
        let other = self.rhythms.get(before).copied().filter(|_| before != self.layers);
        let rhythm = self.rhythms.get_mut(self.layers)?;
        if let Some(other) = other {
            // Where the rhythm changed either may be meant, and neither is learned from it.
            let long_us = rhythm.interval_us.max(other.interval_us) * INTERVALS;
            let learned = rhythm.seen.min(other.seen) >= LEARNED;
            return (learned && gap_us > long_us).then_some(gap_us);
        }
        let long_us = rhythm.interval_us * INTERVALS;
        let learned = rhythm.seen >= LEARNED;
        let each_us = gap_us / frames.min(1 << 20) as i64;
        rhythm.interval_us = match rhythm.seen {
            0 => each_us,
            _ if learned => (rhythm.interval_us * 7 + each_us.min(long_us)) / 8,
            _ => (rhythm.interval_us * 7 + each_us) / 8,
        };
        rhythm.seen = rhythm.seen.saturating_add(1);
        (learned && gap_us > long_us).then_some(gap_us)
    }

    /// The pictures from here on are of the temporal layers up to `layers`, `None` for all: another rhythm, which may be known from before.
    pub(crate) fn of_layers(&mut self, layers: Option<u8>) {
        self.layers = layers.map_or(0, |layers| usize::from(layers) + 1).min(TEMPORAL_LAYERS_MAX);
    }

    /// Pictures were sent out of their rhythm: a GOP from the ring.
    pub(crate) fn caught_up(&mut self, now: Time) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Freezes while pictures come at these milliseconds.
    fn freezes(gaps: &mut Gaps, at: impl IntoIterator<Item = i64>) -> Vec<i64> {
        at.into_iter().filter_map(|ms| gaps.sent(1, Time::from_ms(ms))).collect()
    }

    #[test]
    fn a_hole_of_more_than_three_intervals_is_one_freeze() {
        let mut gaps = Gaps::default();
        assert_eq!(freezes(&mut gaps, (0..30).map(|n| n * 33)), []);
        // 29 * 33 = 957: 99 ms later is no freeze, and half a second is.
        assert_eq!(freezes(&mut gaps, [1_056]), []);
        let mut gaps = Gaps::default();
        freezes(&mut gaps, (0..30).map(|n| n * 33));
        assert_eq!(freezes(&mut gaps, [1_057]), [100_000]);
        assert_eq!(freezes(&mut gaps, (0..30).map(|n| 1_557 + n * 33)), [500_000]);
    }

    #[test]
    fn fewer_temporal_layers_are_no_freeze() {
        let mut gaps = Gaps::default();
        freezes(&mut gaps, (0..30).map(|n| n * 33));
        gaps.of_layers(Some(0));
        assert_eq!(freezes(&mut gaps, (0..30).map(|n| 1_000 + n * 133)), []);
        gaps.of_layers(Some(0));
        assert_eq!(freezes(&mut gaps, [6_000]), [1_143_000], "but a hole is");
    }

    /// An estimate at the edge of a layer changes what is sent each second or two.
    #[test]
    fn a_hole_after_a_change_back_is_a_freeze() {
        let mut gaps = Gaps::default();
        let mut at = 0_i64;
        let mut send = |layers, steps: &[i64]| {
            gaps.of_layers(layers);
            let mut of = |step: &i64| {
                at += step;
                gaps.sent(1, Time::from_ms(at))
            };
            steps.iter().filter_map(&mut of).collect::<Vec<i64>>()
        };
        for _ in 0..2 {
            assert_eq!(send(None, &[133]), [], "the way back is no freeze");
            assert_eq!(send(None, &[33; 20]), []);
            assert_eq!(send(Some(0), &[133; 10]), []);
        }
        assert_eq!(send(None, &[133, 33, 33, 33, 500]), [500_000], "known from before");
        assert_eq!(send(Some(0), &[133, 133, 300, 600]), [600_000]);
        assert_eq!(send(None, &[700]), [700_000], "where it changes, too");
    }

    #[test]
    fn a_slower_source_is_learned_and_a_joining_one_is_not_judged() {
        let mut gaps = Gaps::default();
        assert_eq!(freezes(&mut gaps, [0, 1_000, 1_010, 1_020, 5_000]), [], "no rhythm yet");
        let mut gaps = Gaps::default();
        freezes(&mut gaps, (0..30).map(|n| n * 33));
        let slow = freezes(&mut gaps, (0..50).map(|n| 1_200 + n * 200));
        assert!((2..=5).contains(&slow.len()), "from 30 to 5 a second: {slow:?}");
    }

    #[test]
    fn several_in_one_batch_and_a_catch_up_keep_the_rhythm() {
        let mut gaps = Gaps::default();
        for n in 0..20 {
            assert_eq!(gaps.sent(2, Time::from_ms(n * 66)), None);
        }
        assert_eq!(gaps.rhythms[0].interval_us, 33_000);
        gaps.caught_up(Time::from_ms(9_000));
        assert_eq!(gaps.sent(0, Time::from_ms(9_500)), None);
        assert_eq!(gaps.sent(1, Time::from_ms(9_033)), None);
        assert_eq!(gaps.rhythms[0].interval_us, 33_000);
    }
}
