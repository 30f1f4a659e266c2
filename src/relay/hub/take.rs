//! What comes in: peers offer streams, and what is wanted here is taken from the nearest of them. Who wants it is the track's home shard, a maker of
//! frames, or other peers, and one subscription serves all.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use ::relay::control::{self, Encoding, Message, TrackId};
use ::relay::flow::{Flow, OutOfBounds, Reader};
use ::relay::hop::Arrived;
use media::{AudioConfig, Kind, Need, Packet, StreamName, Time};
use metrics::{Queue, RelaySwitch};
use sfu::{Command, LAYERS_MAX, Layer, Layers, Mail, SourceId, StreamId, TrackKey};
use tokio::sync::mpsc;

use super::cache::Cache;
use super::give::{Begins, Given};
use super::inlet::Inlet;
use super::{Hub, Link};
use crate::media_plane::{Order, ShardHandle};
use crate::stream::Stream;
use crate::stream::from_relay::FromPeer;

/// A track that nobody takes any more is subscribed for so much longer: who reloads a page has it at once.
const LINGER_US: i64 = 5_000_000;
/// Another way has caught up with the one before when its packets come so much later at most: it may be longer.
const CAUGHT_UP_US: i64 = 100_000;
/// So long is waited for that: a track of which nothing comes has caught up.
const CATCH_UP_US: i64 = 2_000_000;
/// A peer is asked for a key frame of a track once in so long, whoever needs one.
const KEY_FRAME_US_MIN: i64 = 100_000;

/// A track that a peer sends.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) key: TrackKey,
    /// What the peer was told that it is taken for.
    pub(super) need: Need,
    /// All of it comes, by a stream.
    is_reliable: bool,
    pub(super) reader: Reader,
    /// Its stream.
    pub(super) inlet: Option<Inlet>,
}

impl Taken {
    /// Datagrams that found no room to wait.
    pub(super) fn take_overflows(&mut self) -> u64 {
        self.reader.take_overflows()
    }

    /// What came by its stream, of a peer whose clock is so much behind this one.
    fn read(&mut self, arrived: Arrived, clock_us: i64, now: Time) -> Result<Option<Flow>, Lie> {
        if self.reader.is_told(&arrived) {
            return Ok(self.reader.read_in_order(arrived, clock_us, now)?);
        }
        // The word that packets do not come says nothing before that, and is no lie.
        if arrived.media.left_out { Ok(None) } else { Err(Lie::Untold) }
    }
}

/// A subscription: link and alias.
type Leg = (usize, u64);

/// Where frames are made of a track.
#[derive(Debug)]
struct Sink {
    /// The watch that wants them.
    watch: u64,
    to: mpsc::Sender<FromPeer>,
    /// It was told with which packet the track begins.
    has_begun: bool,
    /// It begins behind this number, if that is there: what is before it was given, or found no room.
    after: Option<u64>,
}

/// A track that is wanted here and comes from elsewhere.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) name: StreamName,
    /// For what is counted there; who wants it keeps it.
    stream: Weak<Stream>,
    pub(super) source: SourceId,
    pub(super) generation: u64,
    home: ShardHandle,
    /// Its home shard takes it...
    shard: bool,
    /// ...or a maker of frames does...
    sink: Option<Sink>,
    /// ...or peers do.
    peers: bool,
    /// Nobody does since.
    pub(super) idle: Option<Time>,
    /// How it comes; `None`: no way is known.
    leg: Option<Leg>,
    /// How it will come, once it comes that way as it does by the other, and since when it is waited for.
    next: Option<Leg>,
    next_since: Time,
    /// Where it is held, for when that way ends.
    pub(super) hold: Option<Leg>,
    /// When the newest came, and whether by another way than it is to come by now.
    last: Option<Time>,
    has_switched: bool,
    cache: Cache,
    /// Who wants it first has it up to there.
    after: Option<u64>,
    asked: Time,
}

/// What came, by link and alias.
pub(super) type Batch = HashMap<Leg, Vec<Flow>>;

/// What a peer says of a track that cannot be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Lie {
    /// The codec is not of the track's kind.
    #[error("a picture on a track of sound, or the other way round")]
    Kind,
    /// A number or a time ran out of what streams live to see.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// It is on a stream that did not say what its track is.
    #[error("a packet of a track that is not known")]
    Untold,
}

impl Want {
    fn is_wanted(&self) -> bool {
        self.is_watched() || self.peers
    }

