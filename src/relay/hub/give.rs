//! What goes out: this node's streams are announced, and peers are sent what they subscribe to.

use std::collections::VecDeque;
use std::sync::Arc;

use ::relay::control::{self, Encoding, Form, Message, TrackId};
use ::relay::datagram::Flags;
use ::relay::hop::{Class, Outbound, Pushed};
use bytes::Bytes;
use media::{Codec, Kind, Packet, StreamName, Time, TrackConfig};
use sfu::{Layers, Mail, SourceId, StreamId, TrackKey};
use tokio::task::AbortHandle;

use super::{Hub, Link};
use crate::media_plane::ShardHandle;
use crate::relay::feed::{self, Cut};
use crate::stream::Ingest;
use crate::task;

/// What a packet may be late in all and still be of use to a live viewer.
const BUDGET_MS: u16 = 400;
/// The same for frames: who watches them has a second and a half in its player.
const FRAMES_BUDGET_MS: u16 = 1_500;
/// A capture line that moved less is the same one: a report's rounding.
const LINE_US: i64 = 2_000;
/// Tracks that one peer may be sent.
pub(super) const SENDS_MAX: usize = 10_000;
/// The GOP that was there goes so many times faster than it came, so that it stands before nobody else's live packets, ...
const BACKLOG_RATE: i64 = 2;
/// ...and no slower than this, in bytes a second: 4 Mbit/s.
const BACKLOG_RATE_MIN: i64 = 500_000;
/// Packets of one track that wait for their turn behind it. Full means that it is dropped, and a key frame asked for.
const BACKLOG_MAX: usize = 16_384;
/// A peer may ask for a key frame of a track once in so long: more is no use to it.
const KEY_FRAME_US_MIN: i64 = 100_000;
/// A track that was cut is asked a key frame for when so little waits for the link that it finds room, ...
const ROOM_US: i64 = 50_000;
/// ...and again after so long.
const MEND_US: i64 = 500_000;

/// A track that a peer is sent.
#[derive(Debug)]
struct Send {
    link: usize,
    alias: u64,
    /// It has nothing yet: it begins with the backlog, or a key frame.
    fresh: bool,
    /// What the peer was told that the track is, and the capture line: ticks and microseconds.
    told: Option<(Codec, i64, i64)>,
    epoch: bool,
    /// What is behind the GOP that it began with, that itself, and when the next of them goes.
    backlog: VecDeque<Packet>,
    rate: i64,
    due: Time,
    /// A key frame was asked for.
    asked: Time,
}

/// A track that is at home here and taken elsewhere.
#[derive(Debug)]
pub(super) struct Given {
    home: ShardHandle,
    to: Vec<Send>,
}

/// An RTMP publisher's stream that a peer is sent.
#[derive(Debug)]
pub(super) struct Fed {
    /// What an ended feed of the same stream left in the queue has another.
    number: u64,
    task: AbortHandle,
    /// Of sound and picture, as far as subscribed.
    aliases: [Option<u64>; 2],
    told: [Option<Arc<TrackConfig>>; 2],
    epochs: [bool; 2],
    /// The next packet's numbers. What is left out takes none, so nobody waits for it.
    seqs: [u64; 2],
}

/// A stream that is published here.
#[derive(Debug)]
pub(super) struct Published {
    form: Form,
    stream: StreamId,
    home: ShardHandle,
    pub(super) source: SourceId,
    generation: u64,
    codecs: [Option<Codec>; 2],
}

impl Hub {
    pub(super) fn published(
        &mut self,
        ingest: Ingest,
        name: StreamName,
        stream: StreamId,
        home: ShardHandle,
        source: SourceId,
    ) {
        let now_us = self.node.clock.unix_us_at_zero().saturating_add(self.now().us());
        let generation = now_us.unsigned_abs();
        self.forget(&name);
        let codecs = [None, None];
        let form = if ingest == Ingest::Rtmp { Form::Frames } else { Form::Packets };
        let published = Published { form, stream, home, source, generation, codecs };
        self.published.insert(name.clone(), published);
        self.announce(&name, None);
    }

