//! Counters that shards own, the reasons packets are dropped for, and the Prometheus registry that reads them
//! at scrape time.
#![forbid(unsafe_code)]

mod drop_reason;

pub use drop_reason::DropReason;
