//! What the benchmarks and their tests share: a shard with connected peers ([`world`]), the client it is connected with ([`peer`]),
//! and the bare system calls that figures are compared with ([`floor`]).

pub mod floor;
pub mod peer;
pub mod world;
