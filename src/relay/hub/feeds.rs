//! Feeds: a stream of frames that is published here is cut into packets once, for all peers that take it. The numbers are the stream's, so that whichever
//! way it comes to a node they are the same.

use std::collections::HashMap;

use ::relay::flow::{Flow, Out};
use bytes::Bytes;
use media::{Kind, Time, TrackConfig};
use sfu::{StreamId, TrackKey};
use tokio::task::AbortHandle;

use super::Hub;
use super::cache::Cache;
use super::give::Begins;
use crate::relay::feed::{self, Fed};
use crate::task;

/// A feed goes on for so long after its last peer: whoever changes its way comes back meanwhile, and finds the numbers going on.
const LINGER_US: i64 = 10_000_000;

/// A stream of frames in packets.
#[derive(Debug)]
pub(super) struct Feed {
    /// What an ended feed of the same stream left in the queue has another.
    number: u64,
    task: AbortHandle,
    /// The next numbers of sound and picture.
    next: [u64; 2],
    caches: [Cache; 2],
    idle: Option<Time>,
}

/// By stream.
pub(super) type Feeds = HashMap<StreamId, Feed>;

impl Feed {
    fn end(self) {
        self.task.abort();
    }

    pub(super) fn cache(&self, kind: Kind) -> &Cache {
        &self.caches[kind as usize]
    }
}

impl Hub {
    /// A peer takes it.
    pub(super) fn start_feed(&mut self, stream: StreamId) {
        if let Some(feed) = self.feeds.get_mut(&stream) {
            feed.idle = None;
            return;
        }
        let Some(of) = self.node.streams.by_id(stream) else { return };
        let number = self.node.streams.shared().draw_id();
        let work = feed::run(of, (stream, number), self.to_me.clone(), self.handle.clone());
        let task = task::spawn(self.node.metrics.clone(), work).abort_handle();
        // Numbers that no feed of this stream had before: none makes a million packets a second.
        let first = self.now().us().unsigned_abs().max(1);
        let caches = [Cache::default(), Cache::default()];
        self.feeds.insert(stream, Feed { number, task, next: [first; 2], caches, idle: None });
    }

    /// The stream is not published here any more.
    pub(super) fn end_feed(&mut self, stream: StreamId) {
        if let Some(feed) = self.feeds.remove(&stream) {
            feed.end();
        }
    }

    /// Those that nobody took for a while end.
    pub(super) fn end_idle_feeds(&mut self, now: Time) {
        let given = &self.given;
        let over = |stream: &StreamId, feed: &mut Feed| {
            let taken = given.iter().any(|(key, of)| key.stream == *stream && of.upstream.is_feed());
            feed.idle = if taken { None } else { feed.idle.or(Some(now)) };
            feed.idle.is_some_and(|idle| now.since(idle) >= LINGER_US)
        };
        for (_, feed) in self.feeds.extract_if(|stream, feed| over(stream, feed)) {
            feed.end();
        }
    }

    /// Frames of this node's.
    pub(super) fn feed(&mut self, (stream, number): (StreamId, u64), fed: Fed) {
        let now = self.now();
        let Some(feed) = self.feeds.get_mut(&stream).filter(|feed| feed.number == number) else { return };
        let mut flows = [Vec::new(), Vec::new()];
        let has_metadata = fed.has_metadata;
        for cut in fed.cuts {
            let kind = cut.config.codec().kind();
            let config = match &*cut.config {
                // A picture's is in its key frames.
                TrackConfig::H264(_) => Bytes::new(),
                TrackConfig::Aac(audio) => audio.asc.clone(),
            };
            for mut packet in cut.packets {
                packet.seq = feed.next[kind as usize];
                feed.next[kind as usize] += 1;
                let out = Out { packet, dts_offset: cut.dts_offset, config: config.clone(), ingest: now };
                let flow = Flow::Packet(out);
                feed.caches[kind as usize].insert(&flow, kind);
                flows[kind as usize].push(flow);
            }
        }
        let begins = if fed.past { Begins::Past } else { Begins::Live };
        if has_metadata {
            self.tell_metadata(stream);
        }
        for kind in [Kind::Audio, Kind::Video] {
            let flows = std::mem::take(&mut flows[kind as usize]);
            self.give(TrackKey::new(stream, kind), begins, &flows);
        }
    }
}
