//! `millrace-bench peers`: this node and its peers in turn, on the same core, with the very same clients.

pub mod servers;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::outcome::Outcome;
use super::progress::Progress;
use super::run;
use super::scenario::{Media, Protocol, Publish, Scenario, Watch};
use servers::{Server, start_janus, start_nginx};
use table::{Figures, Row};

/// Between two servers, for the kernel to end what the first has left.
const PAUSE: Duration = Duration::from_millis(500);
/// Joins a second: of all servers, so that none is asked for more than another.
const JOINS_PER_SECOND: f64 = 30.0;

/// What is compared with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Fan-out by WebRTC.
    Webrtc,
    /// Fan-out by RTMP.
    Rtmp,
    /// Fan-out by HTTP-FLV.
    Flv,
    /// Fan-out by HLS.
    Hls,
}

impl Section {
    /// In the tables' order.
    const ALL: [Section; 4] = [Section::Webrtc, Section::Rtmp, Section::Flv, Section::Hls];

    fn title(self) -> &'static str {
        match self {
            Section::Webrtc => "WebRTC fan-out",
            Section::Rtmp => "RTMP fan-out",
            Section::Flv => "HTTP-FLV fan-out",
            Section::Hls => "HLS fan-out (segments of 1 s)",
        }
    }
}

/// One line of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Subject {
    section: Section,
    server: Server,
    publish: Protocol,
    watch: Protocol,
}

impl Subject {
    /// What goes in, and what comes out.
    fn ways(&self) -> String {
        match self.server {
            Server::Janus => "RTP, WebRTC".into(),
            _ => format!("{}, {}", self.publish, self.watch),
        }
    }
}

const fn subject(section: Section, server: Server, publish: Protocol, watch: Protocol) -> Subject {
    Subject { section, server, publish, watch }
}

/// All of them. Debian's Janus knows no WHIP: plain RTP goes in.
const SUBJECTS: [Subject; 7] = [
    subject(Section::Webrtc, Server::Millrace, Protocol::Whip, Protocol::Whep),
    subject(Section::Webrtc, Server::Millrace, Protocol::Rtmp, Protocol::Whep),
    subject(Section::Webrtc, Server::Janus, Protocol::Janus, Protocol::Janus),
    subject(Section::Rtmp, Server::Millrace, Protocol::Rtmp, Protocol::Rtmp),
    subject(Section::Rtmp, Server::Nginx, Protocol::Rtmp, Protocol::Rtmp),
    subject(Section::Flv, Server::Millrace, Protocol::Rtmp, Protocol::Flv),
    subject(Section::Hls, Server::Nginx, Protocol::Rtmp, Protocol::Hls),
];

