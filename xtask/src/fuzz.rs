//! `cargo xtask fuzz`: the parsers of outside bytes under mutated input. `fuzz/README.md` says more.
use crate::count::Count;
use crate::run::{Run, cargo};

fn driver(arguments: &[&str]) -> Run {
    cargo(&[&["run", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--release", "--"], arguments].concat())
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
