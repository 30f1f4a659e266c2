//! What the benchmarks and their tests share: a shard with connected peers ([`world`]), the client it is connected with ([`peer`]),
//! the bare system calls that figures are compared with ([`floor`]),
//! and sockets that tell when data came ([`receive`]).

pub mod floor;
pub mod peer;
pub mod receive;
pub mod world;
