//! What crosses: which peer announced what, who is sent which track, and the two ends of each link's hop.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::relay::control::{self, Form, Message, NodeId, TrackId};
use ::relay::datagram::{self, Datagram, Flags};
use ::relay::hop::{Arrived, Class, Demand, Incoming, Outbound, Outgoing};
use bytes::Bytes;
use media::{AudioConfig, Codec, Kind, Packet, StreamName, Temporal, Time, TrackConfig};
use metrics::Queue;
use sfu::{Command, Mail, SourceId, StreamId, TrackKey};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::feed::{self, Cut};
use super::link::{FromLink, Up};
use super::{Announced, Handle, Local};
use crate::media_plane::{Order, ShardHandle};
use crate::node::Node;
use crate::stream::Ingest;
use crate::stream::from_relay::FromPeer;
use crate::task;

/// What a packet may be late in all and still be of use to a live viewer.
const BUDGET_MS: u16 = 400;
/// The same for frames: who watches them has a second and a half in its player.
const FRAMES_BUDGET_MS: u16 = 1_500;
/// And for the GOP that was there before: it is worth having while it is shown.
const PAST_BUDGET_MS: u16 = 10_000;
/// A track that nobody takes any more is subscribed for so much longer: who reloads a page has it at once.
const LINGER_US: i64 = 5_000_000;
/// A capture line that moved less is the same one: a report's rounding.
const LINE_US: i64 = 2_000;
/// Packets of a track that come before the word what it is: a round trip of one, with its key frame.
const EARLY_MAX: usize = 1_024;
/// Numbers of a track that were sent, to know a packet that comes a second time, with the backlog for another peer.
const SENT_MAX: usize = 4_096;
/// Streams that one peer may announce, and tracks that it may be sent.
const ANNOUNCED_MAX: usize = 10_000;
const SENDS_MAX: usize = 10_000;
/// While quinn holds a burst, it is asked again after so long.
const FULL_RETRY: Duration = Duration::from_millis(1);
const SECOND_US: i64 = 1_000_000;

/// A track that a peer is sent.
#[derive(Debug)]
struct Send {
    link: usize,
    alias: u64,
    /// It gets the backlog that comes next.
    fresh: bool,
    /// What the peer was told that the track is, and the capture line: ticks and microseconds.
    told: Option<(Codec, bool, i64, i64)>,
}

/// A track that is at home here and taken elsewhere.
#[derive(Debug)]
struct Given {
    home: ShardHandle,
    to: Vec<Send>,
    sent: BTreeSet<u64>,
}

/// An RTMP publisher's stream that a peer is sent.
#[derive(Debug)]
struct Fed {
    task: AbortHandle,
    /// Of sound and picture, as far as subscribed.
    aliases: [Option<u64>; 2],
    told: [Option<Arc<TrackConfig>>; 2],
}

/// A stream that is published here.
#[derive(Debug)]
struct Published {
    form: Form,
    stream: StreamId,
    home: ShardHandle,
    source: SourceId,
    generation: u64,
    codecs: [Option<Codec>; 2],
}

/// An announcement of a peer.
#[derive(Clone, Debug)]
struct Offer {
    generation: u64,
    form: Form,
    codecs: [Option<Codec>; 2],
    hops: usize,
}

/// A track that a peer sends.
#[derive(Debug)]
struct Taken {
    key: TrackKey,
    name: StreamName,
    home: ShardHandle,
    source: SourceId,
    /// What the track is, once told.
    track: Option<control::Track>,
    /// The newest number and time, from which the 32 bits in datagrams go on.
    newest: Option<(u64, i64)>,
    early: Vec<Arrived>,
    /// Where frames are made of it; else it is its home shard's.
    frames: Option<mpsc::Sender<FromPeer>>,
    /// Nobody takes it since.
    idle: Option<Time>,
}

#[derive(Debug)]
struct Link {
    up: Up,
    outgoing: Outgoing,
    incoming: Incoming,
    takes: HashMap<u64, Taken>,
    next_alias: u64,
    offers: HashMap<StreamName, Offer>,
    /// This clock less the peer's, in microseconds: half a round trip is in it.
    clock_us: Option<i64>,
    /// Bytes of media pushed in this second, and of the picture's key frame.
    second_bytes: u64,
    key_bytes: u64,
    key_bytes_max: u64,
}

