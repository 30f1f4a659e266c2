//! One run, from the scenario to its outcome. Every wait has a deadline; whatever goes wrong, what was reached is told.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::clip;
use super::outcome::{self, Group, Harness, Machine, Outcome, Server};
use super::plan::{Begin, Finished, Order, PHASES, Second, plan};
use super::process::{self, Node, Usage};
use super::progress::Progress;
use super::scenario::{Protocol, Scenario};
use super::tally::{SeatResult, Totals, Window};
use super::target::Url;
use super::workers::Workers;

/// Frames of the measured time may come so much later.
const LATE: Duration = Duration::from_secs(1);
/// HLS segments no later than this, in seconds.
const SEGMENT_LATE_S_MAX: f64 = 60.0;
/// Orders are with all workers by then.
const LEAD_US: u64 = 100_000;
/// The server is looked after, and waits look at the time, this often.
const LOOK: Duration = Duration::from_millis(50);
/// A worker that takes more of a core is what was measured.
const WORKER_PERCENT_MAX: f64 = 90.0;
/// Frames later than this at the publisher are the harness's delay.
const LATE_MS_MAX: f64 = 20.0;
/// What errno(3) says when it is this side that has no more.
const OWN_ERRORS: [(&str, &str); 3] = [
    ("(os error 24)", "no file descriptor left (ulimit -n)"),
    ("(os error 99)", "no local port left"),
    ("(os error 105)", "no memory for a socket"),
];
/// Others on the server's or the harness's cores that take more have made the delays.
const OTHERS_PERCENT_MAX: f64 = 10.0;

/// Begins the warning that others took part of the cores.
pub const DISTURBED: &str = "DISTURBED";

/// Runs a scenario. An error means that nothing could be measured at all; everything else is in the outcome's warnings.
pub fn run(scenario: &Scenario, progress: &mut Progress) -> Result<Outcome> {
    scenario.check()?;
    let mut scenario = scenario.clone();
    let medias = scenario
        .publish
        .iter()
        .map(|publish| &publish.media)
        .chain(scenario.rooms.iter().map(|rooms| &rooms.media));
    medias.map(clip::path).try_for_each(|path| path.map(drop))?;
    let node = match &scenario.target.start {
        Some(program) => {
            // Who is cut off in a storm stays a session of the server until its time-out.
            let storms = scenario.watch.iter().map(|watch| watch.storm_at.len()).max().unwrap_or(0);
            let sessions = scenario.clients() * (1 + storms);
            let node = Node::start(program, &scenario.target.start_cores, sessions)?;
            node.aim(&mut scenario.target);
            Some(node)
        }
        None => None,
    };
    let metrics_url =
        scenario.target.metrics.as_deref().map(Url::parse).transpose().context("target.metrics")?;
    if let Some(pid) = scenario.target.pid {
        Usage::of(pid).context("target.pid")?;
    }
    let epoch_us = udp::now_us();
    let parts = plan(&scenario, epoch_us)?;
    let groups = parts[0].groups.clone();
    let phases: Vec<PhasePlan> = (0..PHASES).map(|phase| PhasePlan::of(&parts, phase)).collect();
    let mut run = Run {
        workers: Workers::start(parts)?,
        epoch_us,
        node,
        pid: scenario.target.pid,
        rss_bytes_before: 0,
        usage: None,
        timeline: Vec::new(),
        latest: Vec::new(),
        groups,
        window: Window::NEVER,
        progress,
    };
    run.latest = vec![Second::default(); run.workers.count()];
    run.usage = run.look()?.map(|usage| (Instant::now(), usage));
    run.rss_bytes_before = run.usage.as_ref().map_or(0, |(_, usage)| usage.rss_bytes);

    let mut outcome = Outcome {
        format: Outcome::FORMAT,
        started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        machine: Machine::here(),
        seconds: 0.0,
        complete: false,
        disturbed: false,
        groups: Vec::new(),
        server: None,
        harness: Harness::default(),
        timeline: Vec::new(),
        warnings: Vec::new(),
        scenario: scenario.clone(),
    };
    match run.measure(&scenario, &phases, metrics_url.as_ref(), &mut outcome) {
        Ok(()) => outcome.complete = true,
        Err(error) => outcome.warnings.push(format!("{error:#}")),
    }
    let (finished, missing) = run.workers.finish();
    outcome.groups = run.sum_up(&finished, outcome.seconds);
    if !missing.is_empty() {
        outcome.complete = false;
        outcome.warnings.push(format!("not everything was counted: {}", missing.join("; ")));
    }
    outcome.timeline = std::mem::take(&mut run.timeline);
    judge(&mut outcome);
    outcome.hide_token();
    Ok(outcome)
}

