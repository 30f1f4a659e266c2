//! The relay: streams of one node are watched at another. Only where `[cluster]` names a node.
//!
//! It is one more shard by number: shards mirror tracks to it and from it by the mail that they send each other. Here it mirrors from a track's home
//! what a peer subscribed to; there it is where the home shard of a stream that a peer announced mirrors from.

mod congestion;
mod feed;
mod hub;
mod link;
mod streams;
mod tls;
mod why;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ::relay::control::{Form, Right};
use anyhow::Context;
use dashmap::DashMap;
use media::{Codec, NodeId, StreamName};
use sfu::{Mail, ShardId, SourceId, StreamId, TrackKey};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};

pub use feed::{SOUND_LEN_MAX, cut};
pub use tls::id_of;
pub use why::Why;

use crate::media_plane::ShardHandle;
use crate::node::Node;
use crate::stream::Ingest;
use crate::stream::from_relay::FromPeer;

/// What the kernel holds of datagrams, each way: key frames of many streams come at one time. It gives less where `net.core.rmem_max` is less.
const SOCKET_BYTES: usize = 4 << 20;
/// Mail of shards that waits for the relay, like that of a shard for another.
pub const MAIL_MAX: usize = 8_192;

/// What a publisher of this node does, as peers are told.
#[derive(Debug)]
pub enum Local {
    /// It sends from now on.
    Published {
        /// What it sends.
        ingest: Ingest,
        /// The stream.
        name: StreamName,
        /// Its id here.
        stream: StreamId,
        /// Where its tracks are at home.
        home: ShardHandle,
        /// The publisher's fence.
        source: SourceId,
        /// By the directory; else it is this node's to say.
        generation: Option<u64>,
    },
    /// It sends this codec.
    Codec(StreamName, SourceId, Codec),
    /// It left.
    Left(StreamName, SourceId),
    /// Frames are made of a track of another node's stream, which comes with this fence: what comes goes there.
    Watch {
        /// The track of it.
        key: TrackKey,
        /// The stream's fence.
        source: SourceId,
        /// The number of this watch, which no other has.
        watch: u64,
        /// Where to.
        sink: mpsc::Sender<FromPeer>,
    },
    /// Somebody who watches a stream records it, or nobody does any more: while somebody does, what comes of it from another node comes whole.
    Recorded(StreamId, bool),
    /// That watch is over.
    Unwatch(u64),
    /// A client of this uplink wants something.
    Ask {
        /// What.
        right: Right,
        /// The stream.
        name: StreamName,
        /// What it gave with the name.
        query: String,
        /// Whether it may, or why not.
        answer: oneshot::Sender<Result<(), String>>,
    },
}

/// A stream that a peer has.
#[derive(Clone, Debug)]
pub struct Announced {
    /// Of its publisher.
    pub generation: u64,
    /// The nodes that it passed, the origin first.
    pub path: Vec<NodeId>,
    /// What crosses.
    pub form: Form,
    /// Codecs of sound and picture, as far as known.
    pub codecs: [Option<Codec>; 2],
    /// Where its sound is converted.
    pub derives: Derives,
}

/// Where sound of a stream of another node is converted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Derives {
    /// Where it is published, or on the way: derived sound comes as the stream comes.
    There,
    /// Here, for the nodes behind this one, too: the stream comes from an uplink, which converts nothing.
    Here,
    /// At each node that needs it: some node on the way does not know of derived sound.
    #[default]
    Nowhere,
}

/// How the last attempt to dial went.
#[derive(Clone, Default, Debug)]
pub struct LinkState {
    /// There is a link.
    pub up: bool,
    /// Why there was none.
    pub why: Option<Why>,
}

