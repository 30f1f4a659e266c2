//! What goes out: streams are announced, and peers are sent what they subscribe to, be it published here or come from another peer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::relay::control::{self, Encoding, Form, Message, TrackId};
use ::relay::datagram::{Flags, left_out};
use ::relay::flow::{Flow, Out};
use ::relay::hop::{Class, Outbound, Pushed};
use bytes::Bytes;
use media::{Codec, Kind, Need, StreamName, Time};
use sfu::{Layers, Mail, SourceId, StreamId, TrackKey};

use super::hold::HELD_MAX;
use super::offers::link_id;
use super::outlet::Outlet;
use super::{Hub, Link};
use crate::media_plane::ShardHandle;
use crate::relay::Derives;
use crate::stream::{Ingest, Stream};

/// What a packet may be late in all and still be of use to a live viewer.
const BUDGET_MS: u16 = 400;
/// The same for frames: who watches them has a second and a half in its player.
const FRAMES_BUDGET_MS: u16 = 1_500;
/// A capture line that moved less is the same one: a report's rounding.
const LINE_US: i64 = 2_000;
/// Tracks that one peer may be sent.
pub(super) const SENDS_MAX: usize = 10_000;
/// Who has a track up to a number goes on with what is so far behind it at most: what is between was lost on the way, or is out of order.
const RESUMES_MAX: u64 = 512;
/// A peer may ask for a key frame of a track once in so long: more is no use to it.
const KEY_FRAME_US_MIN: i64 = 100_000;
/// A track that was cut is asked a key frame for when so little waits for the link that it finds room, ...
const ROOM_US: i64 = 50_000;
/// ...and again after so long. So is one that has not begun.
const MEND_US: i64 = 500_000;

/// Whom packets are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begins {
    /// Everybody: they are news.
    Live,
    /// Who has nothing yet: they are what was there before.
    Backlog,
    /// Everybody, though they are what was there before.
    Past,
}

/// Where packets for peers come from.
#[derive(Debug)]
pub(super) enum Upstream {
    /// The track's home shard.
    Home(ShardHandle),
    /// The stream's feed, of what is published in that form: here, or it comes in that generation.
    Feed { form: Form, comes: Option<u64> },
    /// Another peer. The stream is here as long as that.
    Peer { _stream: Arc<Stream>, generation: u64, form: Form },
}

impl Upstream {
    pub(super) fn is_feed(&self) -> bool {
        matches!(self, Upstream::Feed { .. })
    }

    fn is_peer(&self) -> bool {
        matches!(self, Upstream::Peer { .. })
    }

    /// For that track: where it comes in frames it is given as long as they are.
    pub(super) fn budget_ms(&self, key: TrackKey) -> u16 {
        match self {
            Upstream::Feed { .. } | Upstream::Peer { form: Form::Frames, .. } => FRAMES_BUDGET_MS,
            Upstream::Peer { form: Form::Packets, .. } if key.derived => FRAMES_BUDGET_MS,
            Upstream::Home(_) | Upstream::Peer { .. } => BUDGET_MS,
        }
    }
}

/// What a peer asks for of a stream.
pub(super) struct Subscription {
    pub(super) alias: u64,
    pub(super) generation: u64,
    pub(super) track: TrackId,
    pub(super) after: Option<u64>,
    pub(super) need: Need,
    pub(super) reliable: bool,
}

/// A track that a peer is sent.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) link: usize,
    pub(super) alias: u64,
    /// Somebody records it: all of it goes by a stream.
    pub(super) reliable: bool,
    /// What for.
    need: Need,
    /// It has nothing yet: it begins with the backlog, or a key frame; behind this number, if that is there.
    pub(super) fresh: bool,
    pub(super) after: Option<u64>,
    /// What the peer was told that the track is, and the capture line: ticks and microseconds.
    pub(super) told: Option<Told>,
    epoch: bool,
    /// By a stream, what is news behind what was there before it came, until that has caught up.
    pub(super) outlet: Option<Outlet>,
    /// A key frame was asked for.
    asked: Time,
}

#[derive(Debug)]
pub(super) struct Told {
    codec: Codec,
    config: Bytes,
    ticks: i64,
    capture_us: i64,
}

