//! One hop: both ends of a link between two nodes.

mod answers;
mod firsts;
mod incoming;
mod lane;
mod outbound;
mod outgoing;
mod spare;
mod window;

pub use incoming::{Arrived, Incoming, IncomingStats};
pub use outbound::{Class, Outbound};
pub use outgoing::{Outgoing, OutgoingStats, Pushed};
pub use spare::{Seen, Spare};
pub use window::{Demand, LiveWindow};

/// Of [`crate::datagram::Media::sent`].
const SENT_UNIT_US: i64 = 250;

/// What waits for less is timers and acknowledgements that take their time.
const WAITS_US_MIN: i64 = 10_000;

/// The link's round trip, as QUIC measures it (RFC 9002 section 5), in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RoundTrip {
    /// The least of the last seconds.
    pub min_us: i64,
    /// The smoothed one; 0 while unknown.
    pub smoothed_us: i64,
    /// Its mean deviation.
    pub deviation_us: i64,
}

impl RoundTrip {
    /// One more packet took `trip_us` there and back; `least_us` is the least lately, and QUIC's smoothed one is `smoothed_us`. That begins with the
    /// handshake, a lost packet of which makes it a second and more, and comes down by an eighth with each answer: at an end that sends little, for
    /// seconds. What the newest took bounds it, and not the least, which says nothing of what waits on the path now.
    pub fn measured(&mut self, trip_us: i64, least_us: i64, smoothed_us: i64) {
        let smoothed_us = smoothed_us.min(trip_us.saturating_mul(3) / 2);
        let off_us = trip_us.saturating_sub(smoothed_us).saturating_abs();
        let deviation_us = self.deviation_us.saturating_add(off_us.saturating_sub(self.deviation_us) / 4);
        *self = RoundTrip { min_us: least_us, smoothed_us, deviation_us };
    }

    /// Whether packets wait on the path: it takes half as long again as it did lately, and more than timers make of it.
    pub fn waits(&self) -> bool {
        self.smoothed_us.saturating_sub(self.min_us) >= WAITS_US_MIN.max(self.min_us / 2)
    }

    /// The shortest that is usual.
    pub fn shortest_us(&self) -> i64 {
        self.smoothed_us.saturating_sub(self.deviation_us.saturating_mul(4)).max(self.smoothed_us / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_on_the_path_is_part_of_the_round_trip() {
        let mut trip = RoundTrip::default();
        trip.measured(1_100_000, 20_000, 1_100_000);
        trip.measured(20_000, 20_000, 965_000);
        assert!(trip.smoothed_us == 30_000, "the handshake's is forgotten: {trip:?}");
        trip.measured(20_000, 20_000, 20_000);
        assert!(!trip.waits());
        trip.measured(200_000, 20_000, 180_000);
        assert_eq!((trip.smoothed_us, trip.waits()), (180_000, true));
    }
}
