//! `cargo xtask bench peers` and `cargo xtask bench hop`: this node beside the peers that Debian has.
use crate::run::{cargo, program, target};
use crate::tools;

/// Installs the peers where it may, builds for release, compares; `options` are those of `millrace-bench peers`.
pub fn run(options: &[&str]) -> bool {
    let Some(bench) = build() else { return false };
    let node = target().join("release/millrace");
    let node = node.to_string_lossy();
    let mut arguments = vec!["peers"];
    if !options.contains(&"--start") {
        arguments.extend(["--start", &node]);
    }
    arguments.extend(options);
    program(&bench, &arguments).succeeds()
}

/// Likewise for ways from node to node; `options` are those of `millrace-bench hop`.
pub fn hop(options: &[&str]) -> bool {
    build().is_some_and(|bench| program(&bench, &[&["hop"], options].concat()).succeeds())
}

/// The harness, with the node beside it.
fn build() -> Option<String> {
    tools::install_peers();
    let build = ["build", "--release", "--package", "millrace", "--package", "millrace-benches", "--bins"];
    cargo(&build).succeeds().then(|| target().join("release/millrace-bench").to_string_lossy().into_owned())
}
