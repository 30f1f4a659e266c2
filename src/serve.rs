//! Start and stop of a node: parts in one order, a drain with a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

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

/// Runs a node until SIGTERM or SIGINT; until its standard input closes, too, if it is to end with who started it.
pub async fn run(config: Config, while_stdin_open: bool) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    if while_stdin_open {
        signals.end_with_stdin()?;
    }
    let (node, _) = start(config).await?;
    wait_and_drain(node, signals).await
}

/// What ends the node. Listened for before anything is bound: whoever sees the node answer may end it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Says true once standard input has closed.
    orphaned: watch::Receiver<bool>,
    // Without anybody who says so it would look closed.
    orphan: watch::Sender<bool>,
}

impl Signals {
    /// From now on SIGTERM and SIGINT are the node's.
    pub fn listen() -> std::io::Result<Signals> {
        let (orphan, orphaned) = watch::channel(false);
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { terminate, interrupt, orphaned, orphan })
    }

    /// The end of standard input is one as well.
    pub fn end_with_stdin(&self) -> std::io::Result<()> {
        let orphan = self.orphan.clone();
        let read = move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            orphan.send_replace(true);
        };
        std::thread::Builder::new().name("stdin".into()).spawn(read).map(drop)
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        let _ = self.first().await;
    }

    /// Waits for one; whether a person, or a parent that is gone, wants it to end at once.
    async fn first(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => true,
            _ = self.orphaned.wait_for(|gone| *gone) => true,
        }
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

/// Waits for SIGTERM or SIGINT, or that the node may not run, which is an error; then takes nothing new, waits for publishers, viewers and peers that take streams from here to leave until the deadline, and ends
/// the rest. A second signal ends it
/// at once.
pub async fn wait_and_drain(node: Arc<Node>, mut signals: Signals) -> anyhow::Result<()> {
    let interactive = tokio::select! {
        interactive = signals.first() => interactive,
        why = node.refused() => {
            node.stop();
            anyhow::bail!(why);
        }
    };
    node.draining.send_replace(true);
    let deadline = node.config.node.drain_deadline;
    tracing::info!(clients = node.clients.len(), ?deadline, "draining");
    let empty = async {
        let relay = node.streams.shared().relay();
        let given = || relay.map_or(0, |relay| relay.given.load(Ordering::Relaxed));
        while !node.clients.is_empty() || given() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    // A person at the terminal who presses Ctrl-C wants it to end.
    if !interactive {
        tokio::select! {
            _ = tokio::time::timeout(deadline, empty) => {}
            () = signals.next() => {}
        }
    }
    node.stop();
    // What the shards still have to say (DTLS close_notify) and the players' last words.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    if let Some(directory) = node.directory.get() {
        directory.leave().await;
    }
    tracing::info!("stopped");
    Ok(())
}
