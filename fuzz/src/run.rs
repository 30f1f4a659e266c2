//! The driver: runs a target on inputs, and knows what counts as a failure.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::mutate::{Random, mutate};
use crate::{Target, memory, novelty};

/// An input that takes longer stops every other connection of its thread.
const RUN_MS_MAX: u128 = 1_000;
/// An input that has not ended by then will not end.
const HANG: Duration = Duration::from_secs(10);
/// Memory for one input of a few KiB.
const GROWTH_BYTES_MAX: isize = 256 << 20;
/// Inputs kept because they showed something new, beside the seeds.
const POOL_MAX: usize = 4_096;
/// Failures of one target after which it has failed enough: they are mostly the same.
const FAILURES_MAX: usize = 5;
/// Of a failing input this much is printed; the file has the rest.
const HEX_BYTES_MAX: usize = 2_048;

/// What a run over one target came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcome {
    /// Inputs tried.
    pub runs: u64,
    /// Inputs that failed.
    pub failures: usize,
}

/// One target in work.
pub struct Runner {
    target: &'static Target,
    crashes: PathBuf,
    seed: u64,
    watch: Arc<Mutex<Watch>>,
    outcome: Outcome,
}

/// What the watching thread must know of the input in work.
struct Watch {
    since: Option<Instant>,
    name: &'static str,
    seed: u64,
    crashes: PathBuf,
    input: Vec<u8>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

impl Runner {
    /// `folder` is this crate's, where seeds and crashes are. `seed` is only reported: the caller mutates by it.
    pub fn new(target: &'static Target, folder: &Path, seed: u64) -> Runner {
        std::panic::set_hook(Box::new(|info| {
            let frames = std::backtrace::Backtrace::force_capture().to_string();
            PANIC.set(Some(format!("{info}\n{}", ours(&frames))));
        }));
        let crashes = folder.join("crashes").join(target.name);
        let watch =
            Watch { since: None, name: target.name, seed, crashes: crashes.clone(), input: Vec::new() };
        let watch = Arc::new(Mutex::new(watch));
        std::thread::spawn({
            let watch = Arc::downgrade(&watch);
            move || {
                while let Some(watch) = watch.upgrade() {
                    watch.lock().expect("nobody panics with it").check();
                    drop(watch);
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        });
        novelty::clear();
        Runner { target, crashes, seed, watch, outcome: Outcome::default() }
    }

    /// Runs one input. Whether it was fine.
    pub fn run(&mut self, data: &[u8]) -> bool {
        {
            let mut watch = self.watch.lock().expect("nobody panics with it");
            watch.since = Some(Instant::now());
            watch.input.clear();
            watch.input.extend_from_slice(data);
        }
        memory::reset_peak();
        let (before, start) = (memory::live(), Instant::now());
        let result = catch_unwind(AssertUnwindSafe(|| (self.target.run)(data)));
        let (took, growth) = (start.elapsed(), memory::peak() - before);
        self.watch.lock().expect("nobody panics with it").since = None;
        self.outcome.runs += 1;
        let why = match result {
            Err(_) => PANIC.take().unwrap_or_else(|| "panicked".into()),
            Ok(()) if took.as_millis() > RUN_MS_MAX => format!("took {} ms", took.as_millis()),
            Ok(()) if growth > GROWTH_BYTES_MAX => format!("allocated {growth} bytes"),
            Ok(()) => return true,
        };
        self.outcome.failures += 1;
        report(self.target.name, self.seed, &self.crashes, data, &why);
        false
    }

    /// Mutates the seeds for so long.
    pub fn fuzz(&mut self, seeds: &[Vec<u8>], time: Duration) -> Outcome {
        let mut random = Random::new(self.seed);
        let mut pool: Vec<Vec<u8>> = Vec::new();
        for seed in seeds {
            if self.run(seed) {
                pool.push(seed.clone());
            }
        }
        if pool.is_empty() {
            pool.push(Vec::new());
        }
        novelty::take();
        let start = Instant::now();
        while start.elapsed() < time && self.outcome.failures < FAILURES_MAX {
            // Seeds and recent finds are better parents than the rest.
            let parent = match random.below(4) {
                0 => random.below(seeds.len().min(pool.len())),
                1 => pool.len() - 1 - random.below(pool.len().min(16)),
                _ => random.below(pool.len()),
            };
            let other = random.below(pool.len());
            let child = mutate(&pool[parent], &pool[other], self.target.len_max, &mut random);
            if self.run(&child) && novelty::take() && pool.len() < POOL_MAX {
                pool.push(child);
            }
        }
        self.outcome
    }

    /// How it went so far.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl Watch {
    fn check(&self) {
        if self.since.is_some_and(|since| since.elapsed() > HANG) {
            report(self.name, self.seed, &self.crashes, &self.input, "did not end within 10 s");
            std::process::exit(1);
        }
    }
}

/// Prints a failure and keeps its input under the hash of its bytes.
fn report(name: &str, seed: u64, crashes: &Path, data: &[u8], why: &str) {
    let hash =
        data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let path = crashes.join(format!("{hash:016x}"));
    let kept = std::fs::create_dir_all(crashes).and_then(|()| std::fs::write(&path, data));
    println!("FAILED {name} (seed {seed}): {why}");
    match kept {
        Ok(()) => println!("input of {} bytes in {}", data.len(), path.display()),
        Err(why) => println!("input of {} bytes, not kept: {why}", data.len()),
    }
    let hex: String = data.iter().take(HEX_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
    println!("{hex}{}", if data.len() > HEX_BYTES_MAX { "..." } else { "" });
}

/// The lines of a backtrace that are in this project.
fn ours(frames: &str) -> String {
    let lines: Vec<&str> = frames.lines().collect();
    let mut out = String::new();
    for pair in lines.windows(2) {
        let at = pair[1].trim_start();
        if at.starts_with("at ")
            && !at.contains("/rustc/")
            && !at.contains("fuzz/src/run.rs")
            && !at.contains("fuzz/src/main.rs")
        {
            out.push_str(&format!("  {} {at}\n", pair[0].trim()));
        }
        if out.lines().count() >= 10 {
            break;
        }
    }
    out
}

/// The seeds of a target: every file in its folders, by name; then past crashes that were kept as seeds.
pub fn seeds(target: &Target, folder: &Path) -> Vec<Vec<u8>> {
    let own = folder.join("seeds").join(target.name);
    let mut files = Vec::new();
    for folder in std::iter::once(own).chain(target.seeds_elsewhere.iter().map(|path| folder.join(path))) {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files.sort();
    files.into_iter().filter_map(|path| std::fs::read(path).ok()).collect()
}
