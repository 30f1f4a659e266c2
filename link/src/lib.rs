//! A path between two programs, bad on purpose: delay, jitter, reordering, random and bursty loss, duplicates, rate, queue, outage.
//!
//! [`Link`] is the model of one direction: no IO, no clock, the same seed gives the same path. A simulation uses it with virtual time.
mod model;

pub use model::{Carried, Config, Figures, Link, Loss, Lost, Random};
