//! What comes in: peers offer streams, and what is watched here is taken from the nearest of them.

use std::collections::HashMap;

use ::relay::control::{self, Encoding, Form, Message, SEQ_MAX, TIME_MAX, TrackId};
use ::relay::datagram::Flags;
use ::relay::hop::Arrived;
use media::{AudioConfig, Codec, Kind, NodeId, Packet, StreamName, Time};
use metrics::Queue;
use sfu::{Command, LAYERS_MAX, Layer, Layers, Mail, SourceId, StreamId, TrackKey};
use tokio::sync::mpsc;

use super::{Hub, Link};
use crate::media_plane::{Order, ShardHandle};
use crate::relay::Announced;
use crate::stream::from_relay::FromPeer;

/// A track that nobody takes any more is subscribed for so much longer: who reloads a page has it at once.
const LINGER_US: i64 = 5_000_000;
/// Packets of a track that come before the word what it is: a round trip of one, with its key frame.
const EARLY_MAX: usize = 1_024;
/// Streams that one peer may announce.
const ANNOUNCED_MAX: usize = 10_000;

/// An announcement of a peer.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) generation: u64,
    pub(super) form: Form,
    pub(super) codecs: [Option<Codec>; 2],
    /// The nodes that it passed, the origin first and the peer last.
    pub(super) path: Vec<NodeId>,
}

/// A track that a peer sends.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) key: TrackKey,
    pub(super) source: SourceId,
    home: ShardHandle,
    /// What the track is, once told.
    track: Option<control::Track>,
    /// The newest number and time, from which the 32 bits in datagrams go on.
    newest: (u64, i64),
    /// What came before the word what it is.
    early: Vec<Arrived>,
    /// Where frames are made of it, and the watch that wants them; else it is its home shard's.
    pub(super) sink: Option<(u64, mpsc::Sender<FromPeer>)>,
    /// Nobody takes it since.
    pub(super) idle: Option<Time>,
}

/// Packets that came, by link and alias, with presentation minus decode time.
pub(super) type Batch = HashMap<(usize, u64), Vec<(Packet, u32)>>;

/// What a peer says of a track that cannot be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Lie {
    /// The codec is not of the track's kind.
    #[error("a picture on a track of sound, or the other way round")]
    Kind,
    /// A number or a time ran out of what streams live to see.
    #[error("a packet's number or time out of bounds")]
    Bounds,
}

