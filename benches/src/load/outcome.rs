//! What a run found. It is the JSON file; reports and comparisons are made of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::histogram::Summary;
use super::process::Cpu;
use super::scenario::{Protocol, Scenario};
use super::target;

/// The JSON's form; files of another are refused.
const FORMAT: u32 = 2;

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
    /// The run came to its end: nobody ended the server or a worker, and somebody got through.
    pub complete: bool,
    /// Other processes took the server's or the harness's cores: delays are theirs too.
    pub disturbed: bool,
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
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
    /// Where the first of them went.
    pub url: String,
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
    /// Why, if so.
    pub limits: Vec<String>,
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
        let no_result = || format!("{} is no result of a run", path.display());
        let value: Value = serde_json::from_str(&text).with_context(no_result)?;
        let format = value
            .get("format")
            .and_then(Value::as_u64)
            .context("it has no format")
            .with_context(no_result)?;
        ensure!(
            format == u64::from(FORMAT),
            "{} has format {format}, not {FORMAT}: another version of millrace-bench wrote it",
            path.display()
        );
        serde_json::from_value(value).with_context(no_result)
    }

    /// Whether everybody was served to the end. What is wrong is among the warnings.
    pub fn is_sound(&self) -> bool {
        self.complete
            && self.groups.iter().all(|group| group.failed == 0 && group.with_picture == group.clients)
            && self.viewers().all(|group| self.silent_seconds(group) == 0)
    }

    /// For how many seconds at the end of the measured time nothing came to these viewers, though some had a picture before. A single one is
    /// no silence: frames are counted in the second that they came in.
    pub fn silent_seconds(&self, group: &Group) -> usize {
        let Some(at) = self.groups.iter().position(|one| std::ptr::eq(one, group)) else { return 0 };
        let frames = |second: &Second| second.groups.get(at).map_or(0, |group| group.frames);
        let silent =
            self.timeline.iter().rev().filter(|second| second.measured).take_while(|one| frames(one) == 0);
        let silent = silent.count();
        if silent < 2 || !self.timeline.iter().any(|second| frames(second) > 0) { 0 } else { silent }
    }

    /// Takes the bearer token out of all texts: results are shown around.
    pub fn hide_token(&mut self) {
        let Some(token) = self.scenario.target.hide_token() else { return };
        let groups = self.groups.iter_mut();
        let texts = groups.flat_map(|group| {
            std::iter::once(&mut group.url).chain(group.failures.iter_mut().map(|(why, _)| why))
        });
        texts.chain(&mut self.warnings).for_each(|text| *text = text.replace(&token, target::HIDDEN));
    }

    /// Viewers, without publishers.
    pub fn viewers(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| !group.publishes)
    }
}

