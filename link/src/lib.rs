//! A path between two programs, bad on purpose: delay, jitter, reordering, random and bursty loss, duplicates, rate, queue, outage.
//!
//! [`Link`] is the model of one direction: no IO, no clock, the same seed gives the same path. A simulation uses it with virtual time.
//! [`emulator`] puts two of them between real programs, each in a network namespace of its own.
#[cfg(feature = "emulator")]
pub mod emulator;
mod model;

pub use model::{Carried, Config, Figures, Link, Loss, Lost, Random};
