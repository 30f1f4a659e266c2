//! What is tried, and what must come of it.

mod congestion;
mod joins;
mod loss;
mod trouble;

use std::sync::atomic::Ordering;

use media::Time;

use crate::Sent;
use crate::jitter::Freeze;
use crate::world::World;

/// Seeds that gates run with: the same for everybody, for good.
pub const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// A frame is of use to a live viewer within so long of its capture.
const LIVE_US: i64 = 400_000;

/// What was measured in one run.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// So many of so many: in percent over all runs.
    Share(u64, u64),
    /// The largest of all runs.
    Most(f64),
    /// A percentile of all runs' samples.
    Percentile(u32, Vec<f64>),
    /// The node has no such thing yet.
    Nothing,
}

/// What it should be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// At least.
    Least(f64),
    /// At most.
    Most(f64),
    /// It is shown for what it says about the others.
    Shown,
}

/// One line of a scenario's result.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// What was measured, with its unit.
    pub what: &'static str,
    /// What came of it.
    pub value: Value,
    /// What must; missing it is a failure.
    pub goal: Goal,
}

/// One thing to try.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens.
    pub about: &'static str,
    run: fn(seed: u64, log: bool) -> Vec<Figure>,
}

impl Scenario {
    /// Runs it from a seed; `log` writes events to standard output. Panics when an oracle is contradicted, and says how to see it again.
    pub fn run(&self, seed: u64, log: bool) -> Vec<Figure> {
        let _says_how = Replay { scenario: self.name, seed };
        (self.run)(seed, log)
    }
}

struct Replay {
    scenario: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: {}", replay(self.scenario, self.seed));
        }
    }
}

/// The command that runs a scenario from a seed, with a log.
pub fn replay(scenario: &str, seed: u64) -> String {
    format!("cargo xtask sim --scenario {scenario} --seed {seed}")
}

/// All of them, in the order of the scoreboard.
pub const ALL: &[&[Scenario]] = &[loss::ALL, joins::ALL, trouble::ALL, congestion::ALL];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().copied().flatten()
}

fn gate(what: &'static str, value: Value, goal: Goal) -> Figure {
    Figure { what, value, goal }
}

fn shown(what: &'static str, value: Value) -> Figure {
    Figure { what, value, goal: Goal::Shown }
}

/// What a viewer had of the frames captured in a time.
#[derive(Default, Debug)]
struct View {
    from: Time,
    to: Time,
    frames: u64,
    /// Whole within [`LIVE_US`].
    live: u64,
    /// Whole at all.
    complete: u64,
    played: u64,
    /// From capture to whole, in milliseconds.
    latency_ms: Vec<f64>,
    freezes: Vec<Freeze>,
}

impl View {
    fn of(w: &World, viewer: usize, sent: &[Sent], from: Time, to: Time) -> View {
        let receiver = w.peers[viewer].receiver();
        let seen = &receiver.buffer.seen;
        let mut view = View { from, to, ..View::default() };
        let captured = |s: &&Sent| s.capture >= from && s.capture < to;
        let frames: Vec<&Sent> = sent.iter().filter(captured).collect();
        // With simulcast a viewer has any encoding of a picture.
        for picture in frames.chunk_by(|a, b| a.capture == b.capture) {
            view.frames += 1;
            view.played += u64::from(picture.iter().any(|s| seen.played.contains_key(&s.id)));
            let whole =
                picture.iter().filter_map(|s| Some((seen.complete.get(&s.id)?.0, s))).min_by_key(|w| w.0);
            let Some((whole, frame)) = whole else { continue };
            view.complete += 1;
            view.live += u64::from(whole.since(frame.capture) <= LIVE_US);
            view.latency_ms.push(whole.since(frame.capture) as f64 / 1_000.0);
        }
        let freezes = seen.freezes.iter().copied().chain(receiver.buffer.stands(w.now));
        view.freezes = freezes.filter(|f| f.from >= from && f.from < to).collect();
        view
    }

    /// The longest time that the picture stood, in milliseconds; 0 without a freeze.
    fn freeze_ms(&self) -> f64 {
        self.freezes.iter().map(|f| f.len_us as f64 / 1_000.0).fold(0.0, f64::max)
    }
}

/// The share of retransmissions in what a viewer was sent, in bytes.
fn resent_share(world: &World, viewer: usize) -> Value {
    let (bytes, stats) = (world.peers[viewer].oracle.bytes, &world.peers[viewer].stats);
    // Asked for, or lost by feedback; probes are for something else.
    let resent = (bytes.resent + bytes.copies).saturating_sub(stats.probe_copy_bytes.load(Ordering::Relaxed));
    Value::Share(resent, bytes.total() - resent)
}
