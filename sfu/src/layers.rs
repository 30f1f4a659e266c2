//! The encodings of streams with simulcast, each a track of its own, and of streams with temporal layers: one. Here is what is measured of
//! them, which one each subscriber and the tap get, and what other shards are told.

use media::payload::TEMPORAL_LAYERS_MAX;
use media::{Codec, Kind, Packet, Time};
use metrics::DropReason;

use crate::allocate::{Allocator, Choice, LAYERS_MAX, Layer, LayerReason, LayerRequest, Layers, is_alone};
use crate::command::{Event, LayerShown, Mail, PeerId, SourceId, StreamId, TrackKey};
use crate::forward::Forwarder;
use crate::peer::{Role, Subscribed};
use crate::ring::Ring;
use crate::shard::Shard;
use crate::tap::Tap;
use crate::track::{Subscription, Track, Upstream};
use crate::wanted::Wishes;

/// Packets for so long make an encoding live (mediasoup, Janus).
const LIVE_US: i64 = 2_000_000;
/// None for so long, or for [`STARVED_FRAMES`] frames of a slow one, and it has stopped.
const STARVED_US: i64 = 250_000;
const STARVED_US_MAX: i64 = 2_500_000;
const STARVED_FRAMES: i64 = 3;
/// Rates are measured over [`BUCKETS`] of these.
const BUCKET_US: i64 = 250_000;
const BUCKETS: usize = 8;
/// Where a source has not said for so long that a decoder can follow its upper layers, a key frame is asked for: libvpx says it every 8 frames.
const LAGS_US: i64 = 2_000_000;
/// Choices are made anew, and mirrors told, at least this often.
const EVERY_US: i64 = 250_000;

/// What is measured of one track: its rate, height and whether packets come.
#[derive(Debug, Default)]
pub(crate) struct EncodingMeter {
    height: u32,
    /// A key frame came, which would have said the height.
    keyed: bool,
    since: Time,
    last: Option<Time>,
    /// Of each temporal layer.
    bytes: [[u64; TEMPORAL_LAYERS_MAX]; BUCKETS],
    bucket: i64,
    /// The newest frame's time stamp, and the smoothed time between frames.
    newest: Option<i64>,
    frame_us: i64,
}

impl EncodingMeter {
    /// Of a track that has sent what is in `ring`.
    fn new(ring: &Ring) -> EncodingMeter {
        let key = ring.key().and_then(|key| ring.get(key));
        let size = key.and_then(|key| media::payload::size(key.codec, &key.payload));
        let height = size.map_or(0, |(_, height)| height);
        EncodingMeter { height, keyed: key.is_some(), ..EncodingMeter::default() }
    }

    /// A packet came, in the track's or the source's time.
    pub(crate) fn packet(
        &mut self,
        codec: Codec,
        timestamp: i64,
        payload: &[u8],
        key_start: bool,
        temporal: u8,
        now: Time,
    ) {
        if self.is_starved(now) {
            *self = EncodingMeter {
                height: self.height,
                keyed: self.keyed,
                since: now,
                bucket: now.us() / BUCKET_US,
                ..EncodingMeter::default()
            };
        }
        self.last = Some(now);
        self.advance(now);
        let bucket = self.bytes.get_mut(self.bucket as usize % BUCKETS);
        if let Some(bytes) = bucket.and_then(|layers| layers.get_mut(usize::from(temporal))) {
            *bytes += payload.len() as u64;
        }
        match self.newest {
            Some(newest) if timestamp > newest => {
                let step = Time::from_ticks(timestamp - newest, codec.clock_hz()).us().min(STARVED_US_MAX);
                self.frame_us = if self.frame_us == 0 { step } else { (self.frame_us * 7 + step) / 8 };
                self.newest = Some(timestamp);
            }
            Some(_) => {}
            None => self.newest = Some(timestamp),
        }
        self.keyed |= key_start;
        if key_start && let Some((_, height)) = media::payload::size(codec, payload) {
            self.height = height;
        }
    }