    /// To the home shard, in the order in which it came.
    fn mail(&self, track: TrackKey, flows: &[Flow]) {
        let source = self.source;
        for run in flows.chunk_by(|a, b| packet(a).is_some() && packet(b).is_some()) {
            self.home.mail(match run {
                [Flow::LeftOut { seq, count }] => Mail::LeftOut { track, source, seq: *seq, count: *count },
                _ => {
                    Mail::Packets { track, source, packets: run.iter().filter_map(packet).cloned().collect() }
                }
            });
        }
    }

    /// By somebody at this node.
    pub(super) fn is_watched(&self) -> bool {
        self.shard || self.sink.is_some()
    }

    pub(super) fn legs(&self) -> impl Iterator<Item = Leg> + use<> {
        self.leg.into_iter().chain(self.next)
    }
}

impl Hub {
    /// Asks where it comes from, for whoever needs it.
    pub(super) fn ask_key_frame(&mut self, key: TrackKey) {
        let now = self.now();
        let Some(want) = self.wants.get_mut(&key) else { return };
        if now.since(want.asked) < KEY_FRAME_US_MIN {
            return;
        }
        want.asked = now;
        for (link, alias) in want.legs() {
            if let Some(link) = self.links.get(&link) {
                link.say(Message::KeyFrame { alias });
            }
        }
    }

    /// A shard has its first subscriber of a track that comes from elsewhere.
    pub(super) fn want(&mut self, key: TrackKey) {
        let is_new = !self.wants.contains_key(&key);
        self.wanted(key, None, |want| want.shard = true);
        let Some(want) = self.wants.get_mut(&key).filter(|_| !is_new) else { return };
        // What was there, in its order; a newer key frame follows for who begins.
        let there = want.cache.begin(key.kind, None);
        want.mail(key, &there);
        self.ask_key_frame(key);
    }

    /// Peers take it, or hold it here, the first of them behind that number.
    pub(super) fn want_for_peers(&mut self, key: TrackKey, after: Option<u64>) {
        self.wanted(key, after, |want| want.peers = true);
    }

    /// It is wanted; subscribed for when it was not.
    fn wanted(&mut self, key: TrackKey, after: Option<u64>, by: impl FnOnce(&mut Want)) {
        let is_new = !self.wants.contains_key(&key);
        if is_new {
            let Some(stream) = self.node.streams.by_id(key.stream) else { return };
            let Some((source, generation)) = stream.relayed() else { return };
            let want = Want {
                name: stream.name.clone(),
                stream: Arc::downgrade(&stream),
                source,
                generation,
                home: stream.home.clone(),
                shard: false,
                sink: None,
                peers: false,
                idle: None,
                leg: None,
                next: None,
                next_since: Time::ZERO,
                hold: None,
                last: None,
                has_switched: false,
                cache: Cache::default(),
                after,
                asked: Time::ZERO,
            };
            self.wants.insert(key, want);
        }
        let Some(want) = self.wants.get_mut(&key) else { return };
        want.idle = None;
        by(want);
        let name = want.name.clone();
        self.tell_wanted(&name);
        self.settle(is_new.then_some(name));
    }

    /// A shard's last subscriber of a track is gone: to another encoding, or for good.
    pub(super) fn want_no_more(&mut self, key: TrackKey) {
        if let Some(want) = self.wants.get_mut(&key) {
            want.shard = false;
        }
        self.wants_less(key);
        self.settle([]);
    }

    /// No peer takes it any more.
    pub(super) fn want_idle(&mut self, key: TrackKey) {
        if let Some(want) = self.wants.get_mut(&key) {
            want.peers = false;
        }
        self.wants_less(key);
    }

    fn if_idle(&mut self, key: TrackKey) {
        let now = self.now();
        let beside = |of: &TrackKey| TrackKey { layer: key.layer, ..*of } == key && *of != key;
        let another = self.wants.iter().any(|(of, want)| beside(of) && want.idle.is_none());
        let Some(want) = self.wants.get_mut(&key).filter(|want| !want.is_wanted()) else { return };
        want.idle = Some(now.plus_us(if another { -LINGER_US } else { 0 }));
        self.end_idle(now);
    }

    /// Somebody takes a track no more.
    fn wants_less(&mut self, key: TrackKey) {
        self.if_idle(key);
        if let Some(name) = self.wants.get(&key).map(|want| want.name.clone()) {
            self.tell_wanted(&name);
        }
    }

