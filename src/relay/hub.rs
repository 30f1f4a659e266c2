//! The relay's centre: links come and go, and what they, the shards and this node's publishers say goes to the half that it is about.

mod ask;
mod cache;
mod feeds;
mod give;
mod hold;
mod inlet;
mod metadata;
mod offers;
mod outlet;
#[cfg(test)]
pub(super) mod scene;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::relay::control::{Message, Right};
use ::relay::datagram::{self, Datagram};
use ::relay::flow::{Flow, Out};
use ::relay::hop::{Demand, Incoming, IncomingStats, Outgoing, OutgoingStats, Spare};
use bytes::Bytes;
use cluster::paths::{Figures, Offer, Paths};
use media::{NodeId, Packet, StreamName, Time};
use metrics::{LinkMetrics, Queue, RelayDrop, RelayEvent};
use quinn::SendDatagramError;
use sfu::{Mail, StreamId, TrackKey};
use tokio::sync::mpsc;

use super::link::{FromLink, Up};
use super::tls::DATAGRAMS_OUT_BYTES;
use super::{Handle, Local};
use crate::node::Node;
use ask::{Allowed, Asked};
use feeds::Feeds;
use give::{Begins, Given, Published, Subscription};
use offers::{About, link_id};
use take::{Batch, Taken, Want};

/// While quinn holds a burst, it is asked again after so long.
const FULL_RETRY: Duration = Duration::from_millis(1);
const SECOND_US: i64 = 1_000_000;
/// Who is silent and who needs a key frame is looked at so often.
const LOOK_US: i64 = 50_000;
/// A peer with which streams cross says something each tenth of a second. One of which nothing came for three round trips, or this, is gone.
const SILENCE_US_MIN: i64 = 300_000;
/// The same of an uplink, whose streams have no other way: the radio of a phone stops for less and goes on, and what is there then is sooner than a new
/// connection.
const SILENCE_UPLINK_US_MIN: i64 = 1_500_000;

/// A connection to a peer.
#[derive(Debug)]
struct Link {
    up: Up,
    /// The peer is an uplink.
    is_uplink: bool,
    metrics: Arc<LinkMetrics>,
    outgoing: Outgoing,
    incoming: Incoming,
    /// What comes, by alias.
    takes: HashMap<u64, Taken>,
    next_alias: u64,
    /// Packets that go, by alias.
    gives: HashMap<u64, TrackKey>,
    /// What is held here for the peer, by alias.
    held: HashMap<u64, TrackKey>,
    /// Tracks that the peer holds for this node.
    holds: usize,
    /// This clock less the peer's, in microseconds: half a round trip is in it.
    clock_us: Option<i64>,
    /// Datagrams of QUIC that came, and when that was seen to have changed.
    heard: (u64, Time),
    /// It stops soon.
    drains: bool,
    /// What an uplink may do.
    allowed: Allowed,
    /// Bytes of media pushed in this second; the key frame that is under way, by alias, time and bytes, and the largest lately.
    second_bytes: u64,
    key_frame: (u64, i64, u64),
    key_bytes_max: u64,
    /// How fast streams may go; what is new of their tracks in this second, and what that needs a second; bytes that went, and those that the metrics have.
    spare: Spare,
    streamed: (u64, u64),
    stream_bytes: (u64, u64),
    /// What the metrics have already.
    reported: (OutgoingStats, IncomingStats),
}

struct Hub {
    node: Arc<Node>,
    handle: Arc<Handle>,
    links: HashMap<usize, Link>,
    published: HashMap<StreamName, Published>,
    given: HashMap<TrackKey, Given>,
    /// Those of them of which something waits for a stream.
    waiting: HashSet<TrackKey>,
    feeds: Feeds,
    wants: HashMap<TrackKey, Want>,
    /// Streams that somebody here records.
    recorded: HashSet<StreamId>,
    /// By which way streams come, and what peers are told.
    paths: Paths<About>,
    /// What was said last of the encodings of streams that come from elsewhere.
    layers: HashMap<StreamId, Message>,
    asks: Asked,
    /// What feeds say comes with what links say.
    to_me: mpsc::Sender<FromLink>,
    second: Time,
    looked: Time,
}

