//! What a link costs: the time that a frame takes over it, as far as the link makes a difference.

/// Packets that a frame has: 4 Mbit/s at 30 frames a second in packets of 1100 bytes. Each that is lost takes a round trip.
const FRAME_PACKETS: u64 = 16;
/// A hop costs so much by itself: between nodes of one room, fewer links are better whatever the microseconds say.
const HOP_US: u64 = 1_000;
/// Of a link that was not measured yet.
const UNKNOWN: Figures = Figures { rtt_us: 100_000, loss_ppm: 0, queue_us: 0 };
/// A second counts as an eighth: a loss of one packet in a quiet second is no loss of a tenth.
const WEIGHT: u64 = 8;
/// Seconds that differ by less than one part in so many are alike.
const ALIKE: u64 = 20;

/// What was measured of a link in the last second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Smoothed round trip, microseconds.
    pub rtt_us: u64,
    /// Packets that were lost at first, a million.
    pub loss_ppm: u64,
    /// How long a packet waits to be sent and on the way, microseconds.
    pub queue_us: u64,
}

impl Figures {
    fn cost_us(self) -> u64 {
        let lost = u128::from(self.rtt_us)
            .saturating_mul(self.loss_ppm.min(1_000_000).into())
            .saturating_mul(FRAME_PACKETS.into());
        let lost = u64::try_from(lost / 1_000_000).unwrap_or(u64::MAX);
        (self.rtt_us / 2).saturating_add(lost).saturating_add(self.queue_us).saturating_add(HOP_US)
    }
}

/// A link's cost over the last seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Smoothed; `None` until measured.
    smooth_us: Option<u64>,
    /// What decisions are made by.
    pub(super) us: u64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost { smooth_us: None, us: UNKNOWN.cost_us() }
    }
}

impl Cost {
    /// Another second; whether it makes a difference.
    pub(super) fn measured(&mut self, figures: Figures) -> bool {
        let us = figures.cost_us();
        let smooth = self
            .smooth_us
            .map_or(us, |smooth| smooth.saturating_sub(smooth / WEIGHT).saturating_add(us / WEIGHT));
        self.smooth_us = Some(smooth);
        let differs = smooth.abs_diff(self.us) > self.us / ALIKE;
        if differs {
            self.us = smooth;
        }
        differs
    }
}

/// Whether a cost is better than another by a fifth.
pub(super) fn is_better(us: u64, than: u64) -> bool {
    us < than.saturating_sub(than / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_costs_a_round_trip_a_packet() {
        let figures = Figures { rtt_us: 100_000, loss_ppm: 10_000, queue_us: 5_000 };
        assert_eq!(figures.cost_us(), 50_000 + 16_000 + 5_000 + 1_000);
        let wild = Figures { rtt_us: u64::MAX, loss_ppm: u64::MAX, queue_us: u64::MAX };
        assert_eq!(wild.cost_us(), u64::MAX);
    }

    #[test]
    fn one_bad_second_is_no_bad_link() {
        let good = Figures { rtt_us: 40_000, loss_ppm: 0, queue_us: 0 };
        let mut cost = Cost::default();
        assert!(cost.measured(good));
        assert_eq!(cost.us, 21_000);
        assert!(!cost.measured(Figures { rtt_us: 41_000, ..good }));
        assert!(cost.measured(Figures { loss_ppm: 100_000, ..good }));
        assert!(cost.us < 30_000, "{}", cost.us);
    }
}
