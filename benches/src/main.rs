//! `millrace-bench`: loads a server with real clients and says what they got. docs/BENCHMARKS.md has the ways to run it.

mod load;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use load::peers::PeersOptions;
use load::progress::Progress;
use load::scenario::Scenario;
use load::target::Preset;

/// The load harness of Millrace.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a scenario and prints what its viewers got.
    Run(RunOptions),
    /// Runs this node, Janus and nginx-rtmp in turn with the same clients, and prints them side by side.
    Peers(PeersOptions),
    /// Drives clients for a run; started by it.
    #[command(hide = true)]
    Worker,
}

/// A scenario, from a file or from here; what is said here comes on top of the file.
#[derive(clap::Args, Clone, Debug)]
struct RunOptions {
    /// A scenario file (TOML).
    scenario: Option<PathBuf>,
    /// Publishers: PROTOCOL[:KEY=VALUE,...], such as rtmp:kbps=2000,size=1280x720,gop=60 or whip:count=50.
    #[arg(long)]
    publish: Vec<String>,
    /// Viewers: PROTOCOL[:KEY=VALUE,...], such as whep:count=100,nack=true or rtmp:count=300,churn_per_second=5.
    #[arg(long)]
    watch: Vec<String>,
    /// Whose URLs are used.
    #[arg(long, value_enum)]
    target: Option<Preset>,
    /// The server's host.
    #[arg(long)]
    host: Option<String>,
    /// Bearer token.
    #[arg(long)]
    token: Option<String>,
    /// The server's process, to tell its CPU and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Start this millrace as the server.
    #[arg(long)]
    start: Option<PathBuf>,
    /// Cores for the started server, such as 0 or 0,1; it gets as many shards.
    #[arg(long, value_delimiter = ',')]
    start_cores: Vec<usize>,
    /// Worker processes.
    #[arg(long)]
    workers: Option<usize>,
    /// Cores for the workers.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// How long is measured.
    #[arg(long)]
    seconds: Option<u64>,
    /// Also write the outcome as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl RunOptions {
    fn scenario(&self) -> Result<Scenario> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::load(path)?,
            None => Scenario::default(),
        };
        self.publish.iter().try_for_each(|text| scenario.add_publish(text))?;
        self.watch.iter().try_for_each(|text| scenario.add_watch(text))?;
        let target = &mut scenario.target;
        target.preset = self.target.unwrap_or(target.preset);
        target.host = self.host.clone().unwrap_or(std::mem::take(&mut target.host));
        target.token = self.token.clone().or(target.token.take());
        target.pid = self.pid.or(target.pid);
        target.start = self.start.clone().or(target.start.take());
        if !self.start_cores.is_empty() {
            target.start_cores.clone_from(&self.start_cores);
        }
        if !self.cores.is_empty() {
            scenario.harness.cores.clone_from(&self.cores);
        }
        scenario.harness.workers = self.workers.unwrap_or(scenario.harness.workers);
        scenario.seconds = self.seconds.unwrap_or(scenario.seconds);
        Ok(scenario)
    }
}

fn run(options: &RunOptions) -> Result<()> {
    let outcome = load::run::run(&options.scenario()?, &mut Progress::new())?;
    print!("{}", load::text::text(&outcome));
    if let Some(path) = &options.json {
        outcome.save(path)?;
    }
    let failed: usize = outcome.groups.iter().map(|group| group.failed).sum();
    ensure!(failed == 0 && outcome.seconds > 0.0, "{failed} clients failed");
    Ok(())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Run(options) => run(&options),
        Verb::Peers(options) => load::peers::peers(&options),
        Verb::Worker => load::worker::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
