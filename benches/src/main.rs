//! `millrace-bench`: puts a real node under load and says what it did. docs/BENCHMARKS.md has the ways to run it.

mod load;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The load harness of Millrace.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts one node on one core, publishes 720p30 by RTMP at 2 Mbit/s, and watches it from another core.
    Node(NodeOptions),
}

/// What `node` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct NodeOptions {
    /// WHEP viewers: ICE, DTLS and SRTP, each from a UDP port of its own.
    #[arg(long, default_value_t = 100)]
    whep: usize,
    /// RTMP players.
    #[arg(long, default_value_t = 300)]
    rtmp: usize,
    /// How long is measured, once all viewers have a picture.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The program under load.
    #[arg(long, default_value = "target/release/millrace")]
    millrace: PathBuf,
    /// An FLV file of H.264 and AAC to publish in a loop; without it ffmpeg makes one.
    #[arg(long)]
    clip: Option<PathBuf>,
    /// The core the node is pinned to.
    #[arg(long, default_value_t = 0)]
    node_core: usize,
    /// The core everything else runs on.
    #[arg(long, default_value_t = 1)]
    harness_core: usize,
    /// Also write the figures as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Cli { command: Verb::Node(options) } = Cli::parse();
    match load::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
