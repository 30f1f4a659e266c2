//! `cargo xtask test`: every test, and one line at the end.
use crate::bench;
use crate::count::Count;
use crate::fuzz;
use crate::run::{cargo, target};
use crate::tools;

/// Runs the tests, all or those whose name contains `name`; true when none failed, and in CI none was skipped.
pub fn run(ci: bool, name: Option<&str>) -> bool {
    tools::install();

    // built once, and given to the tests by name: a test never runs against an old node
    if !cargo(&["build", "--package", "millrace", "--bin", "millrace"]).succeeds() {
        println!("the node does not build");
        println!("{}", Count { failed: 1, ..Count::default() });
        return false;
    }
    let binary = target().join("debug/millrace");
    let test = |arguments: &[&str], threads: &str| {
        let mut all = vec!["test", "--no-fail-fast"];
        all.extend(arguments);
        all.extend(name);
        all.push("--");
        all.push(threads);
        cargo(&all).with("NODE_UNDER_TEST", &binary.to_string_lossy()).counted()
    };

    let mut count = test(&["--workspace", "--exclude", "millrace-tests"], "--test-threads=2");
    // the harness against Janus and nginx, and the link emulator, are there
    let real = |line: &&String| {
        ["peers::", "emulator::", "bad_link::"].iter().any(|program| line.starts_with(program))
    };
    let outside = count.skipped.iter().filter(real).count();
    count.add(test(
        &["--package", "millrace-tests", "--lib", "--test", "tidy", "--test", "wire", "--test", "node"],
        "--test-threads=2",
    ));
    let interop = test(&["--package", "millrace-tests", "--test", "interop"], "--test-threads=2");
    let skipped = outside + interop.skipped.len();
    count.add(interop);
    if name.is_none_or(|name| "fuzz smoke".contains(name)) {
        count.add(fuzz::smoke());
    }
    if name.is_none_or(bench::is_gate) {
        count.add(bench::gate(ci, &[]));
    }

    println!();
    for line in &count.skipped {
        println!("skipped {line}");
    }
    if ci && skipped > 0 {
        println!("in CI no interop test may be skipped");
    }
    println!("{count}");
    count.failed == 0 && !(ci && skipped > 0)
}