    /// Frames are made of it here.
    pub(super) fn watch(
        &mut self,
        key: TrackKey,
        source: SourceId,
        watch: u64,
        sink: mpsc::Sender<FromPeer>,
    ) {
        let Some(stream) = self.node.streams.by_id(key.stream) else { return };
        if stream.relayed().is_none_or(|(has, _)| has != source) {
            return;
        }
        let sink = Sink { watch, to: sink, has_begun: false, after: None };
        self.wanted(key, None, |want| want.sink = Some(sink));
        self.begin_sink(key);
    }

    /// A maker of frames begins with what is there, or hears how what it has is decoded from now on.
    fn begin_sink(&mut self, key: TrackKey) {
        let Some(track) = self.taken(key).and_then(|taken| taken.reader.track().cloned()) else { return };
        let Some(want) = self.wants.get_mut(&key) else { return };
        let Some(sink) = &mut want.sink else { return };
        let (to, has_begun, newest) = (sink.to.clone(), sink.has_begun, want.cache.newest());
        let Ok(places) = to.try_reserve_many(2) else {
            // What comes without that is noise: it begins again when there is room.
            if std::mem::replace(&mut sink.has_begun, false) {
                sink.after = newest;
            }
            return self.node.metrics.queue_overflows.of(Queue::Conversion).increment();
        };
        sink.has_begun = true;
        let after = sink.after;
        let there = if has_begun { Vec::new() } else { self.cached(key, after) };
        let first = there.first().map(Flow::seq).or(newest.map(|newest| newest.saturating_add(1)));
        let begins = Some(first.unwrap_or(track.seq)).filter(|_| !has_begun);
        let config = AudioConfig::from_asc(track.config).ok();
        let flows = (!has_begun).then_some(FromPeer::Flows(key, there));
        for (what, place) in [FromPeer::Track { key, begins, config }].into_iter().chain(flows).zip(places) {
            place.send(what);
        }
    }

    /// What came goes to the maker of frames, if there is one: which may have to begin with it, or to hear how what comes by another way is decoded.
    fn make_frames(&mut self, key: TrackKey, is_moved: bool, flows: &[Flow]) {
        let sink =
            |hub: &Hub| hub.wants.get(&key)?.sink.as_ref().map(|sink| (sink.to.clone(), sink.has_begun));
        let Some((to, has_begun)) = sink(self) else { return };
        if is_moved || !has_begun {
            self.begin_sink(key);
        }
        // Who begins has it by that, and who did not hear how it is decoded has none of it.
        let takes = has_begun && sink(self).is_some_and(|(_, has_begun)| has_begun);
        if takes && to.try_send(FromPeer::Flows(key, flows.to_vec())).is_err() {
            self.node.metrics.queue_overflows.of(Queue::Conversion).increment();
        }
    }

    fn taken(&self, key: TrackKey) -> Option<&Taken> {
        let (link, alias) = self.wants.get(&key)?.leg?;
        self.links.get(&link)?.takes.get(&alias)
    }

    pub(super) fn unwatch(&mut self, watch: u64) {
        let of = |want: &Want| want.sink.as_ref().is_some_and(|sink| sink.watch == watch);
        let keys: Vec<TrackKey> =
            self.wants.iter().filter(|(_, want)| of(want)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(want) = self.wants.get_mut(&key) {
                // It lingered where the frames are.
                (want.sink, want.idle) = (None, Some(self.node.clock.now().plus_us(-LINGER_US)));
                want.idle = want.idle.filter(|_| !want.is_wanted());
                let name = want.name.clone();
                self.tell_wanted(&name);
            }
        }
        self.end_idle(self.now());
        self.settle([]);
    }

    /// What is there of a track that is fed or comes from elsewhere, behind that number if it is, else for who begins: derived sound that is past is
    /// not converted for viewers here either.
    pub(super) fn cached(&self, key: TrackKey, after: Option<u64>) -> Vec<Flow> {
        let cache = |key: TrackKey| {
            let fed = self.feeds.get(&key.stream).and_then(|feed| feed.cache(key));
            fed.or_else(|| self.wants.get(&key).map(|want| &want.cache))
        };
        let Some(there) = cache(key) else { return Vec::new() };
        if let Some(behind) = after.and_then(|after| there.behind(after)) {
            return behind;
        }
        let picture = match key.kind {
            Kind::Audio if key.derived => return Vec::new(),
            Kind::Audio => cache(TrackKey::new(key.stream, Kind::Video)).and_then(Cache::key_ingest),
            Kind::Video => None,
        };
        there.begin(key.kind, picture)
    }

