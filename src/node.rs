//! The node: its parts, put together once in one order, and the registries that its front doors share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dashmap::DashMap;
use media::{StreamName, Time};
use metrics::NodeMetrics;
use sfu::{CloseReason, Command, Event, PeerId, PeerStats};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::media_plane::{self, Order, ShardHandle};
use crate::stream::{self, PublishGuard, StreamSettings, Streams, WatchGuard};

/// What a client does, as SRS's API names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientKind {
    /// RTMP publisher.
    RtmpPublish,
    /// RTMP player.
    RtmpPlay,
    /// HTTP-FLV player.
    FlvPlay,
    /// WebSocket-FLV player.
    WsFlvPlay,
    /// WHIP publisher.
    RtcPublish,
    /// WHEP player.
    RtcPlay,
}

impl ClientKind {
    /// SRS's word for it.
    pub const fn srs(self) -> &'static str {
        match self {
            ClientKind::RtmpPublish => "fmle-publish",
            ClientKind::RtmpPlay => "rtmp-play",
            ClientKind::FlvPlay | ClientKind::WsFlvPlay => "flv-play",
            ClientKind::RtcPublish => "rtc-publish",
            ClientKind::RtcPlay => "rtc-play",
        }
    }

    /// Whether it sends.
    pub const fn publishes(self) -> bool {
        matches!(self, ClientKind::RtmpPublish | ClientKind::RtcPublish)
    }
}

/// A connection that publishes or plays.
#[derive(Debug)]
pub struct Client {
    /// Its id in the API.
    pub id: u64,
    /// What it does.
    pub kind: ClientKind,
    /// Where it is.
    pub ip: IpAddr,
    /// What it publishes or plays.
    pub stream: StreamName,
    /// Since when.
    pub since: Time,
    /// Bytes from and to a TCP client; a WebRTC session counts in `peer`.
    pub bytes_in: AtomicU64,
    /// See `bytes_in`.
    pub bytes_out: AtomicU64,
    /// Frames that a slow viewer lost.
    pub frames_dropped: AtomicU64,
    /// A WebRTC session's figures.
    pub peer: Option<Arc<PeerStats>>,
    kick: Kick,
}

#[derive(Debug)]
enum Kick {
    Task(watch::Sender<bool>),
    Peer(PeerId, ShardHandle),
}

impl Client {
    /// Bytes received, sent.
    pub fn bytes(&self) -> (u64, u64) {
        match &self.peer {
            Some(peer) => (peer.bytes_in.load(Ordering::Relaxed), peer.bytes_out.load(Ordering::Relaxed)),
            None => (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed)),
        }
    }

    fn end(&self, reason: CloseReason) {
        match &self.kick {
            Kick::Task(task) => {
                task.send_replace(true);
            }
            Kick::Peer(peer, shard) => {
                let _ = shard.order(Order::Shard(Command::RemovePeer(*peer, reason)));
            }
        }
    }
}

/// A WHIP or WHEP session. Dropping it gives back what it held.
#[derive(Debug)]
pub struct RtcSession {
    /// Its peer on its shard.
    pub peer: PeerId,
    /// Its shard.
    pub shard: ShardHandle,
    /// The unguessable part of its URL.
    pub token: String,
    /// Its ICE session's entity tag (RFC 9725 4.3.1).
    pub etag: String,
    /// The client's ICE user name fragment, which PATCH must repeat.
    pub remote_ufrag: String,
    /// The stream.
    pub stream: StreamName,
    /// Its client.
    pub client: Arc<Client>,
    /// A publisher's hold on the name.
    pub publishing: Option<PublishGuard>,
    /// A viewer's count.
    pub watching: Option<WatchGuard>,
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
    pub clients: Arc<DashMap<u64, Arc<Client>>>,
    /// WebRTC sessions by the token in their URL.
    pub sessions: DashMap<String, Arc<RtcSession>>,
    /// The token of a peer.
    pub session_of: DashMap<PeerId, String>,
    /// Control-plane counters.
    pub metrics: Arc<NodeMetrics>,
    /// The DTLS certificate, made at start.
    pub identity: Arc<rtc::dtls::Identity>,
    /// Addresses that SDP answers offer.
    pub candidate_ips: Vec<IpAddr>,
    /// `true` once the node drains.
    pub draining: watch::Sender<bool>,
    random: SystemRandom,
}