/// Runs for ever.
pub async fn run(
    node: Arc<Node>,
    me: NodeId,
    handle: Arc<Handle>,
    mut mail: mpsc::Receiver<Mail>,
    mut local: mpsc::UnboundedReceiver<Local>,
    (to_me, mut links): (mpsc::Sender<FromLink>, mpsc::Receiver<FromLink>),
) {
    let mut draining = node.draining.subscribe();
    let mut hub = Hub {
        node,
        handle,
        links: HashMap::new(),
        published: HashMap::new(),
        given: HashMap::new(),
        waiting: HashSet::new(),
        feeds: HashMap::new(),
        wants: HashMap::new(),
        recorded: HashSet::new(),
        paths: Paths::new(me),
        layers: HashMap::new(),
        asks: Asked::default(),
        to_me,
        second: Time::ZERO,
        looked: Time::ZERO,
    };
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            Some(mail) = mail.recv() => hub.mail(mail),
            Some(what) = local.recv() => hub.local(what),
            Some(what) = links.recv() => hub.link(what),
            Ok(()) = draining.changed() => hub.drain(),
            () = tokio::time::sleep(wait) => {}
            else => return,
        }
        // What is there already is one batch with it.
        while let Ok(mail) = mail.try_recv() {
            hub.mail(mail);
        }
        let mut batch = Batch::new();
        for _ in 0..super::link::EVENTS_MAX {
            match links.try_recv() {
                Ok(FromLink::Datagram(id, datagram)) => hub.datagram(id, &datagram, &mut batch),
                Ok(what) => hub.link(what),
                Err(_) => break,
            }
        }
        hub.deliver(batch, Begins::Live);
        wait = hub.pump();
    }
}

impl Hub {
    fn now(&self) -> Time {
        self.node.clock.now()
    }

    fn local(&mut self, what: Local) {
        match what {
            Local::Published { ingest, name, stream, home, source, generation } => {
                self.published(ingest, name, (stream, home), source, generation)
            }
            Local::Codec(name, source, codec) => self.has_codec(&name, source, codec),
            Local::Left(name, source) => {
                if self.published.get(&name).is_some_and(|of| of.source == source) {
                    self.forget(&name);
                }
                self.end_source(source);
                // Somebody may publish it elsewhere.
                self.settle([name]);
            }
            Local::Watch { key, source, watch, sink } => self.watch(key, source, watch, sink),
            Local::Recorded(stream, is_recorded) => self.recorded(stream, is_recorded),
            Local::Unwatch(watch) => self.unwatch(watch),
            Local::Ask { right, name, query, answer } => self.ask(right, name, query, answer),
        }
    }

    fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Mirrored { track, backlog, packets, .. } => self.mirrored(track, backlog, &packets),
            Mail::Layers { stream, layers } => self.give_layers(stream, &layers),
            Mail::Mirror(key, _) => self.want(key),
            Mail::Unmirror(key, _) => self.want_no_more(key),
            Mail::RequestKeyFrame(key) => self.ask_key_frame(key),
            // Those go to homes.
            Mail::Packets { .. } | Mail::LeftOut { .. } => {}
        }
    }

    /// Packets of a track that is published here.
    fn mirrored(&mut self, track: TrackKey, backlog: bool, packets: &[Packet]) {
        let out = |packet: &Packet| Out {
            packet: packet.clone(),
            dts_offset: 0,
            config: Bytes::new(),
            ingest: packet.arrival,
        };
        let flows: Vec<Flow> = packets.iter().map(|packet| Flow::Packet(out(packet))).collect();
        self.give(track, if backlog { Begins::Backlog } else { Begins::Live }, &flows);
    }

    fn link(&mut self, what: FromLink) {
        match what {
            FromLink::Up(up) => self.up(*up),
            FromLink::Down(id, why) => self.down(id, &why),
            FromLink::Said(id, message) => self.said(id, message),
            FromLink::Fed(feed, fed) => self.feed(feed, fed),
            FromLink::Claimed(id, claimed) => self.claimed(id, claimed),
            FromLink::Streamed(id, came) => {
                if let Err(lie) = self.streamed(id, came) {
                    self.down(id, &lie.to_string());
                }
            }
            FromLink::Datagram(id, datagram) => {
                let mut batch = Batch::new();
                self.datagram(id, &datagram, &mut batch);
                self.deliver(batch, Begins::Live);
            }
        }
    }

    fn up(&mut self, up: Up) {
        let (id, now) = (up.connection.stable_id(), self.now());
        // A peer that came back before its last connection timed out.
        let old: Vec<usize> =
            self.links.iter().filter(|(_, link)| link.up.peer == up.peer).map(|(id, _)| *id).collect();
        for old in old {
            self.down(old, "another connection of the same peer");
        }
        let metrics = self.node.metrics.link(up.peer.as_str());
        metrics.up.set(1);
        metrics.connections.increment();
        let mut outgoing = Outgoing::new();
        outgoing.keep_alive(now);
        let peer = up.peer.clone();
        let is_uplink = self.node.config.cluster.has_uplink(&peer);
        let link = Link {
            up,
            is_uplink,
            metrics,
            outgoing,
            incoming: Incoming::new(),
            takes: HashMap::new(),
            next_alias: 0,
            gives: HashMap::new(),
            held: HashMap::new(),
            holds: 0,
            clock_us: None,
            heard: (0, now),
            drains: false,
            allowed: Allowed::default(),
            second_bytes: 0,
            key_frame: (0, 0, 0),
            key_bytes_max: 0,
            spare: Spare::new(),
            streamed: (0, 0),
            stream_bytes: (0, 0),
            reported: Default::default(),
        };
        link.say(Message::Clock { now_us: now.us() });
        if *self.node.draining.borrow() {
            link.say(self.drains());
        }
        self.links.insert(id, link);
        self.ask_again(now);
        self.paths.link_up(link_id(id), peer);
        self.settle([]);
    }

    fn down(&mut self, id: usize, why: &str) {
        let Some(link) = self.links.remove(&id) else { return };
        tracing::info!(peer = %link.up.peer, why, "relay link ends");
        link.metrics.went_down();
        link.up.connection.close(0_u32.into(), b"");
        self.give_nothing(id);
        self.lost(self.now());
        let names: Vec<StreamName> = self.paths.offers_of(link_id(id)).cloned().collect();
        self.paths.link_down(link_id(id));
        self.settle(names);
    }

    fn said(&mut self, id: usize, message: Message) {
        let now = self.now();
        let may = match &message {
            Message::Announce { stream, .. } => self.may(id, Right::Publish, stream),
            Message::Subscribe { stream, .. } => self.may(id, Right::Play, stream),
            _ => true,
        };
        let Some(link) = self.links.get_mut(&id).filter(|_| may) else { return };
        match message {
            Message::Announce { stream, generation, form, codecs, path, cost_us, derives } => {
                let about = About { form, codecs, derives };
                self.offered(id, stream, Offer { generation, path, cost_us, about });
            }
            Message::End { stream, generation } => self.offered_no_more(id, &stream, generation),
            Message::Subscribe { alias, stream, generation, track, after, need, reliable } => {
                let of = Subscription { alias, generation, track, after, need, reliable };
                self.subscribe(id, &stream, of);
            }
            Message::Unsubscribe { alias } => self.unsubscribe(id, alias),
            Message::Track(track) => {
                if self.told(id, track).is_err() {
                    self.down(id, "a track that is none");
                }
            }
            Message::KeyFrame { alias } => self.key_frame(id, alias),
            Message::Layers { stream, generation, encodings } => {
                self.take_layers(id, stream, generation, encodings);
            }
            Message::Metadata { stream, generation, published } => {
                self.take_metadata(id, &stream, generation, published);
            }
            Message::Clock { now_us } => {
                let clock_us = now.us().saturating_sub(now_us);
                // The least is the one that waited least; clocks drift by less than this between two.
                let before = link.clock_us.map_or(clock_us, |before| before.saturating_add(100));
                link.clock_us = Some(clock_us.min(before));
            }
            Message::Drain { within_ms } => {
                tracing::info!(peer = %link.up.peer, within_ms, "relay peer drains");
                link.drains = true;
                let names: Vec<StreamName> = self.paths.offers_of(link_id(id)).cloned().collect();
                self.paths.link_drains(link_id(id));
                self.settle(names);
            }
            Message::Ask { id: ask, right, stream, query } => self.asked(id, ask, right, stream, &query),
            Message::Answer { id, generation, refused } => self.answered(id, generation, refused),
            Message::Hello { .. } => {}
        }
    }

    /// This node stops: peers take what they need from others, where there are others.
    fn drain(&mut self) {
        for link in self.links.values() {
            link.say(self.drains());
        }
    }

    fn drains(&self) -> Message {
        let within = self.node.config.node.drain_deadline.as_millis();
        Message::Drain { within_ms: u64::try_from(within).unwrap_or(u64::MAX) }
    }

    fn datagram(&mut self, id: usize, bytes: &Bytes, batch: &mut Batch) {
        let now = self.now();
        let Some(link) = self.links.get_mut(&id) else { return };
        let trip = link.up.window.trip();
        let mut arrived = match datagram::read(bytes) {
            Ok(Datagram::Media(media, body)) => link.incoming.on_media(media, body, trip, now),
            Ok(Datagram::Next(next, payload)) => link.incoming.on_next(next, payload, trip, now),
            Ok(Datagram::Nack(nack)) => return link.outgoing.on_nack(&nack, trip, now),
            Ok(Datagram::End(next)) => return link.incoming.on_end(next, trip, now),
            Err(error) => return self.down(id, &error.to_string()),
        };
        while let Some(one) = arrived {
            link.metrics.age.observe(one.age_us.unsigned_abs());
            let alias = one.media.track;
            match link.flow(alias, one, now) {
                Ok(Some(flow)) => batch.entry((id, alias)).or_default().push(flow),
                Ok(None) => {}
                Err(error) => return self.down(id, &error.to_string()),
            }
            arrived = link.incoming.released();
        }
    }

    /// Everything that may leave leaves. Returns how long there is nothing more to do.
    fn pump(&mut self) -> Duration {
        let now = self.now();
        if now.since(self.second) >= SECOND_US {
            self.second = now;
            self.each_second(now);
        }
        if now.since(self.looked) >= LOOK_US {
            self.look(now);
        }
        let mut next = self.looked.plus_us(LOOK_US);
        next = next.min(self.release(now).unwrap_or(next));
        let mut full = false;
        for link in self.links.values_mut() {
            let trip = link.up.window.trip();
            if let Some(ask) = link.incoming.poll(trip, now) {
                link.outgoing.ask(ask);
            }
            full |= link.send(now);
            let due = link.incoming.deadline().into_iter().chain(link.outgoing.deadline()).min();
            next = next.min(due.unwrap_or(next));
        }
        let left = u64::try_from(next.since(now)).unwrap_or(0);
        let wait = Duration::from_micros(left.max(500));
        if full { wait.min(FULL_RETRY) } else { wait }
    }

    /// Who is silent is gone, long before QUIC says so; who lost a track up to its next key frame gets one when the link has room.
    fn look(&mut self, now: Time) {
        // While this task itself did not run, nothing could be heard.
        let slept = now.since(self.looked) > 2 * LOOK_US;
        self.looked = now;
        let mut silent = Vec::new();
        for (id, link) in &mut self.links {
            let crosses =
                !link.takes.is_empty() || !link.gives.is_empty() || !link.held.is_empty() || link.holds > 0;
            let datagrams = link.up.connection.stats().udp_rx.datagrams;
            if datagrams != link.heard.0 || !crosses || slept {
                link.heard = (datagrams, now);
            }
            let has_one_way = self.node.config.cluster.is_uplink || link.is_uplink;
            let least = if has_one_way { SILENCE_UPLINK_US_MIN } else { SILENCE_US_MIN };
            let limit_us = link.up.window.trip().smoothed_us.saturating_mul(3).max(least);
            if now.since(link.heard.1) > limit_us {
                silent.push(*id);
            }
        }
        for id in silent {
            self.down(id, "nothing came of the peer");
        }
        self.mend(now);
        self.end_moves(now);
    }

    fn each_second(&mut self, now: Time) {
        let mut figures = Vec::new();
        self.look_at_holds();
        for (id, link) in &mut self.links {
            link.say(Message::Clock { now_us: now.us() });
            let bps = link.second_bytes.saturating_mul(8);
            link.up.window.set_demand(Demand { bps, key_bytes: link.key_bytes_max });
            link.second_bytes = 0;
            link.key_bytes_max -= link.key_bytes_max / 32;
            // A quarter more, so that they catch up.
            link.streamed = (0, link.streamed.0 + link.streamed.0 / 4);
            let held: u64 = link.takes.values_mut().map(Taken::take_overflows).sum();
            self.node.metrics.queue_overflows.of(Queue::RelayHeld).add(held);
            figures.push((link_id(*id), link.report(now)));
        }
        for (link, figures) in figures {
            self.paths.link_figures(link, figures);
        }
        let sizes = self.links.values().filter_map(|link| link.up.connection.max_datagram_size());
        self.handle.piece_bytes.store(super::feed::piece_bytes(sizes.min()), Ordering::Relaxed);
        self.end_idle(now);
        self.end_idle_feeds(now);
        self.end_unused(now);
        self.settle([]);
        self.give_up(now);
    }
}

