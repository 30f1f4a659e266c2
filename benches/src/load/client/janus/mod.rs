//! Janus' streaming plugin by its HTTP API: mount points that take plain RTP, and viewers of them by WebRTC. A stream's mount point is the
//! one whose id is its number in the scenario, from 1.

mod api;
mod publisher;
mod viewer;

pub use publisher::Publisher;
pub use viewer::Viewer;

const API: usize = 0;
const UDP: usize = 1;
const POLL: usize = 2;

/// The mount point of a stream.
fn mount_point(stream: u32) -> u64 {
    u64::from(stream) + 1
}
