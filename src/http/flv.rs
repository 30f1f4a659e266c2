//! FLV over HTTP and over WebSocket: GET /APP/STREAM.flv.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use media::{StreamName, flv};
use metrics::{Protocol, Refusal};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, From, Refused, admit};
use crate::auth::Action;
use crate::clients::{Client, ClientGuard, ClientKind, Kicked};
use crate::node::Node;
use crate::rtmp_server::start;
use crate::stream::log::{Ended, Headers, Read, wire_ms};
use crate::stream::{Stream, Watch, WatchGuard};

/// Pieces on their way to a viewer's socket. The log is the real queue: a viewer that does not take these falls behind there.
const PIECES_MAX: usize = 4;
/// What a viewer may say on a WebSocket, in bytes: nothing of it matters, and the library's 64 MiB are memory for strangers to fill.
const SAID_LEN_MAX: usize = 4 * 1024;
/// A viewer that takes nothing for so long is closed.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// A stream that somebody publishes gives its first frame within this, or the request ends.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// GET /APP/STREAM.flv, and its WebSocket.
pub async fn get(
    State(node): State<Arc<Node>>,
    from: From,
    Path((app, file)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Answer {
    let not_here = || Refused(StatusCode::NOT_FOUND, "nothing here".into());
    let stream = file.strip_suffix(".flv").ok_or_else(not_here)?;
    let name = StreamName::new(&app, stream).map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))?;
    admit(&node, Action::Play, query.as_deref().unwrap_or(""), &headers)?;
    let nobody = || {
        node.metrics.refused.of(Refusal::NotFound).add(1);
        Refused(StatusCode::NOT_FOUND, format!("nobody publishes {name}"))
    };
    let stream = node.streams.get(&name).filter(|s| s.is_live()).ok_or_else(nobody)?;
    if let Some(why) = stream.refused() {
        node.metrics.refused.of(Refusal::UnsupportedCodec).add(1);
        return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let (kind, protocol) = match &upgrade {
        Ok(_) => (ClientKind::WsFlvPlay, Protocol::WsFlv),
        Err(_) => (ClientKind::FlvPlay, Protocol::HttpFlv),
    };
    let (client, kicked) = node.add_task_client(kind, from.0.ip(), name.clone());
    node.metrics.plays.of(protocol).add(1);
    let watching = stream.watch(Watch::Flv);
    let viewer = Viewer { node, stream, client, kicked, protocol, _watching: watching };
    let (pieces_in, pieces) = mpsc::channel(PIECES_MAX);
    match upgrade {
        Ok(upgrade) => {
            crate::task::spawn(viewer.node.metrics.clone(), viewer.run(pieces_in));
            let upgrade = upgrade.max_message_size(SAID_LEN_MAX).max_frame_size(SAID_LEN_MAX);
            Ok(upgrade.on_upgrade(move |socket| over_websocket(socket, pieces)))
        }
        Err(_) => {
            // A refusal can still be told as a status, so the first piece is awaited.
            let (first_in, first) = oneshot::channel();
            crate::task::spawn(viewer.node.metrics.clone(), viewer.run_telling(pieces_in, first_in));
            if let Ok(Err(refused)) = first.await {
                return Err(refused);
            }
            let stream = futures_util::stream::unfold(pieces, async |mut pieces| {
                let piece: Option<Bytes> = pieces.recv().await;
                piece.map(|piece| (Ok::<_, std::convert::Infallible>(piece), pieces))
            });
            let mut response: Response = Body::from_stream(stream).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("video/x-flv"));
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
    }
}

async fn over_websocket(mut socket: WebSocket, mut pieces: mpsc::Receiver<Bytes>) {
    loop {
        tokio::select! {
            piece = pieces.recv() => {
                let Some(piece) = piece else { break };
                match tokio::time::timeout(WRITE_STALL, socket.send(Message::Binary(piece))).await {
                    Ok(Ok(())) => {}
                    _ => return,
                }
            }
            said = socket.recv() => {
                // Viewers say nothing of interest; the end of what they say is their end.
                if !matches!(said, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
    let _ = tokio::time::timeout(WRITE_STALL, socket.send(Message::Close(None))).await;
}

struct Viewer {
    node: Arc<Node>,
    stream: Arc<Stream>,
    client: ClientGuard,
    kicked: Kicked,
    protocol: Protocol,
    _watching: WatchGuard,
}

impl Viewer {
    async fn run(self, pieces: mpsc::Sender<Bytes>) {
        let (told, _) = oneshot::channel();
        self.run_telling(pieces, told).await;
    }

    /// Sends until the viewer or the stream ends; `told` hears whether it starts.
    async fn run_telling(mut self, pieces: mpsc::Sender<Bytes>, told: oneshot::Sender<Result<(), Refused>>) {
        let client = self.client.client.clone();
        tracing::info!(client = client.id, stream = %self.stream.name, ip = %client.ip, protocol = self.protocol.label(), "flv play");
        let mut kicked = self.kicked.clone();
        tokio::select! {
            () = self.send(&pieces, told, &client) => {}
            _ = kicked.wait() => {}
            () = pieces.closed() => {}
        }
        tracing::info!(client = client.id, stream = %self.stream.name, sent = client.bytes().1, dropped = client.frames_dropped.load(Ordering::Relaxed), "flv play ended");
    }

    async fn send(
        &mut self,
        pieces: &mpsc::Sender<Bytes>,
        told: oneshot::Sender<Result<(), Refused>>,
        client: &Client,
    ) {
        let begun = tokio::time::timeout(START_TIMEOUT, start(&self.stream, self.node.clock)).await;
        let (mut reader, metadata) = match begun {
            Ok(Ok(ready)) => ready,
            Ok(Err(Ended::Refused(why))) => {
                return drop(told.send(Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why))));
            }
            Ok(Err(Ended::Over)) | Err(_) => {
                let why = format!("no frame of {} came in time", self.stream.name);
                return drop(told.send(Err(Refused(StatusCode::GATEWAY_TIMEOUT, why))));
            }
        };
        let _ = told.send(Ok(()));
        let mut piece = Vec::with_capacity(4096);
        piece.extend_from_slice(&flv::file_header(metadata.has_audio, metadata.has_video));
        piece.extend_from_slice(&flv::tag(18, 0, &flv::metadata_body(&metadata)));
        let mut headers = Headers::default();
        loop {
            let entries = match reader.next().await {
                Read::Entries(entries) => entries,
                Read::Ended(_) => return,
            };
            for entry in &entries {
                if let Some(header) = headers.before(entry) {
                    let (type_id, at) = (flv::type_id(entry.frame.kind()), wire_ms(entry.frame.dts));
                    if header.changed {
                        let metadata = flv::metadata_body(&self.stream.log.metadata());
                        piece.extend_from_slice(&flv::tag(flv::TYPE_DATA, at, &metadata));
                    }
                    piece.extend_from_slice(&flv::tag(type_id, at, &header.sequence_header));
                }
                // One frame goes as it is, shared by all viewers; a backlog is joined into one write.
                if entries.len() == 1 && piece.is_empty() {
                    if !self.pass(pieces, entry.flv(), client).await {
                        return;
                    }
                } else {
                    piece.extend_from_slice(&entry.flv());
                }
            }
            if !piece.is_empty() && !self.pass(pieces, std::mem::take(&mut piece).into(), client).await {
                return;
            }
            let dropped = reader.take_dropped();
            if dropped > 0 {
                client.frames_dropped.fetch_add(dropped, Ordering::Relaxed);
                self.node.metrics.viewer_frames_dropped.of(self.protocol).add(dropped);
            }
        }
    }

    async fn pass(&self, pieces: &mpsc::Sender<Bytes>, piece: Bytes, client: &Client) -> bool {
        let len = piece.len() as u64;
        match tokio::time::timeout(WRITE_STALL, pieces.send(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_) => {
                tracing::info!(client = client.id, "flv viewer took nothing for {} s", WRITE_STALL.as_secs());
                return false;
            }
        }
        client.bytes_out.fetch_add(len, Ordering::Relaxed);
        self.stream.bytes_out.fetch_add(len, Ordering::Relaxed);
        self.node.metrics.bytes_out.of(self.protocol).add(len);
        true
    }
}
