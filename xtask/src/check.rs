//! `cargo xtask check`: what can be said without running the node.
use crate::fuzz;
use crate::run::{cargo, program};

/// Runs every check, also after one failed; closes with the count. True when all that ran passed.
pub fn run() -> bool {
    let mut results: Vec<(&str, Option<bool>)> = vec![
        ("formatting", Some(cargo(&["fmt", "--all", "--check"]).succeeds())),
        (
            "clippy",
            Some(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).succeeds()),
        ),
        // its own workspace, which no build of the node sees
        (
            "formatting of fuzz",
            Some(cargo(&["fmt", "--manifest-path", fuzz::MANIFEST, "--check"]).succeeds()),
        ),
        ("clippy of fuzz", Some(fuzz::cargo_in("clippy", &["--", "-D", "warnings"]).succeeds())),
    ];
    let deny = program("cargo-deny", &["--version"]).answers();
    let bans = || cargo(&["deny", "check", "licenses", "bans", "sources"]).succeeds();
    results.push(("licences and bans", deny.then(bans)));
    results.push((
        "tidy",
        Some(cargo(&["test", "--quiet", "--package", "millrace-tests", "--test", "tidy"]).succeeds()),
    ));

    println!();
    for (name, result) in &results {
        println!(
            "{name}: {}",
            match result {
                Some(true) => "passed",
                Some(false) => "FAILED",
                None => "skipped: cargo-deny is not installed",
            }
        );
    }
    let count = |wanted| results.iter().filter(|(_, result)| *result == wanted).count();
    let (passed, failed, skipped) = (count(Some(true)), count(Some(false)), count(None));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}
