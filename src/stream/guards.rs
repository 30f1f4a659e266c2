//! Who publishes and who watches, for as long as they do.

use std::sync::Arc;

use sfu::SourceId;

use super::{Stream, Watch};
use crate::directory::Held;

/// Holds a name for a publisher.
#[derive(Debug)]
pub struct PublishGuard {
    pub(super) stream: Option<Arc<Stream>>,
    /// The publisher's fence.
    pub source: SourceId,
    pub(super) _claim: Option<Held>,
}

impl Drop for PublishGuard {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.unpublish(self.source);
        }
    }
}

/// Counts a viewer.
#[derive(Debug)]
pub struct WatchGuard {
    pub(super) stream: Option<Arc<Stream>>,
    pub(super) watch: Watch,
    pub(super) records: bool,
}

/// Whether a viewer records, by the parameters of its URL: it wants all of the stream, late rather than with holes.
pub fn records(query: &str) -> bool {
    query.split('&').any(|pair| pair == "reliable=1")
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.unwatch(self.watch, self.records);
        }
    }
}
