//! What the benchmarks and their tests share: a shard with connected peers ([`world`]), the client it is connected with ([`peer`]),
//! the bare system calls that figures are compared with ([`floor`]), real sends to sockets nobody reads ([`sending`]),
//! and sockets that tell when data came ([`stamped`]).

pub mod floor;
pub mod peer;
pub mod sending;
pub mod stamped;
pub mod world;