    fn advance(&mut self, now: Time) {
        let bucket = now.us() / BUCKET_US;
        for passed in 1..=(bucket - self.bucket).clamp(0, BUCKETS as i64) {
            if let Some(old) = self.bytes.get_mut((self.bucket + passed) as usize % BUCKETS) {
                *old = [0; TEMPORAL_LAYERS_MAX];
            }
        }
        self.bucket = self.bucket.max(bucket);
    }

    /// Packets come, and nothing of them says what the picture is like.
    fn lacks_key_frame(&self) -> bool {
        self.last.is_some() && !self.keyed
    }

    fn is_starved(&self, now: Time) -> bool {
        let limit = (self.frame_us * STARVED_FRAMES).clamp(STARVED_US, STARVED_US_MAX);
        self.last.is_none_or(|last| now.since(last) > limit)
    }

    pub(crate) fn layer(&mut self, now: Time) -> Layer {
        if self.is_starved(now) {
            return Layer { height: self.height, ..Layer::default() };
        }
        self.advance(now);
        let lasted = now.since(self.since);
        let window = lasted.clamp(BUCKET_US, BUCKET_US * BUCKETS as i64);
        let mut bytes = [0; TEMPORAL_LAYERS_MAX];
        for (sum, of) in (0..TEMPORAL_LAYERS_MAX).flat_map(|i| self.bytes.iter().map(move |b| (i, b[i]))) {
            bytes[sum] += of;
        }
        let top = bytes.iter().rposition(|bytes| *bytes > 0).unwrap_or(0);
        let mut temporal_bps = [0; TEMPORAL_LAYERS_MAX];
        let mut below = 0;
        for (bps, bytes) in temporal_bps.iter_mut().zip(bytes) {
            below += bytes;
            *bps = below * 8_000_000 / window as u64;
        }
        Layer {
            rate_bps: temporal_bps[TEMPORAL_LAYERS_MAX - 1],
            height: self.height,
            flows: true,
            paused: false,
            live: lasted >= LIVE_US,
            temporal_layers: top as u8 + 1,
            temporal_bps,
        }
    }
}

/// A stream with several encodings, or with temporal layers in its only one, on this shard.
#[derive(Debug, Default)]
pub(crate) struct LayerSet {
    pub(crate) layers: Layers,
    /// At home: what the publisher was told of them.
    pub(crate) wishes: Wishes,
    /// When choices are made anew, whatever changed.
    next: Time,
    /// At home: the control plane's.
    pub(crate) tap: Option<Tap>,
}

impl LayerSet {
    /// The encoding with this index.
    pub(crate) fn layer(&self, index: u8) -> Layer {
        self.layers.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// What the richest of its encodings that come takes, whole and sound included.
    pub(crate) fn best_bps(&self) -> u64 {
        let rates = self.layers.iter().filter(|layer| layer.flows).map(|layer| layer.rate_bps);
        rates.max().map_or(0, |rate_bps| rate_bps + AUDIO_BPS)
    }
}

/// A subscriber's wish and what its path carries; its choice.
#[derive(Debug)]
pub(crate) struct LayerChoice {
    pub(crate) request: LayerRequest,
    /// Bit/s for sound and picture; `u64::MAX` without an estimate.
    pub(crate) estimate_bps: u64,
    /// It was seen to carry less than what is sent.
    pub(crate) limited: bool,
    /// Bit/s of the temporal layers that were chosen of one of several encodings; `u64::MAX` for all of them. Where there is one encoding, what
    /// decides is whether the path carries it whole.
    pub(crate) takes_bps: u64,
    /// Since when fewer temporal layers are sent than were chosen.
    lags: Option<Time>,
    allocator: Allocator,
}

impl LayerChoice {
    pub(crate) fn new() -> LayerChoice {
        LayerChoice {
            request: LayerRequest::default(),
            estimate_bps: u64::MAX,
            limited: false,
            takes_bps: u64::MAX,
            lags: None,
            allocator: Allocator::new(Some(0)),
        }
    }