/// A track that peers are sent.
#[derive(Debug)]
pub(super) struct Given {
    name: StreamName,
    pub(super) upstream: Upstream,
    pub(super) to: Vec<Send>,
    /// Who holds it here, by link and alias.
    held: Vec<(usize, u64)>,
}

impl Given {
    /// A peer records it, or passes it on to one that does.
    pub(super) fn is_recorded(&self) -> bool {
        self.to.iter().any(|send| send.reliable)
    }
}

/// A stream that is published here.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) form: Form,
    stream: StreamId,
    home: ShardHandle,
    pub(super) source: SourceId,
    pub(super) generation: u64,
    pub(super) codecs: [Option<Codec>; 2],
}

impl Hub {
    pub(super) fn published(
        &mut self,
        ingest: Ingest,
        name: StreamName,
        (stream, home): (StreamId, ShardHandle),
        source: SourceId,
        claimed: Option<u64>,
    ) {
        // Of the same stream as it came from elsewhere, if there is one: it has another's numbers, and derived sound alone.
        self.end_feed(stream);
        let now_us = self.node.clock.unix_us_at_zero().saturating_add(self.now().us());
        let newest = self.paths.newest(&name).unwrap_or(0);
        let claimed = claimed.or_else(|| self.claimed_there(&name));
        let generation = claimed.unwrap_or(now_us.unsigned_abs().max(newest.saturating_add(1)));
        self.forget(&name);
        self.give_stream_no_more(stream, |_| true);
        let codecs = [None, None];
        let form = if ingest == Ingest::Rtmp { Form::Frames } else { Form::Packets };
        let published = Published { form, stream, home, source, generation, codecs };
        self.published.insert(name.clone(), published);
        self.announce(&name);
    }

    pub(super) fn has_codec(&mut self, name: &StreamName, source: SourceId, codec: Codec) {
        if let Some(of) = self.published.get_mut(name).filter(|of| of.source == source) {
            of.codecs[codec.kind() as usize] = Some(codec);
            self.announce(name);
        }
    }

    /// A stream is not published here any more.
    pub(super) fn forget(&mut self, name: &StreamName) {
        let Some(of) = self.published.remove(name) else { return };
        self.give_stream_no_more(of.stream, |upstream| !upstream.is_peer());
        self.end_feed(of.stream);
        self.paths.left(name);
        self.settle([name.clone()]);
    }

    /// Peers are sent a stream no more, as far as it came from there.
    pub(super) fn give_stream_no_more(&mut self, stream: StreamId, from: impl Fn(&Upstream) -> bool) {
        let of = self.given.iter().filter(|(key, given)| key.stream == stream && from(&given.upstream));
        let gone: Vec<TrackKey> = of.map(|(key, _)| *key).collect();
        for key in gone {
            self.give_no_more(key, |_, _| true);
        }
    }

    /// The stream comes from another peer in another generation, or no more.
    pub(super) fn give_older_no_more(&mut self, stream: StreamId, newest: Option<u64>) {
        self.give_stream_no_more(
            stream,
            |upstream| matches!(upstream, Upstream::Peer { generation, .. } | Upstream::Feed { comes: Some(generation), .. } if Some(*generation) != newest),
        );
    }

