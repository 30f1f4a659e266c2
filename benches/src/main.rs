//! `millrace-bench`: loads a server with real clients and says what they got. docs/BENCHMARKS.md has the ways to run it.

mod load;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use load::outcome::Outcome;
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
    /// Says what is wrong with a scenario, or what it would do.
    Check(ScenarioOptions),
    /// The floor under a WHEP fan-out: the same datagrams by bare system calls, with and without AES-128-GCM.
    Floor(FloorOptions),
    /// Makes the HTML report of a run's JSON file.
    Report {
        /// What `run --json` wrote.
        result: PathBuf,
        /// The report.
        #[arg(long)]
        html: PathBuf,
    },
    /// Prints the figures of several runs side by side.
    Compare(load::compare::Options),
    /// Looks for the most viewers that are served well, by run after run.
    Search {
        #[command(flatten)]
        scenario: ScenarioOptions,
        #[command(flatten)]
        search: load::search::Options,
    },
    /// Runs this node, Janus and nginx-rtmp in turn with the same clients, and prints them side by side.
    Peers(PeersOptions),
    /// Carries a stream from node to node over emulated links, one way at a time, and says how late its frames are.
    Hop(load::hop::Options),
    /// Drives clients for a run; started by it.
    #[command(hide = true)]
    Worker,
}

/// A scenario, from a file or from here; what is said here comes on top of the file.
#[derive(clap::Args, Clone, Debug)]
struct ScenarioOptions {
    /// A scenario file (TOML).
    scenario: Option<PathBuf>,
    /// What reports and comparisons call it.
    #[arg(long)]
    name: Option<String>,
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
    /// A client without a connection or a picture after so long is given up on.
    #[arg(long)]
    join_seconds: Option<f64>,
}

#[derive(clap::Args, Clone, Debug)]
struct RunOptions {
    #[command(flatten)]
    scenario: ScenarioOptions,
    /// Also write the outcome as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write a report with plots, as one HTML file.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// What the floor is measured with.
#[derive(clap::Args, Clone, Debug)]
struct FloorOptions {
    /// Sockets that are sent to and read.
    #[arg(long, default_value_t = 1_000)]
    viewers: usize,
    /// Video bit rate.
    #[arg(long, default_value_t = 2_000)]
    kbps: u32,
    /// Seconds of each of the two measures.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The sender's core.
    #[arg(long, default_value_t = 0)]
    start_core: usize,
    /// The reader's core.
    #[arg(long, default_value_t = 1)]
    core: usize,
}

fn floor(options: &FloorOptions) -> Result<()> {
    let [bare, sealed] = load::bare::measure(load::bare::Load {
        viewers: options.viewers,
        kbps: options.kbps,
        seconds: options.seconds,
        send_core: options.start_core,
        read_core: options.core,
    })?;
    println!("{} sockets, {} kbit/s of video and Opus each", options.viewers, options.kbps);
    for (name, measure) in [("bare", bare), ("with AES-128-GCM", sealed)] {
        println!(
            "{name:16} {:7.0} ns of CPU a packet, {:5.1} % of a core, {:.3} % lost",
            measure.ns_per_packet, measure.percent, measure.lost_percent
        );
    }
    Ok(())
}

impl ScenarioOptions {
    fn scenario(&self) -> Result<Scenario> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::load(path)?,
            None => Scenario::default(),
        };
        self.publish.iter().try_for_each(|text| scenario.add_publish(text))?;
        self.watch.iter().try_for_each(|text| scenario.add_watch(text))?;
        scenario.name = self.name.clone().unwrap_or(std::mem::take(&mut scenario.name));
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
        scenario.join_seconds = self.join_seconds.unwrap_or(scenario.join_seconds);
        Ok(scenario)
    }
}

fn check(options: &ScenarioOptions) -> Result<()> {
    let scenario = options.scenario()?;
    scenario.check()?;
    println!("{} clients, {} s measured", scenario.clients(), scenario.seconds);
    Ok(())
}

fn run(options: &RunOptions) -> Result<()> {
    let outcome = load::run::run(&options.scenario.scenario()?, &mut Progress::new())?;
    print!("{}", load::text::text(&outcome));
    if let Some(path) = &options.json {
        outcome.save(path)?;
    }
    if let Some(path) = &options.html {
        load::html::save(&outcome, path)?;
    }
    let failed: usize = outcome.groups.iter().map(|group| group.failed).sum();
    ensure!(outcome.complete, "the run did not come to its end");
    ensure!(outcome.is_sound(), "{failed} clients failed, or were not served to the end");
    Ok(())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Run(options) => run(&options),
        Verb::Check(options) => check(&options),
        Verb::Floor(options) => floor(&options),
        Verb::Report { result, html } => {
            Outcome::load(&result).and_then(|outcome| load::html::save(&outcome, &html))
        }
        Verb::Compare(options) => load::compare::run(&options),
        Verb::Search { scenario, search } => {
            scenario.scenario().and_then(|scenario| load::search::run(&scenario, &search))
        }
        Verb::Peers(options) => load::peers::peers(&options),
        Verb::Hop(options) => load::hop::run(&options),
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
