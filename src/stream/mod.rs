//! Streams: a name, who publishes, who watches, and the conversions between packets and frames, each running only while somebody
//! needs it. A stream is not its publisher's connection: publishers come back, viewers stay.

mod conversions;
pub mod from_relay;
mod guards;
pub mod home;
pub mod log;
mod to_aac;
pub mod to_frames;
mod to_opus;
pub mod to_packets;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use ::relay::control::Form;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use media::{Codec, Frame, Kind, NodeId, StreamName, Time};
use sfu::{CloseReason, Command, Layers, SourceId, StreamId, TrackKey};

use crate::clients::{Client, ClientKind, Clients};
use crate::clock::Clock;
use crate::config::{BFrames, Config};
use crate::directory::Held;
use crate::media_plane::{Order, ShardHandle};
use crate::relay;
use conversions::Conversions;
pub use guards::{PublishGuard, WatchGuard, records};
use home::{Home, Homes};
use log::{Ended, FrameLog, LogLimits};

/// How a publisher sends: frames or packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingest {
    /// RTMP: frames.
    Rtmp,
    /// WHIP: packets.
    Whip,
}

impl Ingest {
    /// As the API says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Ingest::Rtmp => "rtmp",
            Ingest::Whip => "whip",
        }
    }
}

/// How a viewer takes a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Watch {
    /// WebRTC.
    Whep,
    /// RTMP play.
    Rtmp,
    /// FLV over HTTP or WebSocket.
    Flv,
}

/// Why a name cannot be published now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody publishes it, and `stream.replace_publisher` is off.
    #[error("{0} already has a publisher")]
    Busy(StreamName),
    /// The same, at another node.
    #[error("{0} already has a publisher at node {1}")]
    Elsewhere(StreamName, NodeId),
}

/// Who publishes a stream now.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// The client's id in the API.
    pub client: u64,
    /// Frames or packets.
    pub ingest: Ingest,
    /// Its fence.
    pub source: SourceId,
    /// Since when.
    pub since: Time,
    /// It is at another node: its generation there.
    pub relayed: Option<u64>,
}

/// A stream of another node comes for so much longer than it is watched, in microseconds.
const LINGER_US: i64 = 5_000_000;

#[derive(Debug, Default)]
struct State {
    publisher: Option<Publisher>,
    left: Option<Time>,
    viewers: [usize; 3],
    /// Those of them that record.
    recorders: usize,
    codecs: [Option<Codec>; 2],
    rids: Vec<String>,
    /// What the encodings are like, of a stream from another node.
    layers: Layers,
    /// Where sound of a publisher at another node is converted.
    derives: relay::Derives,
    /// Derived sound that is made here is taken by other nodes.
    for_peers: bool,
    conversions: Conversions,
    /// Nobody watches since.
    unwatched: Option<Time>,
    refused: Option<String>,
    packets_refused: Option<String>,
    b_frames: bool,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its name.
    pub name: StreamName,
    /// The shard its tracks are at home on.
    pub home: ShardHandle,
    _home: Home,
    /// Its frames.
    pub log: Arc<FrameLog>,
    /// When it was made.
    pub created: Time,
    /// Bytes in from an RTMP publisher or from other nodes, and out to frame viewers; WebRTC sessions count their own.
    pub bytes_in: AtomicU64,
    /// Bytes out to frame viewers.
    pub bytes_out: AtomicU64,
    state: Mutex<State>,
    shared: Arc<Shared>,
    me: Weak<Stream>,
}

/// What all streams of a node share.
#[derive(Debug)]
pub struct Shared {
    /// The clock.
    pub clock: Clock,
    /// Where streams and viewers go.
    pub homes: Arc<Homes>,
    /// Settings of conversions.
    pub convert: ConvertSettings,
    /// Counters.
    pub metrics: Arc<metrics::NodeMetrics>,
    limits: LogLimits,
    grace: Duration,
    replace: bool,
    next_id: AtomicU64,
    clients: Arc<Clients>,
    relay: Option<Arc<relay::Handle>>,
}

/// Ends the client of that id.
pub struct Kick(pub Box<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for Kick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kick")
    }
}