    /// A forwarder goes over to the encoding `layer`: of its temporal layers it lets through what was chosen, from the first packet on.
    pub(crate) fn limit(&self, forwarder: &mut Forwarder, layer: u8, of: &Layer) {
        if let (Some(chosen), temporal) = self.allocator.chosen()
            && chosen == layer
        {
            forwarder.limit_temporal(least(temporal, self.request.temporal_max), of.temporal_top());
        }
    }
}

/// What sound is taken to need of an estimate: Opus in stereo with its headers. It is never held back for a picture.
const AUDIO_BPS: u64 = 64_000;

/// Whether two states of a stream's encodings differ in what is decided at once.
fn differ(a: &Layers, b: &Layers) -> bool {
    let facts = |l: &Layer| (l.height, l.flows, l.paused, l.live, l.temporal_layers);
    a.iter().map(facts).ne(b.iter().map(facts))
}

/// The lower of two limits; `None`: no limit. A choice of all layers there are now is none, and what was asked for stays asked for.
fn least(chosen: Option<u8>, asked: Option<u8>) -> Option<u8> {
    chosen.into_iter().chain(asked).min()
}

/// The uppermost temporal layer that is sent; `None`: all that come.
fn shown_temporal(forwarder: &Forwarder, of: &Layer) -> Option<u8> {
    forwarder.temporal().filter(|temporal| *temporal < of.temporal_top())
}

/// The best of what comes, for a taker without limits.
pub(crate) fn best(layers: &Layers, current: u8) -> u8 {
    let of = |i: u8| layers.get(usize::from(i)).copied().unwrap_or_default();
    let rank = |i: &u8| (of(*i).live, of(*i).height, of(*i).rate_bps, *i == current);
    let flowing = (0..LAYERS_MAX as u8).filter(|i| of(*i).flows);
    flowing.max_by_key(rank).unwrap_or(current)
}

/// What of a track's packets goes to a subscriber now.
pub(crate) enum Takes {
    /// It is paused, or waits for another packet of this track.
    Nothing,
    /// What is fresh.
    Fresh,
    /// The ring from this key frame on: the subscriber has gone over to the track, and left one.
    From {
        /// Where it begins.
        key: u64,
        /// The track before.
        left: usize,
    },
}

impl Subscribed {
    /// What goes out of the track in `slot`. `Err`: the key frame that a switch waited for is not the one.
    pub(crate) fn takes(&mut self, slot: usize, ring: &Ring, fresh: &[u64]) -> Result<Takes, DropReason> {
        if self.track == slot {
            return Ok(if self.paused { Takes::Nothing } else { Takes::Fresh });
        }
        let entrance = ring.key().filter(|key| self.next == Some(slot) && fresh.contains(key));
        let entrance = entrance.and_then(|key| ring.get(key)).filter(|p| is_entrance(p));
        let Some(first) = entrance else { return Ok(Takes::Nothing) };
        self.forwarder.switch(first)?;
        // From here on the other track's packets are not its, those of this batch included.
        Ok(Takes::From { key: first.seq, left: self.enter(slot) })
    }

    /// Nothing more is sent, not even what waits.
    fn pause(&mut self) {
        self.paused = true;
        self.forwarder.await_key_frame();
    }

    /// Goes over to a track; returns the one before.
    fn enter(&mut self, track: usize) -> usize {
        (self.next, self.paused) = (None, false);
        self.switches += 1;
        std::mem::replace(&mut self.track, track)
    }
}

impl Shard {
    /// A publisher with encodings: from now on the stream has layers here, and what it is made of is measured.
    pub(crate) fn layered(&mut self, stream: StreamId, tracks: &[usize]) {
        self.layers.entry(stream).or_default();
        for slot in tracks {
            let Track { encoding, ring, .. } = &mut self.tracks[*slot];
            encoding.get_or_insert_with(|| EncodingMeter::new(ring));
        }
    }

