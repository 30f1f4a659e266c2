//! `cargo xtask link`: the link emulator for a person at a terminal.
use crate::run::{cargo, target};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Builds `millrace-link` and becomes it, so that Ctrl-C and the exit code are its own.
pub fn run(arguments: &[&str]) -> bool {
    if !cargo(&["build", "--quiet", "--release", "--package", "millrace-link"]).succeeds() {
        return false;
    }
    let program = target().join("release/millrace-link");
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("cannot run {}: {error}", program.display());
    false
}
