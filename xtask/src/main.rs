//! `cargo xtask VERB`: what a developer and CI both run. Standard library only.
mod bench;
mod check;
mod count;
mod fuzz;
mod link;
mod peers;
mod run;
mod sim;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask VERB

  check          formatting, clippy (warnings are errors; fuzz/ too), licences and bans (cargo-deny, where it is installed), tests/tidy
  test [--ci]    every test: units, tidy, formats, the node from outside, interop with ffmpeg, Chromium and Firefox, and
                 the fuzz smoke and the instruction counts. It installs what they need when it may (root, apt-get,
                 npm); without that the tests that need it are skipped, by name.
                 --ci, or CI=true in the environment: a skipped interop test or instruction count is a failure
       [NAME]    only tests whose name contains NAME
  fuzz [TARGET] [--seconds N]
                 mutated input for the parsers of outside bytes: all targets, 0.5 s each, unless told otherwise
  sim [--scenario NAME] [--seed N | --seeds N-M] [--accept]
                 the forwarding core on bad networks, in virtual time: every scenario with the committed seeds, against
                 sim/scoreboard.txt. --seed N: one run with a log. --accept: what is measured now becomes that file
  bench [NAME [-- OPTIONS]]
                 the benchmarks of benches/: fan_out, the packet path against the kernel; micro, ns by stage
  bench instructions [--ci] [--accept]
                 instructions by stage, under valgrind, against benches/instructions.txt: more than 10 % more is a
                 failure. --accept: what is counted now becomes that file
  bench hop [OPTIONS]
                 a stream from node to node over emulated links (root, TUN devices), by this node's relay, RTMP, nginx-rtmp and
                 SRT: installs peers where it may, and runs `millrace-bench hop OPTIONS`. --preset quick is ten minutes,
                 --preset full more than a day; table (Markdown, TSV) and plots (SVG) are in target/hop, or where --out says
  bench peers [OPTIONS]
                 this node beside Janus and nginx-rtmp, by the same clients: installs those where it may, and runs
                 `millrace-bench peers OPTIONS`
  link [OPTIONS] [-- COMMAND ...]
                 a bad network between two network namespaces (root, TUN devices): --delay 50ms --loss 2% --bursts 8
                 --rate 4mbit --queue 200ms --jitter 10ms --reorder --outage-at 5s,1s --seed N; --help has them all.
                 Runs COMMAND in the first namespace, or until Ctrl-C, and prints what became of the packets
  help           this text

`check` and `test` close with a line `N passed, N failed, N skipped`, and fail when something failed.
";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    arguments.retain(|argument| {
        ci |= argument == "--ci";
        argument != "--ci"
    });
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let good = match words[..] {
        ["link", ref arguments @ ..] => link::run(arguments),
        [_, "--help" | "-h"] | [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            true
        }
        ["check"] => check::run(),
        ["test"] => test::run(ci, None),
        ["test", name] => test::run(ci, Some(name)),
        ["fuzz", ref arguments @ ..] => fuzz::run(arguments),
        ["sim", ref arguments @ ..] => sim::run(arguments),
        ["bench", "hop", ref options @ ..] => peers::hop(options),
        ["bench", "peers", ref options @ ..] => peers::run(options),
        ["bench", ref arguments @ ..] => bench::run(ci, arguments),
        _ => {
            eprintln!("cargo xtask: cannot make sense of `{}`\n\n{HELP}", words.join(" "));
            false
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