    pub(super) fn has_codec(&mut self, name: &StreamName, source: SourceId, codec: Codec) {
        if let Some(of) = self.published.get_mut(name).filter(|of| of.source == source) {
            of.codecs[codec.kind() as usize] = Some(codec);
            self.announce(name, None);
        }
    }

    /// A stream is not published here any more.
    pub(super) fn forget(&mut self, name: &StreamName) {
        let Some(of) = self.published.remove(name) else { return };
        let gone: Vec<TrackKey> = self.given.keys().filter(|key| key.stream == of.stream).copied().collect();
        for key in gone {
            self.give_no_more(key, |_| true);
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
    pub(super) fn announce(&self, name: &StreamName, to: Option<usize>) {
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

    pub(super) fn subscribe(
        &mut self,
        id: usize,
        alias: u64,
        name: &StreamName,
        generation: u64,
        track: TrackId,
    ) {
        let Some(of) = self.published.get(name).filter(|of| of.generation == generation) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.gives.len() >= SENDS_MAX || link.gives.contains_key(&alias) || self.fed.len() >= SENDS_MAX {
            return;
        }
        if of.form == Form::Frames {
            let Some(stream) = self.node.streams.by_id(of.stream) else { return };
            let (at, kind) = (of.stream, track.kind as usize);
            // A second subscription of the same begins anew.
            if self.fed.get(&(id, at)).is_some_and(|fed| fed.aliases[kind].is_some())
                && let Some(old) = self.fed.remove(&(id, at))
            {
                old.task.abort();
            }
            let (metrics, feeds) = (self.node.metrics.clone(), self.feeds.clone());
            let fed = self.fed.entry((id, at)).or_insert_with(|| {
                let number = self.node.streams.shared().draw_id();
                let work = feed::run(stream, id, (at, number), feeds);
                Fed {
                    number,
                    task: task::spawn(metrics, work).abort_handle(),
                    aliases: [None; 2],
                    told: [None, None],
                    epochs: [false; 2],
                    seqs: [1; 2],
                }
            });
            fed.aliases[kind] = Some(alias);
            return;
        }
        let key = TrackKey { stream: of.stream, kind: track.kind, layer: track.layer };
        let home = of.home.clone();
        let given = self.given.entry(key).or_insert_with(|| Given { home: home.clone(), to: Vec::new() });
        // One copy of a track on a link: a second subscription takes the place of the first.
        for old in given.to.extract_if(.., |send| send.link == id) {
            link.gives.remove(&old.alias);
            link.outgoing.forget(old.alias);
        }
        link.gives.insert(alias, key);
        given.to.push(Send {
            link: id,
            alias,
            fresh: true,
            told: None,
            epoch: false,
            backlog: VecDeque::new(),
            rate: BACKLOG_RATE_MIN,
            due: Time::ZERO,
            asked: Time::ZERO,
        });
        home.mail(Mail::Mirror(key, self.handle.number));
        home.mail(Mail::RequestKeyFrame(key));
    }

    pub(super) fn unsubscribe(&mut self, id: usize, alias: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.outgoing.forget(alias);
        if let Some(key) = link.gives.remove(&alias) {
            self.give_no_more(key, |send| (send.link, send.alias) == (id, alias));
        }
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

    /// A link is gone.
    pub(super) fn give_nothing(&mut self, id: usize) {
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
    }

    fn give_no_more(&mut self, key: TrackKey, whom: impl Fn(&Send) -> bool) {
        let Some(given) = self.given.get_mut(&key) else { return };
        for send in given.to.extract_if(.., |send| whom(send)) {
            if let Some(link) = self.links.get_mut(&send.link) {
                link.gives.remove(&send.alias);
            }
        }
        if given.to.is_empty()
            && let Some(given) = self.given.remove(&key)
        {
            given.home.mail(Mail::Unmirror(key, self.handle.number));
        }
    }

    pub(super) fn key_frame(&mut self, id: usize, alias: u64) {
        let now = self.now();
        let Some(key) = self.links.get(&id).and_then(|link| link.gives.get(&alias)) else { return };
        let Some(given) = self.given.get_mut(key) else { return };
        let send = given.to.iter_mut().find(|send| send.link == id);
        if let Some(send) = send.filter(|send| now.since(send.asked) >= KEY_FRAME_US_MIN) {
            send.asked = now;
            given.home.mail(Mail::RequestKeyFrame(*key));
        }
    }

    /// Packets of a track that peers take.
    pub(super) fn give(&mut self, key: TrackKey, backlog: bool, packets: &[Packet]) {
        let now = self.now();
        let Some(given) = self.given.get_mut(&key) else { return };
        for send in &mut given.to {
            let Some(link) = self.links.get_mut(&send.link) else { continue };
            let from = match (send.fresh, backlog) {
                // Others have had it.
                (false, true) => continue,
                (true, false) if key.kind == Kind::Video => packets.iter().position(|p| p.key_start),
                _ => Some(0),
            };
            let Some(packets) = from.and_then(|from| packets.get(from..)) else { continue };
            send.fresh = false;
            if backlog || !send.backlog.is_empty() {
                send.wait(packets, backlog, now);
                self.waiting.insert(key);
            } else {
                for packet in packets {
                    link.tell(send, packet);
                    link.push(send.alias, send.epoch, packet, (0, BUDGET_MS), packet.arrival, now);
                }
            }
        }
    }

    /// What may go of backlogs goes; when the next of them may.
    pub(super) fn release(&mut self, now: Time) -> Option<Time> {
        let mut next: Option<Time> = None;
        self.waiting.retain(|key| {
            let Some(given) = self.given.get_mut(key) else { return false };
            for send in given.to.iter_mut().filter(|send| !send.backlog.is_empty()) {
                let Some(link) = self.links.get_mut(&send.link) else { continue };
                while let Some(packet) = send.backlog.pop_front_if(|_| send.due <= now) {
                    let len = i64::try_from(packet.payload.len()).unwrap_or(0);
                    let took = len.saturating_mul(1_000_000).checked_div(send.rate).unwrap_or(0);
                    send.due = send.due.plus_us(took);
                    link.tell(send, &packet);
                    // What waited here for somebody to take it is not late for that.
                    link.push(send.alias, send.epoch, &packet, (0, BUDGET_MS), now, now);
                }
                if send.backlog.len() > BACKLOG_MAX {
                    (send.backlog, send.fresh) = (VecDeque::new(), true);
                    given.home.mail(Mail::RequestKeyFrame(*key));
                }
                if !send.backlog.is_empty() {
                    next = next.into_iter().chain([send.due]).min();
                }
            }
            given.to.iter().any(|send| !send.backlog.is_empty())
        });
        next
    }

    /// Who lost a track up to its next key frame gets one when it finds room: a browser makes none by itself.
    pub(super) fn mend(&mut self, now: Time) {
        for (key, given) in &mut self.given {
            for send in &mut given.to {
                let Some(link) = self.links.get(&send.link) else { continue };
                let cut = link.outgoing.is_cut(send.alias) && link.outgoing.queue_us(now) < ROOM_US;
                if cut && now.since(send.asked) >= MEND_US {
                    send.asked = now;
                    given.home.mail(Mail::RequestKeyFrame(*key));
                }
            }
        }
    }

    /// What a stream's encodings are like, for who takes one.
    pub(super) fn give_layers(&self, stream: StreamId, layers: &Layers) {
        let Some((name, of)) = self.published.iter().find(|(_, of)| of.stream == stream) else { return };
        let rids = self.node.streams.get(name).map_or(Vec::new(), |stream| stream.rids());
        let encodings: Vec<Encoding> = rids.into_iter().zip(layers).map(encoding).collect();
        let takes = |link: &&Link| link.gives.values().any(|key| key.stream == stream);
        for link in self.links.values().filter(takes) {
            link.say(Message::Layers {
                stream: name.clone(),
                generation: of.generation,
                encodings: encodings.clone(),
            });
        }
    }

    /// A frame of this node's, for a peer.
    pub(super) fn feed(&mut self, id: usize, (stream, number): (StreamId, u64), cut: Cut) {
        let now = self.now();
        let fed = self.fed.get_mut(&(id, stream)).filter(|fed| fed.number == number);
        let (Some(fed), Some(link)) = (fed, self.links.get_mut(&id)) else { return };
        let kind = cut.config.codec().kind() as usize;
        let Some(alias) = fed.aliases[kind] else { return };
        let (told, seq) = (&mut fed.told[kind], &mut fed.seqs[kind]);
        if let Some(first) = cut.packets.first()
            && told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &cut.config))
        {
            if told.is_some() {
                fed.epochs[kind] ^= true;
            }
            *told = Some(cut.config.clone());
            link.say(Message::Track(control::Track {
                alias,
                epoch: fed.epochs[kind],
                codec: first.codec,
                seq: *seq,
                timestamp: first.timestamp,
                capture_us: first.capture.us(),
                // A picture's is in its key frames.
                config: match &*cut.config {
                    TrackConfig::H264(_) => Bytes::new(),
                    TrackConfig::Aac(audio) => audio.asc.clone(),
                },
            }));
        }
        for mut packet in cut.packets {
            packet.seq = *seq;
            let of = (cut.dts_offset, FRAMES_BUDGET_MS);
            if link.push(alias, fed.epochs[kind], &packet, of, now, now) != Pushed::LeftOut {
                *seq += 1;
            }
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

impl Fed {
    pub(super) fn tracks(&self) -> usize {
        self.aliases.iter().flatten().count()
    }
}

impl Send {
    /// Packets wait for their turn.
    fn wait(&mut self, packets: &[Packet], backlog: bool, now: Time) {
        if backlog && let (Some(first), Some(last)) = (packets.first(), packets.last()) {
            let bytes: usize = packets.iter().map(|p| p.payload.len()).sum();
            let took_us = last.arrival.since(first.arrival).max(100_000);
            let rate = (bytes as i64).saturating_mul(1_000_000).checked_div(took_us).unwrap_or(0);
            self.rate = rate.saturating_mul(BACKLOG_RATE).max(BACKLOG_RATE_MIN);
            self.due = now;
        }
        self.backlog.extend(packets.iter().cloned());
    }
}

impl Link {
    /// Says what the track is, where that is news.
    fn tell(&self, send: &mut Send, packet: &Packet) {
        let (ticks, capture_us) = (packet.timestamp, packet.capture.us());
        let is_known = send.told.is_some_and(|(codec, from, at)| {
            let passed = Time::from_ticks(ticks.saturating_sub(from), codec.clock_hz()).us();
            let off = at.saturating_add(passed).saturating_sub(capture_us);
            codec == packet.codec && off.abs() <= LINE_US
        });
        if is_known {
            return;
        }
        send.epoch ^= send.told.is_some_and(|(codec, ..)| codec != packet.codec);
        send.told = Some((packet.codec, ticks, capture_us));
        self.say(Message::Track(control::Track {
            alias: send.alias,
            epoch: send.epoch,
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
        epoch: bool,
        packet: &Packet,
        (dts_offset, budget_ms): (u32, u16),
        ingest: Time,
        now: Time,
    ) -> Pushed {
        let mut flags = Flags::default();
        for (set, flag) in [
            (packet.key_start, Flags::KEY),
            (packet.marker, Flags::END_OF_FRAME),
            (packet.discardable, Flags::DISCARDABLE),
            (packet.fresh_source, Flags::FRESH_SOURCE),
            (epoch, Flags::EPOCH),
        ] {
            if set {
                flags = flags.with(flag);
            }
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
            temporal: packet.temporal,
            descriptor: packet.descriptor.clone(),
            payload: packet.payload.clone(),
        };
        let pushed = self.outgoing.push(outbound, now);
        if pushed == Pushed::Taken {
            self.count(alias, packet);
        }
        pushed
    }

    /// What the window is to hold: all of a second, and the largest key frame.
    fn count(&mut self, alias: u64, packet: &Packet) {
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
