//! The API in SRS's shapes, with our own fields beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use media::{Codec, StreamName, TrackConfig};
use metrics::{Label, LinkMetrics, SharedGauge};
use serde_json::{Value, json};
use sfu::CloseReason;

use super::{Answer, Refused, authorization};
use crate::auth::ApiAction;
use crate::clients::Client;
use crate::node::Node;
use crate::stream::{Ingest, Stream};

/// GET /api/v1/versions
pub async fn versions(State(node): State<Arc<Node>>) -> Answer {
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let (major, minor, revision) = (parts.next(), parts.next(), parts.next());
    let data = json!({ "major": major, "minor": minor, "revision": revision, "version": version });
    Ok(Json(wrap(&node, "data", data)).into_response())
}

/// GET /api/v1/streams/
pub async fn streams(State(node): State<Arc<Node>>, query: RawQuery, headers: HeaderMap) -> Answer {
    admit(&node, ApiAction::Look, &query, &headers)?;
    let mut streams = node.streams.all();
    streams.retain(|s| s.is_live() || s.viewers() != [0; 3]);
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    let bytes = peer_bytes(&node);
    let streams = streams.iter().map(|s| describe_stream(&node, s, &bytes)).collect::<Vec<_>>();
    Ok(Json(wrap(&node, "streams", streams.into())).into_response())
}

/// GET /api/v1/streams/ID
pub async fn stream(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Answer {
    admit(&node, ApiAction::Look, &query, &headers)?;
    let id = number(&id, "stream")?;
    let stream = node.streams.by_id(sfu::StreamId(id)).ok_or_else(|| missing("stream"))?;
    Ok(Json(wrap(&node, "stream", describe_stream(&node, &stream, &peer_bytes(&node)))).into_response())
}

/// GET /api/v1/clients/
pub async fn clients(State(node): State<Arc<Node>>, query: RawQuery, headers: HeaderMap) -> Answer {
    admit(&node, ApiAction::Manage, &query, &headers)?;
    let clients = node.clients.all().iter().map(|c| describe_client(&node, c)).collect::<Vec<_>>();
    Ok(Json(wrap(&node, "clients", clients.into())).into_response())
}

/// GET /api/v1/nodes/: this node, its links to the others, and the nodes of the directory.
pub async fn nodes(State(node): State<Arc<Node>>, query: RawQuery, headers: HeaderMap) -> Answer {
    admit(&node, ApiAction::Manage, &query, &headers)?;
    let links: Vec<_> = node.metrics.links().iter().map(|(peer, link)| describe_link(peer, link)).collect();
    let me = Some(&node.config.cluster.node).filter(|id| !id.is_empty());
    let draining = *node.draining.borrow();
    let directory = node
        .directory
        .get()
        .map(|directory| json!({ "connected": directory.is_connected(), "nodes": directory.nodes() }));
    let nodes = json!({ "node": me, "draining": draining, "links": links, "directory": directory });
    Ok(Json(wrap(&node, "nodes", nodes)).into_response())
}

/// GET /api/v1/clients/ID
pub async fn client(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Answer {
    admit(&node, ApiAction::Manage, &query, &headers)?;
    let id = number(&id, "client")?;
    let client = node.clients.get(id).ok_or_else(|| missing("client"))?;
    Ok(Json(wrap(&node, "client", describe_client(&node, &client))).into_response())
}

/// DELETE /api/v1/clients/ID
pub async fn kick(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Answer {
    admit(&node, ApiAction::Manage, &query, &headers)?;
    if node.config.auth.is_open() && !own_page(&node, &headers) {
        return Err(Refused(StatusCode::FORBIDDEN, "not from a page of another origin".into()));
    }
    let id = number(&id, "client")?;
    let client = node.clients.get(id).ok_or_else(|| missing("client"))?;
    client.end(CloseReason::Kicked).map_err(|e| Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string()))?;
    tracing::info!(client = id, "ended by the API");
    Ok(Json(json!({ "code": 0 })).into_response())
}

fn admit(
    node: &Node,
    action: ApiAction,
    RawQuery(query): &RawQuery,
    headers: &HeaderMap,
) -> Result<(), Refused> {
    node.admit_api(action, query.as_deref().unwrap_or(""), authorization(headers)).map_err(|denied| {
        let hint = if action == ApiAction::Manage { " of the setting auth.api" } else { "" };
        Refused(StatusCode::UNAUTHORIZED, format!("{denied}{hint}"))
    })
}

fn wrap(node: &Node, key: &str, value: Value) -> Value {
    let server = format!("vid-{}", node.config.node.name);
    json!({ "code": 0, "server": server, "service": "millrace", "pid": std::process::id().to_string(), key: value })
}

/// Not a page of another origin. A browser reaches a node on loopback for any page that its user visits, and an open node asks for no
/// token; with `*` in `http.cors_origins` the browser does not stand in the way either.
fn own_page(node: &Node, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).map(|o| o.to_str().unwrap_or("")) else { return true };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host)
        || node.config.http.cors_origins.iter().any(|o| o == origin)
}

