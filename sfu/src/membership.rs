//! Who is on a shard: peers, the addresses they are reached by, and the tracks that live while somebody sends or takes them.

use std::net::SocketAddr;

use media::{Kind, Time};
use rtc::ice::Credentials;
use rtc::session::Session;

use crate::allocate::LAYERS_MAX;
use crate::command::{CloseReason, Event, Mail, PeerConfig, PeerId, PeerRole, ShardId, StreamId, TrackKey};
use crate::forward::Forwarder;
use crate::peer::{Forgeries, Peer, Published, Publisher, Role, Subscribed, Subscriber, push};
use crate::sending::Sending;
use crate::shard::{Egress, Shard};
use crate::track::{Subscription, Track, Upstream};

/// Addresses that one session may be reached by; a browser has a handful.
const ADDRESSES_MAX: usize = 16;

impl Shard {
    pub(crate) fn add_peer(&mut self, config: PeerConfig, now: Time) {
        let id = config.id;
        let home = config.home;
        let stream = match config.role {
            PeerRole::Publish { stream, .. } | PeerRole::Subscribe { stream, .. } => stream,
        };
        let slot = self.peers.vacant_key();
        let medias = config.negotiated.medias;
        // Pictures that cannot carry numbers (see `Forwarder::choose`) are most of what is sent: the rest says nothing of the link.
        let pictures = medias.iter().filter(|m| m.kind == Kind::Video).flat_map(|m| &m.codecs);
        let numbered = medias.iter().any(|m| m.twcc_ext_id.is_some())
            && pictures.into_iter().all(|codec| codec.rtx_pt.is_some() || !codec.nack);
        let role = match config.role {
            PeerRole::Publish { source, .. } => {
                let mut published = Vec::new();
                for media in medias {
                    let encodings = media.rids.len().clamp(1, LAYERS_MAX) as u8;
                    let track =
                        |layer| self.track(TrackKey { layer, ..TrackKey::new(stream, media.kind) }, home);
                    let tracks: Vec<usize> = (0..encodings).map(track).collect();
                    if tracks.len() > 1 {
                        self.layered(stream, &tracks);
                    }
                    published.push(Published::new(media, tracks.into_iter()));
                }
                let own_ssrc = (self.config.seed ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as u32 | 1;
                let unix_us_at_zero = self.config.unix_us_at_zero;
                Role::Publish(Publisher::new(source, published, own_ssrc, unix_us_at_zero, now))
            }
            PeerRole::Subscribe { audio_ssrc, video_ssrc, video_rtx_ssrc, .. } => {
                let mut forwarders = Vec::new();
                for media in medias {
                    let (ssrc, rtx_ssrc) = match media.kind {
                        Kind::Audio => (audio_ssrc, 0),
                        Kind::Video => (video_ssrc, video_rtx_ssrc),
                    };
                    let track = self.track(TrackKey::new(stream, media.kind), home);
                    self.tracks[track]
                        .subscribers
                        .push(Subscription { peer: slot, forwarder: forwarders.len() });
                    let forwarder = Forwarder::new(media, ssrc, rtx_ssrc, config.seed);
                    forwarders.push(Subscribed::new(track, forwarder));
                }
                let sending = Sending::new(self.config.pacer, numbered, now);
                Role::Subscribe(Subscriber::new(forwarders, format!("millrace-{}", stream.0), sending))
            }
        };
        let session = Session::new(config.session, now);
        let due = session.next_timeout();
        self.peers.insert(Peer {
            id,
            session,
            ufrags: Vec::new(),
            addresses: Vec::new(),
            handshakes_waiting: 0,
            handshake_began: None,
            forgeries: Forgeries::default(),
            stats: config.stats,
            role,
        });
        self.peer_by_id.insert(id, slot);
        self.name(slot);
        self.timers.set(slot, due);
        self.metrics.peers.set(self.peers.len() as u64);
    }

    pub(crate) fn restart_ice(&mut self, id: PeerId, local: Credentials, remote: Credentials) {
        let Some(&slot) = self.peer_by_id.get(&id) else { return };
        self.peers[slot].session.restart_ice(local, remote);
        self.name(slot);
    }

    /// Checks find the peer by the names that its session has now. (Its session refuses those of a restart that another one overtook.)
    fn name(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        for ufrag in peer.ufrags.drain(..) {
            self.peer_by_ufrag.remove(&ufrag);
        }
        peer.ufrags.extend(peer.session.local_ufrags().map(str::to_owned));
        self.peer_by_ufrag.extend(peer.ufrags.iter().map(|ufrag| (ufrag.clone(), slot)));
    }

    pub(crate) fn remember_address(&mut self, slot: usize, from: SocketAddr) {
        let before = self.peer_by_address.get(&from).copied();
        if before == Some(slot) {
            return;
        }
        if let Some(other) = before.and_then(|other| self.peers.get_mut(other)) {
            // An address that a live session's media goes to stays that session's: whoever sends checks in its name would otherwise take
            // its packets away. But a client may be gone without a word, and its port be another's (a NAT's, or a page's that was loaded
            // again): whoever gets through a handshake from there, which takes our answers, has the address.
            if other.session.is_connected() && other.session.remote() == Some(from) {
                if !self.peers[slot].session.is_connected() {
                    self.claims.insert(from, slot);
                }
                return;
            }
            other.addresses.retain(|a| *a != from);
        }
        self.peer_by_address.insert(from, slot);
        let peer = &mut self.peers[slot];
        if peer.addresses.len() == ADDRESSES_MAX
            && let Some(oldest) = peer.addresses.iter().position(|a| Some(*a) != peer.session.remote())
        {
            self.peer_by_address.remove(&peer.addresses.remove(oldest));
        }
        peer.addresses.push(from);
    }

    /// A peer's handshake from an address is through: if another held that, its client is not there any more.
    pub(crate) fn take_over<E: Egress>(&mut self, slot: usize, from: SocketAddr, now: Time, out: &mut E) {
        if self.claims.remove(&from) != Some(slot) {
            return;
        }
        if let Some(holder) = self.peer_by_address.remove(&from)
            && let Some(peer) = self.peers.get_mut(holder)
        {
            peer.addresses.retain(|a| *a != from);
            // Without a goodbye: it would only reach who is there now.
            peer.session.close(now, &mut |_, _: &[u8]| {});
            self.close(holder, CloseReason::AddressTaken, now, out);
        }
        self.remember_address(slot, from);
    }

    pub(crate) fn close<E: Egress>(&mut self, slot: usize, reason: CloseReason, now: Time, out: &mut E) {
        let Some(mut peer) = self.peers.try_remove(slot) else { return };
        self.timers.clear(slot);
        self.metrics.peers.set(self.peers.len() as u64);
        let metrics = &self.metrics;
        peer.session.close(now, &mut |to, bytes: &[u8]| push(out, metrics, to, bytes));
        self.peer_by_id.remove(&peer.id);
        for ufrag in &peer.ufrags {
            self.peer_by_ufrag.remove(ufrag);
        }
        for address in &peer.addresses {
            self.peer_by_address.remove(address);
        }
        if let Role::Publish(publisher) = &peer.role {
            for ssrc in publisher.ssrcs() {
                if self.peer_by_ssrc.get(&ssrc) == Some(&slot) {
                    self.peer_by_ssrc.remove(&ssrc);
                }
            }
        }
        self.claims.retain(|_, claimant| *claimant != slot);
        let tracks: Vec<usize> = match &peer.role {
            Role::Publish(publisher) => publisher.encodings().map(|e| e.track).collect(),
            Role::Subscribe(subscriber) => {
                subscriber.forwarders.iter().flat_map(|s| [Some(s.track), s.next]).flatten().collect()
            }
        };
        for track_slot in tracks {
            let stream = self.tracks[track_slot].key.stream;
            if matches!(peer.role, Role::Publish(_)) {
                self.forget_wishes(stream, |hears, _| hears == peer.id);
            }
            let track = &mut self.tracks[track_slot];
            track.subscribers.retain(|s| s.peer != slot);
            if let Role::Publish(publisher) = &peer.role {
                track.orphan(publisher.source);
            }
            self.forget_if_idle(track_slot);
        }
        self.events.push(Event::Closed(peer.id, reason));
    }

    pub(crate) fn track_at_home(&mut self, key: TrackKey) -> usize {
        self.track(key, self.config.id)
    }

    /// The track's slot; made when there is none, as a mirror when its home is elsewhere.
    pub(crate) fn track(&mut self, key: TrackKey, home: ShardId) -> usize {
        if let Some(&slot) = self.track_by_key.get(&key) {
            return slot;
        }
        let relay = self.relayed.get(&key.stream).copied().filter(|_| home == self.config.id);
        let home = relay.unwrap_or(home);
        let upstream = if home == self.config.id { Upstream::None } else { Upstream::Home(home) };
        if let Upstream::Home(home) = upstream {
            self.mail.push((home, Mail::Mirror(key, self.config.id)));
        }
        let slot = self.tracks.insert(Track::new(key, upstream));
        self.track_by_key.insert(key, slot);
        slot
    }

    /// A stream comes from another node from now on, or does no more. Tracks that wait for a source are mirrored from there.
    pub(crate) fn relay(&mut self, stream: StreamId, relay: Option<ShardId>) {
        let before = match relay {
            Some(relay) => self.relayed.insert(stream, relay),
            None => self.relayed.remove(&stream),
        };
        let slots: Vec<usize> =
            self.tracks.iter().filter(|(_, t)| t.key.stream == stream).map(|(slot, _)| slot).collect();
        for slot in slots {
            let track = &mut self.tracks[slot];
            match relay {
                Some(relay) if track.upstream == Upstream::None => {
                    track.upstream = Upstream::Home(relay);
                    self.mail.push((relay, Mail::Mirror(track.key, self.config.id)));
                }
                None if before.is_some_and(|relay| track.upstream == Upstream::Home(relay)) => {
                    track.upstream = Upstream::None;
                    self.mail.extend(before.map(|relay| (relay, Mail::Unmirror(track.key, self.config.id))));
                    self.forget_if_idle(slot);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn forget_if_idle(&mut self, slot: usize) {
        // A publisher that has sent nothing yet is bound by its slot only.
        let published =
            |p: &Peer| matches!(&p.role, Role::Publish(p) if p.encodings().any(|e| e.track == slot));
        if !self.tracks[slot].is_idle() || self.peers.iter().any(|(_, p)| published(p)) {
            return;
        }
        let track = self.tracks.remove(slot);
        self.track_by_key.remove(&track.key);
        if let Upstream::Home(home) = track.upstream {
            self.mail.push((home, Mail::Unmirror(track.key, self.config.id)));
        }
    }
}
