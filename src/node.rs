//! The node: its parts, put together once in one order, and the registries that its front doors share.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dashmap::DashMap;
use media::{Kind, StreamName};
use metrics::NodeMetrics;
use sfu::{CloseReason, Event, PeerId};
use tokio::sync::{mpsc, watch};

use crate::clients::{Client, ClientGuard, ClientKind, Clients, Entry, Kicked};
use crate::clock::Clock;
use crate::config::{Config, DirectoryKind};
use crate::directory::{Directory, Held};
use crate::media_plane::{self, Order, ShardHandle};
use crate::relay;
use crate::stream::{PublishError, PublishGuard, StreamSettings, Streams, WatchGuard};
use crate::task;
use crate::wishes::Wishes;

/// Sessions that were made last and may not have connected yet: a second of the fastest joins a node serves, a tenth of `webrtc.sessions_max`.
const HALF_OPEN_MAX: usize = 1_000;

/// A WHIP or WHEP session. Dropping it gives back what it held.
#[derive(Debug)]
pub struct RtcSession {
    /// Its peer on its shard.
    pub peer: PeerId,
    /// Its shard.
    pub shard: ShardHandle,
    /// The unguessable part of its URL.
    pub token: String,
    /// Its ICE session now. Held while a restart is ordered, so that of two the shard and both clients see the same one last.
    pub ice: Mutex<IceSession>,
    /// The section of its SDP that carries the bundle: its kind and identification tag.
    pub carrier: (Kind, String),
    /// The stream.
    pub stream: StreamName,
    /// Its client.
    pub client: Arc<Client>,
    /// A publisher's hold on the name.
    pub publishing: Option<PublishGuard>,
    /// A viewer's count.
    pub watching: Option<WatchGuard>,
    /// Of a publisher of several encodings: which of them are wanted.
    pub wishes: Option<Wishes>,
    /// ICE and DTLS are through.
    pub connected: AtomicBool,
}

/// What PATCH asks about: the time between two ICE restarts (RFC 9725 4.3.1).
#[derive(Debug)]
pub struct IceSession {
    /// Its entity tag.
    pub etag: String,
    /// The client's ICE user name fragment; another one asks for a restart.
    pub remote_ufrag: String,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    /// Settings.
    pub config: Config,
    /// The clock.
    pub clock: Clock,
    /// The media plane.
    pub shards: Vec<ShardHandle>,
    /// Streams by name.
    pub streams: Streams,
    /// Clients by id.
    pub clients: Arc<Clients>,
    /// WebRTC sessions by the token in their URL.
    pub sessions: DashMap<String, Arc<RtcSession>>,
    /// The token of a peer.
    pub session_of: DashMap<PeerId, String>,
    half_open: Mutex<VecDeque<PeerId>>,
    /// The directory, where the settings name one.
    pub directory: OnceLock<Arc<Directory>>,
    /// Control-plane counters.
    pub metrics: Arc<NodeMetrics>,
    /// The DTLS certificate, made at start.
    pub identity: Arc<rtc::dtls::Identity>,
    /// Addresses that SDP answers offer.
    pub candidate_ips: Vec<IpAddr>,
    /// `true` once the node drains.
    pub draining: watch::Sender<bool>,
    /// The first task to end that the node cannot do without.
    lost: OnceLock<&'static str>,
    /// Why it may not run.
    refused: watch::Sender<Option<String>>,
    random: SystemRandom,
}