/// How they are compared.
#[derive(clap::Args, Clone, Debug)]
pub struct PeersOptions {
    /// Viewers of each server.
    #[arg(long, default_value_t = 60)]
    viewers: usize,
    /// Rounds, in each of which all take their turn; the first is dropped when there are more.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long is measured in a round.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The server's core.
    #[arg(long, default_value_t = 0)]
    start_core: usize,
    /// The harness's core.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// This node.
    #[arg(long, default_value = "target/release/millrace")]
    start: PathBuf,
    /// Only these servers.
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Server>,
    /// Only these ways out.
    #[arg(long, value_enum, value_delimiter = ',')]
    sections: Vec<Section>,
    /// What is published: an FLV file of H.264 without B-frames and AAC, 30 frames/s, a key frame a second.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Also write the tables as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Also write the lines as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Compares, and prints the tables. A server that is not installed is told and left out; an error when a run of another failed.
pub fn peers(options: &PeersOptions) -> Result<()> {
    ensure!(options.rounds >= 1, "--rounds: at least 1");
    let (subjects, mut notes) = wanted(options)?;
    let mut progress = Progress::new();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for section in Section::ALL {
        let subjects: Vec<Subject> =
            subjects.iter().copied().filter(|subject| subject.section == section).collect();
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); subjects.len()];
        for round in 1..=options.rounds {
            for (subject, rounds) in subjects.iter().zip(&mut rounds) {
                let name = format!("{}, {}, round {round}", subject.server.name(), subject.ways());
                eprintln!("{name}");
                match one(options, subject, &mut progress) {
                    Ok(outcome) => {
                        let counts = round > 1 || options.rounds == 1;
                        // How much others disturbed is told once, below.
                        let told = |warning: &&String| counts && !warning.starts_with(run::DISTURBED);
                        let warnings = outcome.warnings.iter().filter(told);
                        notes.extend(warnings.map(|warning| format!("{name}: {warning}")));
                        rounds.extend(Figures::of(&outcome, section).filter(|_| counts));
                    }
                    Err(error) => failures.push(format!("{name}: {error:#}")),
                }
            }
        }
        for (subject, rounds) in subjects.iter().zip(&rounds) {
            let medians = Figures::median(rounds);
            rows.extend(medians.map(|figures| Row { subject: *subject, viewers: options.viewers, figures }));
        }
    }
    notes.extend(disturbance(&rows));
    notes.extend(failures.iter().cloned());
    print!("{}\n{}", table::text(&rows), notes.iter().map(|note| format!("{note}\n")).collect::<String>());
    if let Some(path) = &options.markdown {
        std::fs::write(path, table::markdown(&rows, &notes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(failures.is_empty(), "{} runs failed", failures.len());
    ensure!(!rows.is_empty(), "nothing was measured");
    Ok(())
}

/// What others took of the cores, over all lines.
fn disturbance(rows: &[Row]) -> Option<String> {
    let range = |of: fn(&Figures) -> f64| {
        let all = rows.iter().map(|row| of(&row.figures));
        (all.clone().fold(f64::INFINITY, f64::min), all.fold(0.0, f64::max))
    };
    let (server, harness) = (range(|f| f.others_percent), range(|f| f.harness_others_percent));
    (!rows.is_empty()).then(|| {
        format!(
            "other processes took {:.0} to {:.0} % of the server's core and {:.0} to {:.0} % of the harness's: delays are theirs too",
            server.0, server.1, harness.0, harness.1
        )
    })
}

/// What shall and can be run, and what a reader must know about it.
fn wanted(options: &PeersOptions) -> Result<(Vec<Subject>, Vec<String>)> {
    let is_wanted = |subject: &&Subject| {
        (options.servers.is_empty() || options.servers.contains(&subject.server))
            && (options.sections.is_empty() || options.sections.contains(&subject.section))
    };
    let mut subjects: Vec<Subject> = SUBJECTS.iter().filter(is_wanted).copied().collect();
    let machine = super::outcome::Machine::here();
    let counted = if options.rounds > 1 {
        format!("medians of {} rounds after the first", options.rounds - 1)
    } else {
        "one round".to_owned()
    };
    let mut notes = vec![format!(
        "{}, Linux {}; server on core {}, harness on core {}; {} s a round, {counted}",
        machine.cpu, machine.kernel, options.start_core, options.core, options.seconds
    )];
    for server in [Server::Millrace, Server::Janus, Server::Nginx] {
        if !subjects.iter().any(|subject| subject.server == server) {
            continue;
        }
        match server.describe(&options.start) {
            Ok(what) => notes.push(what),
            Err(error) => {
                notes.push(format!("{} is left out: {error:#}", server.name()));
                subjects.retain(|subject| subject.server != server);
            }
        }
    }
    ensure!(!subjects.is_empty(), "nothing to compare: {}", notes.join("; "));
    Ok((subjects, notes))
}

/// One server, one round.
fn one(options: &PeersOptions, subject: &Subject, progress: &mut Progress) -> Result<Outcome> {
    let stream = "live/bench".to_owned();
    let mut scenario = Scenario { seconds: options.seconds, ..Scenario::default() };
    scenario.harness.cores = vec![options.core];
    scenario.publish.push(Publish {
        protocol: subject.publish,
        count: 1,
        stream: stream.clone(),
        per_second: JOINS_PER_SECOND,
        media: Media { file: options.file.clone(), ..Media::default() },
    });
    scenario.watch.push(Watch {
        protocol: subject.watch,
        count: options.viewers,
        stream,
        per_second: JOINS_PER_SECOND,
        churn_per_second: 0.0,
        storm_at: Vec::new(),
        loss_percent: 0.0,
        nack: false,
        limit_kbps: 0,
    });
    let cores = vec![options.start_core];
    let target = &mut scenario.target;
    let process = match subject.server {
        Server::Millrace => {
            target.start = Some(options.start.clone());
            None
        }
        Server::Janus => Some(start_janus(&cores, target)?),
        Server::Nginx => Some(start_nginx(&cores, options.viewers, subject.section == Section::Hls, target)?),
    };
    target.start_cores = cores;
    let outcome = run::run(&scenario, progress);
    drop(process);
    std::thread::sleep(PAUSE);
    let outcome = outcome?;
    ensure!(outcome.seconds > 0.0, "{}", outcome.warnings.join("; "));
    Ok(outcome)
}