/// What streams know of the relay.
#[derive(Debug)]
pub struct Handle {
    /// Its number among the shards.
    pub number: ShardId,
    /// The best announcement of each stream.
    pub announced: DashMap<StreamName, Announced>,
    /// Frames are cut into packets of so many bytes of payload, which the paths of all links take whole.
    pub piece_bytes: AtomicUsize,
    /// Tracks that peers take from here.
    pub given: AtomicUsize,
    /// Of the peer that was dialled last: an uplink has but one.
    pub state: watch::Sender<LinkState>,
    /// Each publisher says a few things.
    local: mpsc::UnboundedSender<Local>,
}

impl Handle {
    /// For a node of so many shards.
    pub fn new(shards: usize) -> (Arc<Handle>, mpsc::UnboundedReceiver<Local>) {
        let (local, told) = mpsc::unbounded_channel();
        (
            Arc::new(Handle {
                number: shards,
                announced: DashMap::new(),
                piece_bytes: AtomicUsize::new(feed::piece_bytes(None)),
                given: AtomicUsize::new(0),
                state: watch::Sender::default(),
                local,
            }),
            told,
        )
    }

    /// Asks the peer of this uplink.
    ///
    /// # Errors
    /// Why not, for the client.
    pub async fn ask(&self, right: Right, name: StreamName, query: String) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.tell(Local::Ask { right, name, query, answer });
        match tokio::time::timeout(crate::uplink::ANSWER_LIMIT, answered).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(self.why_down()),
        }
    }

    /// Why there is no link.
    pub fn why_down(&self) -> String {
        let why = self.state.borrow().why.as_ref().map(|why| why.text.clone());
        why.unwrap_or_else(|| "the link to the node is gone".into())
    }

    /// Tells peers.
    pub fn tell(&self, what: Local) {
        let _ = self.local.send(what);
    }
}

/// Binds the endpoint and starts dialling.
///
/// # Errors
/// When the certificates cannot be read or the port is taken.
pub fn start(
    node: &Arc<Node>,
    handle: Arc<Handle>,
    mail: mpsc::Receiver<Mail>,
    local: mpsc::UnboundedReceiver<Local>,
) -> anyhow::Result<()> {
    let cluster = &node.config.cluster;
    let me = NodeId::new(&cluster.node).context("cluster.node is no node id")?;
    let peers: Vec<_> = cluster.peers().flatten().collect();
    let uplinks = cluster.uplinks.iter().filter_map(|id| NodeId::new(id));
    let listed: Arc<[NodeId]> = peers.iter().map(|(id, _)| id.clone()).chain(uplinks).collect();
    for id in listed.iter() {
        node.metrics.link(id.as_str());
    }
    let directory = node.directory.get().cloned();
    let identity =
        Arc::new(tls::Identity::load(cluster, tls::Peers { listed, directory: directory.clone() })?);
    let at = cluster.listen;
    let server = identity.server(congestion::Window::default(), node.clock);
    let endpoint =
        endpoint(server, at).with_context(|| format!("cannot listen on udp {at} (cluster.listen)"))?;
    let (links_in, links) = mpsc::channel(link::EVENTS_MAX);
    let dialler = link::Dialler {
        node: node.clone(),
        endpoint,
        identity,
        me: me.clone(),
        links: links_in.clone(),
        handle: handle.clone(),
    };
    let dialled: HashSet<NodeId> = peers.iter().map(|(id, _)| id.clone()).collect();
    for (id, at) in peers.into_iter().filter(|(id, _)| cluster.is_uplink || me < *id) {
        node.spawn_vital("relay dial", dialler.clone().dial(id, move || Some(at)));
    }
    if let Some(directory) = directory {
        node.spawn_vital("relay nodes", dialler.clone().dial_found(directory, dialled));
    }
    node.spawn_vital("relay listen", dialler.listen());
    node.spawn_vital("relay", hub::run(node.clone(), me, handle, mail, local, (links_in, links)));
    tracing::info!(node = cluster.node, listen = %at, peers = cluster.peers.len(), "relay");
    Ok(())
}

fn endpoint(server: quinn::ServerConfig, at: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.bind(&at.into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(tls::endpoint_config(), Some(server), socket.into(), runtime)
}
