//! What each stage of the path takes: nanoseconds of CPU time, and instructions. `benches::stages` says what the stages are.
//!
//! `cargo xtask bench micro [-- --stage NAME --rounds 21]`: the table of times.
//! `cargo xtask bench instructions [--accept]`: counts under valgrind against `instructions.txt`; fails when a stage grew.
//!
//! Time is measured as in `fan_out`: CPU time of the thread, stages in turns from either end, medians of rounds; neighbours on a shared machine
//! hardly move that, while they move the wall-clock time of criterion and divan by tens of per cent. Instructions are counted by callgrind, which counts
//! while `measured_part` runs and not in the handshakes before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use benches::baseline::Figures;
use benches::floor::thread_cpu_ns;
use benches::stages::{STAGES, Stage, Workload, measured_part, stage_named};

/// Of a stage and round: long against the clock's call.
const MEASURE_NS_MIN: u64 = 2_000_000;
/// Passes that are counted, after one that is not and brings tables to their size.
const COUNTED_PASSES: usize = 3;
/// Copies by loads and stores at any length: valgrind counts `rep movsb`, which glibc takes from 2 KiB on, as an instruction a byte.
const TUNABLES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000";
/// What callgrind looks for among the demangled names.
const COUNTED_FUNCTION: &str = "benches::stages::measured_part*";

enum Mode {
    /// ns per unit.
    Time,
    /// Instructions per unit, against the baseline; or a new one.
    Count { accept: bool },
    /// The child of `Count`.
    Counted(&'static Stage),
}

struct Options {
    mode: Mode,
    stages: Vec<&'static Stage>,
    rounds: usize,
}

fn main() -> Result<ExitCode> {
    let Options { mode, stages, rounds } = options()?;
    match mode {
        Mode::Time => time(&stages, rounds)?,
        Mode::Counted(stage) => counted(stage),
        Mode::Count { accept } => return count(&stages, accept),
    }
    Ok(ExitCode::SUCCESS)
}

fn options() -> Result<Options> {
    let mut options = Options { mode: Mode::Time, stages: Vec::new(), rounds: 22 };
    if std::env::args().len() == 1 {
        // Not `cargo bench` but `cargo test --benches`: that it runs is all that is asked.
        options.rounds = 2;
    }
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let stage = |word: &str, value: Option<String>| -> Result<&'static Stage> {
        let value = value.with_context(|| format!("{word} needs a value"))?;
        let names = || STAGES.iter().map(|stage| stage.name).collect::<Vec<_>>().join(" ");
        stage_named(&value).with_context(|| format!("{value}: the stages are {}", names()))
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--stage" => options.stages.push(stage(&word, words.next())?),
            "--rounds" => {
                options.rounds =
                    words.next().context("--rounds needs a value")?.parse().context("--rounds")?
            }
            "--instructions" => options.mode = Mode::Count { accept: false },
            "--accept" => options.mode = Mode::Count { accept: true },
            "--counted" => options.mode = Mode::Counted(stage(&word, words.next())?),
            // `cargo bench NAME`: which of the benchmarks
            name if !name.starts_with("--") => {
                if !"micro".contains(name) {
                    std::process::exit(0);
                }
            }
            other => bail!("{other}: the options are --stage --rounds --instructions --accept"),
        }
    }
    ensure!(options.rounds >= 2, "--rounds: the first is dropped, so at least 2");
    let part = !options.stages.is_empty();
    ensure!(!part || !matches!(options.mode, Mode::Count { accept: true }), "--accept takes all stages");
    if !part {
        options.stages = STAGES.iter().collect();
    }
    // What is taken off another stage's figure is measured with it.
    for stage in options.stages.clone() {
        let minus = stage.minus.and_then(stage_named);
        if let Some(minus) = minus.filter(|it| options.stages.iter().all(|stage| stage.name != it.name)) {
            options.stages.push(minus);
        }
    }
    Ok(options)
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// A stage's own figure: without what it has in it of another.
fn own(stage: &Stage, of: &BTreeMap<&str, f64>) -> f64 {
    of[stage.name] - stage.minus.map_or(0.0, |other| of[other])
}