    /// Subscribes for a track by the way of its stream, behind what there is of it.
    fn take(&mut self, key: TrackKey) -> Option<Leg> {
        let want = self.wants.get(&key)?;
        let (name, generation, after) =
            (want.name.clone(), want.generation, want.cache.whole_up_to().or(want.after));
        let (id, offer) = self.parent(&name).filter(|(_, offer)| offer.generation == generation)?;
        if key.derived && !offer.about.derives {
            return None;
        }
        let is_reliable = self.is_recorded(key);
        let link = self.links.get_mut(&id)?;
        let alias = link.next_alias;
        link.next_alias += 1;
        let track = TrackId { kind: key.kind, layer: key.layer, derived: key.derived };
        let need = self.paths.need(&name);
        let reliable = is_reliable;
        link.say(Message::Subscribe { alias, stream: name, generation, track, after, need, reliable });
        let reader = Reader::default();
        link.takes.insert(alias, Taken { key, need, is_reliable, reader, inlet: None });
        Some((id, alias))
    }

    /// What came of a stream comes by no way any more.
    pub(super) fn drop_legs(&mut self, name: &StreamName) {
        let mut legs = Vec::new();
        for want in self.wants.values_mut().filter(|want| want.name == *name) {
            legs.extend(want.leg.take().into_iter().chain(want.next.take()));
        }
        for leg in legs {
            self.drop_leg(Some(leg));
        }
    }

    /// The way of a stream may be another: what comes by a link that is gone comes by that at once, what still comes until it is there.
    pub(super) fn follow_parent(&mut self, name: &StreamName) {
        let Some((parent, _)) = self.parent(name) else { return };
        let is_there = |leg: &Option<Leg>, links: &HashMap<usize, Link>| {
            leg.is_some_and(|(link, _)| links.contains_key(&link))
        };
        let (mut moved, mut comes): (Vec<(TrackKey, bool)>, Vec<TrackKey>) = Default::default();
        for (key, want) in self.wants.iter_mut().filter(|(_, want)| want.name == *name) {
            want.next = want.next.filter(|leg| is_there(&Some(*leg), &self.links));
            if !is_there(&want.leg, &self.links) {
                want.leg = want.next.take();
                comes.extend(want.leg.map(|_| *key));
            }
            let is_reliable = is_recorded(&self.recorded, &self.given, *key);
            let is_right = |(link, alias): Leg| {
                let taken = self.links.get(&link).and_then(|link| link.takes.get(&alias));
                link == parent && taken.is_some_and(|taken| taken.is_reliable == is_reliable)
            };
            if !want.legs().any(is_right) {
                moved.push((*key, want.legs().any(|(link, _)| link == parent)));
            }
        }
        for key in comes {
            self.begin_sink(key);
        }
        let now = self.now();
        // The picture first.
        moved.sort_unstable_by_key(|(key, _)| (key.kind == Kind::Audio, key.stream, key.layer));
        for (key, same_link) in moved {
            let leg = self.take(key);
            if !same_link {
                self.count_switch(key);
            }
            let Some(want) = self.wants.get_mut(&key) else { continue };
            let old = if want.leg.is_some() { std::mem::replace(&mut want.next, leg) } else { None };
            (want.leg, want.next_since) = (want.leg.or(leg), now);
            self.drop_leg(old);
        }
    }

    /// Somebody here records a stream, or nobody does any more.
    pub(super) fn recorded(&mut self, stream: StreamId, is_recorded: bool) {
        if is_recorded {
            self.recorded.insert(stream);
        } else {
            self.recorded.remove(&stream);
        }
        if let Some(name) = self.node.streams.by_id(stream).map(|stream| stream.name.clone()) {
            self.follow_parent(&name);
        }
    }

    fn is_recorded(&self, key: TrackKey) -> bool {
        is_recorded(&self.recorded, &self.given, key)
    }

    fn count_switch(&mut self, key: TrackKey) {
        let Some(want) = self.wants.get_mut(&key).filter(|want| want.last.is_some()) else { return };
        let old = want.leg.and_then(|(link, _)| self.links.get(&link));
        let reason = match old {
            None => RelaySwitch::Lost,
            Some(link) if link.drains => RelaySwitch::Drains,
            Some(_) => RelaySwitch::Better,
        };
        want.has_switched |= old.is_none();
        self.node.metrics.switches.of(reason).increment();
    }

