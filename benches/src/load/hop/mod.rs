//! `millrace-bench hop`: the same stream from node to node over emulated links, one arm, one cell and one seed at a time.
//!
//! Sender and receiver of frames are in this process, so that one clock is read; nodes are network namespaces with [`link::emulator`] between them.

mod arms;
mod beside;
mod cell;
mod cluster;
mod crowd;
mod frames;
mod measure;
mod path;
mod preset;
mod quinn_floor;
mod report;
mod rtmp;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use arms::Arm;
use cell::Cell;
use crowd::Crowd;
use measure::{Figures, Times};
use preset::{Plan, Preset};

/// What is run. Lists make a cell of each combination.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Ways to carry the stream; without it, all that are installed.
    #[arg(long, value_enum, value_delimiter = ',')]
    arms: Vec<Arm>,
    /// A set of cells instead of the lists below.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// The stream's bit rate; without it 4000.
    #[arg(long, value_delimiter = ',')]
    kbps: Vec<u32>,
    /// Links in a row.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    hops: Vec<usize>,
    /// Round trip of each link, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "100")]
    rtt: Vec<u32>,
    /// Loss on each link, in percent.
    #[arg(long, value_delimiter = ',', default_value = "0,2")]
    loss: Vec<f64>,
    /// Mean length of a run of lost packets; 0: each is lost by itself.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    burst: Vec<u32>,
    /// Packets come so many milliseconds sooner or later at most, and overtake.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    jitter: Vec<u32>,
    /// Capacity as a multiple of the bit rate, with a queue of 200 ms; 0: no limit.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    capacity: Vec<f64>,
    /// Loss in both directions, not only in the stream's.
    #[arg(long)]
    both: bool,
    /// A TCP-Cubic flow that takes what it gets shares the first link.
    #[arg(long)]
    beside: bool,
    /// So many streams of 2 Mbit/s by this node's relay on one link, instead of cells: control, and CPU beside quinn's own datagrams.
    #[arg(long)]
    streams: Option<u32>,
    /// Seeds of a cell, from 1; medians are told. Without it 5.
    #[arg(long)]
    seeds: Option<u64>,
    /// How long frames are measured in a run; without it 20.
    #[arg(long)]
    seconds: Option<u32>,
    /// From the first frame that comes to the first measured one.
    #[arg(long, default_value_t = 3)]
    settle_seconds: u32,
    /// How long frames are waited for in the end, beside four round trips of the path.
    #[arg(long, default_value_t = 2)]
    drain_seconds: u32,
    /// Where the table, hop.json and the plots go. Runs that are there already are not made again.
    #[arg(long, default_value = "target/hop")]
    out: PathBuf,
    /// Only makes table and plots of what is there.
    #[arg(long)]
    report: bool,
}

/// A run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Run {
    cell: Cell,
    arm: Arm,
    seed: u64,
    times: Times,
    figures: Figures,
}

/// What is kept of all runs.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
struct Results {
    runs: Vec<Run>,
    #[serde(default)]
    crowds: Vec<Crowd>,
}

impl Results {
    /// As a whole: one that is stopped leaves the file before.
    fn save(&self, file: &Path) -> Result<()> {
        let temporary = file.with_extension("part");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(&temporary, file)?)
    }

    fn has(&self, arm: Arm, cell: &Cell, seed: u64, times: Times) -> bool {
        let is_it = |run: &Run| run.arm == arm && run.cell == *cell && run.seed == seed && run.times == times;
        self.runs.iter().any(is_it)
    }
}

/// Runs what is not there yet, and reports.
pub fn run(options: &Options) -> Result<()> {
    let file = options.out.join("hop.json");
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make {}", options.out.display()))?;
    let mut results: Results = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is of another version", file.display()))?,
        Err(_) => Results::default(),
    };
    let mut failed = 0;
    if !options.report {
        let plan = Plan::new(options)?;
        let is_left = |(cell, seed, arm): &(&Cell, u64, Arm)| !results.has(*arm, cell, *seed, plan.times);
        let left: Vec<_> = plan.runs().filter(is_left).collect();
        let seconds = left.len() as u64 * plan.run_seconds();
        eprintln!(
            "{} runs, {} of them are there already; the others take about {} h {:02} min",
            plan.runs().count(),
            plan.runs().count() - left.len(),
            seconds / 3_600,
            seconds % 3_600 / 60
        );
        for (cell, seed, arm) in left {
            failed += u32::from(!run_one(arm, cell, seed, plan.times, &mut results));
            results.save(&file)?;
        }
        if let Some(streams) = plan.streams
            && !results.crowds.iter().any(|it| it.streams == streams && it.seconds == plan.times.seconds)
        {
            match crowd::measure(streams, plan.times.seconds) {
                Ok(crowd) => results.crowds.push(crowd),
                Err(error) => {
                    eprintln!("{streams} streams: FAILED: {error:#}");
                    failed += 1;
                }
            }
            results.save(&file)?;
        }
    }
    let table = report::markdown(&results);
    std::fs::write(options.out.join("hop.md"), &table)?;
    std::fs::write(options.out.join("hop.tsv"), report::tsv(&results))?;
    let plots = report::plots(&results);
    for (name, svg) in &plots {
        std::fs::write(options.out.join(name), svg)?;
    }
    print!("{table}");
    println!("{} runs and {} plots in {}", results.runs.len(), plots.len(), options.out.display());
    ensure!(failed == 0, "{failed} runs failed");
    Ok(())
}

/// False when it failed.
fn run_one(arm: Arm, cell: &Cell, seed: u64, times: Times, results: &mut Results) -> bool {
    match measure::measure(arm, cell, seed, times) {
        Ok(figures) => {
            eprintln!("{cell}; {}; seed {seed}: {}", arm.name(), report::line(&figures));
            results.runs.push(Run { cell: *cell, arm, seed, times, figures });
            true
        }
        Err(error) => {
            eprintln!("{cell}; {}; seed {seed}: FAILED: {error:#}", arm.name());
            false
        }
    }
}