struct PhasePlan {
    seats: usize,
    joined_after: Duration,
    groups: Vec<usize>,
}

impl PhasePlan {
    fn of(parts: &[Begin], phase: u8) -> PhasePlan {
        let seats: Vec<_> =
            parts.iter().flat_map(|part| &part.seats).filter(|seat| seat.phase == phase).collect();
        let mut groups: Vec<usize> = seats.iter().map(|seat| seat.group).collect();
        groups.sort_unstable();
        groups.dedup();
        let last_us = seats.iter().map(|seat| seat.at_us).max().unwrap_or(0);
        PhasePlan { seats: seats.len(), joined_after: Duration::from_micros(last_us), groups }
    }
}

struct Run<'a> {
    workers: Workers,
    epoch_us: u64,
    node: Option<Node>,
    pid: Option<u32>,
    rss_bytes_before: u64,
    usage: Option<(Instant, Usage)>,
    timeline: Vec<outcome::Second>,
    /// The last second of each worker.
    latest: Vec<Second>,
    groups: Vec<super::plan::Group>,
    window: Window,
    progress: &'a mut Progress,
}

impl Run<'_> {
    fn measure(
        &mut self,
        scenario: &Scenario,
        phases: &[PhasePlan],
        metrics_url: Option<&Url>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        for (number, phase) in phases.iter().enumerate().filter(|(_, phase)| phase.seats > 0) {
            let ready = self.join(number as u8, phase, Duration::from_secs(scenario.picture_seconds))?;
            if ready < phase.seats {
                let what = if number == 0 { "publishers send" } else { "clients have a picture" };
                outcome.warnings.push(format!("only {ready} of {} {what}", phase.seats));
            }
            ensure!(ready > 0, "none of {} clients got through; nothing was measured", phase.seats);
        }
        self.progress.say("settling");
        self.wait(Duration::from_secs_f64(scenario.settle_seconds))?;

        let cores = (&scenario.target.start_cores, &scenario.harness.cores);
        let metrics_before = metrics_url.map(process::metrics).transpose();
        let from_us = udp::now_us() - self.epoch_us + LEAD_US;
        self.window = Window { from_us, until_us: from_us + scenario.seconds * 1_000_000 };
        self.workers.order(&Order::Measure(self.window))?;
        let (began, before) = (Instant::now(), self.look()?);
        let workers_before = self.look_at_workers()?;
        let busy_before = (busy(cores.0)?, busy(cores.1)?);
        self.progress.begin("measuring", scenario.seconds);
        let end = began + Duration::from_secs(scenario.seconds);
        let result = loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Ok(());
            }
            if let Err(error) = self.wait(left.min(LOOK)) {
                break Err(error);
            }
            self.progress.at(began.elapsed().as_secs());
        };
        let elapsed = began.elapsed();
        outcome.seconds = elapsed.as_secs_f64();
        // A server that is gone is told of as it was last seen.
        let last = self.usage.clone().filter(|(at, _)| *at > began);
        let after = self.look().ok().flatten().map(|usage| (Instant::now(), usage)).or(last);
        let busy_after = (busy(cores.0)?, busy(cores.1)?);
        let workers_after = self.look_at_workers();
        let worker_cpus: Vec<f64> = workers_after
            .iter()
            .flatten()
            .zip(&workers_before)
            .map(|(after, before)| after - before)
            .collect();
        let percent = |seconds: f64| seconds * 100.0 / elapsed.as_secs_f64();
        let others = |before: Option<f64>, after: Option<f64>, ours: f64| {
            before.zip(after).map(|(before, after)| (percent(after - before) - ours).max(0.0))
        };
        outcome.harness.worker_percent = percent(worker_cpus.iter().copied().fold(0.0, f64::max));
        outcome.harness.others_percent =
            others(busy_before.1, busy_after.1, percent(worker_cpus.iter().sum::<f64>()));
        if let Some((before, after)) = before.zip(after) {
            let (at, after) = after;
            let cpu = after.since(&before, at.saturating_duration_since(began));
            let others_percent = others(busy_before.0, busy_after.0, cpu.percent);
            let mut server = Server {
                rss_bytes: after.rss_bytes,
                rss_bytes_before: self.rss_bytes_before,
                others_percent,
                cpu,
                metrics: Vec::new(),
            };
            let metrics_after = metrics_url.filter(|_| result.is_ok()).map(process::metrics).transpose();
            match (metrics_before, metrics_after) {
                (Ok(Some(before)), Ok(Some(after))) => server.metrics = changed(&before, after),
                (Err(error), _) | (_, Err(error)) => outcome.warnings.push(format!("no metrics: {error:#}")),
                _ => {}
            }
            outcome.server = Some(server);
        }
        result?;
        self.progress.say("the last frames arrive");
        self.wait(self.late())
    }

    /// How long the last frames are waited for. HLS segments come when they are whole: as much later as they did so far.
    fn late(&self) -> Duration {
        let seconds = self.timeline.iter().flat_map(|second| second.groups.iter().zip(&self.groups));
        let segments = seconds.filter(|(_, group)| group.protocol == Protocol::Hls && !group.publishes);
        let most_ms = segments.map(|(second, _)| second.delay_ms.max).fold(0.0, f64::max);
        LATE + Duration::from_secs_f64((most_ms / 1_000.0).min(SEGMENT_LATE_S_MAX))
    }

    /// Has a phase's clients join; returns how many have a picture (or send) at its end.
    fn join(&mut self, number: u8, phase: &PhasePlan, patience: Duration) -> Result<usize> {
        let at_us = udp::now_us() - self.epoch_us + LEAD_US;
        self.workers.order(&Order::Phase(number, at_us))?;
        let what = ["publishers", "relays", "viewers"].get(usize::from(number)).copied().unwrap_or("clients");
        self.progress.begin(what, phase.seats as u64);
        let deadline = Instant::now() + phase.joined_after + patience;
        loop {
            self.wait(LOOK)?;
            let of = |count: fn(&super::plan::GroupSecond) -> usize| -> usize {
                let groups = self
                    .latest
                    .iter()
                    .flat_map(|second| phase.groups.iter().filter_map(|g| second.groups.get(*g)));
                groups.map(count).sum()
            };
            let (ready, failed) = (of(|group| group.picture), of(|group| group.failed));
            self.progress.at(ready as u64);
            if ready + failed >= phase.seats || Instant::now() >= deadline {
                return Ok(ready);
            }
        }
    }

    /// Takes what workers say for so long; an error when a worker or the server is gone.
    fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if let Some(node) = &mut self.node {
                node.check_alive()?;
            } else if let Some(pid) = self.pid {
                Usage::of(pid).context("the server is gone")?;
            }
            let left = end.saturating_duration_since(Instant::now());
            if let Some((worker, second)) = self.workers.second(left.min(LOOK))? {
                self.take(worker, second)?;
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    fn take(&mut self, worker: usize, second: Second) -> Result<()> {
        let at = second.at;
        if self.timeline.last().is_none_or(|last| last.at < at) {
            let measured = (self.window.from_us..self.window.until_us).contains(&(at * 1_000_000 - 500_000));
            let mut one = outcome::Second { at, measured, ..outcome::Second::default() };
            one.groups.resize_with(self.groups.len(), Default::default);
            if let Some(usage) = self.look()? {
                if let Some((since, before)) = &self.usage {
                    one.server_percent = Some(usage.since(before, since.elapsed()).percent);
                }
                one.server_rss_bytes = Some(usage.rss_bytes);
                self.usage = Some((Instant::now(), usage));
            }
            self.timeline.push(one);
        }
        let Some(one) = self.timeline.iter_mut().rev().find(|one| one.at == at) else { return Ok(()) };
        one.worker_percent = one.worker_percent.max(second.cpu_percent);
        for (sum, group) in one.groups.iter_mut().zip(&second.groups) {
            add_second(sum, group);
        }
        self.latest[worker] = second;
        Ok(())
    }

    fn look(&self) -> Result<Option<Usage>> {
        self.pid.map(Usage::of).transpose()
    }

    fn look_at_workers(&self) -> Result<Vec<f64>> {
        self.workers.pids().into_iter().map(|pid| Ok(Usage::of(pid)?.seconds())).collect()
    }

    fn sum_up(&self, finished: &[Finished], seconds: f64) -> Vec<Group> {
        let seats: Vec<&SeatResult> = finished.iter().flat_map(|one| &one.seats).collect();
        let streams = seats.iter().map(|seat| seat.stream as usize + 1).max().unwrap_or(0);
        let mut sent = vec![None; streams];
        for seat in &seats {
            if let Some(numbers) = seat.sent {
                sent[seat.stream as usize] = Some(numbers);
            }
        }
        self.groups
            .iter()
            .enumerate()
            .map(|(number, group)| {
                let mut totals = Totals::default();
                finished.iter().filter_map(|one| one.groups.get(number)).for_each(|part| totals.add(part));
                let seats: Vec<&SeatResult> =
                    seats.iter().copied().filter(|seat| seat.group == number).collect();
                let retried = finished.iter().flat_map(|one| &one.retried).filter(|(of, ..)| *of == number);
                let mut failures: Vec<(String, u64)> =
                    retried.map(|(_, why, times)| (why.clone(), *times)).collect();
                for why in seats.iter().filter_map(|seat| seat.failure.as_ref()) {
                    match failures.iter_mut().find(|(known, _)| known == why) {
                        Some((_, times)) => *times += 1,
                        None => failures.push((why.clone(), 1)),
                    }
                }
                failures.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
                summary(group, &totals, &seats, &sent, failures, seconds)
            })
            .collect()
    }
}