    /// Ways that were waited for long enough are taken.
    pub(super) fn end_moves(&mut self, now: Time) {
        let over = |want: &Want| want.next.is_some() && now.since(want.next_since) >= CATCH_UP_US;
        let mut old = Vec::new();
        for (key, want) in self.wants.iter_mut().filter(|(_, want)| over(want)) {
            old.push((*key, std::mem::replace(&mut want.leg, want.next.take())));
            want.has_switched = true;
        }
        for (key, leg) in old {
            self.drop_leg(leg);
            self.begin_sink(key);
        }
    }

    fn drop_leg(&mut self, leg: Option<Leg>) {
        let Some((link, alias)) = leg else { return };
        if let Some(link) = self.links.get_mut(&link)
            && link.takes.remove(&alias).is_some()
        {
            link.say(Message::Unsubscribe { alias });
        }
    }

    fn end_wants(&mut self, which: impl Fn(&Want) -> bool) -> Vec<(TrackKey, Want)> {
        let gone: Vec<TrackKey> =
            self.wants.iter().filter(|(_, want)| which(want)).map(|(key, _)| *key).collect();
        let mut ended = Vec::new();
        for key in gone {
            self.drop_hold(key);
            let Some(want) = self.wants.remove(&key) else { continue };
            self.drop_leg(want.leg);
            self.drop_leg(want.next);
            self.tell_wanted(&want.name);
            ended.push((key, want));
        }
        ended
    }

    /// What comes of a source that is over comes no more.
    pub(super) fn end_source(&mut self, source: SourceId) {
        for (key, want) in self.end_wants(|want| want.source == source) {
            if want.shard {
                let end = Command::EndSource(key, source);
                let _ = want.home.order(Order::Shard(end));
            }
        }
    }

    /// What nobody took for a while comes no more.
    pub(super) fn end_idle(&mut self, now: Time) {
        self.end_wants(|want| want.idle.is_some_and(|idle| now.since(idle) >= LINGER_US));
    }

    /// What a track is, by the control stream.
    pub(super) fn told(&mut self, id: usize, track: control::Track) -> Result<(), Lie> {
        let Some(taken) = self.links.get_mut(&id).and_then(|link| link.takes.get_mut(&track.alias)) else {
            return Ok(());
        };
        let alias = track.alias;
        let track = match &mut taken.inlet {
            Some(inlet) => inlet.hold_track(track),
            None => Some(track),
        };
        let Some(track) = track else { return Ok(()) };
        self.told_in_order(id, track)?;
        self.release_held(id, alias)
    }

    /// What a track is from now on.
    pub(super) fn told_in_order(&mut self, id: usize, track: control::Track) -> Result<(), Lie> {
        let alias = track.alias;
        let Some(taken) = self.links.get_mut(&id).and_then(|link| link.takes.get_mut(&alias)) else {
            return Ok(());
        };
        let key = taken.key;
        if track.codec.kind() != key.kind {
            return Err(Lie::Kind);
        }
        let (before, epoch) = (taken.reader.track().map(|before| before.epoch), track.epoch);
        taken.reader.told_in_order(track);
        let is_leg = self.wants.get(&key).is_some_and(|want| want.leg == Some((id, alias)));
        if is_leg && before != Some(epoch) {
            self.begin_sink(key);
        }
        Ok(())
    }

    /// Datagrams that waited follow.
    pub(super) fn release_held(&mut self, id: usize, alias: u64) -> Result<(), Lie> {
        let now = self.now();
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Some(taken) = link.takes.get_mut(&alias) else { return Ok(()) };
        let mut flows = Vec::new();
        for arrived in taken.reader.release() {
            flows.extend(link.flow(alias, arrived, now)?);
        }
        self.deliver(Batch::from([((id, alias), flows)]), Begins::Live);
        Ok(())
    }

