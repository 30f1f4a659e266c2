//! `cargo xtask test`: every test, and one line at the end.
use crate::bench;
use crate::count::Count;
use crate::fuzz;
use crate::run::{cargo, target};
use crate::tools;

/// Runs the tests, all or those whose name contains `name`; true when none failed, and in CI none was skipped.
pub fn run(ci: bool, name: Option<&str>) -> bool {
    // Built once, and given to the tests by name: a test never runs against an old node. What cargo is told to look at is the whole workspace each time: for
    // less it would build what they share again, with fewer features.
    let build = || {
        let tests = cargo(&["test", "--workspace", "--no-run"]).succeeds();
        cargo(&["build", "--workspace", "--bin", "millrace"]).succeeds() && tests
    };
    // what waits for the network beside what waits for the processor
    let is_built = std::thread::scope(|scope| {
        let installing = scope.spawn(tools::install);
        let is_built = build();
        installing.join().map(|()| is_built).unwrap_or(false)
    });
    if !is_built {
        println!("the node or a test does not build");
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

    let mut count = test(&["--workspace", "--lib", "--bins"], "--test-threads=2");
    count.add(test(&["--workspace", "--exclude", "millrace-tests", "--test", "*"], "--test-threads=2"));
    count.add(test(&["--workspace", "--doc"], "--test-threads=2"));
    // the harness against Janus and nginx, and the link emulator, are there
    let real = |line: &&String| {
        ["peers::", "emulator::", "bad_link::"].iter().any(|program| line.starts_with(program))
    };
    let outside = count.skipped.iter().filter(real).count();
    count.add(test(
        &["--workspace", "--test", "tidy", "--test", "wire", "--test", "node"],
        // they wait for most of their time: two thirds of a core are enough for these
        "--test-threads=3",
    ));
    let interop = test(&["--workspace", "--test", "interop"], "--test-threads=2");
    let skipped = outside + interop.skipped.len();
    count.add(interop);
    if name.is_none_or(|name| "fuzz smoke".contains(name)) {
        count.add(fuzz::smoke());
    }
    // last, and by itself: beside it, tests that wait for something in a given time would not have it
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
