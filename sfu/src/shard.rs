//! A shard of the media plane, and the order of things in it: datagram -> session (demultiplex, authenticate, decrypt) -> track (numbering) -> ring ->
//! fan-out -> forwarder (rewrite) -> session (encrypt) -> batch. The work is in the stages; this file is the way through them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use media::{Kind, Packet, Time};
use metrics::{DropReason, ShardMetrics};
use rtc::rtcp;
use rtc::session::{Input, Protocol};
use rtc::stun;
use slab::Slab;

use crate::allocate::Layer;
use crate::command::{
    CloseReason, Command, Event, Mail, PeerId, ShardId, SourceId, StreamId, TrackKey, bump,
};
use crate::forward::Way;
use crate::handshakes::Handshakes;
use crate::layers::{LayerSet, Takes};
use crate::peer::{Peer, Role, Subscriber, packet_kind, push};
use crate::timers::Timers;
use crate::track::{Incoming, Subscription, Track, Upstream};
use crate::wheel::Wheel;

/// Where datagrams go: a batch that the caller sends. Packets are encrypted in place in what `reserve` gives.
pub trait Egress {
    /// Room for a datagram of up to `len` bytes, or `None` when it must be dropped (the implementation counts it).
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]>;
    /// The first `len` bytes of the last reservation go to `to`.
    fn commit(&mut self, len: usize, to: SocketAddr);
}

/// What a shard is told once.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its number.
    pub id: ShardId,
    /// Microseconds of the Unix epoch at `Time::ZERO`, for sender reports.
    pub unix_us_at_zero: i64,
    /// Draws the RTCP SSRC; media SSRCs come with each session.
    pub seed: u64,
    /// Frames are spread over some milliseconds instead of sent as they come.
    pub pacer: bool,
}

/// Payload copies are carved from blocks of this size: one allocation for about fifty packets, none for each.
const BLOCK_BYTES: usize = 64 * 1024;
/// Ended sources remembered: a mailbox's worth of time, not a life.
const ENDED_MAX: usize = 256;
/// A session is looked after again no sooner: the step of NACKs and catch-ups.
const STEP_US: i64 = 5_000;
/// Key frames that did not come are asked for again, and gauges set, this often.
const TICK_US: i64 = 20_000;
/// A viewer's feedback comes each 50 to 250 ms: with none for so long it has heard nothing.
const MISSED_US: i64 = 400_000;
/// Each tick looks at this part of the peers for viewers to whom nothing goes: at each one every 80 ms.
const QUIET_PART: usize = 4;
/// A publisher's track keeps its codec for at least so long.
const CODEC_US_MIN: i64 = 1_000_000;
/// A WebRTC publisher can be asked for a key frame, which is there in a round trip; its GOP is replayed only while it is this young.
const REPLAY_ANSWERING_US: i64 = 1_500_000;
/// An RTMP source cannot be asked: its GOP is replayed up to this age; encoders' longest common GOP is 10 s.
const REPLAY_US: i64 = 12_000_000;

