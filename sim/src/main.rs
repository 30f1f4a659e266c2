//! `millrace-sim`: what `cargo xtask sim` runs. It measures every scenario, prints the scoreboard and compares it with the committed one.

use std::path::Path;
use std::process::ExitCode;

use sim::scenario::{self, SEEDS, Scenario};
use sim::scoreboard::{self, Row};

const HELP: &str = "\
cargo xtask sim [--scenario NAME] [--seed N | --seeds N-M] [--accept]

  runs the scenarios with the committed seeds, prints the scoreboard, and fails when a gate is missed or sim/scoreboard.txt says otherwise
  --scenario NAME  only this one
  --seed N         one run from this seed, with a log of events; for all scenarios or for NAME
  --seeds N-M      runs from these seeds, with what each gave; nothing is compared
  --accept         what was measured becomes sim/scoreboard.txt
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut name, mut seed, mut seeds, mut accept) = (None, None, None, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match (argument.as_str(), argument == "--accept") {
            (_, true) => accept = true,
            ("--scenario", _) => name = rest.next().cloned(),
            ("--seed", _) => seed = rest.next().and_then(|it| it.parse::<u64>().ok()),
            ("--seeds", _) => seeds = rest.next().and_then(|it| range(it)),
            _ => {
                print!("{HELP}");
                return ExitCode::FAILURE;
            }
        }
    }
    let chosen: Vec<&Scenario> =
        scenario::all().filter(|it| name.as_ref().is_none_or(|name| it.name == name)).collect();
    if chosen.is_empty() {
        eprintln!("no such scenario; there are:");
        scenario::all().for_each(|it| eprintln!("  {:<18} {}", it.name, it.about));
        return ExitCode::FAILURE;
    }
    if let Some(seed) = seed {
        for one in chosen {
            println!("{}, seed {seed}: {}", one.name, one.about);
            scoreboard::rows(one, &[(seed, one.run(seed, true))])
                .iter()
                .for_each(|row| println!("{}", row.line()));
        }
        return ExitCode::SUCCESS;
    }
    if let Some(seeds) = seeds {
        let rows: Vec<Row> = chosen.iter().flat_map(|one| scoreboard::measure(one, &seeds)).collect();
        print!("{}", scoreboard::text(&chosen, &rows, &seeds));
        for row in &rows {
            let each = row.by_seed.iter().filter_map(|(seed, it)| it.map(|it| format!("{seed}: {it:.2}")));
            println!("{}, {}: {}", row.scenario, row.what, each.collect::<Vec<_>>().join("  "));
        }
        return ExitCode::SUCCESS;
    }
    let rows: Vec<Row> = chosen.iter().flat_map(|one| scoreboard::measure(one, &SEEDS)).collect();
    let text = scoreboard::text(&chosen, &rows, &SEEDS);
    print!("{text}");
    let missed = rows.iter().filter(|row| !row.is_reached()).count();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scoreboard.txt");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let is_known = |line: &&str| before.lines().any(|it| it == *line);
    let changed: Vec<&str> = text.lines().filter(|line| !is_known(line)).collect();
    println!();
    if accept && name.is_none() {
        if let Err(error) = std::fs::write(&path, &text) {
            eprintln!("sim/scoreboard.txt: {error}");
            return ExitCode::FAILURE;
        }
    } else if !changed.is_empty() {
        println!("sim/scoreboard.txt has it otherwise (--accept without --scenario writes it):");
        changed.iter().for_each(|line| println!("{line}"));
    }
    println!("{} figures, {missed} gates missed", rows.len());
    if missed == 0 && (accept || changed.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seeds, as `N-M`.
fn range(text: &str) -> Option<Vec<u64>> {
    let (first, last) = text.split_once('-')?;
    Some((first.parse().ok()?..=last.parse().ok()?).collect())
}