    pub(super) fn subscribe(&mut self, id: usize, name: &StreamName, of: Subscription) {
        let Subscription { alias, generation, track, after, need, reliable } = of;
        let Some(link) = self.links.get(&id) else { return };
        if let Some(key) = link.gives.get(&alias).copied() {
            return self.needed_for(id, key, need);
        }
        if link.gives.len() >= SENDS_MAX || link.held.contains_key(&alias) {
            return;
        }
        if need == Need::Held && link.held.len() >= HELD_MAX {
            link.metrics.not_held.increment();
            return;
        }
        let has = self.node.streams.get(name).and_then(|stream| self.need_of(id, stream.id));
        if !self.gives(id, name, generation, has.max(Some(need)).unwrap_or(need)) {
            return;
        }
        let here = self.published.get(name).filter(|of| of.generation == generation);
        let (stream, upstream) = match here {
            Some(_) if track.derived && !self.derives() => return,
            Some(of) if of.form == Form::Packets && !track.derived => {
                (of.stream, Upstream::Home(of.home.clone()))
            }
            Some(_) if track.layer != 0 => return,
            Some(of) => (of.stream, Upstream::Feed { form: of.form, comes: None }),
            None => {
                let Some((_, offer)) = self.parent(name) else { return };
                let (form, derives) = (offer.about.form, self.derives_of(offer));
                let stream = self.node.streams.get_or_create(name);
                if stream.relayed().is_none_or(|(_, has)| has != generation) {
                    return;
                }
                match derives {
                    Derives::Nowhere if track.derived => return,
                    Derives::Here if track.derived => {
                        (stream.id, Upstream::Feed { form, comes: Some(generation) })
                    }
                    _ => (stream.id, Upstream::Peer { _stream: stream, generation, form }),
                }
            }
        };
        let key = TrackKey { stream, kind: track.kind, layer: track.layer, derived: track.derived };
        let Some(link) = self.links.get_mut(&id) else { return };
        let given = self.given.entry(key).or_insert_with(|| Given {
            name: name.clone(),
            upstream,
            to: Vec::new(),
            held: Vec::new(),
        });
        let was_recorded = given.is_recorded();
        // One copy of a track on a link: a second subscription takes the place of the first.
        for old in given.to.extract_if(.., |send| send.link == id) {
            link.gives.remove(&old.alias);
            link.outgoing.forget(old.alias);
        }
        for (_, old) in given.held.extract_if(.., |(link, _)| *link == id) {
            link.held.remove(&old);
        }
        if need == Need::Held {
            link.held.insert(alias, key);
            given.held.push((id, alias));
        } else {
            link.gives.insert(alias, key);
            given.to.push(Send::new((id, alias), need, reliable, after));
        }
        self.count_given();
        self.paths.needs(link_id(id), name, self.need_of(id, stream).unwrap_or(need));
        self.begin(id, key, after, need);
        self.follow_recorded(key, was_recorded);
    }

    /// A track comes for a peer, and what is there of it goes to it; of one that is held nothing does.
    fn begin(&mut self, id: usize, key: TrackKey, after: Option<u64>, need: Need) {
        let (stream, is_sent) = (key.stream, need != Need::Held);
        let Some(given) = self.given.get(&key) else { return };
        let is_peer = given.upstream.is_peer();
        match &given.upstream {
            Upstream::Home(home) => {
                home.mail(Mail::Mirror(key, self.handle.number));
                if is_sent {
                    home.mail(Mail::RequestKeyFrame(key));
                }
                return;
            }
            Upstream::Feed { form, comes } => {
                let (form, comes) = (*form, comes.is_some());
                self.start_feed(key, form, comes);
            }
            Upstream::Peer { .. } => self.want_for_peers(key, after),
        }
        if is_sent {
            self.pass_metadata(id, stream);
            let there = self.cached(key, after);
            self.give(key, Begins::Backlog, &there);
        }
        if is_sent && is_peer {
            self.pass_layers(id, stream);
        }
    }

    /// A peer needs what it takes for something else.
    fn needed_for(&mut self, id: usize, key: TrackKey, need: Need) {
        let Some(given) = self.given.get_mut(&key) else { return };
        let name = given.name.clone();
        let send = given.to.iter_mut().find(|send| send.link == id);
        if let Some(send) = send.filter(|_| need != Need::Held) {
            send.need = need;
            let need = self.need_of(id, key.stream).unwrap_or(need);
            self.paths.needs(link_id(id), &name, need);
            self.settle([]);
        }
    }

    /// What a peer takes a stream from here for.
    fn need_of(&self, id: usize, stream: StreamId) -> Option<Need> {
        let link = self.links.get(&id)?;
        let sent = |key: &TrackKey| {
            let send = self.given.get(key)?.to.iter().find(|send| send.link == id)?;
            Some(send.need)
        };
        let sent = link.gives.values().filter(|key| key.stream == stream).filter_map(sent);
        let held = link.held.values().filter(|key| key.stream == stream).map(|_| Need::Held);
        sent.chain(held).max()
    }

    fn count_given(&self) {
        let sent = self.links.values().map(|link| link.gives.len()).sum();
        self.handle.given.store(sent, Ordering::Relaxed);
    }