impl Link {
    /// A peer that takes no messages is gone.
    fn say(&self, message: Message) {
        if self.up.control.try_send(message).is_err() {
            self.up.connection.close(0_u32.into(), b"control");
        }
    }

    /// As much as quinn's short queue takes; whether more waits.
    fn send(&mut self, now: Time) -> bool {
        let connection = &self.up.connection;
        let Some(mut size) = connection.max_datagram_size() else { return false };
        // Repairs go before what is new here, and in quinn behind all that is there.
        let left_free = DATAGRAMS_OUT_BYTES.saturating_sub(self.up.window.held(DATAGRAMS_OUT_BYTES));
        loop {
            if connection.datagram_send_buffer_space() < size.saturating_add(left_free) {
                return self.outgoing.is_waiting(now);
            }
            let Some(datagram) = self.outgoing.poll(size, now) else { return false };
            match connection.send_datagram(datagram.into()) {
                Ok(()) => {}
                // The path takes less than when it was cut: the peer asks for it, and has it in two.
                Err(SendDatagramError::TooLarge) => {
                    self.metrics.drops.of(RelayDrop::TooLarge).increment();
                    size = connection.max_datagram_size().unwrap_or(size);
                }
                Err(_) => return false,
            }
        }
    }

    /// What both ends saw, for who scrapes or asks.
    fn report(&mut self, now: Time) -> Figures {
        let (trip, window) = (self.up.window.trip(), self.up.window.figures());
        let (out, came) = (self.outgoing.stats(), self.incoming.stats());
        let (out_before, came_before) = std::mem::replace(&mut self.reported, (out, came));
        let of = &self.metrics;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        of.rtt_us.set(trip.smoothed_us);
        of.window_bytes.set(i64::try_from(window.bytes).unwrap_or(i64::MAX));
        of.queue_us.set(self.outgoing.queue_us(now));
        of.path_queue_us.set(window.queue_us);
        of.draining.set(self.drains.into());
        of.tracks_in.set(count(self.takes.len()));
        of.tracks_out.set(count(self.gives.len()));
        of.held_there.set(count(self.holds));
        of.held_here.set(count(self.held.len()));
        of.sent_bytes.add(out.bytes - out_before.bytes);
        of.stream_bytes.add(self.stream_bytes.0 - self.stream_bytes.1);
        self.stream_bytes.1 = self.stream_bytes.0;
        for (event, now, before) in [
            (RelayEvent::Sent, out.sent, out_before.sent),
            (RelayEvent::Nacked, out.asked, out_before.asked),
            (RelayEvent::Resent, out.resent, out_before.resent),
            (RelayEvent::Late, out.late, out_before.late),
            (RelayEvent::Refused, out.refused, out_before.refused),
            (RelayEvent::Received, came.received, came_before.received),
            (RelayEvent::Reordered, came.reordered, came_before.reordered),
            (RelayEvent::Duplicate, came.duplicates, came_before.duplicates),
            (RelayEvent::Asked, came.asked, came_before.asked),
            (RelayEvent::Repaired, came.repaired, came_before.repaired),
            (RelayEvent::Lost, came.lost, came_before.lost),
        ] {
            of.events.of(event).add(now - before);
        }
        for (reason, now, before) in [
            (RelayDrop::LeftOut, out.left_out, out_before.left_out),
            (RelayDrop::Expired, out.expired, out_before.expired),
            (RelayDrop::Overflowed, out.overflowed, out_before.overflowed),
        ] {
            of.drops.of(reason).add(now - before);
        }
        self.figures(came, came_before)
    }
}
