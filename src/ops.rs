//! The operations listener, apart from the public ones: /metrics, /livez, /readyz.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::{Protocol, Queue, Registry, Route};
use tokio::net::TcpListener;

use crate::clients::ClientKind;
use crate::logging;
use crate::node::Node;

struct Ops {
    node: Arc<Node>,
    registry: Registry,
}

/// Serves until the process ends.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let registry =
        Registry::new(node.shards.iter().map(|s| s.metrics.clone()).collect(), node.metrics.clone());
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Arc::new(Ops { node, registry }));
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "the operations listener ended");
    }
}

async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    let (node, metrics) = (&ops.node, &ops.node.metrics);
    metrics.streams.set(node.streams.all().len() as i64);
    let clients = node.clients.all();
    let count = |kind: ClientKind| clients.iter().filter(|c| c.kind == kind).count() as i64;
    metrics.publishers.of(Protocol::Rtmp).set(count(ClientKind::RtmpPublish));
    metrics.publishers.of(Protocol::WebRtc).set(count(ClientKind::RtcPublish));
    metrics.viewers.of(Protocol::Rtmp).set(count(ClientKind::RtmpPlay));
    metrics.viewers.of(Protocol::HttpFlv).set(count(ClientKind::FlvPlay));
    metrics.viewers.of(Protocol::WsFlv).set(count(ClientKind::WsFlvPlay));
    metrics.viewers.of(Protocol::WebRtc).set(count(ClientKind::RtcPlay));
    let lost = metrics.queue_overflows.of(Queue::Log);
    lost.add(logging::lines_lost().saturating_sub(lost.get()));
    metrics.http_request(Route::Ops, 200);
    ([(header::CONTENT_TYPE, Registry::CONTENT_TYPE)], ops.registry.render()).into_response()
}

/// Dead when a thread of the media plane is: its sessions are lost, and only a restart brings them back.
async fn live(State(ops): State<Arc<Ops>>) -> Response {
    match ops.node.dead_part() {
        Some(dead) => (StatusCode::INTERNAL_SERVER_ERROR, dead + "\n").into_response(),
        None => "ok\n".into_response(),
    }
}

async fn ready(State(ops): State<Arc<Ops>>) -> Response {
    if *ops.node.draining.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    if let Some(dead) = ops.node.dead_part() {
        return (StatusCode::SERVICE_UNAVAILABLE, dead + "\n").into_response();
    }
    "ready\n".into_response()
}
