//! One hop: both ends of a link between two nodes.

mod incoming;
mod outgoing;
mod window;

pub use incoming::{Arrived, Incoming, IncomingStats};
pub use outgoing::{Class, Outbound, Outgoing, OutgoingStats, Pushed};
pub use window::{Demand, LiveWindow};

/// Of [`crate::datagram::Media::sent`].
const SENT_UNIT_US: i64 = 250;

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
    /// The longest that is usual: who has no answer after so long gets none.
    pub fn longest_us(&self) -> i64 {
        self.smoothed_us.saturating_add(self.deviation_us.saturating_mul(4).max(5_000))
    }

    /// The shortest that is usual.
    pub fn shortest_us(&self) -> i64 {
        self.smoothed_us.saturating_sub(self.deviation_us.saturating_mul(4)).max(self.smoothed_us / 2)
    }
}