fn number(id: &str, what: &str) -> Result<u64, Refused> {
    let id = id.strip_prefix("vid-").unwrap_or(id);
    id.parse().map_err(|_| Refused(StatusCode::NOT_FOUND, format!("no such {what}; ids are numbers")))
}

fn missing(what: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no such {what}"))
}

/// Bytes received and sent by the WebRTC clients of each stream; gathered once, as there may be thousands of either.
fn peer_bytes(node: &Node) -> HashMap<StreamName, (u64, u64)> {
    let mut all: HashMap<StreamName, (u64, u64)> = HashMap::new();
    for client in node.clients.all().iter().filter(|c| c.peer.is_some()) {
        let (received, sent) = client.bytes();
        let sum = all.entry(client.stream.clone()).or_default();
        *sum = (sum.0 + received, sum.1 + sent);
    }
    all
}

fn describe_stream(node: &Node, stream: &Stream, peer_bytes: &HashMap<StreamName, (u64, u64)>) -> Value {
    let now = node.clock.now();
    let publisher = stream.publisher();
    let [audio_codec, video_codec] = stream.codecs();
    let (audio, video) = stream.log.configs();
    let (fps, kbps) = stream.log.rates();
    let live = publisher.is_some();
    let video = match (video_codec, video.as_deref()) {
        (Some(codec), Some(TrackConfig::H264(config))) if codec == Codec::H264 => json!({
            "codec": codec.name(), "profile": profile(config.sps.get(1).copied()),
            "level": config.sps.get(3).map(|l| format!("{}.{}", l / 10, l % 10)),
            "width": config.width, "height": config.height, "fps": config.fps.map_or(fps, f64::from),
        }),
        (Some(codec), _) => json!({ "codec": codec.name() }),
        (None, _) => Value::Null,
    };
    let audio = match (audio_codec, audio.as_deref()) {
        (Some(Codec::Aac), Some(TrackConfig::Aac(config))) => json!({
            "codec": "AAC", "sample_rate": config.sample_rate_hz, "channel": config.channels,
            "profile": if config.object_type == 2 { "LC" } else { "HE" },
        }),
        (Some(codec), _) => json!({ "codec": codec.name(), "sample_rate": codec.clock_hz() }),
        (None, _) => Value::Null,
    };
    let (peers_in, peers_out) = peer_bytes.get(&stream.name).copied().unwrap_or_default();
    let received = stream.bytes_in.load(Ordering::Relaxed) + peers_in;
    let sent = stream.bytes_out.load(Ordering::Relaxed) + peers_out;
    let seconds = (now.since(publisher.as_ref().map_or(stream.created, |p| p.since)) as f64 / 1e6).max(1.0);
    let in_kbps = match publisher.as_ref().map(|p| p.ingest) {
        Some(Ingest::Rtmp) => kbps[0] + kbps[1],
        _ => received as f64 * 8.0 / 1000.0 / seconds,
    };
    let [whep, rtmp, flv] = stream.viewers();
    json!({
        "id": stream.id.0.to_string(),
        "name": stream.name.name(),
        "app": stream.name.app(),
        "vhost": "__defaultVhost__",
        "tcUrl": format!("rtmp://__defaultVhost__/{}", stream.name.app()),
        "url": format!("/{}", stream.name),
        "live_ms": (node.clock.unix_us_at_zero() + stream.created.us()) / 1000,
        "uptime_s": publisher.as_ref().map_or(0, |p| now.since(p.since) / 1_000_000),
        "clients": whep + rtmp + flv + usize::from(live),
        "viewers": { "whep": whep, "rtmp": rtmp, "flv": flv },
        "recv_bytes": received,
        "send_bytes": sent,
        "kbps": { "recv_30s": in_kbps.round(), "send_30s": (sent as f64 * 8.0 / 1000.0 / seconds).round() },
        "publish": { "active": live, "cid": publisher.as_ref().map(|p| p.client.to_string()) },
        "source": publisher.as_ref().map(|p| p.ingest.as_str()),
        // The nodes that it came through, the publisher's first; empty for a publisher of this node.
        "path": stream.path(),
        "video": video,
        "audio": audio,
        "refused": stream.refused(),
        "refused_webrtc": stream.packets_refused(),
        "b_frames": stream.has_b_frames(),
    })
}

