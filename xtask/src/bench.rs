//! `cargo xtask bench`: the benchmarks of `benches/`, and the gate on instructions. docs/BENCHMARKS.md says more.
use crate::count::Count;
use crate::run::{Run, cargo, program};

const GATE: &str = "instruction counts";

fn benchmarks(arguments: &[&str]) -> Run {
    cargo(&[&["bench", "--package", "millrace-benches"], arguments].concat())
}

/// All benchmarks, or the named one with its own options behind `--`; or the gate.
pub fn run(ci: bool, arguments: &[&str]) -> bool {
    match *arguments {
        ["instructions", ref options @ ..] => gate(ci, options).failed == 0,
        [name, ref options @ ..] => benchmarks(&[&["--bench", name], options].concat()).succeeds(),
        [] => benchmarks(&[]).succeeds(),
    }
}

/// Whether `cargo xtask test NAME` asks for the gate.
pub fn is_gate(name: &str) -> bool {
    GATE.contains(name)
}

/// Instructions by stage against the committed ones, as one test of `cargo xtask test`. In CI valgrind must be there.
pub fn gate(ci: bool, options: &[&str]) -> Count {
    if !program("valgrind", &["--version"]).answers() {
        if ci {
            println!("test {GATE} ... FAILED: valgrind is not installed");
            return Count { failed: 1, ..Count::default() };
        }
        let skipped = vec![format!("{GATE}: valgrind is not installed")];
        println!("SKIPPED {}", skipped[0]);
        return Count { returned: 1, skipped, ..Count::default() };
    }
    let good = benchmarks(&[&["--bench", "micro", "--", "--instructions"], options].concat()).succeeds();
    println!("test {GATE} ... {}", if good { "ok" } else { "FAILED" });
    Count { returned: good.into(), failed: (!good).into(), ..Count::default() }
}
