//! `millrace-link`: the emulator for a person at a terminal. `cargo xtask link` builds and runs it.
mod arguments;

use arguments::{Arguments, Outage};
use clap::Parser;
use link::Config;
use link::emulator::{Carriage, Emulator, Interrupts, Options, Side};
use std::error::Error;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

/// How often an ended command is noticed.
const LOOK: Duration = Duration::from_millis(20);
/// A command that was interrupted may end by itself for so long.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("millrace-link: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let configs = arguments.configs()?;
    let interrupts = Interrupts::catch()?;
    let names = [arguments.a.clone(), arguments.b.clone()];
    let emulator = Emulator::start(&Options { configs, seed: arguments.seed, names })?;
    for side in Side::BOTH {
        let name = emulator.namespace(side).name();
        println!("{}: ip netns exec {name} COMMAND", side.address());
    }
    let mut child = match &arguments.command[..] {
        [] => None,
        [program, rest @ ..] => Some(emulator.command(Side::A, program).args(rest).spawn()?),
    };
    let result = carry_on(&emulator, &configs, &arguments.outage_at, &interrupts, child.as_mut());
    let figures = Side::BOTH.map(|side| emulator.figures(side));
    // ends the command, too
    drop(emulator);
    if let Some(child) = &mut child {
        child.wait()?;
    }
    for (name, figures) in ["a to b", "b to a"].into_iter().zip(figures) {
        println!("{}", line(name, &figures));
    }
    result
}

/// Until an interrupt, or the command's end; its exit code.
fn carry_on(
    emulator: &Emulator,
    configs: &[Config; 2],
    outages: &[Outage],
    interrupts: &Interrupts,
    mut child: Option<&mut Child>,
) -> Result<ExitCode, Box<dyn Error>> {
    let started = Instant::now();
    let mut end: Option<Instant> = None;
    let mut out = false;
    loop {
        let elapsed = started.elapsed();
        let outage = outages.iter().any(|it| (it.start..it.end).contains(&elapsed));
        if outage != out {
            out = outage;
            for (side, config) in Side::BOTH.into_iter().zip(configs) {
                emulator.set(side, Config { outage, ..*config });
            }
        }
        if let Some(child) = &mut child
            && let Some(status) = child.try_wait()?
        {
            // a signal's: as shells say it
            return Ok(ExitCode::from(status.code().map_or(128, |code| code as u8)));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(ExitCode::from(130));
        }
        let change = outages.iter().flat_map(|it| [it.start, it.end]).filter(|at| *at > elapsed).min();
        let change = change.map(|at| at - elapsed);
        let look = (child.is_some() || end.is_some()).then_some(LOOK);
        if interrupts.wait([change, look].into_iter().flatten().min())? {
            if child.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
            end = Some(Instant::now() + GRACE);
        }
    }
}

fn line(name: &str, figures: &Carriage) -> String {
    let link = &figures.link;
    let mut text = format!(
        "{name}: {} packets, {} bytes; {} delivered, {} lost, {} queue full, {} in an outage, {} doubled, {} overtaken; \
         longest queue {:.1} ms",
        link.packets,
        link.bytes,
        figures.delivered,
        link.lost,
        link.queue_full,
        link.outage,
        link.duplicated,
        link.reordered,
        link.queue_us_max as f64 / 1e3,
    );
    // what is not the link's doing is said when there is some
    for (count, what) in [
        (figures.missed, "dropped before the link could read them"),
        (figures.refused, "refused by the receiving kernel"),
        (figures.overflow, "dropped because too many were on the way"),
    ] {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    text
}
