//! Words every crate shares: ids, time, codecs, frames, packets, and the byte formats that more than one
//! protocol speaks (AMF0, FLV, H.264, AAC, RTP payloads). No IO, no clock, no lock.
//!
//! Modules that read outside bytes return `Result`, check a length before they use it and bound what they
//! allocate; the lints below keep it so.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod aac;
pub mod amf0;
pub mod codec;
pub mod flv;
pub mod frame;
pub mod h264;
pub mod id;
pub mod need;
pub mod packet;
pub mod payload;
pub mod time;

pub use codec::{AudioConfig, Codec, Kind, TrackConfig, VideoConfig};
pub use frame::Frame;
pub use id::{NodeId, StreamName, StreamNameError};
pub use need::Need;
pub use packet::Packet;
pub use payload::Temporal;
pub use time::Time;