impl Node {
    /// Starts the media plane and builds the registries. Must be called within the tokio runtime.
    pub fn start(config: Config) -> anyhow::Result<Arc<Node>> {
        let clock = Clock::start();
        let random = SystemRandom::new();
        let mut seed = [0u8; 8];
        random.fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
        let count = config.shards();
        let ip = config.webrtc.listen_ip;
        let (shards, events) =
            media_plane::start(ip, config.webrtc.base_port, count, clock, u64::from_le_bytes(seed))?;
        let identity = rtc::dtls::Identity::generate().context("cannot make the DTLS certificate")?;
        let metrics = Arc::new(NodeMetrics::default());
        let clients: Arc<DashMap<u64, Arc<Client>>> = Arc::default();
        let kick = {
            let clients = clients.clone();
            stream::Kick(Box::new(move |id: u64| {
                if let Some(client) = clients.get(&id) {
                    client.end(CloseReason::Replaced);
                }
            }))
        };
        let streams =
            Streams::new(clock, shards.clone(), StreamSettings::from(&config), metrics.clone(), kick);
        let candidate_ips = candidate_ips(&config);
        let node = Arc::new(Node {
            config,
            clock,
            shards,
            streams,
            clients,
            sessions: DashMap::new(),
            session_of: DashMap::new(),
            metrics,
            identity,
            candidate_ips,
            draining: watch::Sender::new(false),
            random,
        });
        tokio::spawn(node.clone().handle_events(events));
        tokio::spawn(node.clone().sweep());
        Ok(node)
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
    pub fn add_task_client(
        self: &Arc<Self>,
        kind: ClientKind,
        ip: IpAddr,
        stream: StreamName,
    ) -> (ClientGuard, Kicked) {
        let (kick, kicked) = watch::channel(false);
        (self.add_client(self.streams.shared().draw_id(), kind, ip, stream, None, Kick::Task(kick)), Kicked(kicked))
    }

    /// Registers a WebRTC client under an id drawn before.
    pub fn add_peer_client(
        self: &Arc<Self>,
        id: u64,
        kind: ClientKind,
        ip: IpAddr,
        stream: StreamName,
        peer: (PeerId, ShardHandle, Arc<PeerStats>),
    ) -> Arc<Client> {
        let (peer, shard, stats) = peer;
        let mut guard = self.add_client(id, kind, ip, stream, Some(stats), Kick::Peer(peer, shard));
        guard.keep = true;
        guard.client.clone()
    }

    fn add_client(
        self: &Arc<Self>,
        id: u64,
        kind: ClientKind,
        ip: IpAddr,
        stream: StreamName,
        peer: Option<Arc<PeerStats>>,
        kick: Kick,
    ) -> ClientGuard {
        let client = Arc::new(Client {
            id,
            kind,
            // IPv4 clients of an IPv6 listener are shown as what they are.
            ip: ip.to_canonical(),
            stream,
            since: self.clock.now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            frames_dropped: AtomicU64::new(0),
            peer,
            kick,
        });
        self.clients.insert(id, client.clone());
        ClientGuard { clients: self.clients.clone(), client, keep: false }
    }

    /// Ends a client by its id. `false` when there is none.
    pub fn kick(&self, id: u64) -> bool {
        match self.clients.get(&id) {
            Some(client) => {
                client.end(CloseReason::Kicked);
                true
            }
            None => false,
        }
    }

    /// Forgets a WebRTC session; its holds on the stream go with it.
    pub fn forget_session(&self, peer: PeerId) -> Option<Arc<RtcSession>> {
        let (_, token) = self.session_of.remove(&peer)?;
        let (_, session) = self.sessions.remove(&token)?;
        self.clients.remove(&session.client.id);
        Some(session)
    }

    /// Ends everything: called once, at the end of the drain.
    pub fn stop(&self) {
        for client in self.clients.iter() {
            client.end(CloseReason::Drained);
        }
        for shard in &self.shards {
            let _ = shard.order(Order::Stop);
        }
    }

    async fn handle_events(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Connected(peer) => {
                    if let Some(session) = self.session(peer) {
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

/// Says that a client must end.
#[derive(Clone, Debug)]
pub struct Kicked(watch::Receiver<bool>);

impl Kicked {
    /// Waits until it must.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|kicked| *kicked).await;
    }
}

/// Takes a client out of the registry when its connection ends.
#[derive(Debug)]
pub struct ClientGuard {
    clients: Arc<DashMap<u64, Arc<Client>>>,
    /// The client.
    pub client: Arc<Client>,
    keep: bool,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        if !self.keep {
            self.clients.remove(&self.client.id);
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
    let v6 = route((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
    let found: Vec<IpAddr> = v4.into_iter().chain(v6.filter(|_| bound.is_ipv6())).collect();
    if found.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { found }
}
