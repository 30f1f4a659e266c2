//! The rate of what passes, over about a second.

use media::Time;

/// The window, in slots of [`SLOT_US`].
const SLOTS: usize = 10;
const SLOT_US: i64 = 100_000;

/// Bytes of the last second.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Meter {
    slots: [u32; SLOTS],
    /// The slot being filled, counted from `Time::ZERO`.
    at: i64,
    /// The first slot that was filled.
    since: Option<i64>,
}

impl Meter {
    pub(crate) fn add(&mut self, bytes: usize, now: Time) {
        self.turn(now);
        let slot = &mut self.slots[self.at.rem_euclid(SLOTS as i64) as usize];
        *slot = slot.saturating_add(bytes as u32);
    }

    /// Bits a second, of the whole slots so far; 0 before the first is.
    pub(crate) fn bps(&mut self, now: Time) -> u64 {
        self.turn(now);
        let Some(since) = self.since else { return 0 };
        let whole = (self.at - since).clamp(0, SLOTS as i64 - 1);
        let bytes: u64 = (1..=whole)
            .map(|back| u64::from(self.slots[(self.at - back).rem_euclid(SLOTS as i64) as usize]))
            .sum();
        if whole == 0 { 0 } else { bytes * 8 * 1_000_000 / (whole * SLOT_US) as u64 }
    }

    fn turn(&mut self, now: Time) {
        let at = now.us() / SLOT_US;
        if self.since.is_none() || at - self.at >= SLOTS as i64 {
            self.slots = [0; SLOTS];
            (self.at, self.since) = (at, Some(at));
        }
        while self.at < at {
            self.at += 1;
            self.slots[self.at.rem_euclid(SLOTS as i64) as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_rate_of_the_last_second() {
        let mut meter = Meter::default();
        assert_eq!(meter.bps(Time::ZERO), 0);
        for ms in 0..3_000 {
            meter.add(if ms < 1_000 { 500 } else { 125 }, Time::from_ms(ms));
        }
        assert_eq!(meter.bps(Time::from_ms(3_000)), 1_000_000);
        assert!(meter.bps(Time::from_ms(3_500)) < 500_000, "it stopped half a second ago");
        meter.add(1, Time::from_ms(60_000));
        assert_eq!(meter.bps(Time::from_ms(60_000)), 0, "a pause is forgotten");
        // A source that just began is not taken for a slow one.
        let mut meter = Meter::default();
        for ms in 5_000..5_300 {
            meter.add(125, Time::from_ms(ms));
        }
        assert_eq!(meter.bps(Time::from_ms(5_300)), 1_000_000);
    }
}
