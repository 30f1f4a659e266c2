//! FLV over HTTP and over WebSocket: GET /APP/STREAM.flv.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use media::{StreamName, flv};
use metrics::{Protocol, Refusal};

use super::{Answer, From, Refused, admit};
use crate::auth::Action;
use crate::clients::{ClientGuard, ClientKind, Kicked};
use crate::node::Node;
use crate::rtmp_server::start;
use crate::stream::log::{Ended, Headers, Read, Reader, wire_ms};
use crate::stream::{self, Watch, WatchGuard};

/// Parts of tags up to this long are joined, for each piece that goes out over HTTP has a chunk header; longer ones are shared by all viewers.
const JOINED_LEN_MAX: usize = 1024;
/// What a viewer may say on a WebSocket, in bytes: nothing of it matters, and the library's 64 MiB are memory for strangers to fill.
const SAID_LEN_MAX: usize = 4 * 1024;
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
    let stream = node.streams.get_or_relayed(&name).filter(|s| s.is_live()).ok_or_else(nobody)?;
    if let Some(why) = stream.refused() {
        node.metrics.refused.of(Refusal::UnsupportedCodec).add(1);
        return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let (kind, protocol, joined_len_max) = match &upgrade {
        // A message is a system call: all there is goes in one.
        Ok(_) => (ClientKind::WsFlvPlay, Protocol::WsFlv, usize::MAX),
        Err(_) => (ClientKind::FlvPlay, Protocol::HttpFlv, JOINED_LEN_MAX),
    };
    let (client, mut kicked) = node.add_task_client(kind, from.0.ip(), name.clone());
    node.metrics.plays.of(protocol).add(1);
    let watching = stream.watch(Watch::Flv, stream::records(query.as_deref().unwrap_or("")));
    // A refusal can still be told as a status, so the start is awaited.
    let begun = tokio::select! {
        begun = tokio::time::timeout(START_TIMEOUT, start(&stream, node.clock)) => begun,
        () = kicked.wait() => {
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "ended by the node".into()));
        }
    };
    let (reader, metadata) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(Ended::Refused(why))) => return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)),
        Ok(Err(Ended::Over)) | Err(_) => {
            let why = format!("no frame of {name} came in time");
            return Err(Refused(StatusCode::GATEWAY_TIMEOUT, why));
        }
    };
    let mut viewer = Viewer {
        node,
        stream,
        client,
        protocol,
        _watching: watching,
        reader,
        headers: Headers::new(&metadata),
        joined_len_max,
        pieces: VecDeque::new(),
        joined: Vec::new(),
    };
    viewer.begin(&metadata);
    match upgrade {
        Ok(upgrade) => {
            let upgrade = upgrade.max_message_size(SAID_LEN_MAX).max_frame_size(SAID_LEN_MAX);
            Ok(upgrade.on_upgrade(move |socket| over_websocket(socket, viewer, kicked)))
        }
        Err(_) => {
            let body = Body::from_stream(viewer.pieces(kicked).map(Ok::<_, Infallible>));
            let mut response: Response = body.into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("video/x-flv"));
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
    }
}

async fn over_websocket(mut socket: WebSocket, viewer: Viewer, kicked: Kicked) {
    let mut pieces = pin!(viewer.pieces(kicked));
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(piece) = piece else { break };
                if socket.send(Message::Binary(piece)).await.is_err() {
                    return;
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
    let _ = socket.send(Message::Close(None)).await;
}

/// What goes out to one viewer. It ends with the connection that draws from it.
struct Viewer {
    node: Arc<Node>,
    stream: Arc<stream::Stream>,
    client: ClientGuard,
    protocol: Protocol,
    _watching: WatchGuard,
    reader: Reader,
    headers: Headers,
    joined_len_max: usize,
    /// Made, and not taken yet.
    pieces: VecDeque<Bytes>,
    /// Short parts, to be joined to one piece.
    joined: Vec<u8>,
}

impl Viewer {
    fn begin(&mut self, metadata: &flv::Metadata) {
        let client = &self.client.client;
        tracing::info!(client = client.id, stream = %self.stream.name, ip = %client.ip, protocol = self.protocol.label(), "flv play");
        self.joined.extend_from_slice(&flv::file_header(metadata.has_audio, metadata.has_video));
        self.joined.extend_from_slice(&flv::tag(flv::TYPE_DATA, 0, &flv::metadata_body(metadata)));
    }

    /// The stream from its start to its end, or until the viewer is ended. A viewer that does not take it falls behind in the log.
    fn pieces(self, mut kicked: Kicked) -> impl Stream<Item = Bytes> + Send {
        let next = async |mut viewer: Viewer| Some((viewer.next().await?, viewer));
        futures_util::stream::unfold(self, next).take_until(async move { kicked.wait().await })
    }

    async fn next(&mut self) -> Option<Bytes> {
        while self.pieces.is_empty() {
            let Read::Entries(entries) = self.reader.next().await else { return None };
            for entry in &entries {
                let before = self.headers.before(entry);
                let (type_id, at) = (flv::type_id(entry.frame.kind()), wire_ms(entry.frame.dts));
                if before.metadata {
                    let metadata = flv::metadata_body(&self.stream.log.metadata());
                    self.joined.extend_from_slice(&flv::tag(flv::TYPE_DATA, at, &metadata));
                }
                if let Some(header) = before.sequence_header {
                    self.joined.extend_from_slice(&flv::tag(type_id, at, &header));
                }
                for part in entry.flv() {
                    if part.len() <= self.joined_len_max {
                        self.joined.extend_from_slice(part);
                    } else {
                        self.close_joined();
                        self.pieces.push_back(part.clone());
                    }
                }
            }
            self.close_joined();
            let dropped = self.reader.take_dropped();
            if dropped > 0 {
                self.client.client.frames_dropped.fetch_add(dropped, Ordering::Relaxed);
                self.node.metrics.viewer_frames_dropped.of(self.protocol).add(dropped);
            }
        }
        let piece = self.pieces.pop_front()?;
        let len = piece.len() as u64;
        self.client.client.bytes_out.fetch_add(len, Ordering::Relaxed);
        self.stream.bytes_out.fetch_add(len, Ordering::Relaxed);
        self.node.metrics.bytes_out.of(self.protocol).add(len);
        Some(piece)
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.joined).into());
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let client = &self.client.client;
        tracing::info!(client = client.id, stream = %self.stream.name, sent = client.bytes().1, dropped = client.frames_dropped.load(Ordering::Relaxed), "flv play ended");
    }
}
