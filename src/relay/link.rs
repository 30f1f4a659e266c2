//! Connections between nodes: who dials, the control stream, and what comes, in order, for the hub.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::relay::control::{self, Message, VERSION};
use bytes::{Bytes, BytesMut};
use media::{NodeId, StreamName};
use metrics::Queue;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use sfu::StreamId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::congestion::Window;
use super::feed::Fed;
use super::streams::Came;
use super::tls::Identity;
use super::{Handle, LinkState, streams, why};
use crate::directory::{Directory, Held};
use crate::node::Node;
use crate::task;

/// What links have to say and the hub has not heard: full means that the hub is busy, and datagrams wait in quinn, which drops the oldest.
pub const EVENTS_MAX: usize = 4_096;
/// Messages that a peer has not taken: a new one is told of each stream, and asked for each track, at once. One that takes none is gone: its connection
/// ends.
const CONTROL_MAX: usize = 32_768;
/// Dialled again after so long, twice as long each time...
const AGAIN_MIN: Duration = Duration::from_millis(200);
/// ...up to this.
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// A link that lived so long is dialled again as if it were the first time.
const STEADY: Duration = Duration::from_secs(10);
/// Nodes of the directory that one node dials.
const PEERS_MAX: usize = 1_024;
/// A handshake and both hellos.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Bytes read of the control stream at a time.
const PIECE: usize = 16 << 10;
/// A connection ends with one of these, for the peer's log.
const PROTOCOL: VarInt = VarInt::from_u32(1);

/// A connection that is through, for the hub.
#[derive(Debug)]
pub struct Up {
    /// Who is there, by its certificate.
    pub peer: NodeId,
    /// The connection.
    pub connection: Connection,
    /// Its window.
    pub window: Window,
    /// Messages for it.
    pub control: mpsc::Sender<Message>,
}

/// What a link has to say, by its connection's id.
#[derive(Debug)]
pub enum FromLink {
    /// It is there.
    Up(Box<Up>),
    /// The peer said something.
    Said(usize, Message),
    /// A datagram came.
    Datagram(usize, Bytes),
    /// Something of a stream of media came.
    Streamed(usize, Came),
    /// It is gone, and why.
    Down(usize, String),
    /// Frames of one of this node's feeds: the stream and the feed's number.
    Fed((StreamId, u64), Fed),
    /// What the directory says of a name that an uplink asked for.
    Claimed(usize, Claimed),
}

/// A name that an uplink asked for, with what the directory says of it.
#[derive(Debug)]
pub struct Claimed {
    /// For the answer.
    pub ask: u64,
    /// The name.
    pub name: StreamName,
    /// Its claim, or why another has it.
    pub claim: Result<Option<Held>, String>,
}

/// Makes links.
#[derive(Clone)]
pub struct Dialler {
    /// The node.
    pub node: Arc<Node>,
    /// The socket.
    pub endpoint: Endpoint,
    /// The certificates.
    pub identity: Arc<Identity>,
    /// This node.
    pub me: NodeId,
    /// Where it is said how dialling goes.
    pub handle: Arc<Handle>,
    /// To the hub.
    pub links: mpsc::Sender<FromLink>,
}

impl Dialler {
    /// Dials the nodes that the directory has, but these, each for ever.
    pub async fn dial_found(self, directory: Arc<Directory>, mut dialled: HashSet<NodeId>) {
        loop {
            for record in directory.nodes() {
                let Some(id) = NodeId::new(&record.id).filter(|id| self.me < *id) else { continue };
                if dialled.len() < PEERS_MAX && dialled.insert(id.clone()) {
                    let (of, directory) = (id.clone(), directory.clone());
                    let dial = self.clone().dial(id, move || directory.relay_of(&of));
                    task::spawn(self.node.metrics.clone(), dial);
                }
            }
            let _ = tokio::time::timeout(AGAIN_MAX, directory.changed()).await;
        }
    }

