//! The forwarding core: what a packet goes through between the socket it came in by and the sockets it leaves by.
//!
//! A [`Shard`] owns peers, tracks and subscribers outright. It is driven from outside: `handle_command`,
//! `handle_mail`, `handle_datagram`, `handle_timeout` and `handle_handshake` take things in, `fan_out` and an [`Egress`] give datagrams out,
//! `take_mail` and `take_events` give the rest. There is no IO, clock, lock, thread or await in this crate; `now` and seeds are arguments.
#![forbid(unsafe_code)]

mod allocate;
mod command;
mod estimate;
mod forward;
mod gaps;
mod gate;
mod handshakes;
mod key_frame;
mod layers;
mod membership;
mod meter;
mod numbering;
mod pacer;
mod peer;
mod ranges;
mod receive;
mod ring;
mod round_trip;
mod sending;
mod shard;
mod tap;
mod timers;
mod track;
mod wanted;
mod wheel;

pub use allocate::{Allocator, Choice, LAYERS_MAX, Layer, LayerReason, LayerRequest, Layers};
pub use command::{
    CloseReason, Command, Event, LayerShown, Mail, PeerConfig, PeerId, PeerRole, PeerStats, ShardId,
    SourceId, StreamId, TrackKey,
};
pub use estimate::{EstimateCell, EstimateFigures, EstimateState};
pub use ring::{Ring, RingLimits};
pub use shard::{Egress, Shard, ShardConfig};
pub use wanted::Wanted;