struct Hub {
    node: Arc<Node>,
    me: NodeId,
    handle: Arc<Handle>,
    links: HashMap<usize, Link>,
    published: HashMap<StreamName, Published>,
    given: HashMap<TrackKey, Given>,
    fed: HashMap<(usize, StreamId), Fed>,
    /// What feeds say comes with what links say.
    feeds: mpsc::Sender<FromLink>,
    second: Time,
}

/// Runs for ever.
pub async fn run(
    node: Arc<Node>,
    me: NodeId,
    handle: Arc<Handle>,
    mut mail: mpsc::Receiver<Mail>,
    mut local: mpsc::UnboundedReceiver<Local>,
    (feeds, mut links): (mpsc::Sender<FromLink>, mpsc::Receiver<FromLink>),
) {
    let mut hub = Hub {
        node,
        me,
        handle,
        links: HashMap::new(),
        published: HashMap::new(),
        given: HashMap::new(),
        fed: HashMap::new(),
        feeds,
        second: Time::ZERO,
    };
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            Some(mail) = mail.recv() => hub.mail(mail),
            Some(what) = local.recv() => hub.local(what),
            Some(what) = links.recv() => hub.link(what),
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
        hub.deliver(batch);
        wait = hub.pump();
    }
}

/// Packets that came, by link and alias, with presentation minus decode time.
type Batch = HashMap<(usize, u64), Vec<(Packet, u32)>>;

impl Hub {
    fn now(&self) -> Time {
        self.node.clock.now()
    }

    // --- what this node's publishers do

    fn local(&mut self, what: Local) {
        match what {
            Local::Published { ingest, name, stream, home, source } => {
                let now_us = self.node.clock.unix_us_at_zero().saturating_add(self.now().us());
                let generation = now_us.unsigned_abs();
                self.forget(&name);
                let codecs = [None, None];
                let form = if ingest == Ingest::Rtmp { Form::Frames } else { Form::Packets };
                let published = Published { form, stream, home, source, generation, codecs };
                self.published.insert(name.clone(), published);
                self.announce(&name, None);
            }
            Local::Codec(name, source, codec) => {
                let of = self.published.get_mut(&name).filter(|of| of.source == source);
                if let Some(of) = of {
                    of.codecs[codec.kind() as usize] = Some(codec);
                    self.announce(&name, None);
                }
            }
            Local::Left(name, source) => {
                if self.published.get(&name).is_some_and(|of| of.source == source) {
                    self.forget(&name);
                }
            }
            Local::Watch(stream, source, sink) => self.watch(stream, source, &sink),
            Local::Unwatch(stream, source) => {
                self.end_takes(|taken| {
                    taken.frames.is_some() && (taken.key.stream, taken.source) == (stream, source)
                });
            }
        }
    }

    /// A stream is not published here any more.
    fn forget(&mut self, name: &StreamName) {
        let Some(of) = self.published.remove(name) else { return };
        let gone: Vec<TrackKey> = self.given.keys().filter(|key| key.stream == of.stream).copied().collect();
        for key in gone {
            if let Some(given) = self.given.remove(&key) {
                given.home.mail(Mail::Unmirror(key, self.handle.number));
            }
        }
        self.fed.retain(|(_, stream), fed| {
            let goes = *stream == of.stream;
            if goes {
                fed.task.abort();
            }
            !goes
        });
        for link in self.links.values() {
            link.say(Message::End { stream: name.clone(), generation: of.generation });
        }
    }

    /// Tells one link, or all.
    fn announce(&self, name: &StreamName, to: Option<usize>) {
        let Some(of) = self.published.get(name) else { return };
        for (_, link) in self.links.iter().filter(|(id, _)| to.is_none_or(|to| to == **id)) {
            link.say(Message::Announce {
                stream: name.clone(),
                generation: of.generation,
                form: of.form,
                codecs: of.codecs,
                path: vec![self.me.clone()],
            });
        }
    }

    // --- what shards want

    fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Mirrored { track, answers, packets } => self.give(track, answers, &packets),
            Mail::Mirror(key, _) => self.want(key),
            Mail::Unmirror(key, _) => {
                let now = self.now();
                for taken in self.takes_of(key) {
                    taken.1.idle = Some(now);
                }
            }
            Mail::RequestKeyFrame(key) => self.ask_key_frame(key),
            // One encoding crosses, so far: what the others are like is of no use there.
            Mail::Layers { .. } | Mail::Packets { .. } => {}
        }
    }

    fn takes_of(&mut self, key: TrackKey) -> impl Iterator<Item = (&u64, &mut Taken)> {
        self.links.values_mut().flat_map(|link| link.takes.iter_mut()).filter(move |(_, t)| t.key == key)
    }

    fn ask_key_frame(&self, key: TrackKey) {
        for link in self.links.values() {
            for (alias, _) in link.takes.iter().filter(|(_, taken)| taken.key == key) {
                link.say(Message::KeyFrame { alias: *alias });
            }
        }
    }

    /// A shard has its first subscriber of a track that comes from elsewhere.
    fn want(&mut self, key: TrackKey) {
        let mut again = false;
        for (_, taken) in self.takes_of(key) {
            (taken.idle, again) = (None, true);
        }
        if again {
            // What was there went to who was there.
            return self.ask_key_frame(key);
        }
        let Some(stream) = self.node.streams.by_id(key.stream) else { return };
        let Some((source, generation)) = stream.relayed() else { return };
        self.take(key, stream.name.clone(), stream.home.clone(), (source, generation), None);
    }

    /// An RTMP publisher's stream is watched here: the picture first, for the GOP that is there begins at once.
    fn watch(&mut self, id: StreamId, source: SourceId, sink: &mpsc::Sender<FromPeer>) {
        let Some(stream) = self.node.streams.by_id(id) else { return };
        let Some((_, generation)) = stream.relayed().filter(|(has, _)| *has == source) else { return };
        for kind in [Kind::Video, Kind::Audio] {
            let (name, home) = (stream.name.clone(), stream.home.clone());
            self.take(TrackKey::new(id, kind), name, home, (source, generation), Some(sink.clone()));
        }
    }

    /// Subscribes for a track, at the nearest peer that has it.
    fn take(
        &mut self,
        key: TrackKey,
        name: StreamName,
        home: ShardHandle,
        (source, generation): (SourceId, u64),
        frames: Option<mpsc::Sender<FromPeer>>,
    ) {
        let offered = self.links.iter_mut().filter_map(|(id, link)| {
            let offer = link.offers.get(&name).filter(|offer| offer.generation == generation)?;
            Some((offer.hops, *id, link))
        });
        let Some((_, _, link)) = offered.min_by_key(|(hops, id, _)| (*hops, *id)) else { return };
        let alias = link.next_alias;
        link.next_alias += 1;
        link.say(Message::Subscribe {
            alias,
            stream: name.clone(),
            generation,
            track: TrackId { kind: key.kind, layer: key.layer },
        });
        let taken = Taken {
            key,
            name,
            home,
            source,
            track: None,
            newest: None,
            early: Vec::new(),
            frames,
            idle: None,
        };
        link.takes.insert(alias, taken);
    }

    /// Packets of a track that peers take.
    fn give(&mut self, key: TrackKey, answers: bool, packets: &[Packet]) {
        let now = self.now();
        let Some(given) = self.given.get_mut(&key) else { return };
        let news: Vec<bool> = packets.iter().map(|p| given.sent.insert(p.seq)).collect();
        while given.sent.len() > SENT_MAX {
            given.sent.pop_first();
        }
        for send in &mut given.to {
            let Some(link) = self.links.get_mut(&send.link) else { continue };
            let fresh = std::mem::take(&mut send.fresh);
            for (packet, _) in packets.iter().zip(&news).filter(|(_, new)| **new || fresh) {
                // What waited here for somebody to take it is not late for that.
                let ingest = if fresh { now } else { packet.arrival };
                link.tell(send, answers, packet);
                link.push(send.alias, packet, (0, BUDGET_MS), ingest, now);
            }
        }
    }

    // --- what links say

    fn link(&mut self, what: FromLink) {
        match what {
            FromLink::Up(up) => self.up(*up),
            FromLink::Down(id) => self.down(id),
            FromLink::Said(id, message) => self.said(id, message),
            FromLink::Fed(id, stream, cut) => self.feed(id, stream, &cut),
            FromLink::Datagram(id, datagram) => {
                let mut batch = Batch::new();
                self.datagram(id, &datagram, &mut batch);
                self.deliver(batch);
            }
        }
    }

    fn up(&mut self, up: Up) {
        let id = up.connection.stable_id();
        // A peer that came back before its last connection timed out.
        let old: Vec<usize> =
            self.links.iter().filter(|(_, link)| link.up.peer == up.peer).map(|(id, _)| *id).collect();
        for old in old {
            self.down(old);
        }
        let link = Link {
            up,
            outgoing: Outgoing::new(),
            incoming: Incoming::new(),
            takes: HashMap::new(),
            next_alias: 0,
            offers: HashMap::new(),
            clock_us: None,
            second_bytes: 0,
            key_bytes: 0,
            key_bytes_max: 0,
        };
        link.say(Message::Clock { now_us: self.now().us() });
        self.links.insert(id, link);
        let names: Vec<StreamName> = self.published.keys().cloned().collect();
        for name in names {
            self.announce(&name, Some(id));
        }
    }

    fn down(&mut self, id: usize) {
        let Some(link) = self.links.remove(&id) else { return };
        link.up.connection.close(0_u32.into(), b"");
        self.fed.retain(|(link, _), fed| {
            if *link == id {
                fed.task.abort();
            }
            *link != id
        });
        let keys: Vec<TrackKey> = self.given.keys().copied().collect();
        for key in keys {
            self.give_no_more(key, |send| send.link == id);
        }
        for name in link.offers.into_keys() {
            self.choose(&name);
        }
        // From another peer that has the same, if there is one: its numbers go on.
        for taken in link.takes.into_values().filter(|taken| taken.idle.is_none() && taken.frames.is_none()) {
            self.want(taken.key);
        }
    }

    fn give_no_more(&mut self, key: TrackKey, whom: impl Fn(&Send) -> bool) {
        let Some(given) = self.given.get_mut(&key) else { return };
        given.to.retain(|send| !whom(send));
        if given.to.is_empty()
            && let Some(given) = self.given.remove(&key)
        {
            given.home.mail(Mail::Unmirror(key, self.handle.number));
        }
    }

    fn said(&mut self, id: usize, message: Message) {
        let now = self.now();
        let Some(link) = self.links.get_mut(&id) else { return };
        match message {
            Message::Announce { stream, generation, form, codecs, path } => {
                if path.contains(&self.me)
                    || (link.offers.len() >= ANNOUNCED_MAX && !link.offers.contains_key(&stream))
                {
                    return;
                }
                link.offers.insert(stream.clone(), Offer { generation, form, codecs, hops: path.len() });
                self.choose(&stream);
            }
            Message::End { stream, generation } => {
                if link.offers.get(&stream).is_some_and(|offer| offer.generation <= generation) {
                    link.offers.remove(&stream);
                    self.choose(&stream);
                }
            }
            Message::Subscribe { alias, stream, generation, track } => {
                self.subscribe(id, alias, &stream, generation, track);
            }
            Message::Unsubscribe { alias } => {
                link.outgoing.forget(alias);
                self.unfeed(id, alias);
                if let Some(key) = self.sent_as(id, alias) {
                    self.give_no_more(key, |send| (send.link, send.alias) == (id, alias));
                }
            }
            Message::Track(track) => {
                let Some(taken) = link.takes.get_mut(&track.alias) else { return };
                let alias = track.alias;
                taken.newest.get_or_insert((track.seq, track.timestamp));
                if let (Some(sink), Codec::Aac) = (&taken.frames, track.codec)
                    && let Ok(config) = AudioConfig::from_asc(track.config.clone())
                {
                    let _ = sink.try_send(FromPeer::Sound(config));
                }
                taken.track = Some(track);
                let early = std::mem::take(&mut taken.early);
                let mut batch = Batch::new();
                let packets = early.into_iter().filter_map(|arrived| link.packet(alias, arrived, now));
                let packets: Vec<(Packet, u32)> = packets.collect();
                batch.insert((id, alias), packets);
                self.deliver(batch);
            }
            Message::KeyFrame { alias } => {
                if let Some(key) = self.sent_as(id, alias)
                    && let Some(given) = self.given.get(&key)
                {
                    given.home.mail(Mail::RequestKeyFrame(key));
                }
            }
            Message::Clock { now_us } => {
                let clock_us = now.us().saturating_sub(now_us);
                // The least is the one that waited least; clocks drift by less than this between two.
                let before = link.clock_us.map_or(clock_us, |before| before.saturating_add(100));
                link.clock_us = Some(clock_us.min(before));
            }
            Message::Hello { .. } | Message::Layers { .. } | Message::Drain { .. } => {}
        }
    }

    fn sent_as(&self, link: usize, alias: u64) -> Option<TrackKey> {
        let is_it = |send: &Send| (send.link, send.alias) == (link, alias);
        self.given.iter().find(|(_, given)| given.to.iter().any(is_it)).map(|(key, _)| *key)
    }

    fn subscribe(&mut self, id: usize, alias: u64, name: &StreamName, generation: u64, track: TrackId) {
        let Some(of) = self.published.get(name).filter(|of| of.generation == generation) else { return };
        let of_link = |given: &Given| given.to.iter().filter(|send| send.link == id).count();
        let count: usize = self.given.values().map(of_link).sum();
        if count >= SENDS_MAX || self.sent_as(id, alias).is_some() {
            return;
        }
        if of.form == Form::Frames {
            let Some(stream) = self.node.streams.by_id(of.stream) else { return };
            let at = of.stream;
            if self.fed.len() >= SENDS_MAX {
                return;
            }
            let (metrics, feeds) = (self.node.metrics.clone(), self.feeds.clone());
            let fed = self.fed.entry((id, at)).or_insert_with(|| Fed {
                task: task::spawn(metrics, feed::run(stream, id, at, feeds)).abort_handle(),
                aliases: [None; 2],
                told: [None, None],
            });
            fed.aliases[track.kind as usize].get_or_insert(alias);
            return;
        }
        let key = TrackKey { stream: of.stream, kind: track.kind, layer: track.layer };
        let home = of.home.clone();
        let given = self.given.entry(key).or_insert_with(|| Given {
            home: home.clone(),
            to: Vec::new(),
            sent: BTreeSet::new(),
        });
        // One copy of a track on a link.
        if given.to.iter().all(|send| send.link != id) {
            given.to.push(Send { link: id, alias, fresh: true, told: None });
            home.mail(Mail::Mirror(key, self.handle.number));
            home.mail(Mail::RequestKeyFrame(key));
        }
    }

    /// Of who offers a stream the newest generation counts; the stream here follows it.
    fn choose(&mut self, name: &StreamName) {
        let offers = self.links.values().filter_map(|link| link.offers.get(name));
        let best = offers.max_by_key(|offer| offer.generation).cloned();
        match &best {
            Some(offer) => {
                let Offer { generation, form, codecs, .. } = *offer;
                let announced = Announced { generation, form, codecs };
                self.handle.announced.insert(name.clone(), announced);
            }
            None => {
                self.handle.announced.remove(name);
            }
        }
        let Some(stream) = self.node.streams.get(name) else { return };
        if let Some((source, _)) =
            stream.relayed().filter(|(_, has)| best.as_ref().is_none_or(|best| best.generation > *has))
        {
            self.end_takes(|taken| taken.name == *name);
            stream.detach(source);
        }
        stream.attach();
    }

    /// What came of a stream comes no more.
    fn end_takes(&mut self, which: impl Fn(&Taken) -> bool) {
        for link in self.links.values_mut() {
            let over: Vec<u64> =
                link.takes.iter().filter(|(_, taken)| which(taken)).map(|(alias, _)| *alias).collect();
            for alias in over {
                link.say(Message::Unsubscribe { alias });
                if let Some(taken) = link.takes.remove(&alias).filter(|taken| taken.frames.is_none()) {
                    let end = Command::EndSource(taken.key, taken.source);
                    let _ = taken.home.order(Order::Shard(end));
                }
            }
        }
    }

    /// A frame of this node's, for a peer.
    fn feed(&mut self, id: usize, stream: StreamId, cut: &Cut) {
        let now = self.now();
        let (Some(fed), Some(link)) = (self.fed.get_mut(&(id, stream)), self.links.get_mut(&id)) else {
            return;
        };
        let kind = cut.config.codec().kind() as usize;
        let Some(alias) = fed.aliases[kind] else { return };
        let told = &mut fed.told[kind];
        if let Some(first) = cut.packets.first()
            && told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &cut.config))
        {
            *told = Some(cut.config.clone());
            link.say(Message::Track(control::Track {
                alias,
                answers: false,
                codec: first.codec,
                seq: first.seq,
                timestamp: first.timestamp,
                capture_us: first.capture.us(),
                config: match &*cut.config {
                    TrackConfig::H264(video) => video.avcc.clone(),
                    TrackConfig::Aac(audio) => audio.asc.clone(),
                },
            }));
        }
        let budget_ms = if cut.past { PAST_BUDGET_MS } else { FRAMES_BUDGET_MS };
        for packet in &cut.packets {
            link.push(alias, packet, (cut.dts_offset, budget_ms), now, now);
        }
    }

    fn unfeed(&mut self, id: usize, alias: u64) {
        self.fed.retain(|(link, _), fed| {
            if *link == id {
                for slot in fed.aliases.iter_mut().filter(|slot| **slot == Some(alias)) {
                    *slot = None;
                }
            }
            let stays = *link != id || fed.aliases != [None; 2];
            if !stays {
                fed.task.abort();
            }
            stays
        });
    }

    fn datagram(&mut self, id: usize, bytes: &Bytes, batch: &mut Batch) {
        let now = self.now();
        let Some(link) = self.links.get_mut(&id) else { return };
        let trip = link.up.window.trip();
        match datagram::read(bytes) {
            Ok(Datagram::Media(media, body)) => {
                let Some(arrived) = link.incoming.on_media(media, body, trip, now) else { return };
                let alias = arrived.media.track;
                if let Some(packet) = link.packet(alias, arrived, now) {
                    batch.entry((id, alias)).or_default().push(packet);
                }
            }
            Ok(Datagram::Nack(nack)) => link.outgoing.on_nack(&nack, trip, now),
            Ok(Datagram::End(next)) => link.incoming.on_end(next, trip, now),
            Err(error) => {
                tracing::warn!(peer = %link.up.peer, %error, "relay link ends");
                self.down(id);
            }
        }
    }

    /// To the home shards, a mail a track.
    fn deliver(&self, batch: Batch) {
        for ((id, alias), packets) in batch {
            let taken = self.links.get(&id).and_then(|link| link.takes.get(&alias));
            if let Some(taken) = taken.filter(|_| !packets.is_empty()) {
                let (track, source) = (taken.key, taken.source);
                if let Some(frames) = &taken.frames {
                    if frames.try_send(FromPeer::Packets(packets)).is_err() {
                        self.node.metrics.queue_overflows.of(Queue::Conversion).increment();
                    }
                    continue;
                }
                let packets: Vec<Packet> = packets.into_iter().map(|(packet, _)| packet).collect();
                taken.home.mail(Mail::Packets { track, source, packets: packets.into() });
            }
        }
    }

    /// Everything that may leave leaves. Returns how long there is nothing more to do.
    fn pump(&mut self) -> Duration {
        let now = self.now();
        if now.since(self.second) >= SECOND_US {
            self.second = now;
            self.each_second(now);
        }
        let mut next = self.second.plus_us(SECOND_US);
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

    fn each_second(&mut self, now: Time) {
        for link in self.links.values_mut() {
            link.say(Message::Clock { now_us: now.us() });
            let bps = link.second_bytes.saturating_mul(8);
            link.up.window.set_demand(Demand { bps, key_bytes: link.key_bytes_max });
            link.second_bytes = 0;
            let over = |taken: &Taken| taken.idle.is_some_and(|idle| now.since(idle) >= LINGER_US);
            let idle: Vec<u64> =
                link.takes.iter().filter(|(_, taken)| over(taken)).map(|(alias, _)| *alias).collect();
            for alias in idle {
                link.takes.remove(&alias);
                link.say(Message::Unsubscribe { alias });
            }
        }
    }
}

