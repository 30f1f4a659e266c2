//! What players are told before frames.

use std::sync::Arc;

use bytes::Bytes;
use media::TrackConfig;
use media::flv::{self, Metadata};

use super::{Entry, rtmp_message};

/// What a player must be told before its first frame and whenever a configuration, or what the publisher says of the stream, changes.
#[derive(Debug)]
pub struct Headers {
    sent: [Option<Arc<TrackConfig>>; 2],
    published: Bytes,
}

/// What comes before a frame.
#[derive(Debug, Default)]
pub struct Before {
    /// The metadata is told again: the track was another before (a new publisher, another size), or the publisher says something else.
    pub metadata: bool,
    /// The sequence header of a new configuration, as a message body.
    pub sequence_header: Option<Bytes>,
}

impl Headers {
    /// For a player that was told this.
    pub fn new(told: &Metadata) -> Headers {
        Headers { sent: [None, None], published: told.published.clone() }
    }

    /// What to send before `entry`; mostly nothing.
    pub fn before(&mut self, entry: &Entry) -> Before {
        let mut before = Before::default();
        let sent = &mut self.sent[entry.frame.kind() as usize];
        if sent.as_ref().is_none_or(|config| !Arc::ptr_eq(config, &entry.frame.config)) {
            let old = sent.replace(entry.frame.config.clone());
            before.metadata = old.is_some_and(|old| old != entry.frame.config);
            before.sequence_header = Some(flv::sequence_header(&entry.frame.config));
        }
        // What is unknown yet, or any more, is nothing to tell.
        if !entry.published.is_empty() && !entry.is_published_with(&self.published) {
            self.published = entry.published.clone();
            before.metadata = true;
        }
        before
    }
}

/// A sequence header as RTMP chunks at the time of the frame it comes before.
pub fn rtmp_header(entry: &Entry, body: &Bytes) -> Vec<Bytes> {
    rtmp_message(entry.frame.kind(), entry.frame.dts, &[], body)
}
