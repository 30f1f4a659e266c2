//! The clients: every connection that publishes or plays, by the id that logs and the API name it with.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use media::{StreamName, Time};
use sfu::{CloseReason, Command, PeerId, PeerStats};
use tokio::sync::watch;

use crate::media_plane::{Order, Overloaded, ShardHandle};

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
    connection: Connection,
}

/// How a client is told to end.
#[derive(Debug)]
enum Connection {
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

    /// Tells it to end. Fails when its shard takes no more orders.
    pub fn end(&self, reason: CloseReason) -> Result<(), Overloaded> {
        match &self.connection {
            Connection::Task(task) => {
                task.send_replace(true);
                Ok(())
            }
            Connection::Peer(peer, shard) => shard.order(Order::Shard(Command::RemovePeer(*peer, reason))),
        }
    }
}

/// Who a new client is.
#[derive(Debug)]
pub struct Entry {
    /// See [`Client`].
    pub id: u64,
    /// See [`Client`].
    pub kind: ClientKind,
    /// See [`Client`].
    pub ip: IpAddr,
    /// See [`Client`].
    pub stream: StreamName,
    /// See [`Client`].
    pub since: Time,
}

/// Every client, by its id.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: DashMap<u64, Arc<Client>>,
}

impl Clients {
    /// Registers a TCP client while the guard lives; the other part says when it must end.
    pub fn add_task(self: &Arc<Self>, entry: Entry) -> (ClientGuard, Kicked) {
        let (kick, kicked) = watch::channel(false);
        let client = self.add(entry, None, Connection::Task(kick));
        (ClientGuard { clients: self.clone(), client }, Kicked(kicked))
    }

    /// Registers a WebRTC client, until [`Clients::remove`].
    pub fn add_peer(
        &self,
        entry: Entry,
        peer: PeerId,
        shard: ShardHandle,
        stats: Arc<PeerStats>,
    ) -> Arc<Client> {
        self.add(entry, Some(stats), Connection::Peer(peer, shard))
    }

    /// Forgets a client.
    pub fn remove(&self, id: u64) {
        self.by_id.remove(&id);
    }

    /// The client of that id.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.get(&id).map(|c| c.clone())
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.by_id.iter().map(|c| c.clone()).collect();
        all.sort_by_key(|c| c.id);
        all
    }

    /// How many publish, and how many play.
    pub fn count(&self) -> (usize, usize) {
        let publishers = self.by_id.iter().filter(|client| client.kind.publishes()).count();
        (publishers, self.by_id.len().saturating_sub(publishers))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Ends every client for which `which` is true; those whose shard takes no more orders stay.
    pub fn end_all(&self, reason: CloseReason, which: impl Fn(&Client) -> bool) {
        for client in self.all().iter().filter(|c| which(c)) {
            if client.end(reason).is_err() {
                tracing::warn!(client = client.id, "cannot be ended: the media plane is overloaded");
            }
        }
    }

    fn add(&self, entry: Entry, peer: Option<Arc<PeerStats>>, connection: Connection) -> Arc<Client> {
        let Entry { id, kind, ip, stream, since } = entry;
        let client = Arc::new(Client {
            id,
            kind,
            // IPv4 clients of an IPv6 listener are shown as what they are.
            ip: ip.to_canonical(),
            stream,
            since,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            frames_dropped: AtomicU64::new(0),
            peer,
            connection,
        });
        self.by_id.insert(id, client.clone());
        client
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
    clients: Arc<Clients>,
    /// The client.
    pub client: Arc<Client>,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.clients.remove(self.client.id);
    }
}
