//! What the benchmarks and their tests share: a shard with connected peers ([`world`]), the client it is connected with ([`peer`]),
//! the bare system calls that figures are compared with ([`floor`]), real sends to sockets nobody reads ([`sending`]),
//! the stages of the path as workloads ([`stages`]) and what they took before ([`baseline`]),
//! and sockets that tell when data came ([`receive`]).

pub mod baseline;
pub mod floor;
pub mod peer;
pub mod receive;
pub mod sending;
pub mod stages;
pub mod world;
