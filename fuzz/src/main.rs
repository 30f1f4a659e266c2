//! The driver on stable Rust: `cargo run --release -- TARGET|all [--seconds N] [--seed S] [--replay] [--file PATH]`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use millrace_fuzz::run::{Outcome, Runner, seeds};
use millrace_fuzz::{TARGETS, Target, target};

const USAGE: &str = "usage: millrace-fuzz TARGET|all [--seconds N] [--seed S] [--replay] [--file PATH]
       millrace-fuzz make-seeds
       millrace-fuzz list
--seconds  how long to fuzz each target (0.5)
--seed     what to mutate by (1): the same seed tries the same inputs in the same order
--replay   only run the seeds
--file     only run this input";

struct Arguments {
    targets: Vec<&'static Target>,
    seconds: f64,
    seed: u64,
    replay: bool,
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::args().nth(1).as_deref() {
        Some("list") => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            return ExitCode::SUCCESS;
        }
        Some("make-seeds") => {
            return match millrace_fuzz::seeds::write(&folder.join("seeds")) {
                Ok(count) => {
                    println!("{count} seeds");
                    ExitCode::SUCCESS
                }
                Err(why) => {
                    println!("{why}");
                    ExitCode::FAILURE
                }
            };
        }
        _ => {}
    }
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        println!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let failed: Vec<&str> = arguments
        .targets
        .iter()
        .filter(|target| !run(target, &arguments, folder))
        .map(|target| target.name)
        .collect();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let targets = match words.next()?.as_str() {
        "all" => TARGETS.iter().collect(),
        name => vec![target(name)?],
    };
    let mut arguments = Arguments { targets, seconds: 0.5, seed: 1, replay: false, file: None };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => {
                arguments.seconds = words.next()?.parse().ok().filter(|s: &f64| (0.0..1e9).contains(s))?
            }
            "--seed" => arguments.seed = words.next()?.parse().ok()?,
            "--replay" => arguments.replay = true,
            "--file" => arguments.file = Some(words.next()?.into()),
            _ => return None,
        }
    }
    Some(arguments)
}

/// Runs one target and prints its line; whether nothing failed.
fn run(target: &'static Target, arguments: &Arguments, folder: &Path) -> bool {
    let start = Instant::now();
    let mut runner = Runner::new(target, folder, arguments.seed);
    let Outcome { runs, failures } = if let Some(file) = &arguments.file {
        match std::fs::read(file) {
            Ok(data) => _ = runner.run(&data),
            Err(why) => {
                println!("{}: {why}", file.display());
                return false;
            }
        }
        runner.outcome()
    } else {
        let seeds = seeds(target, folder);
        if seeds.is_empty() {
            println!("{}: no seeds in {}", target.name, folder.join("seeds").join(target.name).display());
            return false;
        }
        let seconds = if arguments.replay { 0.0 } else { arguments.seconds };
        runner.fuzz(&seeds, Duration::from_secs_f64(seconds))
    };
    let per_second = runs as f64 / start.elapsed().as_secs_f64().max(1e-6);
    println!("{:<18} {runs:>9} runs {per_second:>9.0}/s {failures:>3} failures", target.name);
    failures == 0
}