impl Group {
    /// RTP packets that never came, of those due.
    pub fn packets_lost_percent(&self) -> f64 {
        100.0 * self.packets_lost as f64 / self.packets_due.max(1) as f64
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

/// A run as tests of reports need it: one RTMP publisher, five WHEP viewers, ten seconds of which six are measured.
#[cfg(test)]
pub fn example() -> Outcome {
    let mut scenario = Scenario { seconds: 6, ..Scenario::default() };
    scenario.add_publish("rtmp").unwrap();
    scenario.add_watch("whep:count=5").unwrap();
    let delay_ms = Summary { count: 900, p50: 1.0, p95: 2.0, p99: 4.0, p999: 5.0, max: 6.0 };
    let publishers = Group {
        name: "publish RTMP live/bench".into(),
        protocol: Protocol::Rtmp,
        publishes: true,
        url: "rtmp://127.0.0.1:1935/live/bench".into(),
        clients: 1,
        with_picture: 1,
        failed: 0,
        failures: Vec::new(),
        joins: 0,
        frames_due: 180,
        frames: 180,
        frames_again: 0,
        frames_old: 0,
        frames_foreign: 0,
        delivered_percent: 100.0,
        worst_percent: 100.0,
        packets_due: 0,
        packets: 0,
        packets_lost: 0,
        packets_reordered: 0,
        packets_again: 0,
        packets_recovered: 0,
        packets_discarded: 0,
        delay_ms: Summary::default(),
        delay_us_counts: Vec::new(),
        connect_ms: Summary::default(),
        first_key_ms: Summary::default(),
        freezes_ms: Summary::default(),
        skew_ms: Summary::default(),
        late_ms: delay_ms,
        kbps_min: 2_000.0,
        kbps_median: 2_000.0,
        socket_drops: 0,
    };
    let viewers = Group {
        name: "watch WHEP live/bench".into(),
        protocol: Protocol::Whep,
        publishes: false,
        url: "http://127.0.0.1:8080/whep/live/bench".into(),
        clients: 5,
        with_picture: 5,
        frames_due: 900,
        frames: 900,
        packets_due: 8_100,
        packets: 8_100,
        delay_ms,
        delay_us_counts: vec![(1_000, 500), (2_000, 355), (4_000, 36), (5_000, 8), (6_000, 1)],
        connect_ms: delay_ms,
        first_key_ms: delay_ms,
        ..publishers.clone()
    };
    let second = |at: u64| Second {
        at,
        measured: (4..10).contains(&at),
        groups: [1, 5]
            .map(|clients| GroupSecond {
                connected: clients,
                picture: clients,
                frames: clients as u64 * 30,
                kbps: clients as f64 * 2_000.0,
                delay_ms,
                ..GroupSecond::default()
            })
            .into(),
        server_percent: Some(3.0),
        server_rss_bytes: Some(32 << 20),
        worker_percent: 2.0,
    };
    Outcome {
        format: FORMAT,
        scenario,
        started_unix_s: 1_700_000_000,
        machine: Machine { cores: 2, cpu: "Some CPU".into(), kernel: "6.1".into() },
        seconds: 6.0,
        complete: true,
        disturbed: false,
        groups: vec![publishers, viewers],
        server: Some(Server {
            cpu: Cpu {
                percent: 3.0,
                threads: vec![("shard-0".into(), 3.0)],
                switches_per_second: [400.0, 20.0],
            },
            rss_bytes: 32 << 20,
            metrics: vec![("millrace_packets_sent_total".into(), 0.0, 8_100.0)],
            ..Server::default()
        }),
        harness: Harness { worker_percent: 2.0, worker_percent_max: 3.0, ..Harness::default() },
        timeline: (1..=10).map(second).collect(),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_result_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let told = || format!("{:#}", Outcome::load(&path).unwrap_err());
        assert!(told().contains("cannot read") && told().contains("a.json"), "{}", told());
        for (content, part) in [
            ("", "is no result of a run"),
            ("{\"format\": 2, \"scen", "is no result of a run"),
            ("{\"trials\": []}", "it has no format"),
            ("[1]", "it has no format"),
            ("{\"format\": 2}", "missing field"),
            ("{\"format\": 1}", "format 1, not 2"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(told().contains(part), "{content}: {}", told());
        }
        example().save(&path).unwrap();
        assert_eq!(Outcome::load(&path).unwrap().groups.len(), 2);
    }

    #[test]
    fn silence_at_the_end_is_no_service() {
        let mut outcome = example();
        assert!(outcome.is_sound());
        outcome.timeline[8].groups[1].frames = 0;
        assert!(outcome.is_sound(), "a gap that ended is a freeze");
        outcome.timeline[7].groups[1].frames = 0;
        // Second 10 is not of the measured time.
        assert_eq!(outcome.silent_seconds(&outcome.groups[1]), 2);
        assert!(!outcome.is_sound());
        let mut outcome = example();
        outcome.groups[1].with_picture = 4;
        assert!(!outcome.is_sound(), "one never had a picture, though it may still wait for it");
    }

    #[test]
    fn a_token_is_in_no_result() {
        let mut outcome = example();
        outcome.scenario.target.token = Some("s3cret".into());
        outcome.scenario.target.whep = Some("http://a/?t=s3cret".into());
        outcome.groups[1].url = "http://a/?t=s3cret".into();
        outcome.groups[1].failures = vec![("POST http://a/?t=s3cret: no".into(), 1)];
        outcome.warnings = vec!["http://a/?t=s3cret".into()];
        outcome.hide_token();
        let text = serde_json::to_string(&outcome).unwrap();
        assert!(!text.contains("s3cret") && text.contains("http://a/?t=TOKEN"), "{text}");
    }
}
