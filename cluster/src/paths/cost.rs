//! What a link costs: the time that a frame takes over it, as far as the link makes a difference.

/// Packets that a frame has: 4 Mbit/s at 30 frames a second in packets of 1100 bytes. Each that is lost takes a round trip.
const FRAME_PACKETS: u64 = 16;
/// A hop costs so much by itself: between nodes of one room, fewer links are better whatever the microseconds say.
const HOP_US: u64 = 1_000;
/// Of a link that was not measured yet.
const UNKNOWN_US: u64 = 50_000 + HOP_US;
/// A second counts as an eighth: a loss of one packet in a quiet second is no loss of a tenth.
const WEIGHT: u64 = 8;
/// A second with fewer packets says nothing of loss and order: sound alone has 50.
const PACKETS_MIN: u64 = 40;
/// What a link lost stays known while nothing comes by it, half of it for three minutes: else the link that is idle is always the better one of two that
/// lose alike.
const FORGET: u64 = 256;
/// Costs that differ by less than one part in so many are alike.
const ALIKE: u64 = 20;

/// What was measured of a link in the last second.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Smoothed round trip, microseconds.
    pub rtt_us: u64,
    /// How long a packet waits to be sent and on the way, microseconds.
    pub queue_us: u64,
    /// Packets of media that the peer sent...
    pub packets: u64,
    /// ...those of them that were lost at first...
    pub lost: u64,
    /// ...and those that came after a later one.
    pub reordered: u64,
    /// How late those are, microseconds.
    pub late_us: u64,
}

impl Figures {
    fn path_us(self) -> u64 {
        (self.rtt_us / 2).saturating_add(self.queue_us).saturating_add(HOP_US)
    }

    /// What frames wait for: each lost packet for a round trip, those out of order together for the latest.
    fn waits_us(self) -> u64 {
        let part = |of: u64, most: u64, us: u64| {
            let all = u128::from(self.packets);
            let per_frame = u128::from(of.min(self.packets)).saturating_mul(FRAME_PACKETS.into());
            let waits = per_frame.min(all.saturating_mul(most.into())).saturating_mul(us.into());
            u64::try_from(waits.checked_div(all).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        part(self.lost, FRAME_PACKETS, self.rtt_us).saturating_add(part(self.reordered, 1, self.late_us))
    }
}

/// A link's cost over the last seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Smoothed; `None` until measured.
    path_us: Option<u64>,
    /// Smoothed, of seconds in which something came.
    waits_us: u64,
    /// What decisions are made by.
    pub(super) us: u64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost { path_us: None, waits_us: 0, us: UNKNOWN_US }
    }
}

impl Cost {
    /// Another second; whether it makes a difference.
    pub(super) fn measured(&mut self, figures: Figures) -> bool {
        let smooth =
            |before: u64, us: u64| before.saturating_sub(before / WEIGHT).saturating_add(us / WEIGHT);
        let path_us = self.path_us.map_or(figures.path_us(), |before| smooth(before, figures.path_us()));
        self.path_us = Some(path_us);
        self.waits_us = if figures.packets >= PACKETS_MIN {
            smooth(self.waits_us, figures.waits_us())
        } else {
            self.waits_us.saturating_sub(self.waits_us.div_ceil(FORGET))
        };
        let us = path_us.saturating_add(self.waits_us);
        let differs = us.abs_diff(self.us) > self.us / ALIKE;
        if differs {
            self.us = us;
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

    const GOOD: Figures =
        Figures { rtt_us: 40_000, queue_us: 0, packets: 1_000, lost: 0, reordered: 0, late_us: 0 };

    fn after(seconds: usize, figures: Figures) -> Cost {
        let mut cost = Cost::default();
        for _ in 0..seconds {
            cost.measured(figures);
        }
        cost
    }

    #[test]
    fn loss_costs_a_round_trip_a_packet() {
        let figures = Figures { rtt_us: 100_000, lost: 10, queue_us: 5_000, ..GOOD };
        assert_eq!((figures.path_us(), figures.waits_us()), (50_000 + 5_000 + 1_000, 16_000));
        let max = u64::MAX;
        let wild =
            Figures { rtt_us: max, queue_us: max, packets: max, lost: max, reordered: max, late_us: max };
        assert_eq!((wild.path_us(), wild.waits_us()), (max, max));
        let lies = Figures { packets: 10, lost: 20, ..GOOD };
        assert_eq!(lies.waits_us(), 16 * 40_000, "no more than all");
    }

    #[test]
    fn what_is_out_of_order_costs_how_late_it_is_once_a_frame() {
        let figures = Figures { reordered: 10, late_us: 20_000, ..GOOD };
        assert_eq!(figures.waits_us(), 3_200, "of 16 packets one in 100");
        assert_eq!(Figures { reordered: 400, ..figures }.waits_us(), 20_000, "every frame has some");
        assert_eq!(Figures { reordered: 400, late_us: 0, ..figures }.waits_us(), 0);
        assert_eq!(Figures { lost: 10, ..figures }.waits_us(), 3_200 + 6_400, "beside what is lost");
        assert!(is_better(after(60, GOOD).us, after(60, Figures { reordered: 400, ..figures }).us));
    }

    #[test]
    fn one_bad_second_is_no_bad_link() {
        let mut cost = Cost::default();
        assert!(cost.measured(GOOD));
        assert_eq!(cost.us, 21_000);
        assert!(!cost.measured(Figures { rtt_us: 41_000, ..GOOD }));
        assert!(cost.measured(Figures { lost: 100, ..GOOD }));
        assert!(cost.us < 30_000, "{}", cost.us);
    }

    #[test]
    fn a_link_that_lost_is_no_good_one_because_nothing_comes_by_it() {
        let bad = Figures { lost: 50, ..GOOD };
        let mut cost = after(60, bad);
        let was = cost.us;
        assert!(was > 50_000, "{was}");
        for _ in 0..60 {
            cost.measured(Figures { packets: 39, ..GOOD });
        }
        assert!(!is_better(cost.us, was), "{} after a minute", cost.us);
        for _ in 0..900 {
            cost.measured(Figures { packets: 0, ..GOOD });
        }
        assert!(is_better(cost.us, was), "{} after a quarter of an hour", cost.us);
        for _ in 0..60 {
            cost.measured(GOOD);
        }
        assert!(cost.us < 23_000, "{} where it does not lose any more", cost.us);
    }
}