fn summary(
    group: &super::plan::Group,
    totals: &Totals,
    seats: &[&SeatResult],
    sent: &[Option<(u32, u32)>],
    failures: Vec<(String, u64)>,
    seconds: f64,
) -> Group {
    let due_of = |seat: &SeatResult| match sent.get(seat.stream as usize).copied().flatten() {
        Some((first, end)) if !group.publishes => seat.span.frames_due(first, end),
        // Publishers, and viewers of a stream that others send: what there was.
        _ => u64::from(seat.frames),
    };
    let share = |got: u64, due: u64| if due == 0 { 0.0 } else { 100.0 * got as f64 / due as f64 };
    let shares = seats.iter().map(|seat| (u64::from(seat.frames), due_of(seat))).filter(|(_, due)| *due > 0);
    let worst = shares.map(|(got, due)| share(got, due)).fold(f64::INFINITY, f64::min);
    let frames_due: u64 = seats.iter().map(|seat| due_of(seat)).sum();
    let mut kbps: Vec<f64> =
        seats.iter().map(|seat| seat.bytes as f64 * 8.0 / 1_000.0 / seconds.max(0.001)).collect();
    kbps.sort_by(f64::total_cmp);
    Group {
        name: group.name.clone(),
        protocol: group.protocol,
        publishes: group.publishes,
        url: group.url.clone(),
        clients: group.seats,
        with_picture: seats.iter().filter(|seat| seat.picture).count(),
        failed: seats.iter().filter(|seat| seat.failure.is_some()).count(),
        failures,
        joins: totals.joins,
        frames_due,
        frames: totals.frames,
        frames_again: totals.frames_again,
        frames_old: totals.frames_old,
        frames_foreign: totals.frames_foreign,
        delivered_percent: share(totals.frames, frames_due),
        worst_percent: if worst.is_finite() { worst } else { 0.0 },
        packets_due: totals.packets_due,
        packets: totals.packets,
        packets_lost: totals.packets_lost(),
        packets_reordered: totals.packets_reordered,
        packets_again: totals.packets_again,
        packets_recovered: totals.packets_recovered,
        packets_discarded: totals.packets_discarded,
        delay_ms: totals.delay.summary(),
        delay_us_counts: totals.delay.values().collect(),
        connect_ms: totals.connect.summary(),
        first_key_ms: totals.first_key.summary(),
        freezes_ms: totals.freezes.summary(),
        skew_ms: totals.skew.summary(),
        late_ms: totals.late.summary(),
        kbps_min: kbps.first().copied().unwrap_or(0.0),
        kbps_median: kbps.get(kbps.len() / 2).copied().unwrap_or(0.0),
        socket_drops: totals.socket_drops,
    }
}