    pub(super) fn unsubscribe(&mut self, id: usize, alias: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.outgoing.forget(alias);
        if let Some(key) = link.gives.get(&alias).or(link.held.get(&alias)).copied() {
            self.give_no_more(key, |link, of| (link, of) == (id, alias));
        }
    }

    /// A link is gone.
    pub(super) fn give_nothing(&mut self, id: usize) {
        let keys: Vec<TrackKey> = self.given.keys().copied().collect();
        for key in keys {
            self.give_no_more(key, |link, _| link == id);
        }
    }

    /// A link is sent a stream no more.
    pub(super) fn give_link_no_more(&mut self, id: usize, name: &StreamName) {
        let of = self.given.iter().filter(|(_, given)| given.name == *name);
        let keys: Vec<TrackKey> = of.map(|(key, _)| *key).collect();
        for key in keys {
            self.give_no_more(key, |link, _| link == id);
        }
    }

    /// By link and alias.
    fn give_no_more(&mut self, key: TrackKey, whom: impl Fn(usize, u64) -> bool) {
        let Some(given) = self.given.get_mut(&key) else { return };
        let (name, mut left, was_recorded) = (given.name.clone(), Vec::new(), given.is_recorded());
        for send in given.to.extract_if(.., |send| whom(send.link, send.alias)) {
            if let Some(link) = self.links.get_mut(&send.link) {
                link.gives.remove(&send.alias);
                link.outgoing.forget(send.alias);
                left.push(send.link);
            }
        }
        for (id, alias) in given.held.extract_if(.., |(link, alias)| whom(*link, *alias)) {
            if let Some(link) = self.links.get_mut(&id) {
                link.held.remove(&alias);
                left.push(id);
            }
        }
        for id in left {
            match self.need_of(id, key.stream) {
                Some(need) => self.paths.needs(link_id(id), &name, need),
                None => self.paths.gives_no_more(link_id(id), &name),
            }
        }
        if self.given.get(&key).is_some_and(|given| given.to.is_empty() && given.held.is_empty())
            && let Some(given) = self.given.remove(&key)
        {
            match given.upstream {
                Upstream::Home(home) => home.mail(Mail::Unmirror(key, self.handle.number)),
                // It lingers.
                Upstream::Feed { .. } => {}
                Upstream::Peer { .. } => self.want_idle(key),
            }
        }
        self.count_given();
        self.follow_recorded(key, was_recorded);
    }

    /// Somebody behind a peer records a track since, or nobody does any more: so it comes here.
    fn follow_recorded(&mut self, key: TrackKey, was_recorded: bool) {
        if self.given.get(&key).is_some_and(Given::is_recorded) != was_recorded
            && let Some(name) = self.wants.get(&key).map(|want| want.name.clone())
        {
            self.follow_parent(&name);
        }
    }

    /// Asks where the packets come from.
    pub(super) fn ask_upstream(&mut self, key: TrackKey) {
        match self.given.get(&key).map(|given| &given.upstream) {
            Some(Upstream::Home(home)) => home.mail(Mail::RequestKeyFrame(key)),
            Some(Upstream::Peer { .. }) => self.ask_key_frame(key),
            // Nobody can be asked.
            Some(Upstream::Feed { .. }) | None => {}
        }
    }

    pub(super) fn key_frame(&mut self, id: usize, alias: u64) {
        let now = self.now();
        let Some(key) = self.links.get(&id).and_then(|link| link.gives.get(&alias)).copied() else { return };
        let Some(given) = self.given.get_mut(&key) else { return };
        let send = given.to.iter_mut().find(|send| send.link == id);
        if let Some(send) = send.filter(|send| now.since(send.asked) >= KEY_FRAME_US_MIN) {
            send.asked = now;
            self.ask_upstream(key);
        }
    }