impl Hub {
    pub(super) fn offered(&mut self, id: usize, name: StreamName, offer: Offer) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let full = link.offers.len() >= ANNOUNCED_MAX && !link.offers.contains_key(&name);
        if full || offer.path.contains(&self.me) || offer.path.last() != Some(&link.up.peer) {
            return;
        }
        link.offers.insert(name.clone(), offer);
        self.choose(&name);
    }

    pub(super) fn offered_no_more(&mut self, id: usize, name: &StreamName, generation: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.offers.get(name).is_some_and(|offer| offer.generation <= generation) {
            link.offers.remove(name);
            self.choose(name);
        }
    }

    /// Of who offers a stream the newest generation counts; the stream here follows it.
    pub(super) fn choose(&mut self, name: &StreamName) {
        let offers = self.links.values().filter_map(|link| link.offers.get(name));
        let best =
            offers.max_by_key(|offer| (offer.generation, std::cmp::Reverse(offer.path.len()))).cloned();
        let generation = best.as_ref().map(|best| best.generation);
        match best {
            Some(Offer { generation, form, codecs, path }) => {
                let announced = Announced { generation, path, form, codecs };
                self.handle.announced.insert(name.clone(), announced);
            }
            None => {
                self.handle.announced.remove(name);
            }
        }
        let Some(stream) = self.node.streams.get(name) else { return };
        if let Some((source, _)) = stream.relayed().filter(|(_, has)| generation != Some(*has)) {
            self.end_takes(|taken| taken.source == source);
            stream.detach(source);
        }
        stream.attach();
    }

    fn takes_of(&mut self, which: impl Fn(TrackKey) -> bool) -> impl Iterator<Item = (&u64, &mut Taken)> {
        self.links.values_mut().flat_map(|link| link.takes.iter_mut()).filter(move |(_, t)| which(t.key))
    }

    pub(super) fn ask_key_frame(&self, key: TrackKey) {
        for link in self.links.values() {
            for (alias, _) in link.takes.iter().filter(|(_, taken)| taken.key == key) {
                link.say(Message::KeyFrame { alias: *alias });
            }
        }
    }

    /// A shard has its first subscriber of a track that comes from elsewhere.
    pub(super) fn want(&mut self, key: TrackKey) {
        let mut again = false;
        for (_, taken) in self.takes_of(|of| of == key) {
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

    /// A shard's last subscriber of a track is gone: to another encoding, or for good.
    pub(super) fn want_no_more(&mut self, key: TrackKey) {
        let now = self.now();
        let beside = |of: TrackKey| (of.stream, of.kind) == (key.stream, key.kind) && of != key;
        let another = self.takes_of(beside).any(|(_, taken)| taken.idle.is_none());
        for (_, taken) in self.takes_of(|of| of == key) {
            taken.idle = Some(now.plus_us(if another { -LINGER_US } else { 0 }));
        }
        self.end_idle(now);
    }

    /// An RTMP publisher's stream is watched here: the picture first, for the GOP that is there begins at once.
    pub(super) fn watch(
        &mut self,
        id: StreamId,
        source: SourceId,
        watch: u64,
        sink: &mpsc::Sender<FromPeer>,
    ) {
        let Some(stream) = self.node.streams.by_id(id) else { return };
        let Some((_, generation)) = stream.relayed().filter(|(has, _)| *has == source) else { return };
        for kind in [Kind::Video, Kind::Audio] {
            let (name, home) = (stream.name.clone(), stream.home.clone());
            let sink = Some((watch, sink.clone()));
            self.take(TrackKey::new(id, kind), name, home, (source, generation), sink);
        }
    }

    pub(super) fn unwatch(&mut self, watch: u64) {
        self.end_takes(|taken| taken.sink.as_ref().is_some_and(|(of, _)| *of == watch));
    }

    /// Subscribes for a track, at the nearest peer that has it; one that stops is the last to be asked.
    fn take(
        &mut self,
        key: TrackKey,
        stream: StreamName,
        home: ShardHandle,
        (source, generation): (SourceId, u64),
        sink: Option<(u64, mpsc::Sender<FromPeer>)>,
    ) {
        let offered = self.links.iter_mut().filter_map(|(id, link)| {
            let offer = link.offers.get(&stream).filter(|offer| offer.generation == generation)?;
            Some(((link.drains, offer.path.len(), *id), link))
        });
        let Some((_, link)) = offered.min_by_key(|(order, _)| *order) else { return };
        let alias = link.next_alias;
        link.next_alias += 1;
        link.say(Message::Subscribe {
            alias,
            stream,
            generation,
            track: TrackId { kind: key.kind, layer: key.layer },
        });
        let (track, newest, early, idle) = (None, (0, 0), Vec::new(), None);
        link.takes.insert(alias, Taken { key, source, home, track, newest, early, sink, idle });
    }

    /// What came comes no more.
    pub(super) fn end_takes(&mut self, which: impl Fn(&Taken) -> bool) {
        for link in self.links.values_mut() {
            for (alias, taken) in link.takes.extract_if(|_, taken| which(taken)).collect::<Vec<_>>() {
                link.say(Message::Unsubscribe { alias });
                if taken.sink.is_none() {
                    let end = Command::EndSource(taken.key, taken.source);
                    let _ = taken.home.order(Order::Shard(end));
                }
            }
        }
    }

    /// What nobody took for a while comes no more.
    pub(super) fn end_idle(&mut self, now: Time) {
        for link in self.links.values_mut() {
            let over = |taken: &Taken| taken.idle.is_some_and(|idle| now.since(idle) >= LINGER_US);
            for (alias, _) in link.takes.extract_if(|_, taken| over(taken)).collect::<Vec<_>>() {
                link.say(Message::Unsubscribe { alias });
            }
        }
    }

    /// What a track is. What came of it before that follows.
    pub(super) fn told(&mut self, id: usize, track: control::Track) -> Result<(), Lie> {
        let now = self.now();
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let alias = track.alias;
        let Some(taken) = link.takes.get_mut(&alias) else { return Ok(()) };
        if track.codec.kind() != taken.key.kind {
            return Err(Lie::Kind);
        }
        let before = taken.track.as_ref().map(|before| before.epoch);
        if before != Some(track.epoch) {
            taken.newest = (track.seq, track.timestamp);
            if let Some((watch, sink)) = &taken.sink {
                let config = AudioConfig::from_asc(track.config.clone()).ok();
                let begins = before.is_none().then_some(track.seq);
                let told = FromPeer::Track { kind: taken.key.kind, begins, config };
                if sink.try_send(told).is_err() {
                    // Without that word it is noise: it begins anew.
                    let watch = *watch;
                    self.unwatch(watch);
                    return Ok(());
                }
            }
        }
        taken.track = Some(track);
        let mut packets = Vec::new();
        for arrived in std::mem::take(&mut taken.early) {
            packets.extend(link.packet(alias, arrived, now)?);
        }
        self.deliver(Batch::from([((id, alias), packets)]));
        Ok(())
    }

    /// What a stream's encodings are like, for its home shard.
    pub(super) fn take_layers(&self, id: usize, name: &StreamName, generation: u64, encodings: &[Encoding]) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(stream) = self.node.streams.get(name) else { return };
        let takes = link.takes.values().any(|taken| taken.key.stream == stream.id);
        if let Some((source, _)) = stream.relayed().filter(|(_, has)| takes && *has == generation) {
            let layers: Layers = std::array::from_fn(|i| encodings.get(i).map_or(Layer::default(), layer));
            stream.set_rids(source, encodings.iter().map(|encoding| encoding.rid.clone()).collect());
            stream.set_layers(source, layers);
            stream.home.mail(Mail::Layers { stream: stream.id, layers });
        }
    }

    /// To the home shards, a mail a track.
    pub(super) fn deliver(&self, batch: Batch) {
        for ((id, alias), packets) in batch {
            let taken = self.links.get(&id).and_then(|link| link.takes.get(&alias));
            let Some(taken) = taken.filter(|_| !packets.is_empty()) else { continue };
            if let Some((_, frames)) = &taken.sink {
                if frames.try_send(FromPeer::Packets(packets)).is_err() {
                    self.node.metrics.queue_overflows.of(Queue::Conversion).increment();
                }
                continue;
            }
            let packets = packets.into_iter().map(|(packet, _)| packet).collect();
            taken.home.mail(Mail::Packets { track: taken.key, source: taken.source, packets });
        }
    }
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
    /// A packet as it was at the peer; `None` while it is not known what its track is.
    pub(super) fn packet(
        &mut self,
        alias: u64,
        arrived: Arrived,
        now: Time,
    ) -> Result<Option<(Packet, u32)>, Lie> {
        let half_us = self.up.window.trip().smoothed_us / 2;
        let clock_us = self.clock_us.unwrap_or(0).saturating_sub(half_us);
        let Some(taken) = self.takes.get_mut(&alias) else { return Ok(None) };
        let header = arrived.media;
        // Of a codec that the word of is on its way: that goes another way than packets.
        let epoch = header.flags.has(Flags::EPOCH);
        let Some(track) = taken.track.as_ref().filter(|track| track.epoch == epoch) else {
            if taken.early.len() < EARLY_MAX {
                taken.early.push(arrived);
            }
            return Ok(None);
        };
        let (seq, timestamp) = taken.newest;
        // 32 bits, from the newest on.
        let Some(seq) = seq.checked_add_signed(header.seq.wrapping_sub(seq as u32).cast_signed().into())
        else {
            // Before the track's first number.
            return Ok(None);
        };
        let ticks = header.timestamp.wrapping_sub(timestamp as u32).cast_signed();
        let timestamp = timestamp.saturating_add(ticks.into());
        if seq >= SEQ_MAX || timestamp.unsigned_abs() > TIME_MAX.unsigned_abs() {
            return Err(Lie::Bounds);
        }
        if seq > taken.newest.0 {
            taken.newest = (seq, timestamp);
        }
        let codec = track.codec;
        let passed = Time::from_ticks(timestamp.saturating_sub(track.timestamp), codec.clock_hz()).us();
        let capture = track.capture_us.saturating_add(passed).saturating_add(clock_us);
        let packet = Packet {
            seq,
            timestamp,
            arrival: now,
            capture: Time(capture.clamp(-TIME_MAX, TIME_MAX)),
            codec,
            marker: header.flags.has(Flags::END_OF_FRAME),
            key_start: header.flags.has(Flags::KEY),
            discardable: header.flags.has(Flags::DISCARDABLE),
            temporal: header.temporal,
            descriptor: arrived.descriptor,
            fresh_source: header.flags.has(Flags::FRESH_SOURCE),
            payload: arrived.payload,
        };
        Ok(Some((packet, header.dts_offset)))
    }
}
