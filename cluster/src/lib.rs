//! The cluster's decisions: which node has which stream, and by which way it comes here. No IO, no clock, no lock.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic)
)]

pub mod directory;
pub mod paths;