    /// Packets of a track that peers take.
    pub(super) fn give(&mut self, key: TrackKey, begins: Begins, flows: &[Flow]) {
        let now = self.now();
        let Some(given) = self.given.get_mut(&key).filter(|_| !flows.is_empty()) else { return };
        let budget_ms = given.upstream.budget_ms(key);
        // What a home shard has behind a number is on its way here, behind what is live.
        let hole_max = match given.upstream {
            Upstream::Home(_) if begins == Begins::Live => 0,
            _ => RESUMES_MAX,
        };
        for send in &mut given.to {
            let Some(link) = self.links.get_mut(&send.link) else { continue };
            let is_fresh = send.fresh;
            let Some(flows) = send.begins(key.kind, begins, hole_max, flows) else { continue };
            let are_news = begins == Begins::Live;
            if is_fresh && (send.reliable || !are_news) {
                send.outlet = Some(Outlet::open(&link.up.connection, key.kind, &self.node.metrics));
            }
            let Some(outlet) = &mut send.outlet else {
                flows.iter().for_each(|flow| link.give(send, flow, budget_ms, now));
                continue;
            };
            outlet.wait(flows, are_news, now);
            self.waiting.insert(key);
            if are_news {
                link.streamed.0 += flows.iter().map(|flow| flow.payload_len() as u64).sum::<u64>();
            }
        }
    }

    /// Who lost a track up to its next key frame, or has not begun, gets one when it finds room: a browser makes none by itself.
    pub(super) fn mend(&mut self, now: Time) {
        let mut asks = Vec::new();
        for (key, given) in self.given.iter_mut().filter(|(key, _)| key.kind == Kind::Video) {
            for send in &mut given.to {
                let Some(link) = self.links.get(&send.link) else { continue };
                let cut = send.fresh || link.outgoing.is_cut(send.alias);
                if cut && link.outgoing.queue_us(now) < ROOM_US && now.since(send.asked) >= MEND_US {
                    send.asked = now;
                    asks.push(*key);
                }
            }
        }
        asks.dedup();
        for key in asks {
            self.ask_upstream(key);
        }
    }

    /// What a stream's encodings are like, for who takes one.
    pub(super) fn give_layers(&mut self, stream: StreamId, layers: &Layers) {
        let Some((name, of)) = self.published.iter().find(|(_, of)| of.stream == stream) else { return };
        let mut rids = self.node.streams.get(name).map_or(Vec::new(), |stream| stream.rids());
        if rids.is_empty() {
            // One encoding, with temporal layers.
            rids.push(String::new());
        }
        let encodings: Vec<Encoding> = rids.into_iter().zip(layers).map(encoding).collect();
        let (stream_name, generation) = (name.clone(), of.generation);
        self.tell_layers(stream, &Message::Layers { stream: stream_name, generation, encodings });
    }

    /// Who takes one of the stream's encodings is told.
    pub(super) fn tell_layers(&self, stream: StreamId, layers: &Message) {
        let takes = |link: &&Link| link.gives.values().any(|key| key.stream == stream);
        for link in self.links.values().filter(takes) {
            link.say(layers.clone());
        }
    }
}

fn encoding((rid, layer): (String, &sfu::Layer)) -> Encoding {
    let count = usize::from(layer.temporal_layers);
    Encoding {
        rid,
        flows: layer.flows,
        paused: layer.paused,
        live: layer.live,
        height: layer.height.into(),
        rate_bps: layer.rate_bps,
        temporal_bps: layer.temporal_bps.get(..count).unwrap_or(&layer.temporal_bps).to_vec(),
    }
}

impl Send {
    /// By link and alias, behind that number.
    pub(super) fn new((link, alias): (usize, u64), need: Need, reliable: bool, after: Option<u64>) -> Send {
        Send {
            link,
            alias,
            need,
            reliable,
            fresh: true,
            after,
            told: None,
            epoch: false,
            outlet: None,
            asked: Time::ZERO,
        }
    }

