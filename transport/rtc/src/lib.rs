//! WebRTC on the wire, without IO: ICE-lite, DTLS, SRTP, RTP, RTCP and SDP.
//!
//! A [`Session`] is the secure transport of one peer: datagrams in with `now` as an argument, datagrams out
//! through a closure, decrypted RTP as a borrow of the caller's receive buffer. No socket, no clock, no lock.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod client;
pub mod dtls;
pub mod ice;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
mod secure;
pub mod session;
pub mod srtp;
pub mod stun;

pub use session::{CloseReason, Input, Session, SessionConfig};