impl Node {
    /// Starts the media plane and builds the registries. Must be called within the tokio runtime.
    pub fn start(config: Config) -> anyhow::Result<Arc<Node>> {
        let clock = Clock::start();
        let random = SystemRandom::new();
        let mut seed = [0u8; 8];
        random.fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
        let boot = u64::from_le_bytes(seed) >> 12;
        random.fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
        let count = config.shards();
        let ip = config.webrtc.listen_ip;
        let metrics = Arc::new(NodeMetrics::default());
        let cluster = (!config.cluster.node.is_empty())
            .then(|| (relay::Handle::new(count), mpsc::channel(relay::MAIL_MAX)));
        let mail_in = cluster.as_ref().map(|(_, (mail_in, _))| mail_in.clone());
        let (shards, events) = media_plane::start(
            SocketAddr::new(ip, config.webrtc.base_port),
            count,
            clock,
            u64::from_le_bytes(seed),
            config.webrtc.pacer,
            mail_in,
            &metrics,
        )?;
        let identity = rtc::dtls::Identity::generate().context("cannot make the DTLS certificate")?;
        let clients: Arc<Clients> = Arc::default();
        let settings = StreamSettings::from(&config);
        let streams = Streams::new(
            clock,
            shards.clone(),
            settings,
            metrics.clone(),
            clients.clone(),
            cluster.as_ref().map(|((handle, _), _)| handle.clone()),
        );
        let candidate_ips = candidate_ips(&config);
        let node = Arc::new(Node {
            config,
            clock,
            shards,
            streams,
            clients,
            sessions: DashMap::new(),
            session_of: DashMap::new(),
            half_open: Mutex::default(),
            directory: OnceLock::new(),
            metrics,
            identity,
            candidate_ips,
            draining: watch::Sender::new(false),
            lost: OnceLock::new(),
            refused: watch::Sender::new(None),
            random,
        });
        node.spawn_vital("events", node.clone().handle_events(events));
        node.spawn_vital("sweep", node.clone().sweep());
        if node.config.cluster.directory == DirectoryKind::Nats && !node.config.cluster.is_uplink {
            let directory = Directory::new(&node, boot)?;
            directory.start(&node);
            let _ = node.directory.set(directory);
        }
        if let Some(((handle, local), (_, mail))) = cluster {
            relay::start(&node, handle, mail, local)?;
        }
        Ok(node)
    }

    /// Spawns a task that the node cannot do without. When it ends before the drain, `/livez` says so.
    pub fn spawn_vital(
        self: &Arc<Self>,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (node, task) = (self.clone(), task::spawn(self.metrics.clone(), work));
        tokio::spawn(async move {
            let _ = task.await;
            if !*node.draining.borrow() {
                tracing::error!(name, "a task that the node cannot do without has ended");
                let _ = node.lost.set(name);
            }
        });
    }

    /// The node may not run: it ends with that error.
    pub fn refuse(&self, why: String) {
        self.refused.send_replace(Some(why));
    }

