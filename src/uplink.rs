//! `millrace uplink`: beside an encoder, RTMP in and the relay out. It is a small node with one peer: publishers and players of its RTMP door are the peer's, which is
//! asked what they may do.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::node::Node;
use crate::{rtmp_server, serve};

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where encoders and players connect, by RTMP.
    #[arg(long, default_value = "127.0.0.1:1935")]
    pub listen: SocketAddr,
    /// The node: its id and the address of its relay, as ID=HOST:PORT.
    #[arg(long)]
    pub to: String,
    /// Folder with ca.pem, node.pem and node.key, as `millrace cert node` makes it.
    #[arg(long, default_value = ".")]
    pub certs: PathBuf,
    /// The cluster's authority, when it is elsewhere.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// The uplink's certificate, when it is elsewhere. The id in it is to be in `cluster.uplinks` of the node.
    #[arg(long)]
    pub cert: Option<PathBuf>,
    /// Its key, when it is elsewhere.
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// The settings of an uplink, over those of the environment.
///
/// # Errors
/// When the certificate cannot be read, or what is on the command line cannot be.
pub fn config(options: &Options, mut config: Config) -> anyhow::Result<Config> {
    let path = |own: &Option<PathBuf>, name: &str| {
        own.clone().unwrap_or_else(|| options.certs.join(name)).to_string_lossy().into_owned()
    };
    let cluster = &mut config.cluster;
    (cluster.ca, cluster.cert, cluster.key) =
        (path(&options.ca, "ca.pem"), path(&options.cert, "node.pem"), path(&options.key, "node.key"));
    let (id, at) =
        options.to.split_once('=').context("--to is ID=HOST:PORT, such as edge-1=203.0.113.5:4443")?;
    // Once: a name that means another address later wants a restart.
    let at = std::net::ToSocketAddrs::to_socket_addrs(at)
        .with_context(|| format!("--to: cannot find {at:?}"))?
        .next()
        .with_context(|| format!("--to: {at:?} has no address"))?;
    cluster.node = id_of(&cluster.cert)?;
    cluster.peers = vec![format!("{id}={at}")];
    cluster.is_uplink = true;
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    cluster.listen = any.parse().context("an address")?;
    config.rtmp.listen = options.listen;
    config.rtmp.enabled = true;
    // Nobody comes by WebRTC; a shard is where tracks are at home.
    (config.node.shards, config.webrtc.base_port) = (1, 0);
    config.validate()?;
    Ok(config)
}

/// The id that a certificate names.
fn id_of(path: &str) -> anyhow::Result<String> {
    let cert = CertificateDer::from_pem_file(path).with_context(|| {
        format!("cannot read a certificate from {path} (--cert or --certs): `millrace cert node` makes one")
    })?;
    Ok(crate::relay::id_of(&cert)
        .with_context(|| format!("{path} names no node: `millrace cert node` makes one that does"))?
        .to_string())
}

/// Runs until SIGTERM or SIGINT. A first attempt that fails for certificates ends it: nobody else will mend that.
///
/// # Errors
/// When it cannot listen, or the node and this do not trust each other.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = serve::Signals::listen()?;
    let listener = TcpListener::bind(config.rtmp.listen)
        .await
        .with_context(|| format!("cannot listen on tcp {} (--listen)", config.rtmp.listen))?;
    let listens = listener.local_addr()?;
    let node = Node::start(config)?;
    let mut state = node.streams.shared().relay().context("an uplink has a relay")?.state.subscribe();
    let first = async {
        match state.wait_for(|state| state.up || state.why.is_some()).await {
            Ok(state) => state.why.clone().filter(|_| !state.up),
            Err(_) => None,
        }
    };
    let why = tokio::select! {
        why = first => why,
        () = signals.next() => return Ok(()),
    };
    match why {
        Some(why) if why.certificates => bail!(why.text),
        // It listens all the same: encoders are told, and the node may come.
        Some(_) | None => {}
    }
    node.spawn_vital("rtmp", rtmp_server::serve(node.clone(), listener));
    let peer = node.config.cluster.peers.join("");
    writeln!(
        std::io::stdout(),
        "\n  Encoders publish to rtmp://{listens}/APP/STREAM, and players play from there: it goes to {peer} over QUIC.\n"
    )?;
    tracing::info!(listen = %listens, to = peer, "millrace uplink");
    serve::wait_and_drain(node, signals).await
}

/// How long a client of an uplink waits for the node's decision: a node that has just started waits for its directory for eight seconds, and for a claim for two.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(11);