impl Link {
    /// A peer that takes no messages is gone.
    fn say(&self, message: Message) {
        if self.up.control.try_send(message).is_err() {
            self.up.connection.close(0_u32.into(), b"control");
        }
    }

    /// Says what the track is, where that is news.
    fn tell(&self, send: &mut Send, answers: bool, packet: &Packet) {
        let (ticks, capture_us) = (packet.timestamp, packet.capture.us());
        let is_known = send.told.is_some_and(|(codec, told, from, at)| {
            let passed = Time::from_ticks(ticks.saturating_sub(from), codec.clock_hz()).us();
            let off = at.saturating_add(passed).saturating_sub(capture_us);
            codec == packet.codec && told == answers && off.abs() <= LINE_US
        });
        if is_known {
            return;
        }
        send.told = Some((packet.codec, answers, ticks, capture_us));
        self.say(Message::Track(control::Track {
            alias: send.alias,
            answers,
            codec: packet.codec,
            seq: packet.seq,
            timestamp: ticks,
            capture_us,
            config: Bytes::new(),
        }));
    }

    fn push(
        &mut self,
        alias: u64,
        packet: &Packet,
        (dts_offset, budget_ms): (u32, u16),
        ingest: Time,
        now: Time,
    ) {
        let mut flags = Flags::default();
        for (set, flag) in [
            (packet.key_start, Flags::KEY),
            (packet.marker, Flags::END_OF_FRAME),
            (packet.discardable, Flags::DISCARDABLE),
            (packet.fresh_source, Flags::FRESH_SOURCE),
        ] {
            if set {
                flags = flags.with(flag);
            }
        }
        let len = packet.payload.len() as u64;
        self.second_bytes += len;
        if packet.codec.kind() == Kind::Video {
            let key = packet.key_start || self.key_bytes > 0;
            self.key_bytes = if key && !packet.marker { self.key_bytes + len } else { 0 };
            self.key_bytes_max = self.key_bytes_max.max(self.key_bytes);
        }
        let class = if packet.codec.kind() == Kind::Audio { Class::Audio } else { Class::Video };
        let outbound = Outbound {
            class,
            track: alias,
            flags,
            ingest,
            budget_ms,
            seq: packet.seq as u32,
            timestamp: packet.timestamp as u32,
            dts_offset,
            descriptor: packet.descriptor.clone(),
            payload: packet.payload.clone(),
        };
        self.outgoing.push(outbound, now);
    }

