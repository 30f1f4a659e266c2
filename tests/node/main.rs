//! The node from outside, with nothing but sockets: signalling, the SRS-compatible API, operations, bad input.
mod attacks;
mod demo_cluster;
mod deploy;
mod directory;
mod figures;
mod hostile;
mod moving;
mod operations;
mod publishers;
mod relay;
mod relay_links;
mod relay_paths;
mod relay_strangers;
mod slow_viewer;
mod srs_api;
mod viewers;
mod whip;
