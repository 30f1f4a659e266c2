//! What a run found. It is the JSON file; reports and comparisons are made of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::histogram::Summary;
use super::process::Cpu;
use super::scenario::{Protocol, Scenario};

/// The JSON's form; files of another are refused.
const FORMAT: u32 = 1;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The form of this file.
    pub format: u32,
    /// What was asked for.
    pub scenario: Scenario,
    /// When it began, in seconds of the Unix epoch.
    pub started_unix_s: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The measured time.
    pub seconds: f64,
    /// Groups of publishers, then of viewers, in the scenario's order.
    pub groups: Vec<Group>,
    /// The server, when its process is known.
    pub server: Option<Server>,
    /// The harness itself.
    pub harness: Harness,
    /// Second by second, from the run's begin.
    pub timeline: Vec<Second>,
    /// What a reader of the figures must know: the harness was the limit, others took the cores, the server ended, ...
    pub warnings: Vec<String>,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Cores.
    pub cores: usize,
    /// The processor, as /proc/cpuinfo says.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
}

/// Publishers or viewers of a kind. Counts are of the measured time, frames by when they were sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// As the scenario has it.
    pub name: String,
    /// How they spoke.
    pub protocol: Protocol,
    /// They sent.
    pub publishes: bool,
    /// How many there should have been.
    pub clients: usize,
    /// How many had a picture (publishers: sent one) at any time.
    pub with_picture: usize,
    /// How many are over though nobody wanted that.
    pub failed: usize,
    /// Why, and how many for that reason; joins of churn and storms that were tried again are here, too.
    pub failures: Vec<(String, u64)>,
    /// Sessions that began in the measured time.
    pub joins: u64,
    /// Frames that should have come (publishers: frames sent).
    pub frames_due: u64,
    /// Whole frames, each once.
    pub frames: u64,
    /// Whole frames that came again.
    pub frames_again: u64,
    /// Frames that had been sent before their viewer joined: the picture it began with.
    pub frames_old: u64,
    /// Frames of a stream that was not asked for.
    pub frames_foreign: u64,
    /// `frames` of `frames_due`, in percent.
    pub delivered_percent: f64,
    /// The same of the viewer that got the smallest share.
    pub worst_percent: f64,
    /// RTP packets that should have come, by their numbers.
    pub packets_due: u64,
    /// RTP packets that came, each once.
    pub packets: u64,
    /// RTP packets that never came.
    pub packets_lost: u64,
    /// That came behind a later one.
    pub packets_reordered: u64,
    /// That came again.
    pub packets_again: u64,
    /// That came by retransmission.
    pub packets_recovered: u64,
    /// That the scenario's own link threw away.
    pub packets_discarded: u64,
    /// From sending a frame to its last byte at a viewer.
    pub delay_ms: Summary,
    /// Values of that in microseconds and how often each came, for plots.
    pub delay_us_counts: Vec<(u64, u64)>,
    /// From a join's start to its connection.
    pub connect_ms: Summary,
    /// From a join's start to the end of its first key frame.
    pub first_key_ms: Summary,
    /// Pictures that stood still (W3C webrtc-stats, `freezeCount`).
    pub freezes_ms: Summary,
    /// Sound against picture, size only.
    pub skew_ms: Summary,
    /// How late frames were sent (publishers).
    pub late_ms: Summary,
    /// Media bytes a second and client: the least and the median, in kbit/s.
    pub kbps_min: f64,
    /// See `kbps_min`.
    pub kbps_median: f64,
    /// Datagrams that did not fit the harness's socket buffers.
    pub socket_drops: u64,
}

/// The server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// Its CPU in the measured time.
    pub cpu: Cpu,
    /// Its resident memory at the end.
    pub rss_bytes: u64,
    /// Before the first client joined.
    pub rss_bytes_before: u64,
    /// What others took of its cores, in percent of a core; `None` when it is not pinned.
    pub others_percent: Option<f64>,
    /// Its metrics that changed in the measured time: name, before, after.
    pub metrics: Vec<(String, f64, f64)>,
}

/// The harness.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Harness {
    /// CPU of its busiest worker in the measured time, in percent of a core: mean, and the worst second.
    pub worker_percent: f64,
    /// See `worker_percent`.
    pub worker_percent_max: f64,
    /// What others took of its cores, in percent of a core; `None` when it is not pinned.
    pub others_percent: Option<f64>,
    /// Its figures are its own limit, not the server's.
    pub was_the_limit: bool,
}

/// A second of all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run's begin.
    pub at: u64,
    /// It is of the measured time.
    pub measured: bool,
    /// By group.
    pub groups: Vec<GroupSecond>,
    /// The server's CPU in it, in percent of a core.
    pub server_percent: Option<f64>,
    /// The server's resident memory.
    pub server_rss_bytes: Option<u64>,
    /// The busiest worker's CPU.
    pub worker_percent: f64,
}

/// A group's second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GroupSecond {
    /// Clients that are connected.
    pub connected: usize,
    /// Clients that have a picture, or send.
    pub picture: usize,
    /// Clients that are over.
    pub failed: usize,
    /// Joins that began.
    pub joins: u64,
    /// Whole frames.
    pub frames: u64,
    /// RTP packets.
    pub packets: u64,
    /// RTP packets missing so far (those of this second that come later count against later ones).
    pub packets_lost: i64,
    /// Media, in kbit/s of all together.
    pub kbps: f64,
    /// Delay of its frames.
    pub delay_ms: Summary,
    /// Pictures that stood still, ended in it.
    pub freezes: u64,
}

impl Outcome {
    /// What this build writes.
    pub const FORMAT: u32 = FORMAT;

    /// Writes the JSON file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads one.
    pub fn load(path: &Path) -> Result<Outcome> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let outcome: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of a run", path.display()))?;
        ensure!(
            outcome.format == FORMAT,
            "{} has format {}, not {FORMAT}: another version of millrace-bench wrote it",
            path.display(),
            outcome.format
        );
        Ok(outcome)
    }

    /// Viewers, without publishers.
    pub fn viewers(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| !group.publishes)
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let cpu = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.unwrap_or("unknown").to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}
