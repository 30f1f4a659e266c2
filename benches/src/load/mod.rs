//! A whole node under load. One thread publishes in real time, one drives all viewers; every wait has a deadline.

mod clip;
mod http;
mod process;
mod publisher;
mod report;
mod rtmp_player;
mod stamp;
mod tally;
mod viewers;
mod whep_viewer;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::NodeOptions;
use process::{Node, Usage};
use publisher::Publisher;
use report::Report;
use viewers::{Clock, Kind, Viewers};

/// Viewers start one after the other, this far apart: a rush of joins is another measurement.
const JOIN_SPACING: Duration = Duration::from_millis(10);
/// All viewers shall have a picture so long after the last was started: a GOP and a generous handshake.
const PICTURE_DEADLINE: Duration = Duration::from_secs(15);
/// Between the last first picture and the measured time, for queues of the start to drain.
const SETTLE: Duration = Duration::from_secs(2);
/// Frames of the measured time may come so much later.
const LATE: Duration = Duration::from_secs(1);
/// The node and the publisher are looked after this often.
const LOOK: Duration = Duration::from_millis(50);

struct Run {
    node: Node,
    publisher: Publisher,
    viewers: Viewers,
}

impl Run {
    /// Drives the viewers for so long; ends early when the node or the publisher is gone.
    fn drive(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.node.check_alive()?;
            self.publisher.check_alive()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.viewers.drive(left.min(LOOK))?;
        }
    }
}

/// Runs it all and prints the report.
pub fn run(options: &NodeOptions) -> Result<()> {
    ensure!((1..=3_600).contains(&options.seconds), "--seconds: 1 to 3600");
    ensure!(options.whep + options.rtmp >= 1, "nobody would watch: give --whep or --rtmp");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (node_core, harness_core) = (options.node_core, options.harness_core);
    ensure!(
        node_core != harness_core && node_core.max(harness_core) < cores,
        "--node-core {node_core} and --harness-core {harness_core} must be two of this machine's {cores} cores"
    );
    let clip = clip::load(options.clip.as_deref())?;
    process::pin_self(harness_core)?;
    let clock = Clock::start();
    let node = Node::start(&options.millrace, node_core, options.whep + options.rtmp)?;
    let publisher = Publisher::start(clip, node.rtmp, clock.base)?;
    let viewers = Viewers::new(clock, node.http, node.rtmp)?;
    let mut run = Run { node, publisher, viewers };
    eprintln!("the node serves; {} WHEP viewers and {} RTMP players join", options.whep, options.rtmp);

    // Mixed evenly, so that neither kind has the quiet time to itself.
    let all = options.whep + options.rtmp;
    for i in 0..all {
        let kind =
            if (i + 1) * options.whep / all > i * options.whep / all { Kind::Whep } else { Kind::Rtmp };
        run.viewers.join(kind)?;
        run.drive(JOIN_SPACING)?;
    }
    let deadline = Instant::now() + PICTURE_DEADLINE;
    while run.viewers.without_picture() > 0 && Instant::now() < deadline {
        run.drive(LOOK)?;
    }
    if run.viewers.without_picture() == all {
        bail!(
            "no viewer got a picture within {PICTURE_DEADLINE:?}{}\nthe node's log ends:\n{}",
            run.viewers.first_failure().map_or(String::new(), |why| format!(": {why}")),
            run.node.log_tail()
        );
    }
    run.drive(SETTLE)?;

    let busy = || -> Result<[f64; 2]> {
        Ok([process::core_busy_seconds(node_core)?, process::core_busy_seconds(harness_core)?])
    };
    let busy_before = busy()?;
    let (node_before, self_before) = (Usage::of(run.node.pid())?, Usage::of(std::process::id())?);
    let (started, sent_before) = (Instant::now(), run.publisher.sent());
    run.viewers.measure_from(sent_before.frames);
    run.drive(Duration::from_secs(options.seconds))?;
    let sent_after = run.publisher.sent();
    run.viewers.measure_until(sent_after.frames);
    let elapsed = started.elapsed();
    let (node_after, self_after) = (Usage::of(run.node.pid())?, Usage::of(std::process::id())?);
    let busy_after = busy()?;
    run.drive(LATE)?;

    let node_cpu = node_after.since(&node_before, elapsed);
    let harness_cpu_percent = self_after.since(&self_before, elapsed).percent;
    let others = |at: usize, ours: f64| {
        ((busy_after[at] - busy_before[at]) * 100.0 / elapsed.as_secs_f64() - ours).max(0.0)
    };
    let report = Report {
        others_percent: [others(0, node_cpu.percent), others(1, harness_cpu_percent)],
        seconds: elapsed.as_secs_f64(),
        frames_sent: sent_after.frames - sent_before.frames,
        bytes_sent: sent_after.bytes - sent_before.bytes,
        node_cpu,
        node_rss_bytes: node_after.rss_bytes,
        harness_cpu_percent,
        tallies: [run.viewers.tally(Kind::Whep), run.viewers.tally(Kind::Rtmp)],
        drops: run.node.drops(),
    };
    print!("{}", report.text());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    let failed: usize = report.tallies.iter().map(|tally| tally.failures.0).sum();
    ensure!(failed == 0, "{failed} viewers failed; the node's log ends:\n{}", run.node.log_tail());
    Ok(())
}
