//! Start and stop of a node: parts in one order, a drain with a deadline.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::node::Node;
use crate::{http, ops, rtmp_server};

/// Where a node listens: what was set, with the ports the system chose for 0.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// HTTP.
    pub http: SocketAddr,
    /// RTMP, if it is on.
    pub rtmp: Option<SocketAddr>,
    /// Operations.
    pub ops: SocketAddr,
}

/// Runs a node until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let (node, _) = start(config).await?;
    wait_and_drain(node, signals).await
}

/// What ends the node. Listened for before anything is bound: whoever sees the node answer may end it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on SIGTERM and SIGINT are the node's.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Binds everything, then serves.
pub async fn start(config: Config) -> anyhow::Result<(Arc<Node>, Listening)> {
    let bind = async |at: SocketAddr, what: &str| {
        TcpListener::bind(at).await.with_context(|| format!("cannot listen on tcp {at} ({what})"))
    };
    let http_listener = bind(config.http.listen, "http.listen").await?;
    let ops_listener = bind(config.ops.listen, "ops.listen").await?;
    let rtmp_listener = match config.rtmp.enabled {
        true => Some(bind(config.rtmp.listen, "rtmp.listen").await?),
        false => None,
    };
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let node = Node::start(config)?;
    let listening = Listening {
        http: http_listener.local_addr()?,
        rtmp: rtmp_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        ops: ops_listener.local_addr()?,
    };
    let routes = http::router(node.clone());
    node.spawn_vital("http", http::serve(node.clone(), routes, http_listener));
    node.spawn_vital("ops", ops::serve(node.clone(), ops_listener));
    if let Some(listener) = rtmp_listener {
        node.spawn_vital("rtmp", rtmp_server::serve(node.clone(), listener));
    }
    let udp = node.shards.iter().map(|s| s.port);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        http = %listening.http,
        rtmp = listening.rtmp.map_or_else(|| "off".to_owned(), |at| at.to_string()),
        ops = %listening.ops,
        webrtc = %node.config.webrtc.listen_ip,
        udp = list(udp),
        candidates = list(&node.candidate_ips),
        "millrace serves"
    );
    Ok((node, listening))
}

fn list<T: ToString>(of: impl IntoIterator<Item = T>) -> String {
    of.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(",")
}

/// Waits for SIGTERM or SIGINT; then takes nothing new, waits for publishers and viewers to leave until the deadline, and ends the rest. A second signal ends it
/// at once.
pub async fn wait_and_drain(node: Arc<Node>, signals: Signals) -> anyhow::Result<()> {
    let Signals { mut terminate, mut interrupt } = signals;
    let interactive = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    node.draining.send_replace(true);
    let deadline = node.config.node.drain_deadline;
    tracing::info!(clients = node.clients.len(), ?deadline, "draining");
    let empty = async {
        while !node.clients.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    // A person at the terminal who presses Ctrl-C wants it to end.
    if !interactive {
        tokio::select! {
            _ = tokio::time::timeout(deadline, empty) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    node.stop();
    // What the shards still have to say (DTLS close_notify) and the players' last words.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    tracing::info!("stopped");
    Ok(())
}
