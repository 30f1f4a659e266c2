//! Which cells are run by which arms: the lists of the command line, or a preset.

use anyhow::{Context, Result};

use super::Options;
use super::arms::Arm;
use super::cell::Cell;
use super::measure::Times;

/// Until programs run and their links are up, beside what [`Times`] says.
const START_S: u64 = 2;

/// On one link, in a preset.
const STREAMS: u32 = 50;

/// A set of cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Preset {
    /// The cells that the relay is promised by, one seed of 10 s at 4 Mbit/s: about ten minutes.
    Quick,
    /// Those and all of the experiment, five seeds of 20 s, at 2 and 4 Mbit/s: more than a day. It goes on where it was stopped.
    Full,
}

/// What is to be run.
pub struct Plan {
    /// Cells, each with the arms that run it.
    pub cells: Vec<(Cell, Vec<Arm>)>,
    /// From 1 to this one.
    pub seeds: u64,
    /// That many at once on a link, when the cells are done.
    pub streams: Option<u32>,
    /// Of each run.
    pub times: Times,
}

impl Plan {
    /// What the options ask for, by those arms that can be run.
    pub fn new(options: &Options) -> Result<Plan> {
        Plan::by(installed(&options.arms)?, options)
    }

    fn by(arms: Vec<Arm>, options: &Options) -> Result<Plan> {
        let millrace = arms.contains(&Arm::Millrace);
        let cells = match options.preset {
            None if options.streams.is_some() => Vec::new(),
            None => {
                let all = |cell| (cell, arms.clone());
                combine(options, &rates(options, &[4_000])).into_iter().map(all).collect()
            }
            Some(Preset::Quick) => {
                let mut cells = Vec::new();
                for kbps in rates(options, &[4_000]) {
                    cells.extend(promised(kbps).map(|(cell, of)| {
                        let of = if of.is_empty() { Arm::ALL.to_vec() } else { of.to_vec() };
                        // bare UDP is no rival, and Cubic is seen without nginx
                        let is_left_out = |arm: &Arm| matches!(arm, Arm::Udp | Arm::NginxCubic);
                        let asked = |arm: &Arm| !options.arms.is_empty() || !is_left_out(arm);
                        let runs = |arm: &Arm| of.contains(arm) && asked(arm);
                        (cell, arms.iter().copied().filter(runs).collect())
                    }));
                }
                cells
            }
            Some(Preset::Full) => {
                let mut cells: Vec<(Cell, Vec<Arm>)> = Vec::new();
                for kbps in rates(options, &[2_000, 4_000]) {
                    for cell in promised(kbps).into_iter().map(|(cell, _)| cell).chain(experiment(kbps)) {
                        if !cells.iter().any(|(other, _)| *other == cell) {
                            cells.push((cell, arms.clone()));
                        }
                    }
                }
                cells
            }
        };
        cells.iter().try_for_each(|(cell, _)| cell.check())?;
        let quick = options.preset == Some(Preset::Quick);
        Ok(Plan {
            cells,
            streams: options.streams.or(options.preset.map(|_| STREAMS)).filter(|_| millrace),
            seeds: options.seeds.unwrap_or(if quick { 1 } else { 5 }),
            times: Times {
                settle_seconds: options.settle_seconds,
                seconds: options.seconds.unwrap_or(if quick { 10 } else { 20 }),
                drain_seconds: options.drain_seconds,
            },
        })
    }

    /// In the order in which they are run: all arms of a cell and seed one after the other, so that a busy hour meets them alike.
    pub fn runs(&self) -> impl Iterator<Item = (&Cell, u64, Arm)> {
        let seeds = 1..=self.seeds;
        self.cells.iter().flat_map(move |(cell, arms)| {
            seeds.clone().flat_map(move |seed| arms.iter().map(move |arm| (cell, seed, *arm)))
        })
    }

    /// How long a run takes at most, when it comes to its end. Most drain at once.
    pub fn run_seconds(&self) -> u64 {
        START_S + u64::from(self.times.settle_seconds) + u64::from(self.times.seconds) + 1
    }
}