/// Settings of the conversions.
#[derive(Clone, Copy, Debug)]
pub struct ConvertSettings {
    /// Opus bits per second for stereo.
    pub opus_bps: u32,
    /// AAC bits per second.
    pub aac_bps: u32,
    /// B-frames towards WebRTC.
    pub b_frames: BFrames,
}

/// Settings of streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamSettings {
    /// Bounds of the frame log.
    pub limits: LogLimits,
    /// How long a stream waits for its publisher to come back.
    pub grace: Duration,
    /// A new publisher of a live name takes it over.
    pub replace: bool,
    /// Conversions.
    pub convert: ConvertSettings,
}

impl From<&Config> for StreamSettings {
    fn from(config: &Config) -> StreamSettings {
        let us = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        StreamSettings {
            limits: LogLimits {
                bytes_max: config.stream.gop_bytes_max,
                gop_us_max: us(config.stream.gop_duration_max),
                lag_us_max: us(config.stream.viewer_lag_max),
                lag_bytes_max: config.stream.viewer_queue_bytes_max,
                merge_us: us(config.stream.merge_write),
            },
            grace: config.stream.publisher_grace,
            replace: config.stream.replace_publisher,
            convert: ConvertSettings {
                opus_bps: config.audio.opus_kbps * 1000,
                aac_bps: config.audio.aac_kbps * 1000,
                b_frames: config.video.b_frames,
            },
        }
    }
}

/// All streams of the node.
#[derive(Debug)]
pub struct Streams {
    by_name: DashMap<StreamName, Arc<Stream>>,
    shared: Arc<Shared>,
}

impl Streams {
    /// No streams yet.
    pub fn new(
        clock: Clock,
        shards: Vec<ShardHandle>,
        settings: StreamSettings,
        metrics: Arc<metrics::NodeMetrics>,
        clients: Arc<Clients>,
        relay: Option<Arc<relay::Handle>>,
    ) -> Streams {
        let shared = Shared {
            clock,
            homes: Homes::new(shards),
            convert: settings.convert,
            metrics,
            limits: settings.limits,
            grace: settings.grace,
            replace: settings.replace,
            next_id: AtomicU64::new(1),
            clients,
            relay,
        };
        Streams { by_name: DashMap::new(), shared: Arc::new(shared) }
    }

    /// The stream of that name, made when there is none.
    pub fn get_or_create(&self, name: &StreamName) -> Arc<Stream> {
        let stream = match self.by_name.entry(name.clone()) {
            Entry::Occupied(there) => return there.get().clone(),
            Entry::Vacant(free) => {
                let id = StreamId(self.shared.draw_id());
                let home = self.shared.homes.of_stream(name.app());
                let stream = Arc::new_cyclic(|me| Stream {
                    id,
                    name: name.clone(),
                    home: home.shard.clone(),
                    _home: home,
                    log: Arc::new(FrameLog::new(self.shared.limits)),
                    created: self.shared.clock.now(),
                    bytes_in: AtomicU64::new(0),
                    bytes_out: AtomicU64::new(0),
                    state: Mutex::default(),
                    shared: self.shared.clone(),
                    me: me.clone(),
                });
                free.insert(stream.clone());
                stream
            }
        };
        // When it is in the table: who announces it now finds it there.
        stream.attach();
        stream
    }

    /// The stream of that name, if it is here or at another node.
    pub fn get_or_relayed(&self, name: &StreamName) -> Option<Arc<Stream>> {
        let announced = self.shared.relay.as_ref().is_some_and(|relay| relay.announced.contains_key(name));
        if announced { Some(self.get_or_create(name)) } else { self.get(name) }
    }

    /// The stream of that name, if somebody publishes or watches it.
    pub fn get(&self, name: &StreamName) -> Option<Arc<Stream>> {
        self.by_name.get(name).map(|s| s.clone())
    }

    /// The stream with that id.
    pub fn by_id(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.by_name.iter().find(|s| s.id == id).map(|s| s.clone())
    }

