//! `cargo xtask sim`: the forwarding core in a simulated world. `sim/` has the scenarios.
use crate::run::cargo;

/// Measures, prints and compares, with the program's own options.
pub fn run(arguments: &[&str]) -> bool {
    // the profile of tests: it takes half a minute, and needs no other build of everything below
    let run = ["run", "--quiet", "--package", "millrace-sim", "--bin", "millrace-sim", "--"];
    cargo(&[&run, arguments].concat()).succeeds()
}