/// Those that were asked for, or that can be run.
fn installed(asked: &[Arm]) -> Result<Vec<Arm>> {
    if !asked.is_empty() {
        asked
            .iter()
            .try_for_each(|arm| arm.check().with_context(|| format!("{} cannot be run", arm.name())))?;
        return Ok(asked.to_vec());
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

fn rates(options: &Options, default: &[u32]) -> Vec<u32> {
    if options.kbps.is_empty() { default.to_vec() } else { options.kbps.clone() }
}

fn clean(kbps: u32, hops: usize, rtt_ms: u32) -> Cell {
    Cell {
        kbps,
        hops,
        rtt_ms,
        loss_percent: 0.0,
        burst: 0,
        jitter_ms: 0,
        capacity: 0.0,
        both: false,
        beside: false,
    }
}

/// A cell of each combination of the lists.
fn combine(options: &Options, rates: &[u32]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for kbps in rates.iter().copied() {
        for hops in options.hops.iter().copied() {
            for rtt_ms in options.rtt.iter().copied() {
                for jitter_ms in options.jitter.iter().copied() {
                    for capacity in options.capacity.iter().copied() {
                        for burst in options.burst.iter().copied() {
                            for loss_percent in options.loss.iter().copied() {
                                // where nothing is lost there are no runs of it
                                let burst = if loss_percent > 0.0 { burst } else { 0 };
                                let both = options.both && loss_percent > 0.0;
                                let cell = Cell {
                                    loss_percent,
                                    burst,
                                    jitter_ms,
                                    capacity,
                                    both,
                                    beside: options.beside,
                                    ..clean(kbps, hops, rtt_ms)
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
    cells
}

/// The cells that the relay is promised by, each with the arms that its promise speaks of; none: all.
fn promised(kbps: u32) -> [(Cell, &'static [Arm]); 10] {
    let far = clean(kbps, 1, 100);
    let beside_tcp: &[Arm] = &[Arm::Millrace, Arm::RtmpBbr];
    // 15 Mbit/s
    let shared = Cell { capacity: 15_000.0 / f64::from(kbps), beside: true, ..far };
    [
        (far, &[]),
        (Cell { loss_percent: 2.0, ..far }, &[]),
        (Cell { loss_percent: 5.0, ..far }, &[]),
        (Cell { loss_percent: 1.0, jitter_ms: 10, ..far }, &[]),
        (Cell { loss_percent: 2.0, burst: 8, ..far }, beside_tcp),
        (Cell { capacity: 1.15, ..far }, beside_tcp),
        (Cell { capacity: 1.5, ..far }, beside_tcp),
        (shared, beside_tcp),
        (Cell { loss_percent: 2.0, ..clean(kbps, 1, 20) }, beside_tcp),
        (Cell { loss_percent: 2.0, ..clean(kbps, 3, 50) }, beside_tcp),
    ]
}

/// One and three hops over every loss; reordering; tight links.
fn experiment(kbps: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    for hops in [1, 3] {
        for rtt_ms in [20, 100, 200] {
            let clean = clean(kbps, hops, rtt_ms);
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Cli::parse_from(line.split_whitespace()).options
    }

    fn plan(line: &str) -> Result<Plan> {
        Plan::new(&options(line))
    }

    #[test]
    fn lists_make_a_cell_of_each_combination() {
        let some = plan("hop --arms udp --rtt 20,100 --loss 0,2 --burst 0,8 --kbps 2000 --both").unwrap();
        assert_eq!(some.cells.len(), 2 * 3, "no loss has no bursts");
        assert!(some.cells.iter().all(|(cell, _)| cell.both == (cell.loss_percent > 0.0)));
        assert_eq!((some.seeds, some.runs().count()), (5, 2 * 3 * 5));
        assert!(plan("hop --arms udp --rtt 10 --jitter 10").is_err());
    }

    #[test]
    fn the_full_preset_has_each_cell_once() {
        let all = plan("hop --preset full --arms udp,rtmp-bbr").unwrap();
        let cells: Vec<Cell> = all.cells.iter().map(|(cell, _)| *cell).collect();
        // promised, and not in the experiment: the shared link, and three hops of 50 ms
        assert_eq!(cells.len(), 2 * (2 * 3 * 7 + 3 * 5 + 2));
        assert!(cells.iter().enumerate().all(|(at, cell)| !cells[..at].contains(cell)));
        // files are named after them
        let names: std::collections::HashSet<String> = cells.iter().map(Cell::slug).collect();
        assert_eq!(names.len(), cells.len());
        assert_eq!(all.runs().count(), cells.len() * 5 * 2);
    }

    #[test]
    fn the_quick_preset_is_over_in_ten_minutes() {
        // all are installed
        let quick = Plan::by(Arm::ALL.to_vec(), &options("hop --preset quick")).unwrap();
        let runs = quick.runs().count() as u64;
        assert!(runs * quick.run_seconds() <= 600, "{runs} runs of {} s", quick.run_seconds());
    }
}