    /// When it may not run, why.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.subscribe();
        match refused.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is this node's.
            Err(_) => std::future::pending().await,
        }
    }

    /// What has died that only a restart brings back.
    pub fn dead_part(&self) -> Option<String> {
        let shard = self.shards.iter().find(|s| !s.is_alive()).map(|s| format!("shard {} has died", s.id));
        shard.or_else(|| self.lost.get().map(|name| format!("the task {name} has ended")))
    }

    /// `N` random bytes as hexadecimal text.
    pub fn random_text<const N: usize>(&self) -> String {
        use std::fmt::Write;
        self.random_bytes::<N>().iter().fold(String::with_capacity(N * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// `N` random bytes. A system without randomness cannot run a secure node: that is an invariant of a started one.
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0u8; N];
        self.random.fill(&mut bytes).expect("the system gave randomness at start and does now");
        bytes
    }

    /// Registers a TCP client; the second says when it must end.
    pub fn add_task_client(&self, kind: ClientKind, ip: IpAddr, stream: StreamName) -> (ClientGuard, Kicked) {
        let (id, since) = (self.streams.shared().draw_id(), self.clock.now());
        self.clients.add_task(Entry { id, kind, ip, stream, since })
    }

    /// Registers a WebRTC session. When too many have not connected, the oldest of those ends, so that offers nobody follows up
    /// do not keep out those that are.
    pub fn add_session(&self, session: RtcSession) {
        let peer = session.peer;
        self.session_of.insert(peer, session.token.clone());
        self.sessions.insert(session.token.clone(), Arc::new(session));
        let mut half_open = self.half_open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        half_open.push_back(peer);
        let oldest = if half_open.len() > HALF_OPEN_MAX { half_open.pop_front() } else { None };
        drop(half_open);
        if let Some(session) = oldest.and_then(|peer| self.session(peer))
            && !session.connected.load(Ordering::Relaxed)
        {
            let _ = session.client.end(CloseReason::NotConnected);
        }
    }

    /// Forgets a WebRTC session; its holds on the stream go with it.
    pub fn forget_session(&self, peer: PeerId) -> Option<Arc<RtcSession>> {
        let (_, token) = self.session_of.remove(&peer)?;
        let (_, session) = self.sessions.remove(&token)?;
        self.clients.remove(session.client.id);
        Some(session)
    }

    /// Claims a stream for a publisher, where there is a directory.
    ///
    /// # Errors
    /// The stream has a publisher, here or at the node that is named.
    pub async fn claim(&self, stream: &StreamName) -> Result<Option<Held>, PublishError> {
        let Some(directory) = self.directory.get() else { return Ok(None) };
        let replace = self.config.stream.replace_publisher;
        let own = self.streams.get(stream).and_then(|stream| stream.publisher());
        if own.is_some_and(|own| own.relayed.is_none() && !replace) {
            return Err(PublishError::Busy(stream.clone()));
        }
        let relay = self.streams.shared().relay();
        let newest = relay.and_then(|relay| relay.announced.get(stream).map(|of| of.generation)).unwrap_or(0);
        let claim = directory.claim(stream, newest, replace).await;
        claim.map(Some).map_err(|node| match node.as_str() == self.config.cluster.node {
            true => PublishError::Busy(stream.clone()),
            false => PublishError::Elsewhere(stream.clone(), node),
        })
    }

    /// Ends everything: called once, at the end of the drain.
    pub fn stop(&self) {
        self.clients.end_all(CloseReason::Drained, |_| true);
        for shard in &self.shards {
            let _ = shard.order(Order::Stop);
        }
    }

    async fn handle_events(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Connected(peer) => {
                    if let Some(session) = self.session(peer) {
                        session.connected.store(true, Ordering::Relaxed);
                        tracing::info!(client = session.client.id, stream = %session.stream, kind = session.client.kind.srs(), "connected");
                    }
                }
                Event::Closed(peer, reason) => {
                    if let Some(session) = self.forget_session(peer) {
                        let (received, sent) = session.client.bytes();
                        tracing::info!(client = session.client.id, stream = %session.stream, kind = session.client.kind.srs(), %reason, received, sent, "closed");
                    }
                }
                Event::Codec(peer, _, codec) => {
                    let Some(session) = self.session(peer) else { continue };
                    let source = session.publishing.as_ref().map(|p| p.source);
                    if let (Some(stream), Some(source)) = (self.streams.get(&session.stream), source) {
                        tracing::info!(stream = %session.stream, codec = codec.name(), "track");
                        stream.set_codec(source, codec);
                    }
                }
                Event::Wanted(peer, wanted) => {
                    let session = self.session(peer);
                    if let Some(wishes) = session.as_ref().and_then(|session| session.wishes.as_ref()) {
                        wishes.tell(wanted);
                    }
                }
                Event::Tapped(..) => {}
            }
        }
    }

    fn session(&self, peer: PeerId) -> Option<Arc<RtcSession>> {
        let token = self.session_of.get(&peer)?.clone();
        self.sessions.get(&token).map(|s| s.clone())
    }

    async fn sweep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tick.tick().await;
            self.streams.sweep();
        }
    }
}

/// The addresses that answers offer: as set, or what the socket is bound to, or the address of the default route.
fn candidate_ips(config: &Config) -> Vec<IpAddr> {
    let bound = config.webrtc.listen_ip;
    if !config.node.public_ips.is_empty() {
        return config.node.public_ips.clone();
    }
    if !bound.is_unspecified() {
        return vec![bound];
    }
    // Connecting a UDP socket sends nothing; it asks the routing table which of our addresses it would use.
    let route = |from: SocketAddr, to: SocketAddr| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let v4 = route((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let v6 =
        route((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
    let found: Vec<IpAddr> = v4.into_iter().chain(v6.filter(|_| bound.is_ipv6())).collect();
    if found.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { found }
}