/// One thread's part of the media plane.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) peers: Slab<Peer>,
    pub(crate) peer_by_id: HashMap<PeerId, usize>,
    pub(crate) peer_by_ufrag: HashMap<String, usize>,
    pub(crate) peer_by_address: HashMap<SocketAddr, usize>,
    /// Publishers by the sources that authentic packets named; of two with the same the one that did so last: the other's client may have left
    /// without a word, and come back as this one.
    pub(crate) peer_by_ssrc: HashMap<u32, usize>,
    /// Peers whose checks came from an address that another, connected one holds: it is theirs once a handshake from there is through.
    pub(crate) claims: HashMap<SocketAddr, usize>,
    pub(crate) tracks: Slab<Track>,
    pub(crate) track_by_key: HashMap<TrackKey, usize>,
    /// Streams at home here that come from another node, and the relay's number.
    pub(crate) relayed: HashMap<StreamId, ShardId>,
    /// Streams with more than one encoding.
    pub(crate) layers: HashMap<StreamId, LayerSet>,
    pub(crate) dirty: Vec<usize>,
    pub(crate) block: BytesMut,
    pub(crate) mail: Vec<(ShardId, Mail)>,
    pub(crate) events: Vec<Event>,
    pub(crate) timers: Timers,
    wheel: Wheel,
    handshakes: Handshakes,
    next_tick: Time,
    ticks: usize,
    pub(crate) current: Option<usize>,
    /// Makers of [`Mail::Packets`] that stopped: mail of theirs may come later than the order that ended them.
    pub(crate) ended: VecDeque<SourceId>,
    pub(crate) metrics: Arc<ShardMetrics>,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: ShardConfig, metrics: Arc<ShardMetrics>) -> Shard {
        Shard {
            config,
            peers: Slab::new(),
            peer_by_id: HashMap::new(),
            peer_by_ufrag: HashMap::new(),
            peer_by_address: HashMap::new(),
            peer_by_ssrc: HashMap::new(),
            claims: HashMap::new(),
            tracks: Slab::new(),
            track_by_key: HashMap::new(),
            relayed: HashMap::new(),
            layers: HashMap::new(),
            dirty: Vec::new(),
            block: BytesMut::new(),
            mail: Vec::new(),
            events: Vec::new(),
            timers: Timers::default(),
            wheel: Wheel::default(),
            handshakes: Handshakes::default(),
            next_tick: Time::ZERO,
            ticks: 0,
            current: None,
            ended: VecDeque::new(),
            metrics,
        }
    }

    /// Phase 1: an order of the control plane.
    pub fn handle_command<E: Egress>(&mut self, command: Command, now: Time, out: &mut E) {
        match command {
            Command::AddPeer(config) => self.add_peer(*config, now),
            Command::RestartIce { peer, local, remote } => self.restart_ice(peer, local, remote),
            Command::RemovePeer(id, reason) => {
                if let Some(&peer) = self.peer_by_id.get(&id) {
                    self.close(peer, reason, now, out);
                }
            }
            Command::Tap(key) => {
                let track = self.tap(key);
                // No backlog: a key frame is a round trip away, and old frames would be delay for ever.
                self.tracks[track].tapped = true;
                self.tracks[track].key_frames.want();
            }
            Command::Untap(key) => {
                for track in self.untap(key) {
                    self.tracks[track].tapped = false;
                    self.forget_if_idle(track);
                }
            }
            Command::RequestKeyFrame(key) => {
                if let Some(track) = self.tapped_track(key) {
                    self.tracks[track].key_frames.want();
                }
            }
            Command::Relay(stream, relay) => self.relay(stream, relay),
            Command::RequestLayer(id, request) => {
                self.change_layer_choice(id, now, |choice| choice.request = request);
            }
            Command::HearWishes(id, hears) => self.hear_wishes(id, hears, now),
            Command::Estimate(id, bps) => {
                self.change_layer_choice(id, now, |choice| choice.estimate_bps = bps);
            }
            Command::EndSource(key, source) => {
                if self.ended.len() == ENDED_MAX {
                    self.ended.pop_front();
                }
                self.ended.push_back(source);
                if let Some(&track) = self.track_by_key.get(&key) {
                    self.tracks[track].orphan(source);
                    self.forget_if_idle(track);
                }
            }
        }
    }

    /// Phase 2: a datagram. It is decrypted in place; what it brings is in the ring when this returns. A handshake's waits for phase 6.
    pub fn handle_datagram<E: Egress>(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Time,
        out: &mut E,
    ) {
        if let Err(reason) = self.datagram(datagram, from, now, out) {
            self.metrics.dropped(reason);
        }
        self.current = None;
    }

    fn datagram<E: Egress>(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Time,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let protocol = Protocol::of(datagram)?;
        self.metrics.received(packet_kind(Ok(protocol)), datagram.len());
        let peer = if protocol == Protocol::Stun {
            match stun::peek_ufrag(datagram) {
                Some(ufrag) => *self.peer_by_ufrag.get(ufrag).ok_or(DropReason::StunUnknownUser)?,
                // An answer to a check of ours has no name.
                None => *self.peer_by_address.get(&from).ok_or(DropReason::StunMalformed)?,
            }
        } else {
            let claim = if protocol == Protocol::Dtls { self.claims.get(&from) } else { None };
            match claim.or(self.peer_by_address.get(&from)) {
                Some(peer) => *peer,
                None => return self.elsewhere(protocol, datagram, now),
            }
        };
        self.current = Some(peer);
        if protocol == Protocol::Dtls && !self.peers[peer].session.is_connected() {
            let Peer { id, handshakes_waiting, handshake_began, .. } = &mut self.peers[peer];
            handshake_began.get_or_insert(now);
            return self.handshakes.push(*id, handshakes_waiting, from, datagram);
        }
        self.take(peer, datagram, from, now, out)
    }

    /// A publisher's media from an address that it has not checked from: behind a NAT that gave it another it asks for consent up to 2.5 s later. Who
    /// sends it is known by its source, which only authentic packets name, and it counts when it is authentic and new.
    fn elsewhere(&mut self, protocol: Protocol, datagram: &mut [u8], now: Time) -> Result<(), DropReason> {
        let ssrc = datagram.get(8..12).filter(|_| protocol == Protocol::Rtp);
        let ssrc = ssrc.and_then(|ssrc| <[u8; 4]>::try_from(ssrc).ok()).map(u32::from_be_bytes);
        let slot = ssrc.and_then(|ssrc| self.peer_by_ssrc.get(&ssrc)).copied();
        let slot = slot.ok_or(DropReason::AddressNotValidated)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::AddressNotValidated)?;
        if !peer.forgeries.allow(now) {
            return Err(DropReason::AddressNotValidated);
        }
        self.current = Some(slot);
        match peer.session.handle_rtp_from_elsewhere(datagram) {
            Ok(packet) => self.rtp(slot, packet, now),
            Err(reason) => {
                peer.forgeries.failed();
                Err(reason)
            }
        }
    }

    /// A datagram of a peer, to its session and on.
    fn take<E: Egress>(
        &mut self,
        peer: usize,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Time,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let is_stun = Protocol::of(datagram)? == Protocol::Stun;
        let (session, metrics) = (&mut self.peers[peer].session, &self.metrics);
        let before = session.remote();
        let input = session
            .handle_datagram(datagram, from, now, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes))?;
        if before.is_some() && session.remote() != before {
            self.moved(peer, now, out);
        }
        match input {
            Input::Nothing => {
                self.timers.sooner(peer, self.peers[peer].session.next_timeout());
                if is_stun {
                    self.remember_address(peer, from);
                }
            }
            Input::Connected => {
                self.take_over(peer, from, now, out);
                self.connected(peer, now, out);
            }
            Input::Rtp(packet) => return self.rtp(peer, packet, now),
            Input::Rtcp(compound) => return self.rtcp(peer, &compound, now, out),
            Input::Closed(reason) => self.close(peer, reason.into(), now, out),
        }
        Ok(())
    }

    /// A viewer is elsewhere. One that had stopped answering where it was has missed too much to ask for it packet by packet.
    fn moved<E: Egress>(&mut self, slot: usize, now: Time, out: &mut E) {
        let Some(Peer { role: Role::Subscribe(subscriber), .. }) = self.peers.get_mut(slot) else { return };
        if subscriber.sending.unanswered_us(now) < MISSED_US {
            return;
        }
        let tracks = &mut self.tracks;
        let index = subscriber.forwarders.iter().position(|s| tracks[s.track].key.kind == Kind::Video);
        let asked = index.and_then(|index| subscriber.lost_picture(index, tracks, now));
        if let Some(track) = asked {
            self.poll_key_frame(track, now, out);
        }
        self.pace(slot, now, out);
    }

    /// Phase 3: media and requests from other threads.
    pub fn handle_mail(&mut self, mail: Mail, now: Time) {
        self.metrics.mailbox_in.add(1);
        match mail {
            Mail::Packets { source, .. } if self.ended.contains(&source) => {
                self.metrics.dropped(DropReason::NoTrack)
            }
            // Its last viewer left, and the relay does not know yet.
            Mail::Packets { track: key, .. }
                if self.relayed.contains_key(&key.stream) && !self.track_by_key.contains_key(&key) => {}
            Mail::Packets { track: key, source, packets } => {
                let slot = self.track_at_home(key);
                if self.tracks[slot].is_new(source) {
                    self.fence_layers(key, source);
                }
                let upstream =
                    self.relayed.get(&key.stream).map_or(Upstream::External, |at| Upstream::Home(*at));
                let track = &mut self.tracks[slot];
                if !track.adopt(source, upstream) {
                    self.metrics.dropped(DropReason::NoTrack);
                    return;
                }
                for p in packets.iter() {
                    let incoming = Incoming {
                        seq: p.seq,
                        timestamp: p.timestamp,
                        codec: p.codec,
                        marker: p.marker,
                        capture: Some(p.capture),
                        key_start: p.key_start,
                        discardable: p.discardable,
                        temporal: p.temporal,
                        descriptor: p.descriptor.clone(),
                        fresh_source: p.fresh_source,
                        payload: p.payload.clone(),
                    };
                    if let Err(reason) = track.ingest(incoming, now) {
                        self.metrics.dropped(reason);
                    }
                }
                self.dirty.push(slot);
            }
            Mail::LeftOut { track: key, source, seq, count } => {
                if let Some(&slot) = self.track_by_key.get(&key) {
                    self.tracks[slot].left_out(source, seq, count);
                }
            }
            Mail::Mirrored { track: key, answers, backlog: _, packets } => {
                let Some(&slot) = self.track_by_key.get(&key) else {
                    return self.metrics.dropped(DropReason::NoTrack);
                };
                self.tracks[slot].home_answers = answers;
                for packet in packets.iter() {
                    if let Err(reason) = self.tracks[slot].store(packet.clone(), now) {
                        self.metrics.dropped(reason);
                    }
                }
                self.dirty.push(slot);
            }
            Mail::Mirror(key, shard) => {
                let slot = self.track_at_home(key);
                let track = &mut self.tracks[slot];
                if !track.mirrors.contains(&shard) {
                    track.mirrors.push(shard);
                }
                // A GOP too old for a viewer here is too old for those there.
                let replay = replay_us(track);
                let young = |k: &u64| track.ring.get(*k).is_some_and(|p| now.since(p.arrival) <= replay);
                let from = track.ring.key().filter(young);
                let backlog: Arc<[Packet]> =
                    from.into_iter().flat_map(|k| track.ring.from(k).cloned()).collect();
                if !backlog.is_empty() {
                    let answers = track.answers();
                    let there = Mail::Mirrored { track: key, answers, backlog: true, packets: backlog };
                    self.mail.push((shard, there));
                }
                if let Some(set) = self.layers.get(&key.stream) {
                    self.mail.push((shard, Mail::Layers { stream: key.stream, layers: set.layers }));
                }
            }
            Mail::Unmirror(key, shard) => {
                if let Some(&slot) = self.track_by_key.get(&key) {
                    self.tracks[slot].mirrors.retain(|s| *s != shard);
                    self.forget_if_idle(slot);
                }
            }
            Mail::RequestKeyFrame(key) => {
                if let Some(&slot) = self.track_by_key.get(&key) {
                    self.tracks[slot].key_frames.want();
                }
            }
            Mail::Layers { stream, layers } => self.take_layers(stream, layers, now),
        }
    }

    /// Phase 4: everything that came since the last call goes out, subscriber by subscriber, so that what goes to one is a run.
    pub fn fan_out<E: Egress>(&mut self, now: Time, out: &mut E) {
        let mut doomed = Vec::new();
        let mut switched: Vec<(Subscription, usize)> = Vec::new();
        while let Some(slot) = self.dirty.pop() {
            let Some(track) = self.tracks.get_mut(slot) else { continue };
            if track.fresh.is_empty() {
                continue;
            }
            for at in &track.subscribers {
                self.current = Some(at.peer);
                let Some(peer) = self.peers.get_mut(at.peer) else { continue };
                let (Some(to), Role::Subscribe(subscriber)) = (peer.session.remote(), &mut peer.role) else {
                    continue;
                };
                if !peer.session.is_connected() {
                    continue;
                }
                let subscribed = &mut subscriber.forwarders[at.forwarder];
                let entered = match subscribed.takes(slot, &track.ring, &track.fresh) {
                    Ok(Takes::Nothing) => continue,
                    Ok(Takes::Fresh) => None,
                    Ok(Takes::From { key, left }) => {
                        let TrackKey { stream, layer, .. } = track.key;
                        let of = self.layers.get(&stream).map_or(Layer::default(), |set| set.layer(layer));
                        subscriber.layers.limit(&mut subscribed.forwarder, layer, &of);
                        switched.push((*at, left));
                        Some(key)
                    }
                    Err(reason) => {
                        self.metrics.dropped(reason);
                        track.key_frames.want();
                        continue;
                    }
                };
                let entering: Vec<u64> =
                    entered.into_iter().flat_map(|key| track.ring.from(key)).map(|p| p.seq).collect();
                let given = if entered.is_some() { &entering } else { &track.fresh };
                let before = subscriber.forwarders[at.forwarder].forwarder.mark();
                let way = Way::new(&mut peer.session, to, &self.metrics, now, &mut *out);
                match subscriber.fresh(at.forwarder, &track.ring, given, way) {
                    Ok(false) => {}
                    Ok(true) => schedule(&mut self.wheel, subscriber, at.peer, now),
                    Err(why) => doomed.push((at.peer, why)),
                }
                let forwarder = &subscriber.forwarders[at.forwarder].forwarder;
                if forwarder.awaits_key_frame() {
                    track.key_frames.want();
                }
                if forwarder.owes_first_report() {
                    self.timers.sooner(at.peer, now);
                }
                let sent = forwarder.since(before);
                subscriber.count(sent, &self.metrics, &peer.stats, now);
            }
            let tap = self.layers.get_mut(&track.key.stream).and_then(|set| set.tap.as_mut());
            let tap = tap.filter(|_| track.tapped && track.key.kind == Kind::Video);
            if let Some(tap) = tap {
                let given = tap.take(slot, &track.ring, &track.fresh);
                if !given.is_empty() {
                    self.events.push(Event::Tapped(TrackKey { layer: 0, ..track.key }, given));
                }
            } else if track.tapped {
                let packets = track.fresh.iter().filter_map(|s| track.ring.get(*s)).cloned().collect();
                self.events.push(Event::Tapped(track.key, packets));
            }
            if !track.mirrors.is_empty() {
                let packets: Vec<Packet> =
                    track.fresh.iter().filter_map(|s| track.ring.get(*s)).cloned().collect();
                let shared: Arc<[Packet]> = packets.into();
                for &shard in &track.mirrors {
                    let (key, answers) = (track.key, track.answers());
                    let packets = shared.clone();
                    let news = Mail::Mirrored { track: key, answers, backlog: false, packets };
                    self.mail.push((shard, news));
                }
            }
            self.current = None;
            track.fresh.clear();
            self.poll_key_frame(slot, now, out);
        }
        for (at, left) in switched {
            self.switched(at, left);
        }
        for (peer, reason) in doomed {
            self.close(peer, reason, now, out);
        }
    }

    /// Phase 5: what is due by time, of one session: the next slice of what waits, NACKs, reports, time-outs. Returns whether there may be more: between two
    /// the caller may look after media.
    pub fn handle_timeout<E: Egress>(&mut self, now: Time, out: &mut E) -> bool {
        if let Some(slot) = self.wheel.pop(now) {
            self.current = Some(slot);
            self.pace(slot, now, out);
            self.current = None;
            return true;
        }
        if let Some(slot) = self.timers.pop(now) {
            self.current = Some(slot);
            self.look_after(slot, now, out);
            self.current = None;
            return true;
        }
        if now >= self.next_tick {
            self.tick(now, out);
        }
        false
    }

    fn look_after<E: Egress>(&mut self, slot: usize, now: Time, out: &mut E) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let (session, metrics) = (&mut peer.session, &self.metrics);
        if now >= session.next_timeout()
            && let Some(reason) =
                session.handle_timeout(now, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes))
        {
            return self.close(slot, reason.into(), now, out);
        }
        let (mut due, mut fell) = (session.next_timeout(), false);
        match &mut peer.role {
            _ if !session.is_connected() => {}
            Role::Publish(publisher) => {
                let tracks = &mut self.tracks;
                publisher
                    .poll(session, &peer.stats, metrics, now, out, |track| tracks[track].key_frames.want());
                due = due.min(publisher.next_poll(now));
            }
            Role::Subscribe(subscriber) => {
                subscriber.report(session, metrics, self.config.unix_us_at_zero, now, out);
                let video = subscriber.forwarders.iter().map(|s| self.tracks[s.track].key);
                let set =
                    video.filter(|key| key.kind == Kind::Video).find_map(|key| self.layers.get(&key.stream));
                let best_bps = set.map_or(0, LayerSet::best_bps);
                fell = subscriber.estimate_fell();
                if subscriber.estimate(&mut self.tracks, best_bps, &peer.stats, now) {
                    schedule(&mut self.wheel, subscriber, slot, now);
                }
                due = due.min(subscriber.next_report()).min(subscriber.next_estimate(now));
            }
        }
        self.timers.set(slot, due.max(now.plus_us(STEP_US)));
        if fell {
            self.choose_layer(slot, now);
        }
    }

    /// The next slice of what waits for a subscriber.
    fn pace<E: Egress>(&mut self, slot: usize, now: Time, out: &mut E) {
        // What just came is in the ring: sent from there, it would go a second time when it is fanned out.
        if !self.dirty.is_empty() {
            let current = self.current;
            self.fan_out(now, out);
            self.current = current;
        }
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Role::Subscribe(subscriber) = &mut peer.role else { return };
        subscriber.sending.pacer.scheduled = false;
        let Some(to) = peer.session.remote().filter(|_| peer.session.is_connected()) else { return };
        let before = subscriber.mark();
        let way = Way::new(&mut peer.session, to, &self.metrics, now, &mut *out);
        let paced = subscriber.pace(&mut self.tracks, &peer.stats, way);
        let sent = subscriber.since(before);
        subscriber.count(sent, &self.metrics, &peer.stats, now);
        match paced {
            Ok(true) => schedule(&mut self.wheel, subscriber, slot, now),
            Ok(false) => {}
            Err(why) => return self.close(slot, why, now, out),
        }
        if subscriber.forwarders.iter().any(|s| s.forwarder.owes_first_report()) {
            self.timers.sooner(slot, now);
        }
    }

    fn tick<E: Egress>(&mut self, now: Time, out: &mut E) {
        let waiting: Vec<usize> = self
            .tracks
            .iter()
            .filter(|(_, t)| t.key_frames.deadline().is_some_and(|d| d <= now))
            .map(|(s, _)| s)
            .collect();
        for slot in waiting {
            self.poll_key_frame(slot, now, out);
        }
        self.look_after_layers(now);
        self.keep_alive(out);
        self.metrics.tracks.set(self.tracks.len() as u64);
        self.metrics.subscribers.set(self.tracks.iter().map(|(_, t)| t.subscribers.len() as u64).sum());
        self.next_tick = now.plus_us(TICK_US);
    }

    fn keep_alive<E: Egress>(&mut self, out: &mut E) {
        self.ticks = self.ticks.wrapping_add(1);
        for (slot, peer) in self.peers.iter_mut() {
            if slot % QUIET_PART == self.ticks % QUIET_PART
                && let Role::Subscribe(subscriber) = &mut peer.role
                && peer.session.is_connected()
            {
                subscriber.keep_alive(&mut peer.session, &self.metrics, out);
            }
        }
    }

    /// Phase 6: one of the datagrams of handshakes that wait. Returns whether there may be more, as [`Shard::handle_timeout`] does.
    pub fn handle_handshake<E: Egress>(&mut self, now: Time, out: &mut E) -> bool {
        let Some(mut waiting) = self.handshakes.pop() else { return false };
        let Some(&peer) = self.peer_by_id.get(&waiting.peer) else { return true };
        self.current = Some(peer);
        self.peers[peer].handshakes_waiting -= 1;
        let mut taken = self.take(peer, &mut waiting.datagram, waiting.from, now, out);
        // What is sealed may be a goodbye of who holds the address that this one claims.
        let holder = self.peer_by_address.get(&waiting.from).filter(|holder| **holder != peer);
        if let Some(&holder) = holder.filter(|_| rtc::dtls::is_sealed(&waiting.datagram)) {
            self.current = Some(holder);
            taken = taken.or(self.take(holder, &mut waiting.datagram, waiting.from, now, out));
        }
        if let Err(reason) = taken {
            self.metrics.dropped(reason);
        }
        self.current = None;
        true
    }

    /// When [`Shard::handle_timeout`] or [`Shard::handle_handshake`] has work again.
    pub fn next_timeout(&self) -> Time {
        match (self.handshakes.is_empty(), self.peers.is_empty()) {
            (false, _) => Time::ZERO,
            (true, true) => Time::MAX,
            (true, false) => self.next_tick.min(self.timers.next()).min(self.wheel.next()),
        }
    }

    /// What goes to other shards.
    pub fn take_mail(&mut self) -> std::vec::Drain<'_, (ShardId, Mail)> {
        self.mail.drain(..)
    }

    /// What goes to the control plane.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// The caller caught a panic: the session that was being worked on ends, the others go on.
    pub fn end_current<E: Egress>(&mut self, now: Time, out: &mut E) {
        if let Some(peer) = self.current.take()
            && self.peers.contains(peer)
        {
            self.close(peer, CloseReason::Internal, now, out);
        }
    }

    fn connected<E: Egress>(&mut self, slot: usize, now: Time, out: &mut E) {
        let peer = &mut self.peers[slot];
        self.events.push(Event::Connected(peer.id));
        peer.stats.connected_us.store(now.us(), Ordering::Relaxed);
        self.timers.set(slot, now);
        self.choose_layer(slot, now);
        let peer = &mut self.peers[slot];
        let handshake_us = peer.handshake_began.map_or(i64::MAX, |began| now.since(began));
        let Role::Subscribe(subscriber) = &mut peer.role else { return };
        subscriber.sending.handshake_took(handshake_us);
        let mut asked = None;
        for subscribed in &mut subscriber.forwarders {
            let track = &mut self.tracks[subscribed.track];
            if track.key.kind == Kind::Audio {
                continue; // sound starts at the live point
            }
            if subscribed.forwarder.start(&track.ring, now, replay_us(track)) {
                track.key_frames.want();
                asked = Some(subscribed.track);
            } else {
                subscriber.sending.catch_up(&track.ring, now);
            }
        }
        self.pace(slot, now, out);
        if let Some(track) = asked {
            self.poll_key_frame(track, now, out);
        }
    }

    fn rtp(&mut self, slot: usize, packet: &[u8], now: Time) -> Result<(), DropReason> {
        let peer = &mut self.peers[slot];
        let Role::Publish(publisher) = &mut peer.role else { return Err(DropReason::NotNegotiated) };
        let block = &mut self.block;
        let received = publisher.on_rtp(packet, now, &peer.stats, |bytes| copy(block, bytes))?;
        if let Some(ssrc) = received.first_of {
            self.peer_by_ssrc.insert(ssrc, slot);
        }
        if publisher.is_busy() {
            self.timers.sooner(slot, now.plus_us(STEP_US));
        }
        let source = publisher.source;
        let (media, encoding) = (received.media, received.encoding);
        let at = publisher.medias[media].encodings[encoding].track;
        if self.tracks[at].is_new(source) {
            self.fence_layers(self.tracks[at].key, source);
        }
        let peer = &mut self.peers[slot];
        let Role::Publish(publisher) = &mut peer.role else { return Err(DropReason::NotNegotiated) };
        let published = &mut publisher.medias[media].encodings[encoding];
        let track = &mut self.tracks[at];
        if !track.adopt(publisher.source, Upstream::Peer(slot)) {
            return Err(DropReason::NoTrack);
        }
        let codec = received.incoming.codec;
        let changed = published.codec.is_none_or(|(before, _)| before != codec);
        if changed {
            // Every change is told to the control plane: a publisher that changes with each packet is not followed.
            if published.codec.is_some_and(|(_, since)| now.since(since) < CODEC_US_MIN) {
                return Err(DropReason::NotNegotiated);
            }
            self.events.push(Event::Codec(peer.id, track.key, codec));
        }
        let restarted = received.restarted || (changed && published.codec.is_some());
        if changed {
            published.codec = Some((codec, now));
        }
        if restarted {
            track.restart();
            if track.key.kind == Kind::Video && track.is_watched() {
                track.key_frames.want();
            }
        }
        let newly_layered = track.encoding.is_none() && received.incoming.temporal.id > 0;
        track.ingest(received.incoming, now)?;
        if newly_layered {
            let stream = track.key.stream;
            self.layered(stream, &[at]);
        }
        if self.dirty.last() != Some(&at) {
            self.dirty.push(at);
        }
        Ok(())
    }

    fn rtcp<E: Egress>(
        &mut self,
        slot: usize,
        compound: &Bytes,
        now: Time,
        out: &mut E,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(slot) else { return Ok(()) };
        let (stats, metrics, tracks) = (&peer.stats, &self.metrics, &mut self.tracks);
        let (mut asked, mut paces, mut sooner) = (None, false, false);
        let unix_us = self.config.unix_us_at_zero + now.us();
        let role = &mut peer.role;
        let parsed = rtcp::parse(compound, |event| match (&mut *role, event) {
            (Role::Publish(publisher), rtcp::Event::SenderReport { ssrc, ntp, rtp, .. }) => {
                if let Some((track, timestamp, capture)) = publisher.on_sender_report(ssrc, ntp, rtp, now) {
                    tracks[track].sender_report(publisher.source, timestamp, capture);
                }
            }
            (Role::Publish(publisher), rtcp::Event::DelaySinceReference { about_ssrc, last, delay }) => {
                publisher.on_delay_since_reference(about_ssrc, last, delay, unix_us, stats);
            }
            (Role::Subscribe(subscriber), rtcp::Event::ReferenceTime { from_ssrc, ntp }) => {
                subscriber.on_reference_time(from_ssrc, ntp, now);
            }
            (
                Role::Subscribe(subscriber),
                rtcp::Event::Report { about_ssrc, fraction_lost, cumulative_lost, lsr, dlsr, .. },
            ) => {
                subscriber.on_report(about_ssrc, fraction_lost, cumulative_lost, stats);
                let now_middle = rtcp::ntp_middle(rtcp::ntp_from_unix_us(unix_us));
                if let Some(rtt_us) =
                    rtcp::rtt_us(now_middle, lsr, dlsr).filter(|_| subscriber.is_newest(lsr, now))
                {
                    subscriber.rtt_us = rtt_us;
                    stats.rtt_us.store(rtt_us.max(1), Ordering::Relaxed); // 0 is unknown
                }
                subscriber.report_about(about_ssrc, fraction_lost, now);
            }
            (Role::Subscribe(subscriber), rtcp::Event::Twcc { fci }) => {
                if let Err(reason) = subscriber.feedback(fci, tracks, now) {
                    metrics.dropped(reason);
                }
                let pacer = &subscriber.sending.pacer;
                paces |= !pacer.scheduled && !pacer.repairs.is_empty();
                sooner |= subscriber.estimate_fell();
            }
            (Role::Subscribe(subscriber), rtcp::Event::Remb { bitrate_bps, .. }) => {
                subscriber.sending.remb(bitrate_bps, now);
                sooner = true;
            }
            (Role::Subscribe(subscriber), rtcp::Event::Nack { ssrc, seqs }) => {
                bump(&stats.nacks_in, seqs.len() as u64);
                metrics.nacks_in.add(seqs.len() as u64);
                let gave_up = subscriber.nack(ssrc, seqs, tracks, metrics, stats, now);
                asked = gave_up.and_then(|index| subscriber.lost_picture(index, tracks, now)).or(asked);
                paces |= !subscriber.sending.pacer.scheduled;
            }
            (Role::Subscribe(subscriber), rtcp::Event::Pli { ssrc } | rtcp::Event::Fir { ssrc, .. }) => {
                bump(&stats.plis_in, 1);
                metrics.plis_in.add(1);
                let Some(index) = subscriber.forwarders.iter().position(|s| s.forwarder.ssrc == ssrc) else {
                    return;
                };
                asked = subscriber.lost_picture(index, tracks, now).or(asked);
                paces |= !subscriber.sending.pacer.scheduled;
            }
            _ => {}
        });
        if let Some(track) = asked {
            self.poll_key_frame(track, now, out);
        }
        if sooner {
            self.timers.sooner(slot, now);
        }
        if paces {
            self.pace(slot, now, out);
        }
        parsed.map_err(|_| DropReason::RtcpMalformed)
    }

    /// Passes a wanted key frame on to who can make one, as often as the throttle allows.
    fn poll_key_frame<E: Egress>(&mut self, slot: usize, now: Time, out: &mut E) {
        let Some(track) = self.tracks.get_mut(slot) else { return };
        if track.key.kind == Kind::Audio || matches!(track.upstream, Upstream::None | Upstream::External) {
            return;
        }
        if !track.key_frames.poll(now) {
            return;
        }
        let (upstream, key) = (track.upstream, track.key);
        match upstream {
            Upstream::Peer(peer) => {
                self.asked_beside(key.stream, slot, now);
                if let Some(peer) = self.peers.get_mut(peer)
                    && let Role::Publish(publisher) = &mut peer.role
                {
                    publisher.request_key_frame(slot, &mut peer.session, &peer.stats, &self.metrics, out);
                }
            }
            Upstream::Home(shard) => self.mail.push((shard, Mail::RequestKeyFrame(key))),
            Upstream::None | Upstream::External => {}
        }
    }
}

/// The age up to which a track's GOP is replayed.
fn replay_us(track: &Track) -> i64 {
    if track.answers() { REPLAY_ANSWERING_US } else { REPLAY_US }
}

fn schedule(wheel: &mut Wheel, subscriber: &mut Subscriber, slot: usize, now: Time) {
    let pacer = &mut subscriber.sending.pacer;
    if !pacer.scheduled {
        pacer.scheduled = true;
        wheel.push(slot, pacer.due(now), now);
    }
}

fn copy(block: &mut BytesMut, payload: &[u8]) -> Bytes {
    if payload.is_empty() {
        return Bytes::new();
    }
    if block.capacity() < payload.len() {
        *block = BytesMut::with_capacity(BLOCK_BYTES.max(payload.len()));
    }
    block.extend_from_slice(payload);
    block.split().freeze()
}
