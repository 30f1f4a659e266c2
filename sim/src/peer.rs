//! A client of the world: its session, its path, what it is a model of, and the oracle that watches what it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use link::{Carried, Link};
use media::Time;
use rtc::client::Client;
use rtc::rtp::Header;
use sfu::PeerStats;

use crate::oracle::Oracle;
use crate::publisher::Publisher;
use crate::receiver::Receiver;
use crate::world::Datagram;

/// Packets remembered for the case that they are sent again as they were.
const REMEMBERED_MAX: usize = 2_048;

/// What a client does.
pub enum Model {
    /// Nothing yet.
    Idle,
    /// Sends a stream.
    Publisher(Box<Publisher>),
    /// Plays one.
    Receiver(Box<Receiver>),
}

/// What a peer is made of.
pub(crate) struct Seed {
    pub(crate) shard: usize,
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) up: Link,
    pub(crate) down: Link,
    pub(crate) stats: Arc<PeerStats>,
    pub(crate) oracle: Oracle,
}

/// A client.
pub struct Peer {
    /// Its shard.
    pub shard: usize,
    /// Its path to the node.
    pub up: Link,
    /// Its path from the node.
    pub down: Link,
    /// The node's figures of it.
    pub stats: Arc<PeerStats>,
    /// Watches what it is sent.
    pub oracle: Oracle,
    /// What it does.
    pub model: Model,
    /// What each media packet waited before its path carried it, in microseconds.
    pub queue_us: Vec<(Time, i64)>,
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    /// When its wake-up call is.
    pub(crate) armed: Time,
    pub(crate) gone: bool,
    /// Sent to it before it had keys, in order.
    pub(crate) unopened: Vec<Rc<Datagram>>,
    remembered: BTreeMap<(u32, u16), (Vec<u8>, Vec<u8>)>,
    remembered_order: VecDeque<(u32, u16)>,
}

impl Peer {
    pub(crate) fn new(seed: Seed) -> Peer {
        let Seed { shard, address, client, up, down, stats, oracle } = seed;
        Peer {
            shard,
            up,
            down,
            stats,
            oracle,
            model: Model::Idle,
            queue_us: Vec::new(),
            address,
            client,
            armed: Time::MAX,
            gone: false,
            unopened: Vec::new(),
            remembered: BTreeMap::new(),
            remembered_order: VecDeque::new(),
        }
    }

    /// Its viewer. Panics when it is none.
    pub fn receiver(&self) -> &Receiver {
        match &self.model {
            Model::Receiver(receiver) => receiver,
            _ => panic!("it is no viewer"),
        }
    }

    /// Its publisher. Panics when it is none.
    pub fn publisher(&mut self) -> &mut Publisher {
        match &mut self.model {
            Model::Publisher(publisher) => publisher,
            _ => panic!("it is no publisher"),
        }
    }

    pub(crate) fn next(&self) -> Time {
        let model = match &self.model {
            _ if !self.client.is_connected() => Time::MAX,
            Model::Publisher(publisher) => publisher.next(),
            Model::Receiver(receiver) => receiver.next(),
            Model::Idle => Time::MAX,
        };
        model.min(self.client.next_timeout())
    }

    /// What the path did with a media packet.
    pub(crate) fn note_path(&mut self, sealed: &[u8], carried: Carried, now: Time) {
        let delay_us = self.down.config().delay_us;
        if let (Some(at), true) = (carried.times().next(), Header::parse_protected(sealed).is_ok()) {
            self.queue_us.push((now, at.since(now) - delay_us));
        }
    }

    pub(crate) fn remember(&mut self, sealed: &[u8], clear: &[u8]) {
        if self.oracle.facts.rtx {
            return;
        }
        let Ok(header) = Header::parse_protected(sealed) else { return };
        let number = (header.ssrc, header.sequence_number);
        self.remembered.insert(number, (sealed.to_vec(), clear.to_vec()));
        self.remembered_order.push_back(number);
        if self.remembered_order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.remembered_order.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }

    /// What a packet says that was sent before, byte for byte.
    pub(crate) fn resent(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let header = Header::parse_protected(sealed).ok()?;
        let (before, clear) = self.remembered.get(&(header.ssrc, header.sequence_number))?;
        (before == sealed).then(|| clear.clone())
    }
}