    /// What a stream's encodings are like, for its home shard and for peers that take it from here.
    pub(super) fn take_layers(
        &mut self,
        id: usize,
        name: StreamName,
        generation: u64,
        encodings: Vec<Encoding>,
    ) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(stream) = self.node.streams.get(&name) else { return };
        let takes = link.takes.values().any(|taken| taken.key.stream == stream.id);
        if let Some((source, _)) = stream.relayed().filter(|(_, has)| takes && *has == generation) {
            let layers: Layers = std::array::from_fn(|i| encodings.get(i).map_or(Layer::default(), layer));
            // One encoding has none.
            let rids = encodings.iter().map(|encoding| encoding.rid.clone()).filter(|rid| !rid.is_empty());
            stream.set_rids(source, rids.collect());
            stream.set_layers(source, layers);
            stream.home.mail(Mail::Layers { stream: stream.id, layers });
            let layers = Message::Layers { stream: name, generation, encodings };
            self.tell_layers(stream.id, &layers);
            self.layers.insert(stream.id, layers);
        }
    }

    /// A peer that begins to take a stream from here is told what its encodings are like.
    pub(super) fn pass_layers(&self, id: usize, stream: StreamId) {
        if let (Some(link), Some(layers)) = (self.links.get(&id), self.layers.get(&stream)) {
            link.say(layers.clone());
        }
    }

    /// To who wants it: the home shards, a mail a track; makers of frames; peers.
    pub(super) fn deliver(&mut self, batch: Batch, begins: Begins) {
        let now = self.now();
        for (leg, flows) in batch {
            let taken = self.links.get(&leg.0).and_then(|link| link.takes.get(&leg.1));
            let Some(taken) = taken.filter(|_| !flows.is_empty()) else { continue };
            let key = taken.key;
            let Some(want) = self.wants.get_mut(&key) else { continue };
            let (mut behind_us, mut bytes) = (i64::MAX, 0);
            for flow in &flows {
                behind_us = behind_us.min(want.cache.insert(flow, key.kind, now));
                bytes += flow.payload_len() as u64;
            }
            if let Some(stream) = want.stream.upgrade() {
                stream.bytes_in.fetch_add(bytes, Ordering::Relaxed);
            }
            let mut old = None;
            let is_moved = behind_us <= CAUGHT_UP_US && want.next == Some(leg);
            if is_moved {
                // What is on the way by the old one comes by this one, too.
                old = want.leg.take();
                (want.leg, want.next, want.has_switched) = (want.next.take(), None, true);
            }
            if behind_us == 0 {
                let before = want.last.replace(now);
                if std::mem::take(&mut want.has_switched)
                    && let Some(before) = before
                {
                    self.node.metrics.switch_gap.observe(now.since(before).unsigned_abs());
                }
            }
            if want.shard {
                want.mail(key, &flows);
            }
            let peers = want.peers;
            self.drop_leg(old);
            self.make_frames(key, is_moved, &flows);
            if peers {
                self.give(key, begins, &flows);
            }
        }
    }
}

/// Somebody here records the stream of this track, or a peer that takes it does.
fn is_recorded(here: &HashSet<StreamId>, given: &HashMap<TrackKey, Given>, key: TrackKey) -> bool {
    here.contains(&key.stream) || given.get(&key).is_some_and(Given::is_recorded)
}

fn packet(flow: &Flow) -> Option<&Packet> {
    if let Flow::Packet(out) = flow { Some(&out.packet) } else { None }
}

fn layer(encoding: &Encoding) -> Layer {
    let mut layer = Layer {
        rate_bps: encoding.rate_bps,
        height: u32::try_from(encoding.height).unwrap_or(0),
        flows: encoding.flows,
        paused: encoding.paused,
        live: encoding.live,
        ..Layer::default()
    };
    for (to, bps) in layer.temporal_bps.iter_mut().zip(&encoding.temporal_bps) {
        *to = *bps;
        layer.temporal_layers += 1;
    }
    layer
}

const _: () = assert!(LAYERS_MAX == control::ENCODINGS_MAX);

impl Link {
    /// What came in a datagram, as it was at the peer; `None` while it is not known what its track is, or its stream is not over.
    pub(super) fn flow(&mut self, alias: u64, arrived: Arrived, now: Time) -> Result<Option<Flow>, Lie> {
        let clock_us = self.ahead_us();
        let Some(taken) = self.takes.get_mut(&alias) else { return Ok(None) };
        Ok(taken.reader.read(arrived, clock_us, now)?)
    }

    /// What came by a stream.
    pub(super) fn read(&mut self, alias: u64, arrived: Arrived, now: Time) -> Result<Option<Flow>, Lie> {
        let clock_us = self.ahead_us();
        self.takes.get_mut(&alias).map_or(Ok(None), |taken| taken.read(arrived, clock_us, now))
    }

    /// The peer's clock is behind this one by so much.
    fn ahead_us(&self) -> i64 {
        let half_us = self.up.window.trip().smoothed_us / 2;
        self.clock_us.unwrap_or(0).saturating_sub(half_us)
    }
}

#[cfg(test)]
mod tests;
