//! Feeds: frames of a stream that is published here are cut into packets once, for all peers that take them: all of a publisher of frames, and derived sound. The
//! numbers are the stream's, so that whichever way it comes to a node they are the same.

use std::collections::HashMap;
use std::sync::Arc;

use ::relay::control::Form;
use ::relay::flow::{Flow, Out};
use bytes::Bytes;
use media::{Codec, Kind, Time, TrackConfig};
use sfu::{StreamId, TrackKey};
use tokio::task::AbortHandle;

use super::Hub;
use super::cache::Cache;
use super::give::Begins;
use crate::relay::feed::{self, Fed};
use crate::stream::Stream;
use crate::stream::log::Takes;
use crate::task;

/// A feed goes on for so long after its last peer: whoever changes its way comes back meanwhile, and finds the numbers going on.
const LINGER_US: i64 = 10_000_000;
/// Sound is derived for so long after the last peer that took it: a link is found dead, and another way taken, in less.
const DERIVES_US: i64 = 3_000_000;

/// A stream of frames in packets.
#[derive(Debug)]
pub(super) struct Feed {
    /// What an ended feed of the same stream left in the queue has another.
    number: u64,
    task: AbortHandle,
    /// What the publisher sends: the other form of its sound is derived.
    form: Form,
    /// It comes from an uplink: nothing but its derived sound is cut here.
    comes: bool,
    /// The next numbers of sound, picture and derived sound.
    next: [u64; 3],
    caches: [Cache; 3],
    idle: Option<Time>,
    /// Sound is derived for peers; nobody takes it since.
    derives: Option<Option<Time>>,
}

/// By stream.
pub(super) type Feeds = HashMap<StreamId, Feed>;

impl Feed {
    fn end(self) {
        self.task.abort();
    }

    pub(super) fn cache(&self, key: TrackKey) -> Option<&Cache> {
        self.caches.get(place(key)).filter(|_| key.derived || !self.comes)
    }

    fn key(&self, stream: StreamId, codec: Codec) -> TrackKey {
        let derived = codec == if self.form == Form::Frames { Codec::Opus } else { Codec::Aac };
        TrackKey { derived, ..TrackKey::new(stream, codec.kind()) }
    }
}

fn place(key: TrackKey) -> usize {
    if key.derived { 2 } else { key.kind as usize }
}

impl Hub {
    /// A peer takes that of a stream of that form, which is published here or comes.
    pub(super) fn start_feed(&mut self, key: TrackKey, form: Form, comes: bool) {
        let stream = key.stream;
        let Some(of) = self.node.streams.by_id(stream) else { return };
        if !self.feeds.contains_key(&stream) {
            self.make_feed(of.clone(), form, comes);
        }
        let Some(feed) = self.feeds.get_mut(&stream) else { return };
        feed.idle = None;
        if key.derived {
            feed.derives = Some(None);
            of.derive(true);
        }
    }

    fn make_feed(&mut self, of: Arc<Stream>, form: Form, comes: bool) {
        let stream = of.id;
        let number = self.node.streams.shared().draw_id();
        // Of packets there is nothing to be cut but sound that is made of them.
        let takes = match form {
            Form::Frames if comes => Takes::Sound(Codec::Opus),
            Form::Frames => Takes::All,
            Form::Packets => Takes::Sound(Codec::Aac),
        };
        let work = feed::run(of, takes, (stream, number), self.to_me.clone(), self.handle.clone());
        let task = task::spawn(self.node.metrics.clone(), work).abort_handle();
        // Numbers that no feed of this stream had before: none makes a million packets a second.
        let first = self.now().us().unsigned_abs().max(1);
        let (next, caches) = ([first; 3], Default::default());
        let feed = Feed { number, task, form, comes, next, caches, idle: None, derives: None };
        self.feeds.insert(stream, feed);
    }

    /// The stream is not published here any more.
    pub(super) fn end_feed(&mut self, stream: StreamId) {
        if let Some(feed) = self.feeds.remove(&stream) {
            feed.end();
            self.derive_no_more(stream);
        }
    }

    fn derive_no_more(&self, stream: StreamId) {
        if let Some(of) = self.node.streams.by_id(stream) {
            of.derive(false);
        }
    }

    /// Those that nobody took for a while end.
    pub(super) fn end_idle_feeds(&mut self, now: Time) {
        let given = &self.given;
        let mut silent = Vec::new();
        let mut over = |stream: &StreamId, feed: &mut Feed| {
            let taken = |derived: bool| {
                let is = |key: &TrackKey| key.stream == *stream && (key.derived || !derived);
                given.iter().any(|(key, of)| is(key) && of.upstream.is_feed())
            };
            let idles = |idle: Option<Time>, taken: bool| if taken { None } else { idle.or(Some(now)) };
            let is_over = |idle: Option<Time>, us| idle.is_some_and(|idle| now.since(idle) >= us);
            feed.derives = feed.derives.map(|idle| idles(idle, taken(true)));
            if feed.derives.take_if(|idle| is_over(*idle, DERIVES_US)).is_some() {
                silent.push(*stream);
            }
            feed.idle = idles(feed.idle, taken(false));
            is_over(feed.idle, LINGER_US)
        };
        for (_, feed) in self.feeds.extract_if(|stream, feed| over(stream, feed)) {
            feed.end();
        }
        for stream in silent {
            self.derive_no_more(stream);
        }
    }

    /// Frames of this node's.
    pub(super) fn feed(&mut self, (stream, number): (StreamId, u64), fed: Fed) {
        let now = self.now();
        let Some(feed) = self.feeds.get_mut(&stream).filter(|feed| feed.number == number) else { return };
        let mut flows: HashMap<TrackKey, Vec<Flow>> = HashMap::new();
        let has_metadata = fed.has_metadata && !feed.comes;
        for cut in fed.cuts {
            let key = feed.key(stream, cut.config.codec());
            let config = match &*cut.config {
                // A picture's is in its key frames.
                TrackConfig::H264(_) => Bytes::new(),
                TrackConfig::Aac(audio) => audio.asc.clone(),
                TrackConfig::Opus => Bytes::new(),
            };
            for mut packet in cut.packets {
                packet.seq = feed.next[place(key)];
                feed.next[place(key)] += 1;
                let out = Out { packet, dts_offset: cut.dts_offset, config: config.clone(), ingest: now };
                let flow = Flow::Packet(out);
                feed.caches[place(key)].insert(&flow, key.kind, now);
                flows.entry(key).or_default().push(flow);
            }
        }
        let begins = if fed.past { Begins::Past } else { Begins::Live };
        if has_metadata {
            self.tell_metadata(stream);
        }
        let mut flows: Vec<_> = flows.into_iter().filter(|(key, _)| !(fed.past && key.derived)).collect();
        // Sound first.
        flows.sort_unstable_by_key(|(key, _)| key.kind == Kind::Video);
        for (key, flows) in flows {
            self.give(key, begins, &flows);
        }
    }
}
