//! The `millrace` program: `serve`, `check`, `demo`, `uplink`, `cert`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millrace::config::Config;
use millrace::{cert, demo, logging, serve, uplink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A live-media edge node: RTMP and WebRTC in, WebRTC, RTMP and HTTP-FLV out.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the node. Without settings it binds loopback only and is open.
    Serve {
        /// Settings file (TOML); every key can be overridden by MILLRACE_SECTION__KEY.
        #[arg(long)]
        config: Option<PathBuf>,
        /// End when standard input closes, too: for who starts the node as a child.
        #[arg(long)]
        while_stdin_open: bool,
    },
    /// Parse the settings and say what is wrong, with the line.
    Check {
        /// Settings file (TOML).
        #[arg(long)]
        config: PathBuf,
    },
    /// Run a node that publishes a clip with a clock and a beep to itself, and print the page to open.
    Demo {
        /// Settings file (TOML).
        #[arg(long)]
        config: Option<PathBuf>,
        /// Three nodes that know each other, on free ports of this machine: the clip goes in at one and is watched at all.
        #[arg(long)]
        cluster: bool,
    },
    /// Take RTMP beside an encoder and carry it to a node over QUIC; players may play from there, too.
    Uplink(uplink::Options),
    /// Make the certificates that the nodes of a cluster show each other.
    #[command(subcommand)]
    Cert(Cert),
}

#[derive(Subcommand)]
enum Cert {
    /// Make the cluster's certificate authority: ca.pem and ca.key. The key stays where you keep secrets.
    Ca {
        /// Folder for both.
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a node's certificate: node.pem and node.key, with a copy of ca.pem.
    Node {
        /// Folder of the authority.
        #[arg(long)]
        ca: PathBuf,
        /// The node's id: `cluster.node` of its settings.
        #[arg(long)]
        id: String,
        /// Folder for them.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Verb::Check { config } => {
            let config = load(Some(config))?;
            config.check(&mut std::io::stdout().lock())?;
            Ok(())
        }
        Verb::Cert(Cert::Ca { out }) => cert::ca(&out),
        Verb::Cert(Cert::Node { ca, id, out }) => cert::node(&ca, &id, &out),
        Verb::Serve { config, while_stdin_open } => {
            start(load(config)?, |config| serve::run(config, while_stdin_open))
        }
        Verb::Uplink(options) => start(uplink::config(&options, load(None)?)?, uplink::run),
        Verb::Demo { config, cluster: false } => start(load(config)?, demo::run),
        Verb::Demo { config, cluster: true } => start(load(config)?, demo::run_cluster),
    }
}

fn load(path: Option<PathBuf>) -> anyhow::Result<Config> {
    // Text that is not UTF-8 is in no setting of ours.
    let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    Ok(Config::load(path.as_deref(), env)?)
}

fn start<F: Future<Output = anyhow::Result<()>>>(
    config: Config,
    run: impl FnOnce(Config) -> F,
) -> anyhow::Result<()> {
    let _log = logging::start(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build()?;
    runtime.block_on(run(config))
}