/// The table of times, with the committed instruction counts beside them.
fn time(stages: &[&'static Stage], rounds: usize) -> Result<()> {
    let baseline = Figures::read(&baseline_path()).unwrap_or_default();
    let mut running: Vec<_> = stages.iter().map(|stage| ((stage.start)(), Vec::new())).collect();
    let clock_ns = clock_ns();
    for round in 0..rounds {
        for step in 0..running.len() {
            let at = if round % 2 == 0 { step } else { running.len() - 1 - step };
            let (workload, figures) = &mut running[at];
            let figure = ns_per_unit(&mut **workload, clock_ns);
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    let (mut medians, mut least) = (BTreeMap::new(), BTreeMap::new());
    for (stage, (_, figures)) in stages.iter().zip(&mut running) {
        figures.sort_by(f64::total_cmp);
        medians.insert(stage.name, figures[figures.len() / 2]);
        least.insert(stage.name, figures[0]);
    }
    println!("ns of CPU time, median of {} rounds (least); instructions as committed\n", rounds - 1);
    println!("{:21} {:>10} {:>8} {:>8} {:>12}", "stage", "of a", "ns", "(least)", "instructions");
    for stage in stages {
        let instructions = baseline.get(stage.name).map_or("-".into(), |it| format!("{it:.0}"));
        let median = own(stage, &medians);
        // The least of a difference is no figure.
        let least = stage.minus.map_or_else(|| format!("({:.1})", least[stage.name]), |_| String::new());
        println!("{:21} {:>10} {median:>8.1} {least:>8} {instructions:>12}", stage.name, stage.unit);
    }
    Ok(())
}

/// What asking for the time adds to a pass.
fn clock_ns() -> u64 {
    let mut costs: Vec<u64> = (0..1_001)
        .map(|_| {
            let start = thread_cpu_ns();
            thread_cpu_ns() - start
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

fn ns_per_unit(workload: &mut dyn Workload, clock_ns: u64) -> f64 {
    let (mut ns, mut units) = (0, 0);
    // After the other stages: caches and branch predictors are this one's again.
    workload.prepare();
    workload.run();
    while ns < MEASURE_NS_MIN {
        workload.prepare();
        let start = thread_cpu_ns();
        units += measured_part(workload);
        ns += (thread_cpu_ns() - start).saturating_sub(clock_ns);
    }
    ns as f64 / units as f64
}

/// Under callgrind: the passes that are counted. Says how many units they were.
fn counted(stage: &Stage) {
    let mut workload = (stage.start)();
    workload.prepare();
    workload.run();
    let mut units = 0;
    for _ in 0..COUNTED_PASSES {
        workload.prepare();
        units += measured_part(&mut *workload);
    }
    println!("{units}");
}

/// Counts, and compares; true when nothing grew.
fn count(stages: &[&'static Stage], accept: bool) -> Result<ExitCode> {
    let path = baseline_path();
    // With no file there is no baseline yet; a broken one is told.
    let baseline = if path.exists() { Figures::read(&path)? } else { Figures::default() };
    let raw = count_all(stages)?;
    let mut figures = Figures::default();
    for stage in stages {
        figures.set(stage.name, own(stage, &raw));
    }
    println!("{:21} {:>10} {:>12} {:>12}", "stage", "of a", "instructions", "baseline");
    for stage in stages {
        let text = |figure: Option<f64>| figure.map_or("-".into(), |it| format!("{it:.1}"));
        let (now, before) = (text(figures.get(stage.name)), text(baseline.get(stage.name)));
        println!("{:21} {:>10} {now:>12} {before:>12}", stage.name, stage.unit);
    }
    println!();
    if accept {
        std::fs::write(&path, figures.to_string()).with_context(|| format!("{}", path.display()))?;
        println!("the baseline is this from now on");
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = false;
    for (name, finding) in baseline.findings(&figures) {
        // A stage that was not asked for is not gone.
        let asked = stages.iter().any(|stage| stage.name == name) || stage_named(name).is_none();
        if !asked || finding == benches::baseline::Finding::Same {
            continue;
        }
        failed |= finding.is_failure();
        println!("{}: {name} {finding}", if finding.is_failure() { "FAILED" } else { "better" });
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Instructions per unit of each stage, as many at a time as there are cores.
fn count_all(stages: &[&'static Stage]) -> Result<BTreeMap<&'static str, f64>> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(stage) = stages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = count_one(stage).with_context(|| stage.name);
                    results.lock().expect("nobody panics with it").push((stage.name, result));
                }
            });
        }
    });
    let results = results.into_inner().expect("nobody panics with it");
    results.into_iter().map(|(name, result)| Ok((name, result?))).collect()
}

fn count_one(stage: &Stage) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED_FUNCTION}"))
        .arg(std::env::current_exe()?)
        .args(["--counted", stage.name])
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .context("valgrind does not start")?;
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "under valgrind: {}\n{log}", output.status);
    let units: f64 = said.trim().parse().with_context(|| format!("it said `{said}`"))?;
    let collected =
        log.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    let collected: f64 =
        collected.and_then(|it| it.parse().ok()).with_context(|| format!("no count in\n{log}"))?;
    ensure!(collected > 0.0, "nothing was counted: is `{COUNTED_FUNCTION}` still a function of its own?");
    Ok(collected / units)
}