    /// What of it is for this peer, which goes on with it where so many at most are missing.
    fn begins<'a>(
        &mut self,
        kind: Kind,
        begins: Begins,
        hole_max: u64,
        flows: &'a [Flow],
    ) -> Option<&'a [Flow]> {
        if !self.fresh {
            // Others have had it.
            return Some(flows).filter(|_| begins != Begins::Backlog);
        }
        let (first, last) = (flows.first()?.seq(), flows.last()?.seq());
        let mut flows = flows;
        match self.after {
            Some(after) if last <= after => return None,
            Some(after) if first <= after.saturating_add(1).saturating_add(hole_max) => {
                flows = flows.get(flows.partition_point(|flow| flow.seq() <= after)..)?;
            }
            _ if kind == Kind::Video && begins == Begins::Live => {
                flows = flows.get(flows.iter().position(Flow::begins_key_frame)?..)?;
            }
            _ => {}
        }
        (self.fresh, self.after) = (false, None);
        Some(flows)
    }

    /// What the track is, where that is news to the peer.
    pub(super) fn is_news(&mut self, out: &Out) -> Option<control::Track> {
        let packet = &out.packet;
        let (ticks, capture_us) = (packet.timestamp, packet.capture.us());
        let same = self.told.as_ref().map(|told| told.codec == packet.codec && told.config == out.config);
        let is_known = self.told.as_ref().is_some_and(|told| {
            let passed = Time::from_ticks(ticks.saturating_sub(told.ticks), told.codec.clock_hz()).us();
            let off = told.capture_us.saturating_add(passed).saturating_sub(capture_us);
            same == Some(true) && off.abs() <= LINE_US
        });
        if is_known {
            return None;
        }
        self.epoch ^= same == Some(false);
        self.told = Some(Told { codec: packet.codec, config: out.config.clone(), ticks, capture_us });
        Some(control::Track {
            alias: self.alias,
            epoch: self.epoch,
            codec: packet.codec,
            seq: packet.seq,
            timestamp: ticks,
            capture_us,
            config: out.config.clone(),
        })
    }

    /// A packet, or the word that there are none, for the link; it came into the cluster when it says, or then.
    pub(super) fn outbound(&self, flow: &Flow, budget_ms: u16, ingest: Option<Time>, now: Time) -> Outbound {
        let out = match flow {
            Flow::Packet(out) => out,
            Flow::LeftOut { seq, count } => {
                return Outbound {
                    class: Class::Video,
                    track: self.alias,
                    flags: Flags::default(),
                    ingest: now,
                    budget_ms,
                    seq: *seq as u32,
                    timestamp: 0,
                    dts_offset: 0,
                    temporal: Default::default(),
                    descriptor: Bytes::new(),
                    payload: left_out(*count),
                    left_out: true,
                };
            }
        };
        let packet = &out.packet;
        let mut flags = Flags::default();
        for (set, flag) in [
            (packet.key_start, Flags::KEY),
            (packet.marker, Flags::END_OF_FRAME),
            (packet.discardable, Flags::DISCARDABLE),
            (packet.fresh_source, Flags::FRESH_SOURCE),
            (self.epoch, Flags::EPOCH),
        ] {
            if set {
                flags = flags.with(flag);
            }
        }
        Outbound {
            class: if packet.codec.kind() == Kind::Audio { Class::Audio } else { Class::Video },
            track: self.alias,
            flags,
            ingest: ingest.unwrap_or(out.ingest),
            budget_ms,
            seq: packet.seq as u32,
            timestamp: packet.timestamp as u32,
            dts_offset: out.dts_offset,
            temporal: packet.temporal,
            descriptor: packet.descriptor.clone(),
            payload: packet.payload.clone(),
            left_out: false,
        }
    }
}

impl Link {
    /// A packet, or the word that there are none, as a datagram.
    fn give(&mut self, send: &mut Send, flow: &Flow, budget_ms: u16, now: Time) {
        if let Flow::Packet(out) = flow
            && let Some(track) = send.is_news(out)
        {
            self.say(Message::Track(track));
        }
        let pushed = self.outgoing.push(send.outbound(flow, budget_ms, None, now), now);
        if let (Pushed::Taken, Flow::Packet(out)) = (pushed, flow) {
            self.count(send.alias, &out.packet);
        }
    }

    /// What the window is to hold: all of a second, and the largest key frame.
    pub(super) fn count(&mut self, alias: u64, packet: &media::Packet) {
        let len = packet.payload.len() as u64;
        self.second_bytes += len;
        if packet.key_start {
            self.key_frame = (alias, packet.timestamp, 0);
        }
        if (self.key_frame.0, self.key_frame.1) == (alias, packet.timestamp) {
            self.key_frame.2 += len;
            self.key_bytes_max = self.key_bytes_max.max(self.key_frame.2);
        }
    }
}

#[cfg(test)]
mod tests;
