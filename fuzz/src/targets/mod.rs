//! The targets, by crate.

pub mod convert;
pub mod media;
pub mod relay;
pub mod rtc;
pub mod rtmp;
pub mod session;
pub mod shard;
