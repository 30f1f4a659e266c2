//! What publishers of frames say of their streams: it goes to the peers that take something of them, and comes with what is taken.

use ::relay::control::Message;
use bytes::Bytes;
use media::StreamName;
use sfu::StreamId;

use super::{Hub, Link};

impl Hub {
    /// Peers that take the stream from here hear what is news.
    pub(super) fn tell_metadata(&self, stream: StreamId) {
        let Some(message) = self.metadata(stream) else { return };
        let takes = |link: &&Link| link.gives.values().any(|key| key.stream == stream);
        for link in self.links.values().filter(takes) {
            link.say(message.clone());
        }
    }

    /// A peer that begins to take the stream hears it before the first datagram; a stream of what was there may overtake it.
    pub(super) fn pass_metadata(&self, id: usize, stream: StreamId) {
        if let (Some(link), Some(message)) = (self.links.get(&id), self.metadata(stream)) {
            link.say(message);
        }
    }

    /// A peer says it of a stream that comes from there: for players here, and for peers that take it from here.
    pub(super) fn take_metadata(&self, id: usize, name: &StreamName, generation: u64, published: Bytes) {
        let (Some(link), Some(stream)) = (self.links.get(&id), self.node.streams.get(name)) else { return };
        let takes = link.takes.values().any(|taken| taken.key.stream == stream.id);
        if let Some((source, _)) = stream.relayed().filter(|(_, has)| takes && *has == generation)
            && stream.log.publish_metadata(source, published)
        {
            self.tell_metadata(stream.id);
        }
    }

    fn metadata(&self, stream: StreamId) -> Option<Message> {
        let of = self.node.streams.by_id(stream)?;
        let published = of.log.published_metadata();
        let local = self.published.get(&of.name).map(|published| published.generation);
        let generation = local.or_else(|| of.relayed().map(|(_, generation)| generation))?;
        let message = Message::Metadata { stream: of.name.clone(), generation, published: published.clone() };
        Some(message).filter(|_| !published.is_empty())
    }
}