    /// All streams.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        self.by_name.iter().map(|s| s.clone()).collect()
    }

    /// Forgets streams that nobody publishes, watches or may come back to; ends logs whose grace is over. Call it each second.
    pub fn sweep(&self) {
        let now = self.shared.clock.now();
        for stream in self.all() {
            stream.sweep(now);
        }
        self.by_name.retain(|_, stream| {
            let stays = Arc::strong_count(stream) > 1 || !stream.is_idle(now);
            if let Some((source, _)) = stream.relayed().filter(|_| !stays) {
                stream.detach(source);
            }
            stays
        });
    }

    /// The id generator that sources, clients and streams draw from.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    /// What streams know of the relay, if there is one.
    pub fn relay(&self) -> Option<&Arc<relay::Handle>> {
        self.relay.as_ref()
    }

    /// A number never drawn before, rising.
    pub fn draw_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the name for a publisher, with its claim in the directory if there is one; the guard gives both back.
    pub fn publish(
        &self,
        client: u64,
        ingest: Ingest,
        claim: Option<Held>,
    ) -> Result<PublishGuard, PublishError> {
        let mut state = self.lock();
        // Another one has claimed it here since, and comes.
        if claim.as_ref().is_some_and(|claim| !claim.is_current()) {
            return Err(PublishError::Busy(self.name.clone()));
        }
        if let Some(publisher) = &state.publisher {
            // Whoever holds the claim takes the place of one that has lost it at another node.
            let lost = publisher.relayed.is_some() && claim.as_ref().is_some_and(|claim| claim.is_claimed);
            if !self.shared.replace && !lost {
                return Err(PublishError::Busy(self.name.clone()));
            }
            if publisher.relayed.is_some() {
                let _ = self.home.order(Order::Shard(Command::Relay(self.id, None)));
                self.tell_left(publisher.source);
            }
            if let Some(client) = self.shared.clients.get(publisher.client) {
                // Overloaded: it loses the name all the same, and its packets are fenced off.
                let _ = client.end(CloseReason::Replaced);
            }
        }
        let source = SourceId(self.shared.draw_id());
        state.publisher =
            Some(Publisher { client, ingest, source, since: self.shared.clock.now(), relayed: None });
        state.left = None;
        (state.codecs, state.rids) = ([None, None], Vec::new());
        (state.refused, state.packets_refused, state.b_frames) = (None, None, false);
        self.log.begin(source);
        self.reconcile(&mut state);
        // Under the lock, so that it is told in the order of the publishers.
        if let Some(relay) = &self.shared.relay {
            let (name, stream, home) = (self.name.clone(), self.id, self.home.clone());
            let generation = claim.as_ref().map(|claim| claim.generation);
            relay.tell(relay::Local::Published { ingest, name, stream, home, source, generation });
        }
        drop(state);
        let stream = self.me.upgrade();
        Ok(PublishGuard { stream, source, _claim: claim })
    }

    /// Counts a viewer in, who may record: the stream comes whole from other nodes then. The guard counts it out.
    pub fn watch(&self, watch: Watch, records: bool) -> WatchGuard {
        let mut state = self.lock();
        state.viewers[watch as usize] += 1;
        state.recorders += usize::from(records);
        if records && state.recorders == 1 {
            self.tell_recorded(true);
        }
        self.reconcile(&mut state);
        drop(state);
        WatchGuard { stream: self.me.upgrade(), watch, records }
    }

    /// A published track's codec became known.
    pub fn set_codec(&self, source: SourceId, codec: Codec) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_some_and(|p| p.source == source) {
            let before = state.codecs[codec.kind() as usize].replace(codec);
            if let Some(relay) = self.shared.relay.as_ref().filter(|_| before != Some(codec)) {
                relay.tell(relay::Local::Codec(self.name.clone(), source, codec));
            }
        }
    }

    /// The stream is published at another node, if it is announced and nobody publishes it here.
    pub fn attach(&self) {
        let Some(relay) = &self.shared.relay else { return };
        let mut state = self.lock();
        // Under the lock: who takes the announcement back looks here afterwards.
        let Some(announced) = relay.announced.get(&self.name).map(|announced| announced.clone()) else {
            return;
        };
        match &state.publisher {
            Some(publisher) if publisher.relayed == Some(announced.generation) => {
                state.codecs = announced.codecs;
                if std::mem::replace(&mut state.derives, announced.derives) != announced.derives {
                    self.reconcile(&mut state);
                }
                return;
            }
            Some(_) => return,
            None => {}
        }
        let ingest = match announced.form {
            Form::Packets => Ingest::Whip,
            Form::Frames => Ingest::Rtmp,
        };
        let order = Order::Shard(Command::Relay(self.id, Some(relay.number)));
        if ingest == Ingest::Whip && self.home.order(order).is_err() {
            return;
        }
        let (source, since) = (SourceId(self.shared.draw_id()), self.shared.clock.now());
        let relayed = Some(announced.generation);
        state.publisher = Some(Publisher { client: 0, ingest, source, since, relayed });
        (state.left, state.codecs, state.rids) = (None, announced.codecs, Vec::new());
        (state.refused, state.packets_refused, state.b_frames) = (None, None, false);
        state.derives = announced.derives;
        self.log.begin(source);
        self.reconcile(&mut state);
    }

    /// It is no more.
    pub fn detach(&self, source: SourceId) {
        if self.relayed().is_some_and(|(has, _)| has == source) {
            let _ = self.home.order(Order::Shard(Command::Relay(self.id, None)));
            self.unpublish(source);
        }
    }

    /// The fence of what comes from another node, and its generation there.
    pub fn relayed(&self) -> Option<(SourceId, u64)> {
        let state = self.lock();
        state.publisher.as_ref().and_then(|p| Some((p.source, p.relayed?)))
    }

    /// The nodes through which it comes, the publisher's first; none when its publisher is here.
    pub fn path(&self) -> Vec<String> {
        let relayed = self.relayed().is_some();
        let announced =
            self.shared.relay.as_ref().filter(|_| relayed).and_then(|r| r.announced.get(&self.name));
        announced.map_or(Vec::new(), |of| of.path.iter().map(ToString::to_string).collect())
    }

    /// The publisher's codecs, audio and video, as far as known.
    pub fn codecs(&self) -> [Option<Codec>; 2] {
        self.lock().codecs
    }

    /// The publisher sends the picture in these simulcast encodings.
    pub fn set_rids(&self, source: SourceId, rids: Vec<String>) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_some_and(|p| p.source == source) {
            state.rids = rids;
        }
    }

    /// The node of the publisher says what its encodings are like.
    pub fn set_layers(&self, source: SourceId, layers: Layers) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_some_and(|p| p.source == source) {
            state.layers = layers;
        }
    }

    /// What the encodings of a stream from another node are like.
    pub fn layers(&self) -> Layers {
        self.lock().layers
    }

    /// The simulcast encodings of the picture, by their RIDs; none without.
    pub fn rids(&self) -> Vec<String> {
        self.lock().rids.clone()
    }

    /// Who publishes.
    pub fn publisher(&self) -> Option<Publisher> {
        self.lock().publisher.clone()
    }

    /// Somebody publishes, or left so recently that it may come back.
    pub fn is_live(&self) -> bool {
        let state = self.lock();
        state.publisher.is_some() || state.left.is_some()
    }

    /// Viewers by kind: WHEP, RTMP, FLV.
    pub fn viewers(&self) -> [usize; 3] {
        self.lock().viewers
    }

    /// Why frame viewers get nothing, if so.
    pub fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// A conversion found that what is published cannot be carried in frames.
    pub fn refuse_frames(&self, source: SourceId, why: String) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_some_and(|p| p.source == source) {
            tracing::warn!(stream = %self.name, why, "RTMP and FLV viewers cannot have this stream");
            state.refused = Some(why.clone());
            // Under the lock, so that it cannot end a newer publisher's log.
            self.log.end(Ended::Refused(why));
        }
    }

    /// The same of a codec.
    pub fn refuse_codec(&self, source: SourceId, codec: Codec) {
        let why = format!("the stream is {}, RTMP and FLV carry H.264 and AAC", codec.name());
        self.refuse_frames(source, why);
    }

    /// Why WebRTC viewers get nothing, if so.
    pub fn packets_refused(&self) -> Option<String> {
        self.lock().packets_refused.clone()
    }

    /// Whether the source has B-frames, which WebRTC viewers do not reorder.
    pub fn has_b_frames(&self) -> bool {
        self.lock().b_frames
    }

    /// A frame of an RTMP publisher, or Opus that was made of its sound: into the log, and what it tells of the stream is noted. When it was captured, less what it is shown later than
    /// decoded, is when it came to the publisher's node.
    pub fn take_frame(&self, source: SourceId, frame: Frame, captured: Time, now: Time) {
        if frame.config.codec() != Codec::Opus {
            self.set_codec(source, frame.config.codec());
        }
        if frame.pts > frame.dts && !self.has_b_frames() {
            self.note_b_frames(source);
        }
        self.log.push_captured(source, frame, captured, now);
    }

    /// The source has B-frames: where the settings refuse that, its WebRTC viewers are ended and others kept out.
    fn note_b_frames(&self, source: SourceId) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_none_or(|p| p.source != source) {
            return;
        }
        state.b_frames = true;
        let policy = self.shared.convert.b_frames;
        if policy == BFrames::Refuse {
            state.packets_refused = Some(format!("{}: {}", self.name, CloseReason::BFrames));
        }
        drop(state);
        tracing::warn!(stream = %self.name, ?policy, "the source has B-frames, which WebRTC viewers do not reorder");
        if policy == BFrames::Refuse {
            let viewer = |c: &Client| c.kind == ClientKind::RtcPlay && c.stream == self.name;
            self.shared.clients.end_all(CloseReason::BFrames, viewer);
        }
    }

    /// A frame viewer joined: if the newest key frame is old, a WebRTC publisher is asked for another.
    pub fn want_key_frame(&self) {
        if self.publisher().is_some_and(|p| p.ingest == Ingest::Whip) {
            let key = TrackKey::new(self.id, Kind::Video);
            let _ = self.home.order(Order::Shard(Command::RequestKeyFrame(key)));
        }
    }

    /// The clock and the rest that streams share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn unpublish(&self, source: SourceId) {
        let mut state = self.lock();
        if state.publisher.as_ref().is_none_or(|p| p.source != source) {
            return;
        }
        state.publisher = None;
        state.left = Some(self.shared.clock.now());
        self.tell_left(source);
        self.log.flush();
        self.reconcile(&mut state);
    }

    fn tell_left(&self, source: SourceId) {
        if let Some(relay) = &self.shared.relay {
            relay.tell(relay::Local::Left(self.name.clone(), source));
        }
    }

    /// Under the lock, so that it is told in that order, and before anything of it is asked for.
    fn tell_recorded(&self, is_recorded: bool) {
        if let Some(relay) = &self.shared.relay {
            relay.tell(relay::Local::Recorded(self.id, is_recorded));
        }
    }

    fn unwatch(&self, watch: Watch, records: bool) {
        let mut state = self.lock();
        state.viewers[watch as usize] -= 1;
        state.recorders -= usize::from(records);
        if records && state.recorders == 0 {
            self.tell_recorded(false);
        }
        self.reconcile(&mut state);
    }

    fn sweep(&self, now: Time) {
        self.log.flush_late(now);
        let mut state = self.lock();
        if state.unwatched.is_some_and(|since| now.since(since) >= LINGER_US) {
            state.unwatched = None;
            state.conversions.from_relay = None;
        }
        let over = state.left.is_some_and(|left| now - left > self.shared.grace);
        if over && state.publisher.is_none() {
            state.left = None;
            // Under the lock, so that it cannot end the log of a publisher that comes back this moment.
            self.log.end(Ended::Over);
        }
    }

    fn is_idle(&self, now: Time) -> bool {
        let state = self.lock();
        let lingers = state.unwatched.is_some_and(|since| now.since(since) < LINGER_US);
        let over = state.publisher.as_ref().is_none_or(|publisher| publisher.relayed.is_some() && !lingers);
        over && state.left.is_none() && state.viewers == [0; 3]
    }
}
