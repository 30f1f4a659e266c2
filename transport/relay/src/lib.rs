//! The relay between nodes, without IO: what rides in QUIC datagrams (RFC 9221), on the control stream of ALPN `millrace/1` and on streams of media,
//! and how one hop of it is repaired.
//!
//! A hop has two ends. [`hop::Outgoing`] numbers datagrams as they leave, in the order of their urgency, keeps them, and sends again what is asked for;
//! [`hop::Incoming`] gives on what arrives at once, in the order of arrival, and asks for what is missing. Time and round trips are arguments.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod control;
pub mod datagram;
pub mod flow;
pub mod hop;
pub mod stream;
mod varint;
