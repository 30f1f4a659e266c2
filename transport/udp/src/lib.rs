//! UDP for the media plane: batches of datagrams in and out of a non-blocking socket, and a timer finer than
//! the milliseconds of an event loop.
//!
//! - [`Socket`] with [`RecvBatch`]: one `recvmmsg` fills many slots; `UDP_GRO` on demand.
//! - [`SendBatch`]: the caller writes (encrypts) each datagram straight into one arena; one `sendmmsg` sends
//!   it, with runs of equal size to one destination as single `UDP_SEGMENT` (GSO) messages.
//! - [`Timer`]: a timerfd armed at an absolute microsecond.
//!
//! Nothing here allocates once the batches exist. Linux only. All `unsafe` is in the module `sys`.
#![deny(unsafe_code)]

mod flush;
mod recv;
mod send;
mod socket;
mod sys;
mod timer;

pub use flush::Sent;
pub use recv::{Datagrams, GRO_SLOT_LEN, RecvBatch};
pub use send::{DATAGRAM_LEN_MAX, GSO_SEGMENTS_MAX, SendBatch};
pub use socket::Socket;
pub use timer::{Timer, now_us};