/// Percentiles of several workers cannot be added: the worst is told.
fn add_second(sum: &mut outcome::GroupSecond, part: &super::plan::GroupSecond) {
    sum.connected += part.connected;
    sum.picture += part.picture;
    sum.failed += part.failed;
    sum.joins += part.totals.joins;
    sum.frames += part.totals.frames;
    sum.packets += part.totals.packets;
    sum.packets_lost += part.totals.packets_due as i64 - part.totals.packets as i64;
    sum.kbps += part.totals.bytes as f64 * 8.0 / 1_000.0;
    sum.freezes += part.totals.freezes.summary().count;
    let delay = part.totals.delay.summary();
    let most = |a: f64, b: f64| a.max(b);
    sum.delay_ms.count += delay.count;
    sum.delay_ms.p50 = most(sum.delay_ms.p50, delay.p50);
    sum.delay_ms.p95 = most(sum.delay_ms.p95, delay.p95);
    sum.delay_ms.p99 = most(sum.delay_ms.p99, delay.p99);
    sum.delay_ms.p999 = most(sum.delay_ms.p999, delay.p999);
    sum.delay_ms.max = most(sum.delay_ms.max, delay.max);
}

/// Busy seconds of all these cores; `None` for none.
fn busy(cores: &[usize]) -> Result<Option<f64>> {
    if cores.is_empty() {
        return Ok(None);
    }
    cores.iter().map(|core| process::core_busy_seconds(*core)).sum::<Result<f64>>().map(Some)
}

