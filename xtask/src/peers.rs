//! `cargo xtask bench peers`: this node beside the peers that Debian has.
use crate::run::{cargo, program, target};
use crate::tools;

/// Installs the peers where it may, builds for release, compares; `options` are those of `millrace-bench peers`.
pub fn run(options: &[&str]) -> bool {
    tools::install_peers();
    let build = ["build", "--release", "--package", "millrace", "--package", "millrace-benches", "--bins"];
    if !cargo(&build).succeeds() {
        return false;
    }
    let (bench, node) = (target().join("release/millrace-bench"), target().join("release/millrace"));
    let node = node.to_string_lossy();
    let mut arguments = vec!["peers"];
    if !options.contains(&"--start") {
        arguments.extend(["--start", &node]);
    }
    arguments.extend(options);
    program(&bench.to_string_lossy(), &arguments).succeeds()
}
