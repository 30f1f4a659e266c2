//! `millrace-bench hop`: the same stream from node to node over emulated links, one arm, one cell and one seed at a time.
//!
//! Sender and receiver of frames are in this process, so that one clock is read; nodes are network namespaces with [`link::emulator`] between them.

mod arms;
mod beside;
mod cell;
mod cluster;
mod frames;
mod measure;
mod path;
mod report;
mod rtmp;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use arms::Arm;
use cell::Cell;
use measure::{Figures, Times};

/// What is run. Lists make a cell of each combination.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Ways to carry the stream; without it, all that are installed.
    #[arg(long, value_enum, value_delimiter = ',')]
    arms: Vec<Arm>,
    /// The stream's bit rate.
    #[arg(long, value_delimiter = ',', default_value = "4000")]
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
    /// All cells of the experiment in docs/BENCHMARKS.md at these bit rates, instead of those of the lists. It takes many hours.
    #[arg(long)]
    all: bool,
    /// Seeds of a cell, from 1; medians are told.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// How long frames are measured in a run.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
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
}

impl Options {
    fn cells(&self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for kbps in self.kbps.iter().copied() {
            if self.all {
                cells.extend(experiment(kbps));
            } else {
                self.combine(kbps, &mut cells);
            }
        }
        cells.iter().try_for_each(Cell::check)?;
        Ok(cells)
    }

    fn combine(&self, kbps: u32, cells: &mut Vec<Cell>) {
        for hops in self.hops.iter().copied() {
            for rtt_ms in self.rtt.iter().copied() {
                for jitter_ms in self.jitter.iter().copied() {
                    for capacity in self.capacity.iter().copied() {
                        for burst in self.burst.iter().copied() {
                            for loss_percent in self.loss.iter().copied() {
                                // where nothing is lost there are no runs of it
                                let burst = if loss_percent > 0.0 { burst } else { 0 };
                                let both = self.both && loss_percent > 0.0;
                                let cell = Cell {
                                    kbps,
                                    hops,
                                    rtt_ms,
                                    loss_percent,
                                    burst,
                                    jitter_ms,
                                    capacity,
                                    both,
                                    beside: self.beside,
                                };
                                if !cells.contains(&cell) {
                                    cells.push(cell);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Those that were asked for, or that can be run.
    fn arms(&self) -> Result<Vec<Arm>> {
        if !self.arms.is_empty() {
            self.arms
                .iter()
                .try_for_each(|arm| arm.check().with_context(|| format!("{} cannot be run", arm.name())))?;
            return Ok(self.arms.clone());
        }
        let can = |arm: &Arm| match arm.check() {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{} is left out: {error:#}", arm.name());
                false
            }
        };
        Ok(Arm::ALL.into_iter().filter(can).collect())
    }
}

/// One and three hops over every loss; reordering; tight links.
fn experiment(kbps: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    let rtts = [20, 100, 200];
    for hops in [1, 3] {
        for rtt_ms in rtts {
            let clean = Cell {
                kbps,
                hops,
                rtt_ms,
                loss_percent: 0.0,
                burst: 0,
                jitter_ms: 0,
                capacity: 0.0,
                both: false,
                beside: false,
            };
            cells.push(clean);
            for burst in [0, 8] {
                cells.extend([1.0, 2.0, 5.0].map(|loss_percent| Cell { loss_percent, burst, ..clean }));
            }
            if hops == 1 {
                cells.push(Cell { loss_percent: 1.0, jitter_ms: 10, ..clean });
                for capacity in [1.15, 1.5] {
                    cells.extend([0.0, 1.0].map(|loss_percent| Cell { loss_percent, capacity, ..clean }));
                }
            }
        }
    }
    cells
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
        let (cells, arms) = (options.cells()?, options.arms()?);
        let times = Times {
            settle_seconds: options.settle_seconds,
            seconds: options.seconds,
            drain_seconds: options.drain_seconds,
        };
        // all arms of a cell and seed one after the other, so that a busy hour meets them alike
        for cell in &cells {
            for seed in 1..=options.seeds {
                for arm in arms.iter().copied() {
                    failed += u32::from(!run_one(arm, cell, seed, times, &mut results));
                    let temporary = file.with_extension("part");
                    std::fs::write(&temporary, serde_json::to_vec(&results)?)?;
                    std::fs::rename(&temporary, &file)?;
                }
            }
        }
    }
    let table = report::table(&results);
    std::fs::write(options.out.join("hop.txt"), &table)?;
    let plots = report::plots(&results);
    for (name, svg) in &plots {
        std::fs::write(options.out.join(name), svg)?;
    }
    print!("{table}");
    println!("{} runs and {} plots in {}", results.runs.len(), plots.len(), options.out.display());
    ensure!(failed == 0, "{failed} runs failed");
    Ok(())
}

/// Unless it is there already; false when it failed.
fn run_one(arm: Arm, cell: &Cell, seed: u64, times: Times, results: &mut Results) -> bool {
    let is_it = |run: &Run| run.arm == arm && run.cell == *cell && run.seed == seed && run.times == times;
    if results.runs.iter().any(is_it) {
        return true;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn cells(line: &str) -> Result<Vec<Cell>> {
        Cli::parse_from(line.split_whitespace()).options.cells()
    }

    #[test]
    fn lists_make_a_cell_of_each_combination() {
        let some = cells("hop --rtt 20,100 --loss 0,2 --burst 0,8 --kbps 2000 --both").unwrap();
        assert_eq!(some.len(), 2 * 3, "no loss has no bursts: {some:?}");
        assert!(some.iter().all(|cell| cell.both == (cell.loss_percent > 0.0)));
        assert!(cells("hop --rtt 10 --jitter 10").is_err());
    }

    #[test]
    fn the_experiment_has_each_cell_once() {
        let all = cells("hop --all --kbps 2000,4000").unwrap();
        assert_eq!(all.len(), 2 * (2 * 3 * 7 + 3 * 5));
        assert!(all.iter().enumerate().all(|(at, cell)| !all[..at].contains(cell)));
        // files are named after them
        let names: std::collections::HashSet<String> = all.iter().map(Cell::slug).collect();
        assert_eq!(names.len(), all.len());
    }
}
