//! Counters that shards own, the reasons packets are dropped for, and the Prometheus registry that reads them
//! at scrape time.
//!
//! - [`ShardMetrics`]: one a shard. Its thread alone writes, so that a count is a load and a store; the scrape
//!   reads beside it.
//! - [`NodeMetrics`]: the control plane's, written by many threads.
//! - [`Registry`]: both, and the process's own figures, as text for Prometheus. Every label has a fixed set of
//!   values (an enum here), is the shard's number or a peer of the settings: the number of series is bounded by construction.
//!
//! `docs/METRICS.md` lists every metric; a test keeps it complete.
#![forbid(unsafe_code)]

#[macro_use]
mod label;

mod counter;
mod drop_reason;
mod family;
mod histogram;
mod node;
mod process;
mod registry;
mod shard;

pub use counter::{Counter, Gauge, SharedCounter, SharedGauge};
pub use drop_reason::DropReason;
pub use histogram::{Histogram, LATENCY_BOUNDS_US};
pub use label::{By, Label};
pub use node::{
    Conversion, DirectoryEvent, LinkMetrics, NodeMetrics, Protocol, Queue, Refusal, RelayDrop, RelayEvent,
    RelaySwitch, Route, RtmpRole, StatusClass,
};
pub use registry::Registry;
pub use shard::{PacketKind, Phase, ShardMetrics};
