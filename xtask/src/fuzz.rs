//! `cargo xtask fuzz`: the parsers of outside bytes under mutated input. `fuzz/README.md` says more.
use crate::count::Count;
use crate::run::{Run, cargo, target};

/// The driver's own workspace.
pub const MANIFEST: &str = "fuzz/Cargo.toml";

/// A verb of cargo for that workspace, with what it has in common with ours built once.
pub fn cargo_in(verb: &str, arguments: &[&str]) -> Run {
    let target = target();
    let place = ["--manifest-path", MANIFEST, "--target-dir", &target.to_string_lossy()];
    cargo(&[&[verb], &place[..], arguments].concat())
}

fn driver(arguments: &[&str]) -> Run {
    cargo_in("run", &[&["--quiet", "--"], arguments].concat())
}

/// Fuzzes one target, or `all`, with the driver's own options (`--seconds N`, `--seed S`, ...).
pub fn run(arguments: &[&str]) -> bool {
    let all = ["all"];
    let named = arguments.first().is_some_and(|it| !it.starts_with("--"));
    driver(&[if named { &[][..] } else { &all }, arguments].concat()).succeeds()
}

/// The short run of every target, as one test of `cargo xtask test`.
pub fn smoke() -> Count {
    let good = driver(&["all"]).succeeds();
    println!("test fuzz smoke ... {}", if good { "ok" } else { "FAILED" });
    Count { returned: good.into(), failed: (!good).into(), ..Count::default() }
}
