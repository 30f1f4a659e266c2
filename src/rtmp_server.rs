//! The RTMP door: one task a connection around the sans-IO `rtmp::Server`. A publisher's frames go into its stream's log; a player is a reader
//! of one, and what it is sent was encoded once for all players.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::Duration;

use ::relay::control::Right;
use bytes::Bytes;
use media::{StreamName, flv};
use metrics::{NodeMetrics, Protocol, Refusal, RtmpRole};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::auth::Action;
use crate::clients::{ClientKind, Kicked};
use crate::door::{Door, poll_send};
use crate::node::Node;
use crate::stream::log::{Ended, Entry, Headers, Read, Reader, rtmp_header, wire_ms};
use crate::stream::{Ingest, PublishError, Stream, Watch};

/// A connection that has neither published nor played by then is closed.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// A publisher that sends no media for so long is gone (MediaMTX: 10 s; phones change networks in less than 15).
const PUBLISHER_SILENCE: Duration = Duration::from_secs(15);
/// A player whose window stays shut for so long is closed.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// A player that comes before the publisher waits at least so long, whatever the grace time.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// What a refused peer still sends is read for so long, or its kernel would throw away the reason unread (a reset overtakes it).
const LINGER: Duration = Duration::from_secs(1);
/// Read at once: the most that `rtmp::Server` takes, a key frame of 4 Mbit/s or so.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// What was read is taken before anything else happens, so that all connections of a thread share the room for it.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Accepts until the node drains.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let mut door = Door::new(&node, listener, node.config.rtmp.connections_max);
    while let Some((socket, from, slot)) = door.next().await {
        let node = node.clone();
        crate::task::spawn(node.metrics.clone(), async move {
            let _slot = slot;
            node.metrics.rtmp_connections_total.add(1);
            let mut connection = Connection::new(node.clone(), socket, from);
            let error = match connection.run().await {
                Ok(()) => return tracing::debug!(%from, "rtmp connection ended"),
                Err(error) => error,
            };
            tracing::info!(%from, %error, "rtmp connection closed");
            match error {
                CloseError::Rtmp(_) => node.metrics.refused.of(Refusal::ProtocolError).add(1),
                CloseError::Idle | CloseError::Silent => node.metrics.refused.of(Refusal::Timeout).add(1),
                CloseError::Refused(_) | CloseError::Flv(_) => connection.linger().await,
                CloseError::Io(_) | CloseError::Stalled | CloseError::Kicked => {}
            }
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum CloseError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("protocol error: {0}")]
    Rtmp(#[from] rtmp::Error),
    #[error("bad media: {0}")]
    Flv(#[from] flv::Error),
    #[error("no publish or play within {} s", COMMAND_DEADLINE.as_secs())]
    Idle,
    #[error("the publisher sent no media for {} s", PUBLISHER_SILENCE.as_secs())]
    Silent,
    #[error("the player took nothing for {} s", WRITE_STALL.as_secs())]
    Stalled,
    #[error("refused: {0}")]
    Refused(String),
    #[error("ended by the node")]
    Kicked,
}

struct Connection {
    node: Arc<Node>,
    socket: TcpStream,
    from: SocketAddr,
    server: rtmp::Server,
    role: Role,
}

/// Counts a connection among those of its role.
struct Role(Arc<NodeMetrics>, RtmpRole);

impl Role {
    fn new(metrics: &Arc<NodeMetrics>, role: RtmpRole) -> Role {
        metrics.rtmp_connections.of(role).add(1);
        Role(metrics.clone(), role)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.0.rtmp_connections.of(self.1).add(-1);
    }
}

impl Connection {
    fn new(node: Arc<Node>, socket: TcpStream, from: SocketAddr) -> Connection {
        let server = rtmp::Server::new(node.random_bytes(), rtmp::Limits::default());
        let role = Role::new(&node.metrics, RtmpRole::Undecided);
        Connection { node, socket, from, server, role }
    }

    /// Closes our side and reads on a little.
    async fn linger(&mut self) {
        let drain = async {
            self.socket.shutdown().await?;
            while read(&self.socket, |_| ()).await?.0 > 0 {}
            std::io::Result::Ok(())
        };
        let _ = timeout(LINGER, drain).await;
    }

    async fn run(&mut self) -> Result<(), CloseError> {
        let deadline = Instant::now() + COMMAND_DEADLINE;
        loop {
            while let Some(event) = self.server.poll_event() {
                match event {
                    rtmp::Event::Publish { app, name, query } => {
                        return self.publish(&app, &name, &query).await;
                    }
                    rtmp::Event::Play { app, name, query } => return self.play(&app, &name, &query).await,
                    _ => {}
                }
            }
            match timeout_at(deadline, self.take()).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(CloseError::Idle),
            }
        }
    }

    /// Reads once and answers what is due: how many bytes came, 0 at the end of the connection.
    async fn take(&mut self) -> Result<usize, CloseError> {
        let taken = take(&self.socket, &mut self.server).await;
        self.answer().await?;
        taken
    }

    async fn answer(&mut self) -> Result<(), CloseError> {
        let output = self.server.take_output();
        if output.is_empty() { Ok(()) } else { write(&self.socket, &mut [IoSlice::new(&output)]).await }
    }

    async fn admit(
        &self,
        action: Action,
        app: &str,
        name: &str,
        query: &str,
    ) -> Result<StreamName, (Refusal, String)> {
        let name = StreamName::new(app, name).map_err(|e| (Refusal::BadRequest, e.to_string()))?;
        if *self.node.draining.borrow() {
            return Err((Refusal::Draining, "the node is stopping".into()));
        }
        if let Some(relay) = self.node.streams.shared().relay().filter(|_| self.node.config.cluster.is_uplink)
        {
            let right = match action {
                Action::Publish => Right::Publish,
                Action::Play => Right::Play,
            };
            let verdict = relay.ask(right, name.clone(), query.into()).await;
            return verdict.map(|()| name).map_err(|why| (Refusal::Unauthorized, why));
        }
        match self.node.admit(action, query, None) {
            Ok(()) => Ok(name),
            Err(denied) => Err((Refusal::Unauthorized, denied.to_string())),
        }
    }

    fn ip(&self) -> IpAddr {
        self.from.ip()
    }

    async fn publish(&mut self, app: &str, name: &str, query: &str) -> Result<(), CloseError> {
        let admitted = async {
            let name = self.admit(Action::Publish, app, name, query).await?;
            let taken = |error: PublishError| (Refusal::NameTaken, error.to_string());
            let claim = self.node.claim(&name).await.map_err(taken)?;
            let stream = self.node.streams.get_or_create(&name);
            let (client, kicked) = self.node.add_task_client(ClientKind::RtmpPublish, self.ip(), name);
            let guard = stream.publish(client.client.id, Ingest::Rtmp, claim).map_err(taken)?;
            Ok((stream, client, kicked, guard))
        };
        let (stream, client, mut kicked, guard) = match admitted.await {
            Ok(admitted) => admitted,
            Err((refusal, why)) => {
                self.node.metrics.refused.of(refusal).add(1);
                self.server.reject_publish("NetStream.Publish.BadName", &why);
                self.answer().await?;
                return Err(CloseError::Refused(why));
            }
        };
        self.server.accept_publish()?;
        self.answer().await?;
        self.node.metrics.publishes.of(Protocol::Rtmp).add(1);
        self.role = Role::new(&self.node.metrics, RtmpRole::Publisher);
        tracing::info!(client = client.client.id, stream = %stream.name, from = %self.from, "rtmp publish");
        let mut demuxer = flv::Demuxer::new();
        let mut heard = Instant::now();
        // Set anew when it goes off, not with each frame.
        let mut silence = pin!(sleep_until(heard + PUBLISHER_SILENCE));
        let mut kicked = pin!(kicked.wait());
        let result = loop {
            let mut ended = false;
            while let Some(event) = self.server.poll_event() {
                match event {
                    rtmp::Event::Media { type_id, timestamp_ms, body } => {
                        heard = Instant::now();
                        let input = match demuxer.push(type_id, timestamp_ms, body) {
                            Ok(input) => input,
                            Err(error) => return self.bad_media(&stream, error).await,
                        };
                        match input {
                            Some(flv::Input::Frame(frame)) => {
                                let now = self.node.clock.now();
                                stream.take_frame(guard.source, frame, now, now);
                            }
                            Some(flv::Input::Metadata(metadata)) => {
                                stream.log.publish_metadata(guard.source, metadata.published);
                            }
                            Some(flv::Input::Config(_)) | None => {}
                        }
                    }
                    rtmp::Event::Unpublish => ended = true,
                    _ => {}
                }
            }
            if ended {
                break Ok(());
            }
            let taken = tokio::select! {
                biased;
                () = &mut kicked => break Err(CloseError::Kicked),
                taken = take(&self.socket, &mut self.server) => taken,
                () = &mut silence => {
                    if heard.elapsed() >= PUBLISHER_SILENCE {
                        break Err(CloseError::Silent);
                    }
                    silence.as_mut().reset(heard + PUBLISHER_SILENCE);
                    continue;
                }
            };
            if let Err(error) = self.answer().await {
                break Err(error);
            }
            match taken {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    client.client.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
                    stream.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
                    self.node.metrics.bytes_in.of(Protocol::Rtmp).add(count as u64);
                }
                Err(error) => break Err(error),
            }
        };
        tracing::info!(client = client.client.id, stream = %stream.name, mended = demuxer.mended(), skipped = demuxer.skipped(), "rtmp publish ended");
        result
    }

    async fn bad_media(&mut self, stream: &Stream, error: flv::Error) -> Result<(), CloseError> {
        tracing::warn!(stream = %stream.name, from = %self.from, %error, "publisher closed");
        self.node.metrics.refused.of(Refusal::UnsupportedCodec).add(1);
        self.server.reject_publish("NetStream.Publish.Rejected", &error.to_string());
        self.answer().await?;
        Err(error.into())
    }

    async fn play(&mut self, app: &str, name: &str, query: &str) -> Result<(), CloseError> {
        let name = match self.admit(Action::Play, app, name, query).await {
            Ok(name) => name,
            Err((refusal, why)) => {
                self.node.metrics.refused.of(refusal).add(1);
                self.server.reject_play("NetStream.Play.Failed", &why);
                self.answer().await?;
                return Err(CloseError::Refused(why));
            }
        };
        let stream = self.node.streams.get_or_create(&name);
        let (client, kicked) = self.node.add_task_client(ClientKind::RtmpPlay, self.ip(), name);
        let _watching = stream.watch(Watch::Rtmp, crate::stream::records(query));
        self.node.metrics.plays.of(Protocol::Rtmp).add(1);
        self.role = Role::new(&self.node.metrics, RtmpRole::Player);
        tracing::info!(client = client.client.id, stream = %stream.name, from = %self.from, "rtmp play");
        let result = self.send_stream(&stream, &client.client, kicked).await;
        tracing::info!(client = client.client.id, stream = %stream.name, sent = client.client.bytes().1, "rtmp play ended");
        result
    }

    async fn send_stream(
        &mut self,
        stream: &Arc<Stream>,
        client: &crate::clients::Client,
        mut kicked: Kicked,
    ) -> Result<(), CloseError> {
        self.server.accept_play()?;
        self.answer().await?;
        let mut kicked = pin!(kicked.wait());
        let ready = {
            let patience = self.node.config.stream.publisher_grace.max(START_TIMEOUT);
            let mut ready = pin!(timeout(patience, start(stream, self.node.clock)));
            loop {
                tokio::select! {
                    biased;
                    () = &mut kicked => return Err(CloseError::Kicked),
                    taken = take(&self.socket, &mut self.server) => if self.is_over(taken).await? {
                        return Ok(());
                    },
                    ready = &mut ready => break ready,
                }
            }
        };
        let (mut reader, metadata) = match ready {
            Ok(Ok(ready)) => ready,
            Ok(Err(Ended::Refused(why))) => return self.end_play(rtmp::EndReason::Codec, &why).await,
            Ok(Err(Ended::Over)) => {
                return self.end_play(rtmp::EndReason::Unpublished, "the stream is over").await;
            }
            Err(_) => {
                return self.end_play(rtmp::EndReason::Unpublished, "nobody publishes this stream").await;
            }
        };
        write(&self.socket, &mut [IoSlice::new(&metadata_message(0, &metadata))]).await?;
        let mut headers = Headers::new(&metadata);
        loop {
            let read = tokio::select! {
                biased;
                () = &mut kicked => return self.end_play(rtmp::EndReason::Shutdown, "ended by the node").await,
                // It writes nothing: half an answer would leave the player in the middle of a chunk.
                taken = take(&self.socket, &mut self.server) => {
                    if self.is_over(taken).await? {
                        return Ok(());
                    }
                    continue;
                }
                read = reader.next() => read,
            };
            let entries = match read {
                Read::Entries(entries) => entries,
                Read::Ended(Ended::Over) => {
                    return self.end_play(rtmp::EndReason::Unpublished, "the stream is over").await;
                }
                Read::Ended(Ended::Refused(why)) => return self.end_play(rtmp::EndReason::Codec, &why).await,
            };
            let before: Vec<Vec<Bytes>> =
                entries.iter().map(|entry| headers_before(&mut headers, entry, stream)).collect();
            let parts =
                before.iter().zip(&entries).flat_map(|(before, entry)| before.iter().chain(entry.rtmp()));
            let mut parts: Vec<IoSlice<'_>> = parts.map(|part| IoSlice::new(part)).collect();
            let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
            write(&self.socket, &mut parts).await?;
            client.bytes_out.fetch_add(bytes, Ordering::Relaxed);
            stream.bytes_out.fetch_add(bytes, Ordering::Relaxed);
            self.node.metrics.bytes_out.of(Protocol::Rtmp).add(bytes);
            let dropped = reader.take_dropped();
            if dropped > 0 {
                client.frames_dropped.fetch_add(dropped, Ordering::Relaxed);
                self.node.metrics.viewer_frames_dropped.of(Protocol::Rtmp).add(dropped);
            }
        }
    }

    /// Answers what a player said. `true` when it is gone, or has enough.
    async fn is_over(&mut self, taken: Result<usize, CloseError>) -> Result<bool, CloseError> {
        let count = taken?;
        while let Some(event) = self.server.poll_event() {
            if matches!(event, rtmp::Event::Stop) {
                return Ok(true);
            }
        }
        self.answer().await?;
        Ok(count == 0)
    }

    async fn end_play(&mut self, reason: rtmp::EndReason, why: &str) -> Result<(), CloseError> {
        tracing::info!(from = %self.from, why, "rtmp play ends");
        self.server.end_play(reason);
        self.answer().await?;
        self.socket.shutdown().await?;
        Ok(())
    }
}

/// What a player must be told before a frame; mostly nothing.
fn headers_before(headers: &mut Headers, entry: &Entry, stream: &Stream) -> Vec<Bytes> {
    let before = headers.before(entry);
    let mut parts = Vec::new();
    if before.metadata {
        parts.push(metadata_message(wire_ms(entry.frame.dts), &stream.log.metadata()));
    }
    parts.extend(before.sequence_header.iter().flat_map(|header| rtmp_header(entry, header)));
    parts
}

fn metadata_message(at_ms: u32, metadata: &flv::Metadata) -> Bytes {
    let body = flv::metadata_body(metadata);
    let (csid, type_id) = (rtmp::csid::DATA, rtmp::message::DATA);
    rtmp::encode_message(csid, type_id, at_ms, rtmp::PLAY_STREAM_ID, &body, rtmp::CHUNK_SIZE_OUT)
}

/// A reader at the point where a new viewer starts, and what its metadata says. Asks a browser that publishes for a key frame when the
/// newest is old.
pub async fn start(
    stream: &Arc<Stream>,
    clock: crate::clock::Clock,
) -> Result<(Reader, flv::Metadata), Ended> {
    /// A GOP older than this is not worth the delay it would start with, when another can be had.
    const KEY_AGE_US_MAX: i64 = 1_500_000;
    let mut reader = stream.log.reader();
    let metadata = reader.tracks(|| clock.now()).await?;
    let old = |at: Option<media::Time>| at.is_none_or(|at| clock.now().since(at) > KEY_AGE_US_MAX);
    let from_browser = stream.publisher().is_some_and(|p| p.ingest == Ingest::Whip);
    if metadata.has_video && from_browser && old(stream.log.key_arrival()) {
        stream.want_key_frame();
        let fresh = async {
            while old(stream.log.key_arrival()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = timeout(Duration::from_millis(800), fresh).await;
    }
    Ok((stream.log.reader(), metadata))
}

/// Waits until the socket has something and lets `look` see it: how many bytes (0 at the end), and what `look` made of them. It may be given
/// up at any point.
async fn read<T>(socket: &TcpStream, mut look: impl FnMut(&[u8]) -> T) -> std::io::Result<(usize, T)> {
    poll_fn(|context| {
        loop {
            ready!(socket.poll_read_ready(context))?;
            let seen = READ.with_borrow_mut(|buffer| {
                socket.try_read(buffer).map(|count| (count, look(buffer.get(..count).unwrap_or_default())))
            });
            match seen {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                seen => return Poll::Ready(seen),
            }
        }
    })
    .await
}

/// Reads once and gives it to the server: how many bytes, 0 at the end of the connection.
async fn take(socket: &TcpStream, server: &mut rtmp::Server) -> Result<usize, CloseError> {
    let (count, taken) = read(socket, |input| server.handle_input(input)).await?;
    taken?;
    Ok(count)
}

/// Writes all parts, as many as it can in one system call; fails when the peer takes nothing for [`WRITE_STALL`].
async fn write(socket: &TcpStream, parts: &mut [IoSlice<'_>]) -> Result<(), CloseError> {
    let mut left = parts;
    while !left.is_empty() {
        let written = timeout(WRITE_STALL, poll_fn(|context| poll_send(socket, context, left)))
            .await
            .map_err(|_| CloseError::Stalled)??;
        if written == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}
