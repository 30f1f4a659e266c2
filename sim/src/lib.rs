//! A world to test the forwarding core in: the real shards and the real sessions, DTLS and SRTP and all, under a virtual clock, with model publishers
//! and viewers at the ends of paths that delay, lose and queue. One seed gives one run, to the microsecond, as long as no handshake loses a
//! datagram: the timers of DTLS draw chance of their own.
//!
//! [`world::World`] is the clock and the paths, [`oracle`] what must hold at every packet, [`scenario`] what is tried and what must come of it,
//! [`scoreboard`] the text that says how it went.
#![forbid(unsafe_code)]

mod jitter;
mod nack;
pub mod offer;
pub mod oracle;
mod peer;
mod publisher;
mod receiver;
pub mod scenario;
pub mod scoreboard;
mod source;
mod traffic;
pub mod video;
pub mod world;

pub use jitter::{Freeze, Seen};
pub use peer::{Model, Peer};
pub use publisher::Publisher;
pub use receiver::Receiver;
pub use source::Source;

use media::Time;

/// Microseconds of the Unix epoch at `Time::ZERO`.
pub const UNIX_US: i64 = 1_700_000_000_000_000;

/// A frame that was captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Which.
    pub id: video::FrameId,
    /// When.
    pub capture: Time,
    /// A key frame.
    pub key: bool,
}