    /// The track of a stream's encoding, if it is here.
    fn layer_track(&self, stream: StreamId, layer: u8) -> Option<usize> {
        self.track_by_key.get(&TrackKey::picture(stream, layer)).copied()
    }

    fn layer_tracks(&self, stream: StreamId) -> [Option<usize>; LAYERS_MAX] {
        std::array::from_fn(|layer| self.layer_track(stream, layer as u8))
    }

    /// A source newer than any took one of a stream's tracks: older ones are out of the others, too, so that no two mix.
    pub(crate) fn fence_layers(&mut self, key: TrackKey, source: SourceId) {
        if key.kind == Kind::Video && self.layers.contains_key(&key.stream) {
            self.forget_wishes(key.stream, |_, hears| hears != source);
            for slot in self.layer_tracks(key.stream).into_iter().flatten() {
                self.tracks[slot].fence(source);
            }
        }
    }

    /// A publisher was asked for a key frame of one of its encodings: it does not listen to a request for another for a while.
    pub(crate) fn asked_beside(&mut self, stream: StreamId, asked: usize, now: Time) {
        if self.layers.contains_key(&stream) {
            for slot in self.layer_tracks(stream).into_iter().flatten().filter(|slot| *slot != asked) {
                self.tracks[slot].key_frames.asked_beside(now);
            }
        }
    }

    /// Measures, tells mirrors, and makes choices anew. Called each tick.
    pub(crate) fn look_after_layers(&mut self, now: Time) {
        if self.layers.is_empty() {
            return;
        }
        let streams: Vec<StreamId> = self.layers.keys().copied().collect();
        for stream in streams {
            let tracks = self.layer_tracks(stream);
            if tracks.iter().all(Option::is_none) {
                self.layers.remove(&stream);
                continue;
            }
            let is_home =
                tracks.iter().flatten().any(|slot| !matches!(self.tracks[*slot].upstream, Upstream::Home(_)));
            let Some(set) = self.layers.get_mut(&stream) else { continue };
            let mut changed = now >= set.next;
            if is_home {
                let mut layers: Layers = std::array::from_fn(|i| match tracks.get(i) {
                    Some(Some(slot)) => {
                        self.tracks[*slot].encoding.as_mut().map_or(Layer::default(), |m| m.layer(now))
                    }
                    _ => Layer::default(),
                });
                set.wishes.complete(&mut layers, now);
                changed |= differ(&layers, &set.layers);
                set.layers = layers;
                let is_taken = |slot: &Option<usize>| slot.is_some_and(|slot| self.tracks[slot].is_watched());
                let paused = set.wishes.paused();
                if let Some((publisher, wanted)) =
                    set.wishes.renew(&layers, &tracks.each_ref().map(is_taken), now)
                {
                    self.metrics.encoding_pauses.add(set.wishes.paused().saturating_sub(paused) as u64);
                    self.events.push(Event::Wanted(publisher, wanted));
                }
            }
            if !changed {
                continue;
            }
            set.next = now.plus_us(EVERY_US);
            if is_home {
                // Nobody may take an encoding that came back, so nobody else asks.
                for track in tracks.iter().flatten() {
                    let track = &mut self.tracks[*track];
                    if track.encoding.as_ref().is_some_and(EncodingMeter::lacks_key_frame) {
                        track.key_frames.want();
                    }
                }
                self.tell_mirrors(stream, &tracks);
                self.tell_publisher(stream, &tracks);
                self.move_tap(stream, &tracks);
            }
            self.choose_for_all(stream, now);
        }
    }

    fn tell_mirrors(&mut self, stream: StreamId, tracks: &[Option<usize>; LAYERS_MAX]) {
        let Some(layers) = self.layers.get(&stream).map(|set| set.layers) else { return };
        let mut shards: Vec<usize> =
            tracks.iter().flatten().flat_map(|slot| self.tracks[*slot].mirrors.iter().copied()).collect();
        shards.sort_unstable();
        shards.dedup();
        self.mail.extend(shards.into_iter().map(|shard| (shard, Mail::Layers { stream, layers })));
    }

