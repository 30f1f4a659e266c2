//! The relay's wire format between nodes, without IO: what rides in QUIC datagrams (RFC 9221) of ALPN `millrace/1`.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod datagram;
mod varint;
