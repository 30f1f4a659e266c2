//! UDP for the media plane: batches of datagrams in and out of a non-blocking socket.
//!
//! - [`Socket`] with [`RecvBatch`]: one `recvmmsg` fills many slots; `UDP_GRO` on demand.
//! - [`SendBatch`]: the caller writes (encrypts) each datagram straight into one arena; one `sendmmsg` sends
//!   it, with runs of equal size to one destination as single `UDP_SEGMENT` (GSO) messages.
//!
//! Nothing here allocates once the batches exist. Linux only. All `unsafe` is in the module `sys`.
#![deny(unsafe_code)]

mod flush;
mod recv;
mod send;
mod socket;
mod sys;

pub use flush::Sent;
pub use recv::{Datagrams, GRO_SLOT_LEN, RecvBatch};
pub use send::{DATAGRAM_LEN_MAX, GSO_SEGMENTS_MAX, SendBatch};
pub use socket::Socket;

/// Microseconds of the monotonic clock (`CLOCK_MONOTONIC`). Never goes back.
pub fn now_us() -> u64 {
    sys::monotonic_us()
}