    fn tell_publisher(&self, stream: StreamId, tracks: &[Option<usize>; LAYERS_MAX]) {
        let Some(set) = self.layers.get(&stream) else { return };
        for (index, (slot, layer)) in tracks.iter().zip(&set.layers).enumerate() {
            if let Some(Upstream::Peer(peer)) = slot.map(|slot| self.tracks[slot].upstream)
                && let Some(peer) = self.peers.get(peer)
            {
                peer.stats.set_encoding(index, layer);
            }
        }
    }

    /// The home shard says what a stream's encodings are like.
    pub(crate) fn take_layers(&mut self, stream: StreamId, layers: Layers, now: Time) {
        let tracks = self.layer_tracks(stream);
        if tracks.iter().all(Option::is_none) {
            return;
        }
        self.layers.entry(stream).or_default().layers = layers;
        // Of a stream from another node the home here has mirrors in its turn.
        self.tell_mirrors(stream, &tracks);
        self.choose_for_all(stream, now);
    }

    fn choose_for_all(&mut self, stream: StreamId, now: Time) {
        let tracks = self.layer_tracks(stream);
        let mut peers: Vec<usize> = tracks
            .iter()
            .flatten()
            .flat_map(|slot| self.tracks[*slot].subscribers.iter().map(|s| s.peer))
            .collect();
        peers.sort_unstable();
        peers.dedup();
        for peer in peers {
            self.choose_layer(peer, now);
        }
    }

    /// A subscriber wants something else, or its path carries something else.
    pub(crate) fn change_layer_choice(
        &mut self,
        id: PeerId,
        now: Time,
        change: impl FnOnce(&mut LayerChoice),
    ) {
        if let Some(&slot) = self.peer_by_id.get(&id)
            && let Role::Subscribe(subscriber) = &mut self.peers[slot].role
        {
            change(&mut subscriber.layers);
            self.choose_layer(slot, now);
        }
    }