fn describe_link(peer: &str, link: &LinkMetrics) -> Value {
    let ms = |us: &SharedGauge| us.get() as f64 / 1000.0;
    let events =
        link.events.iter().map(|(event, count)| (event.text(), count.get())).collect::<HashMap<_, _>>();
    let drops =
        link.drops.iter().map(|(reason, count)| (reason.text(), count.get())).collect::<HashMap<_, _>>();
    json!({
        "node": peer,
        "up": link.up.get() == 1,
        "draining": link.draining.get() == 1,
        "connections": link.connections.get(),
        // 0 is unknown, which is null.
        "rtt_ms": Some(ms(&link.rtt_us)).filter(|ms| *ms > 0.0),
        "queue_ms": ms(&link.queue_us),
        "path_queue_ms": ms(&link.path_queue_us),
        "window_bytes": link.window_bytes.get(),
        "tracks_in": link.tracks_in.get(),
        "tracks_out": link.tracks_out.get(),
        "held_there": link.held_there.get(),
        "held_here": link.held_here.get(),
        "sent_bytes": link.sent_bytes.get(),
        "datagrams": events,
        "dropped": drops,
    })
}

fn describe_client(node: &Node, client: &Client) -> Value {
    let (received, sent) = client.bytes();
    let now = node.clock.now();
    let alive = now.since(client.since) as f64 / 1e6;
    let kbps = |bytes: u64| (bytes as f64 * 8.0 / 1000.0 / alive.max(1.0)).round();
    let mut value = json!({
        "id": client.id.to_string(),
        "vhost": "__defaultVhost__",
        "stream": client.stream.name(),
        "ip": client.ip.to_string(),
        "url": format!("/{}", client.stream),
        "name": client.stream.name(),
        "type": client.kind.srs(),
        "publish": client.kind.publishes(),
        "alive": alive,
        "recv_bytes": received,
        "send_bytes": sent,
        "kbps": { "recv_30s": kbps(received), "send_30s": kbps(sent) },
        "frames_dropped": client.peer.as_ref().map_or(&client.frames_dropped, |p| &p.frames_dropped).load(Ordering::Relaxed),
    });
    if let (Some(peer), Some(object)) = (&client.peer, value.as_object_mut()) {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        // 0 is unknown, which is null.
        let known = |figure: &AtomicI64| Some(figure.load(Ordering::Relaxed)).filter(|figure| *figure > 0);
        let rtc = json!({
            "packets_in": read(&peer.packets_in), "packets_out": read(&peer.packets_out),
            "frames_in": read(&peer.frames_in), "lost": read(&peer.lost),
            "resent": read(&peer.resent), "resent_bytes": read(&peer.resent_bytes),
            "nacks_in": read(&peer.nacks_in), "nacks_missed": read(&peer.nacks_missed),
            "nacks_refused": read(&peer.nacks_refused), "nacks_out": read(&peer.nacks_out),
            "plis_in": read(&peer.plis_in), "plis_out": read(&peer.plis_out),
            "freezes": read(&peer.freezes), "freeze_ms": read(&peer.freeze_us) / 1000,
            "rtt_ms": known(&peer.rtt_us).map(|us| us as f64 / 1000.0),
            "fraction_lost": read(&peer.fraction_lost) as f64 / 256.0,
            "estimate_bps": rate(read(&peer.estimate_bps)),
            "estimate": describe_estimate(peer),
            "queue_ms": peer.queue_us.load(Ordering::Relaxed) / 1000,
            "resent_unasked": read(&peer.resent_unasked),
            "probe_copies": read(&peer.probe_copies), "probe_copy_bytes": read(&peer.probe_copy_bytes),
            "padding_bytes": read(&peer.padding_bytes_out),
            "frames_congested": read(&peer.frames_congested),
            "frames_above_layer": read(&peer.frames_above),
            "connected_s": known(&peer.connected_us).map(|us| (now.us() - us) as f64 / 1e6),
            "layer": super::layer::describe(node, client),
        });
        object.insert("rtc".into(), rtc);
    }
    value
}

/// 0 is unknown, which is null.
fn rate(bps: u64) -> Option<u64> {
    Some(bps).filter(|bps| *bps > 0)
}

/// How a viewer's estimate comes about; null for those without one.
fn describe_estimate(peer: &sfu::PeerStats) -> Value {
    if peer.estimate_bps.load(Ordering::Relaxed) == 0 {
        return Value::Null;
    }
    let figures = peer.estimate.load();
    json!({
        "state": figures.state.as_str(),
        "probing": figures.probing,
        "delay_bps": rate(figures.delay_bps), "loss_bps": rate(figures.loss_bps),
        "arrives_bps": rate(figures.arrives_bps), "loss": figures.loss,
        "needs_bps": rate(peer.needs_bps.load(Ordering::Relaxed)),
        "limited": peer.limited.load(Ordering::Relaxed),
    })
}

fn profile(profile_idc: Option<u8>) -> &'static str {
    match profile_idc {
        Some(66) => "Baseline",
        Some(77) => "Main",
        Some(88) => "Extended",
        Some(100) => "High",
        Some(_) => "Other",
        None => "Unknown",
    }
}
