//! `millrace demo --cluster`: three nodes on loopback that know each other, the clip going in at the first. Each is a process of its own, as in earnest, so that one
//! can be killed and the others be watched; all end with this one, however it ends: a node serves while its standard input is open, and this process holds the other ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{APP, NAME, publish_for_ever, tags};
use crate::cert;
use crate::config::{Cluster, Config, LogFormat};
use crate::serve::Signals;

const IDS: [&str; 3] = ["a", "b", "c"];
/// Nodes that do not answer by then are not going to.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Nodes that were told to end and have not by then are killed: a person at the terminal waits.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Whether a node has died is looked at so often.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT, or until no node is left. What `config` says holds for all three, save addresses and `[cluster]`.
///
/// # Errors
/// When the nodes cannot be started, or all have died.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let folder = Folder::new()?;
    let (mut nodes, publisher) = {
        let plans = plan(&config, &folder.0)?;
        let publisher = plans.first().map(|plan| plan.config.rtmp.listen).context("there are nodes")?;
        (plans.into_iter().map(Running::start).collect::<anyhow::Result<Vec<_>>>()?, publisher)
    };
    let ready = tokio::select! {
        ready = ready(&mut nodes) => ready,
        () = signals.next() => {
            end(nodes).await;
            return Ok(());
        }
    };
    if ready.is_err() {
        end(nodes).await;
        return ready;
    }
    told(&nodes, &config)?;
    let token = super::first(&config.auth.publish);
    let clip = tags()?;
    let watches = async {
        loop {
            tokio::time::sleep(LOOK).await;
            for mut node in nodes.extract_if(.., |node| node.has_ended()) {
                let how = node.how();
                writeln!(io::stdout(), "  node {} has died, {how}", node.id)?;
            }
            if nodes.is_empty() {
                bail!("no node is left");
            }
        }
    };
    let result = tokio::select! {
        () = publish_for_ever(publisher, &clip, token.as_deref()) => Ok(()),
        died = watches => died,
        () = signals.next() => Ok(()),
    };
    end(nodes).await;
    result
}

fn told(nodes: &[Running], config: &Config) -> io::Result<()> {
    let query = |tokens| super::query(super::first(tokens).as_deref());
    let (publishes, plays) = (query(&config.auth.publish), query(&config.auth.play));
    let mut out = io::stdout().lock();
    writeln!(out, "\n  Three nodes of Millrace run. A clip goes in at the first and is watched at each.\n")?;
    for Running { id, http, pid, .. } in nodes {
        writeln!(out, "  node {id}   watch    http://{http}/play/{APP}/{NAME}{plays}")?;
        writeln!(out, "           console  http://{http}/{plays}")?;
        writeln!(out, "           publish  http://{http}/publish/{APP}/me{publishes}   (process {pid})\n")?;
    }
    writeln!(out, "  Ctrl-C ends all three.\n")?;
    out.flush()
}

/// A node's settings.
struct Plan {
    id: &'static str,
    config: Config,
    file: PathBuf,
}

/// Certificates, and settings files with free ports. A port is free when it was chosen; one that another program takes before its node does ends that node, which is
/// told.
fn plan(base: &Config, folder: &Path) -> anyhow::Result<Vec<Plan>> {
    super::needs_rtmp(base)?;
    let ca = folder.join("ca");
    cert::ca(&ca)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // All at once, so that no two are the same.
    let tcp = (0..IDS.len() * 3).map(|_| TcpListener::bind(any)).collect::<io::Result<Vec<_>>>()?;
    let udp = IDS.iter().map(|_| UdpSocket::bind(any)).collect::<io::Result<Vec<_>>>()?;
    let relays = udp.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
    let mut plans = Vec::new();
    for (at, id) in IDS.into_iter().enumerate() {
        let own = folder.join(id);
        cert::node(&ca, id, &own)?;
        let port =
            |which: usize| tcp.get(at * 3 + which).context("a port each")?.local_addr().context("bound");
        let path = |name: &str| own.join(name).to_string_lossy().into_owned();
        let mut config = base.clone();
        config.node.name = id.into();
        (config.http.listen, config.rtmp.listen, config.ops.listen) = (port(0)?, port(1)?, port(2)?);
        (config.webrtc.listen_ip, config.webrtc.base_port) = (any.ip(), 0);
        config.node.public_ips = Vec::new();
        config.log.format = LogFormat::Text;
        let others = IDS.iter().zip(&relays).filter(|(other, _)| **other != id);
        config.cluster = Cluster {
            peers: others.map(|(other, relay)| format!("{other}={relay}")).collect(),
            node: id.into(),
            listen: *relays.get(at).context("a port each")?,
            ca: path("ca.pem"),
            cert: path("node.pem"),
            key: path("node.key"),
            ..Cluster::default()
        };
        let file = own.join("millrace.toml");
        fs::write(&file, toml::to_string(&config)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        plans.push(Plan { id, config, file });
    }
    Ok(plans)
}

struct Running {
    id: &'static str,
    http: SocketAddr,
    rtmp: SocketAddr,
    pid: u32,
    child: Child,
}

impl Running {
    fn start(plan: Plan) -> anyhow::Result<Running> {
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.arg("serve").arg("--while-stdin-open").arg("--config").arg(&plan.file);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // They are in the file already, and addresses are not for all three.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLRACE_"))
        {
            command.env_remove(name);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start node {}", plan.id))?;
        let (id, log) = (plan.id, child.stderr.take().context("it is a pipe")?);
        thread::Builder::new().name("log".into()).spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = writeln!(io::stderr(), "{id} | {line}");
            }
        })?;
        let (http, rtmp, pid) = (plan.config.http.listen, plan.config.rtmp.listen, child.id());
        Ok(Running { id, http, rtmp, pid, child })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn how(&mut self) -> String {
        self.child.try_wait().ok().flatten().map_or_else(|| "unknown how".into(), |status| status.to_string())
    }
}

/// Until each takes connections of players.
async fn ready(nodes: &mut [Running]) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    for node in nodes {
        while TcpStream::connect(node.http).await.is_err() || TcpStream::connect(node.rtmp).await.is_err() {
            if node.has_ended() || Instant::now() > deadline {
                bail!("node {} does not serve: see its lines above", node.id);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Tells all, then waits for each.
async fn end(mut nodes: Vec<Running>) {
    for node in &mut nodes {
        drop(node.child.stdin.take());
    }
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline && nodes.iter_mut().any(|node| !node.has_ended()) {
        tokio::time::sleep(LOOK).await;
    }
    for mut node in nodes {
        let _ = node.child.kill();
        let _ = node.child.wait();
    }
}

/// A folder of this process alone, gone with it: keys are in there.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("millrace-demo-{}", std::process::id()));
        // One that is there is somebody else's.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