    /// As much as quinn's short queue takes; whether more waits.
    fn send(&mut self, now: Time) -> bool {
        let connection = &self.up.connection;
        let Some(size) = connection.max_datagram_size() else { return false };
        loop {
            if connection.datagram_send_buffer_space() < size {
                return self.outgoing.is_waiting(now);
            }
            let Some(datagram) = self.outgoing.poll(size, now) else { return false };
            if connection.send_datagram(datagram.into()).is_err() {
                return false;
            }
        }
    }

    /// A packet as it was at the peer; `None` while nothing is known of its track.
    fn packet(&mut self, alias: u64, arrived: Arrived, now: Time) -> Option<(Packet, u32)> {
        let half_us = self.up.window.trip().smoothed_us / 2;
        let clock_us = self.clock_us.unwrap_or(0).saturating_sub(half_us);
        let taken = self.takes.get_mut(&alias)?;
        let Some(track) = &taken.track else {
            if taken.early.len() < EARLY_MAX {
                taken.early.push(arrived);
            }
            return None;
        };
        let (seq, timestamp) = taken.newest?;
        let header = arrived.media;
        // 32 bits, from the newest on.
        let seq = seq.checked_add_signed(header.seq.wrapping_sub(seq as u32).cast_signed().into())?;
        let ticks = header.timestamp.wrapping_sub(timestamp as u32).cast_signed();
        let timestamp = timestamp.saturating_add(ticks.into());
        if taken.newest.is_none_or(|(newest, _)| seq > newest) {
            taken.newest = Some((seq, timestamp));
        }
        let codec = track.codec;
        let passed = Time::from_ticks(timestamp.saturating_sub(track.timestamp), codec.clock_hz()).us();
        let capture = Time(track.capture_us.saturating_add(passed).saturating_add(clock_us));
        let packet = Packet {
            seq,
            timestamp,
            arrival: now,
            capture,
            codec,
            marker: header.flags.has(Flags::END_OF_FRAME),
            key_start: header.flags.has(Flags::KEY),
            discardable: header.flags.has(Flags::DISCARDABLE),
            temporal: Temporal::of(codec, &arrived.payload, None),
            descriptor: arrived.descriptor,
            fresh_source: header.flags.has(Flags::FRESH_SOURCE),
            payload: arrived.payload,
        };
        Some((packet, header.dts_offset))
    }
}