fn changed(before: &[(String, f64)], after: Vec<(String, f64)>) -> Vec<(String, f64, f64)> {
    let earlier: std::collections::HashMap<&str, f64> =
        before.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let pairs = after
        .into_iter()
        .map(|(name, value)| (earlier.get(name.as_str()).copied().unwrap_or(0.0), name, value));
    pairs
        .filter(|(before, _, after)| before != after)
        .map(|(before, name, after)| (name, before, after))
        .collect()
}

/// Says what a reader of the figures must know.
fn judge(outcome: &mut Outcome) {
    let measured = outcome.timeline.iter().filter(|second| second.measured);
    outcome.harness.worker_percent_max = measured.map(|second| second.worker_percent).fold(0.0, f64::max);
    let mut limits = Vec::new();
    let harness = &outcome.harness;
    if harness.worker_percent_max > WORKER_PERCENT_MAX {
        limits.push(format!("a worker took {:.0} % of its core in a second", harness.worker_percent_max));
    }
    let drops: u64 = outcome.groups.iter().map(|group| group.socket_drops).sum();
    if drops > 0 {
        limits.push(format!("{drops} datagrams did not fit the sockets' buffers"));
    }
    let late = outcome.groups.iter().map(|group| group.late_ms.p99).fold(0.0, f64::max);
    if late > LATE_MS_MAX {
        limits.push(format!("publishers sent 1 % of the frames {late:.0} ms late or more"));
    }
    for (code, why) in OWN_ERRORS {
        let times: u64 =
            failures(outcome).filter(|(_, why, _)| why.contains(code)).map(|(.., times)| times).sum();
        if times > 0 {
            limits.push(format!("{times} clients had {why}"));
        }
    }
    outcome.harness.was_the_limit = !limits.is_empty();
    if !limits.is_empty() {
        outcome.warnings.push(format!(
            "THE HARNESS WAS THE LIMIT: {}; the figures are its own: use fewer clients, or more workers and cores",
            limits.join("; ")
        ));
    }
    outcome.harness.limits = limits;
    let others = [
        ("server's", outcome.server.as_ref().and_then(|server| server.others_percent)),
        ("harness's", outcome.harness.others_percent),
    ];
    for (whose, percent) in others {
        if let Some(percent) = percent.filter(|percent| *percent > OTHERS_PERCENT_MAX) {
            outcome.disturbed = true;
            outcome.warnings.push(format!(
                "{DISTURBED}: other processes took {percent:.0} % of the {whose} cores; delays are theirs too"
            ));
        }
    }
    let mut warnings = std::mem::take(&mut outcome.warnings);
    for group in &outcome.groups {
        if group.frames_foreign > 0 {
            warnings.push(format!(
                "{}: {} frames were of another stream than the one asked for",
                group.name, group.frames_foreign
            ));
        }
    }
    for group in outcome.viewers() {
        let silent = outcome.silent_seconds(group);
        if silent > 0 {
            warnings
                .push(format!("{}: nothing came in the last {silent} s of the measured time", group.name));
        }
    }
    let failed = failures(outcome).map(|(group, why, times)| {
        let others = if group.clients > 1 { ", ..." } else { "" };
        format!("{} ({}{others}): {times} failed: {why}", group.name, group.url)
    });
    warnings.extend(failed);
    outcome.warnings = warnings;
}

fn failures(outcome: &Outcome) -> impl Iterator<Item = (&Group, &str, u64)> {
    outcome
        .groups
        .iter()
        .flat_map(|group| group.failures.iter().map(move |(why, times)| (group, why.as_str(), *times)))
}