    /// Makes one subscriber's choice anew: after its request or estimate changed, or its stream's encodings did.
    pub(crate) fn choose_layer(&mut self, peer: usize, now: Time) {
        let Some(peer_of) = self.peers.get_mut(peer) else { return };
        let Role::Subscribe(subscriber) = &mut peer_of.role else { return };
        let is_video = |s: &Subscribed| s.forwarder.media.kind == Kind::Video;
        let Some(index) = subscriber.forwarders.iter().position(is_video) else { return };
        let at = Subscription { peer, forwarder: index };
        let subscribed = &mut subscriber.forwarders[index];
        let TrackKey { stream, layer: current, .. } = self.tracks[subscribed.track].key;
        let LayerChoice { request, estimate_bps, limited, takes_bps, lags, allocator } =
            &mut subscriber.layers;
        let Some(set) = self.layers.get(&stream) else {
            // One encoding: there is only whether.
            let reason = if request.paused { LayerReason::PausedByRequest } else { LayerReason::Only };
            let (layer, height, temporal, switches) = (0, 0, None, subscribed.switches);
            peer_of.stats.set_layer(LayerShown { layer, height, temporal, reason, switches });
            let resumed = subscribed.paused && !request.paused;
            if request.paused {
                subscribed.pause();
            }
            if resumed {
                subscribed.paused = false;
                self.tracks[subscribed.track].key_frames.want();
            }
            return;
        };
        subscribed.forwarder.prepare_switches();
        // Estimates begin low: where there is no smaller picture to begin with, frames are not given up for a guess.
        let unknown = *estimate_bps == u64::MAX || (is_alone(&set.layers) && !*limited);
        let budget = if unknown { u64::MAX } else { estimate_bps.saturating_sub(AUDIO_BPS) };
        let Choice { layer, temporal, reason } = allocator.choose(now, budget, &set.layers, request);
        let shown = set.layer(current);
        *takes_bps = u64::MAX;
        if layer == Some(current) {
            subscribed.forwarder.limit_temporal(least(temporal, request.temporal_max), shown.temporal_top());
            if let Some(temporal) = temporal.filter(|_| !is_alone(&set.layers)) {
                *takes_bps =
                    shown.temporal_bps.get(usize::from(temporal)).map_or(u64::MAX, |bps| bps + AUDIO_BPS);
            }
        }
        *lags = subscribed.forwarder.temporal_lags().then(|| lags.unwrap_or(now));
        if lags.is_some_and(|since| now.since(since) >= LAGS_US) {
            self.tracks[subscribed.track].key_frames.want_when_limited(now);
        }
        peer_of.stats.set_layer(LayerShown {
            layer: current,
            height: shown.height,
            temporal: shown_temporal(&subscribed.forwarder, &shown),
            reason,
            switches: subscribed.switches,
        });
        let (track, next, unused) = (subscribed.track, subscribed.next, subscribed.forwarder.is_unused());
        let target = match layer {
            None => {
                subscribed.pause();
                None
            }
            Some(layer) if layer == current => {
                if std::mem::take(&mut subscribed.paused) {
                    self.tracks[track].key_frames.want();
                }
                None
            }
            Some(layer) => Some(layer),
        };
        let home = match self.tracks[track].upstream {
            Upstream::Home(home) => home,
            _ => self.config.id,
        };
        let target = target.map(|layer| self.track(TrackKey::picture(stream, layer), home));
        if target != next {
            if let Some(next) = next {
                self.unsubscribe(next, at);
            }
            if let Some(target) = target {
                self.tracks[target].subscribers.push(at);
            }
            if let Some(subscribed) = self.subscribed(at) {
                subscribed.next = target;
            }
        }
        let Some(target) = target else { return };
        if unused {
            // Nothing was sent: it begins there.
            let key = self.tracks[target].key;
            let of = self.layers.get(&stream).map_or(Layer::default(), |set| set.layer(key.layer));
            if let Some(Role::Subscribe(subscriber)) = self.peers.get_mut(peer).map(|peer| &mut peer.role) {
                let subscribed = &mut subscriber.forwarders[index];
                subscriber.layers.limit(&mut subscribed.forwarder, key.layer, &of);
                let left = subscribed.enter(target);
                self.switched(at, left);
            }
        }
        self.tracks[target].key_frames.want();
    }

    /// A subscriber has gone over to another track, and `left` one.
    pub(crate) fn switched(&mut self, at: Subscription, left: usize) {
        let layers = &self.layers;
        let (Some(peer), tracks) = (self.peers.get_mut(at.peer), &self.tracks) else { return };
        let Role::Subscribe(subscriber) = &mut peer.role else { return };
        let subscribed = &mut subscriber.forwarders[at.forwarder];
        let TrackKey { stream, layer, .. } = tracks[subscribed.track].key;
        let of = layers.get(&stream).map_or(Layer::default(), |set| set.layer(layer));
        peer.stats.set_layer(LayerShown {
            layer,
            height: of.height,
            temporal: shown_temporal(&subscribed.forwarder, &of),
            reason: peer.stats.layer().reason,
            switches: subscribed.switches,
        });
        self.unsubscribe(left, at);
    }

    pub(crate) fn unsubscribe(&mut self, track: usize, at: Subscription) {
        if let Some(left) = self.tracks.get_mut(track) {
            left.subscribers.retain(|s| *s != at);
            self.forget_if_idle(track);
        }
    }

    fn subscribed(&mut self, at: Subscription) -> Option<&mut Subscribed> {
        match &mut self.peers.get_mut(at.peer)?.role {
            Role::Subscribe(subscriber) => subscriber.forwarders.get_mut(at.forwarder),
            Role::Publish(_) => None,
        }
    }
}

/// Whether a decoder that knows nothing of the track can start at this packet: H.264's must bring its parameter sets.
pub(crate) fn is_entrance(packet: &Packet) -> bool {
    packet.key_start
        && (packet.codec != Codec::H264 || media::payload::h264::profile_level_id(&packet.payload).is_some())
}