    /// Keeps a connection to a peer, for ever, while there is an address of it.
    pub async fn dial(self, peer: NodeId, address: impl Fn() -> Option<SocketAddr>) {
        let (mut again, mut told) = (AGAIN_MIN, String::new());
        loop {
            let Some(at) = address() else {
                tokio::time::sleep(AGAIN_MIN).await;
                continue;
            };
            let dialled = Instant::now();
            match self.connect(&peer, at).await {
                Ok(()) => {
                    told = String::new();
                    // Not one that another process of this node's id cuts off each time.
                    if dialled.elapsed() > STEADY {
                        again = AGAIN_MIN;
                    }
                    self.handle.state.send_replace(LinkState::default());
                }
                Err(error) => {
                    let why = why::why(&error, &peer, at, &self.node.config.cluster);
                    // The same again is no news.
                    if told != why.text {
                        tracing::warn!("{}", why.text);
                        told.clone_from(&why.text);
                    }
                    self.handle.state.send_replace(LinkState { up: false, why: Some(why) });
                }
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    /// One connection from dialling to its end; an error when it did not come to be.
    async fn connect(&self, peer: &NodeId, at: SocketAddr) -> anyhow::Result<()> {
        let window = Window::default();
        let config = self.identity.client(window.clone(), self.node.clock);
        let connection = self.endpoint.connect_with(config, at, peer.as_str())?;
        let hello = async {
            let connection = connection.await?;
            let (mut send, recv) = connection.open_bi().await?;
            self.say_hello(&mut send).await?;
            anyhow::Ok((connection, send, recv))
        };
        let (connection, send, recv) = tokio::time::timeout(HELLO_LIMIT, hello).await??;
        self.run(connection, window, (send, recv), Some(peer), None).await
    }

    /// Takes connections of peers, for ever.
    pub async fn listen(self) {
        let handshakes = Arc::new(Semaphore::new(self.identity.handshakes_max()));
        while let Some(incoming) = self.endpoint.accept().await {
            // Who forges its address costs an answer no longer than what it sent, and nothing is kept (RFC 9000 section 8.1.2).
            if !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let Ok(handshake) = handshakes.clone().try_acquire_owned() else {
                self.node.metrics.queue_overflows.of(Queue::RelayHandshakes).increment();
                incoming.refuse();
                continue;
            };
            let window = Window::default();
            let config = Arc::new(self.identity.server(window.clone(), self.node.clock));
            let Ok(connecting) = incoming.accept_with(config) else { continue };
            let this = self.clone();
            task::spawn(self.node.metrics.clone(), async move {
                let from = connecting.remote_address();
                let hello = async {
                    let connection = connecting.await?;
                    let (mut send, recv) = connection.accept_bi().await?;
                    this.say_hello(&mut send).await?;
                    anyhow::Ok((connection, send, recv))
                };
                let done = match tokio::time::timeout(HELLO_LIMIT, hello).await {
                    Ok(Ok((connection, send, recv))) => {
                        this.run(connection, window, (send, recv), None, Some(handshake)).await
                    }
                    Ok(Err(error)) => Err(error),
                    Err(late) => Err(late.into()),
                };
                if let Err(error) = done {
                    tracing::info!(%from, error = %format!("{error:#}"), "relay connection refused");
                }
            });
        }
    }

    async fn say_hello(&self, send: &mut SendStream) -> anyhow::Result<()> {
        let mut out = Vec::new();
        Message::Hello { version: VERSION, node: self.me.clone() }.write(&mut out)?;
        Ok(send.write_all(&out).await?)
    }

    /// Until the connection ends; an error when the peer is not who it should be. Its handshake is over when its hello came.
    async fn run(
        &self,
        connection: Connection,
        window: Window,
        (send, mut recv): (SendStream, RecvStream),
        dialled: Option<&NodeId>,
        handshake: Option<OwnedSemaphorePermit>,
    ) -> anyhow::Result<()> {
        let Some(peer) = self.identity.peer(&connection) else {
            connection.close(PROTOCOL, b"certificate of no peer");
            anyhow::bail!("a certificate of no peer");
        };
        if dialled.is_some_and(|dialled| *dialled != peer) {
            connection.close(PROTOCOL, b"certificate of another peer");
            anyhow::bail!("the certificate of {peer}");
        }
        let mut said = BytesMut::new();
        let first = tokio::time::timeout(HELLO_LIMIT, next(&mut recv, &mut said)).await??;
        if !matches!(&first, Some(Message::Hello { version: VERSION, node }) if *node == peer) {
            connection.close(PROTOCOL, b"hello");
            anyhow::bail!("{peer} began with {first:?}");
        }
        drop(handshake);
        let id = connection.stable_id();
        let (control, messages) = mpsc::channel(CONTROL_MAX);
        let up = Up { peer: peer.clone(), connection: connection.clone(), window, control };
        self.links.send(FromLink::Up(Box::new(up))).await?;
        if dialled.is_some() {
            self.handle.state.send_replace(LinkState { up: true, why: None });
        }
        tracing::info!(%peer, at = %connection.remote_address(), "relay link up");
        let why = tokio::select! {
            why = self.read_control(id, recv, said) => why,
            why = self.read_datagrams(id, &connection) => why,
            why = streams::read(id, &connection, &self.links) => why,
            why = write_control(send, messages) => why,
        };
        connection.close(PROTOCOL, b"over");
        let why = why.err().map_or_else(|| "closed".to_owned(), |error| format!("{error:#}"));
        self.links.send(FromLink::Down(id, why)).await?;
        Ok(())
    }

    async fn read_control(&self, id: usize, mut recv: RecvStream, mut said: BytesMut) -> anyhow::Result<()> {
        while let Some(message) = next(&mut recv, &mut said).await? {
            self.links.send(FromLink::Said(id, message)).await?;
        }
        Ok(())
    }

    async fn read_datagrams(&self, id: usize, connection: &Connection) -> anyhow::Result<()> {
        loop {
            let datagram = connection.read_datagram().await?;
            self.links.send(FromLink::Datagram(id, datagram)).await?;
        }
    }
}

async fn write_control(mut send: SendStream, mut messages: mpsc::Receiver<Message>) -> anyhow::Result<()> {
    let mut out = Vec::new();
    while let Some(message) = messages.recv().await {
        out.clear();
        if let Err(error) = message.write(&mut out) {
            tracing::warn!(%error, ?message, "relay message left out");
            continue;
        }
        send.write_all(&out).await?;
    }
    Ok(())
}

/// The next message; `None` at the stream's end.
async fn next(recv: &mut RecvStream, said: &mut BytesMut) -> anyhow::Result<Option<Message>> {
    loop {
        if let Some(message) = control::take(said)? {
            return Ok(Some(message));
        }
        match recv.read_chunk(PIECE, true).await? {
            Some(chunk) => said.extend_from_slice(&chunk.bytes),
            None => return Ok(None),
        }
    }
}
