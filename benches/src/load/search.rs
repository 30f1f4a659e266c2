//! The most viewers that a server serves well, by run after run: doubled until it does not, then bisected.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::outcome::{Group, Machine, Outcome};
use super::plan::plan;
use super::progress::Progress;
use super::run;
use super::scenario::Scenario;

/// A viewer that got less of its frames is not served, however well the others are.
const WORST_PERCENT_MIN: f64 = 90.0;

/// What is looked for, and how.
#[derive(clap::Args, Clone, Debug, Serialize)]
pub struct Options {
    /// Which --watch (from 1 on, those of a file first) has its count changed, and is judged. The only one needs not be named.
    #[arg(long)]
    group: Option<usize>,
    /// Served well is: less than this lost, in percent of RTP packets; over TCP, of frames.
    #[arg(long, default_value_t = 0.1)]
    loss_max_percent: f64,
    /// And 99 % of the frames there sooner than this.
    #[arg(long, default_value_t = 50.0)]
    p99_max_ms: f64,
    /// The first count that is tried.
    #[arg(long, default_value_t = 50)]
    from: usize,
    /// The greatest.
    #[arg(long, default_value_t = 20_000)]
    to: usize,
    /// How near the answer is to the first count that fails, in percent of that.
    #[arg(long, default_value_t = 5.0)]
    precision: f64,
    /// Runs at most.
    #[arg(long, default_value_t = 12)]
    trials_max: usize,
    /// Also write all trials as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What came of a run with so many viewers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
enum Verdict {
    /// They were served well.
    Good,
    /// They were not, and why.
    Bad(String),
    /// They were not, but that was the harness.
    HarnessLimit(String),
}

impl Verdict {
    fn why(&self) -> &str {
        match self {
            Verdict::Good => "",
            Verdict::Bad(why) | Verdict::HarnessLimit(why) => why,
        }
    }
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Found {
    /// The most that were served well; 0: not even one.
    most: usize,
    /// The least that were not, and why.
    above: Option<(usize, Verdict)>,
    /// Whether the two are as near as was wanted.
    precise: bool,
}

/// The search: `trial(n)` says how `n` viewers are served. It is asked `trials_max` times at most, each time for a count between the most
/// that was good and the least that was not: so the answer is one that was seen to be good, even if the server is not the same each time.
fn search(
    options: &Options,
    mut trial: impl FnMut(usize) -> Result<Verdict>,
    mut tell: impl FnMut(&Found),
) -> Result<Found> {
    let mut found = Found { most: 0, above: None, precise: false };
    for number in 0..options.trials_max {
        let next = match &found.above {
            None if number == 0 => options.from,
            None => (found.most * 2).min(options.to),
            Some((least, _)) => usize::midpoint(found.most, *least),
        };
        match trial(next)? {
            Verdict::Good => found.most = next,
            verdict => found.above = Some((next, verdict)),
        }
        found.precise = match &found.above {
            None => found.most >= options.to,
            Some((least, _)) => {
                let gap = least - found.most;
                gap <= 1 || (found.most > 0 && gap as f64 * 100.0 <= options.precision * *least as f64)
            }
        };
        tell(&found);
        if found.precise {
            break;
        }
    }
    Ok(found)
}

/// A trial's figures.
#[derive(Clone, Debug, Serialize)]
struct Trial {
    clients: usize,
    #[serde(flatten)]
    verdict: Verdict,
    disturbed: bool,
    with_picture: usize,
    failed: usize,
    delivered_percent: f64,
    worst_percent: f64,
    loss_percent: f64,
    delay_p50_ms: f64,
    delay_p99_ms: f64,
    freezes: u64,
    server_percent: Option<f64>,
    server_rss_bytes: Option<u64>,
    worker_percent: f64,
    worker_percent_max: f64,
    warnings: Vec<String>,
}

/// The JSON file.
#[derive(Serialize)]
struct Record<'a> {
    scenario: &'a Scenario,
    machine: Machine,
    group: &'a str,
    options: &'a Options,
    trials: &'a [Trial],
    found: Option<&'a Found>,
    stopped: Option<String>,
}

/// Searches, and prints a line a trial and the answer.
///
/// # Errors
/// A scenario that is not right; a trial that tells nothing; not one viewer served.
pub fn run(scenario: &Scenario, options: &Options) -> Result<()> {
    let (watch, group) = chosen(scenario, options)?;
    let mut trials: Vec<Trial> = Vec::new();
    println!(
        "{group}: the most with less than {} % lost and p99 below {} ms",
        options.loss_max_percent, options.p99_max_ms
    );
    println!("{}", Trial::HEAD);
    let mut best = None;
    let result = search(
        options,
        |clients| {
            let mut scenario = scenario.clone();
            scenario.watch[watch].count = clients;
            let outcome = run::run(&scenario, &mut Progress::new())?;
            let trial = judge(&outcome, &group, clients, options)?;
            println!("{}", trial.line());
            trials.push(trial);
            Ok(trials[trials.len() - 1].verdict.clone())
        },
        |found| best = Some(found.clone()),
    );
    if let Some(path) = &options.json {
        let mut shown = scenario.clone();
        shown.target.hide_token();
        let record = Record {
            scenario: &shown,
            machine: Machine::here(),
            group: &group,
            options,
            trials: &trials,
            found: best.as_ref(),
            stopped: result.as_ref().err().map(|error| format!("{error:#}")),
        };
        let text = serde_json::to_string_pretty(&record)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(found) = &best {
        println!("\n{}", answer(found));
    }
    let found = result?;
    ensure!(found.most > 0, "not one viewer was served well");
    Ok(())
}

/// The `watch` whose count is changed, and its group's name in outcomes.
fn chosen(scenario: &Scenario, options: &Options) -> Result<(usize, String)> {
    let count = scenario.watch.len();
    let watch = match options.group {
        None if count == 1 => 0,
        None => bail!("there are {count} --watch: --group says which one has its count changed"),
        Some(group) => {
            ensure!((1..=count).contains(&group), "--group {group}: there are {count} --watch");
            group - 1
        }
    };
    ensure!(options.trials_max >= 1, "--trials-max: at least 1");
    ensure!((1..=options.to).contains(&options.from), "--from: 1 to {} (--to)", options.to);
    ensure!(options.precision >= 0.0, "--precision: 0 or more");
    let mut largest = scenario.clone();
    largest.watch[watch].count = options.to;
    largest.check().context("with as many viewers as --to says")?;
    // Groups of the plan have the order of the scenario, viewers last.
    let groups = &plan(scenario, 0)?[0].groups;
    Ok((watch, groups[groups.len() - count + watch].name.clone()))
}

/// # Errors
/// Nobody sends: that says nothing about viewers.
fn judge(outcome: &Outcome, name: &str, clients: usize, options: &Options) -> Result<Trial> {
    let warnings = || outcome.warnings.join("\n");
    let group = outcome.groups.iter().find(|group| group.name == name);
    let group = group.with_context(|| format!("nothing was counted:\n{}", warnings()))?;
    let silent = outcome.groups.iter().find(|group| group.publishes && group.with_picture == 0);
    if let Some(silent) = silent {
        bail!("{}: nobody sends, so nothing is told of viewers:\n{}", silent.name, warnings());
    }
    let verdict = match shortcoming(outcome, group, options) {
        None => Verdict::Good,
        Some(why) if outcome.harness.was_the_limit => {
            Verdict::HarnessLimit(format!("{why}, but {}", outcome.harness.limits.join("; ")))
        }
        Some(why) => Verdict::Bad(why),
    };
    Ok(Trial {
        clients,
        verdict,
        disturbed: outcome.disturbed,
        with_picture: group.with_picture,
        failed: group.failed,
        delivered_percent: group.delivered_percent,
        worst_percent: group.worst_percent,
        loss_percent: loss_percent(group),
        delay_p50_ms: group.delay_ms.p50,
        delay_p99_ms: group.delay_ms.p99,
        freezes: group.freezes_ms.count,
        server_percent: outcome.server.as_ref().map(|server| server.cpu.percent),
        server_rss_bytes: outcome.server.as_ref().map(|server| server.rss_bytes),
        worker_percent: outcome.harness.worker_percent,
        worker_percent_max: outcome.harness.worker_percent_max,
        warnings: outcome.warnings.clone(),
    })
}

fn loss_percent(group: &Group) -> f64 {
    if group.packets_due > 0 { group.packets_lost_percent() } else { 100.0 - group.delivered_percent }
}

/// Why viewers were not served well, if so.
fn shortcoming(outcome: &Outcome, group: &Group, options: &Options) -> Option<String> {
    let loss = loss_percent(group);
    let p99 = group.delay_ms.p99;
    let silent = outcome.silent_seconds(group);
    Some(if group.with_picture < group.clients {
        format!("only {} of {} had a picture", group.with_picture, group.clients)
    } else if group.failed > 0 {
        format!("{} failed", group.failed)
    } else if !outcome.complete {
        format!("the run did not come to its end: {}", outcome.warnings.first().map_or("", String::as_str))
    } else if silent > 0 {
        format!("nothing came in the last {silent} s")
    } else if loss >= options.loss_max_percent {
        let what = if group.packets_due > 0 { "packets" } else { "frames" };
        format!("{loss:.2} % of the {what} were lost")
    } else if group.worst_percent < WORST_PERCENT_MIN {
        format!("a viewer got {:.1} % of its frames", group.worst_percent)
    } else if p99 >= options.p99_max_ms {
        format!("p99 was {p99:.1} ms")
    } else {
        return None;
    })
}

impl Trial {
    const HEAD: &str = " clients pictures delivered    worst     lost  p50 ms     p99  server %  worker %";

    fn line(&self) -> String {
        let server = self.server_percent.map_or("-".into(), |percent| format!("{percent:.1}"));
        let verdict = match &self.verdict {
            Verdict::Good => "good".to_owned(),
            Verdict::Bad(why) => format!("not good: {why}"),
            Verdict::HarnessLimit(why) => format!("HARNESS LIMIT: {why}"),
        };
        let disturbed = if self.disturbed { " (disturbed by other processes)" } else { "" };
        format!(
            "{:>8} {:>8} {:>8.2}% {:>7.2}% {:>7.3}% {:>7.1} {:>7.1} {server:>9} {:>9.1}  {verdict}{disturbed}",
            self.clients,
            self.with_picture,
            self.delivered_percent,
            self.worst_percent,
            self.loss_percent,
            self.delay_p50_ms,
            self.delay_p99_ms,
            self.worker_percent,
        )
    }
}

fn answer(found: &Found) -> String {
    let most = found.most;
    let vague = if found.precise { "" } else { "; there were no more trials to say it more precisely" };
    match &found.above {
        None if found.precise => format!("at least {most} viewers: as many as --to allows were served well"),
        None => format!("at least {most} viewers{vague}"),
        Some((least, Verdict::HarnessLimit(why))) => format!(
            "at least {most} viewers; at {least} the HARNESS WAS THE LIMIT ({why}): \
             more workers or cores are needed to say what the server can{vague}"
        ),
        Some((least, verdict)) => format!("{most} viewers; at {least}: {}{vague}", verdict.why()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::outcome::example;

    fn options(from: usize, to: usize, trials_max: usize) -> Options {
        let (loss_max_percent, p99_max_ms, precision) = (0.1, 50.0, 5.0);
        Options { group: None, loss_max_percent, p99_max_ms, from, to, precision, trials_max, json: None }
    }

    fn bad() -> Verdict {
        Verdict::Bad("p99 was 80.0 ms".into())
    }

    /// What is found with a server, and the counts that were tried.
    fn tried(options: &Options, mut server: impl FnMut(usize) -> Verdict) -> (Found, Vec<usize>) {
        let mut counts = Vec::new();
        let found = search(
            options,
            |n| {
                counts.push(n);
                Ok(server(n))
            },
            |_| (),
        );
        (found.unwrap(), counts)
    }

    #[test]
    fn a_limit_is_doubled_to_and_bisected() {
        for limit in [1, 2, 49, 50, 51, 99, 100, 730, 1_234, 6_000] {
            let server = |n| if n <= limit { Verdict::Good } else { bad() };
            let (found, counts) = tried(&options(50, 20_000, 40), server);
            let (least, verdict) = found.above.clone().unwrap();
            assert!(
                found.precise && found.most <= limit && limit < least && verdict == bad(),
                "{limit}: {found:?}"
            );
            assert!((least - found.most) as f64 <= (0.05 * least as f64).max(1.0), "{limit}: {found:?}");
            assert!(counts.len() <= 14, "{limit}: {counts:?}");
        }
        let (_, counts) = tried(&options(100, 20_000, 40), |n| if n <= 750 { Verdict::Good } else { bad() });
        assert_eq!(counts, [100, 200, 400, 800, 600, 700, 750, 775]);
    }

    #[test]
    fn a_noisy_edge_gives_an_answer_that_was_good() {
        for seed in 0..50_u64 {
            let mut state = seed;
            let mut good = Vec::new();
            // Between 600 and 900 it is chance.
            let (found, counts) = tried(&options(50, 20_000, 40), |n| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if n < 600 || (n <= 900 && state >> 63 == 0) {
                    good.push(n);
                    Verdict::Good
                } else {
                    bad()
                }
            });
            assert!((550..=900).contains(&found.most) && good.contains(&found.most), "{found:?}");
            assert!(found.precise && counts.len() <= 12, "{counts:?}");
        }
    }

    #[test]
    fn always_good_ends_at_the_greatest() {
        let (found, counts) = tried(&options(50, 300, 12), |_| Verdict::Good);
        assert_eq!(counts, [50, 100, 200, 300]);
        assert_eq!(found, Found { most: 300, above: None, precise: true });
        assert!(answer(&found).contains("at least 300"));
    }

    #[test]
    fn never_good_ends_at_none() {
        let (found, counts) = tried(&options(50, 300, 12), |_| bad());
        assert_eq!(counts, [50, 25, 12, 6, 3, 1]);
        assert_eq!(found, Found { most: 0, above: Some((1, bad())), precise: true });
    }

    #[test]
    fn the_harness_is_not_taken_for_the_server() {
        let limit = Verdict::HarnessLimit("p99 was 80.0 ms".into());
        let server = |n| if n <= 500 { Verdict::Good } else { limit.clone() };
        let (found, _) = tried(&options(50, 20_000, 12), server);
        assert_eq!(found.above.as_ref().map(|(_, verdict)| verdict), Some(&limit));
        assert!(answer(&found).contains("HARNESS WAS THE LIMIT"), "{}", answer(&found));
        // Where the server fails below that, it is the server.
        let server = |n| {
            if n <= 300 {
                Verdict::Good
            } else if n <= 500 {
                bad()
            } else {
                limit.clone()
            }
        };
        let (found, _) = tried(&options(50, 20_000, 12), server);
        assert!(!answer(&found).contains("HARNESS"), "{}", answer(&found));
    }

    #[test]
    fn the_number_of_trials_is_a_bound_and_errors_end_it() {
        let (found, counts) = tried(&options(50, 20_000, 3), |_| Verdict::Good);
        assert_eq!((found.most, found.precise, counts.len()), (200, false, 3));
        assert!(answer(&found).contains("no more trials"));
        let failing = search(&options(50, 100, 3), |_| bail!("no server"), |_| ());
        assert!(failing.unwrap_err().to_string().contains("no server"));
    }

    #[test]
    fn each_criterion_is_told() {
        let why = |change: fn(&mut Outcome)| {
            let mut outcome = example();
            change(&mut outcome);
            let trial = judge(&outcome, "watch WHEP live/bench", 5, &options(1, 2, 1)).unwrap();
            format!("{:?}", trial.verdict)
        };
        assert_eq!(why(|_| ()), "Good");
        for (change, part) in [
            ((|o| o.groups[1].with_picture = 3) as fn(&mut Outcome), "only 3 of 5"),
            (|o| o.groups[1].failed = 2, "2 failed"),
            (|o| o.complete = false, "did not come to its end"),
            (
                |o| o.timeline.iter_mut().skip(6).for_each(|second| second.groups[1].frames = 0),
                "the last 3 s",
            ),
            (|o| o.groups[1].packets_lost = 81, "1.00 % of the packets"),
            (
                |o| (o.groups[1].packets_due, o.groups[1].delivered_percent) = (0, 99.0),
                "1.00 % of the frames",
            ),
            (|o| o.groups[1].worst_percent = 70.0, "70.0 %"),
            (|o| o.groups[1].delay_ms.p99 = 51.0, "p99 was 51.0 ms"),
            (|o| (o.groups[1].failed, o.harness.was_the_limit) = (1, true), "HarnessLimit"),
        ] {
            assert!(why(change).contains(part), "{part}: {}", why(change));
        }
        let mut nobody = example();
        nobody.groups[0].with_picture = 0;
        assert!(judge(&nobody, "watch WHEP live/bench", 5, &options(1, 2, 1)).is_err());
    }

    #[test]
    fn the_group_is_found_or_asked_for() {
        let mut scenario = Scenario::default();
        scenario.add_publish("rtmp").unwrap();
        scenario.add_watch("whep:count=5").unwrap();
        let one = options(1, 100, 1);
        assert_eq!(chosen(&scenario, &one).unwrap(), (0, "watch WHEP live/bench".into()));
        scenario.add_watch("rtmp").unwrap();
        assert!(chosen(&scenario, &one).unwrap_err().to_string().contains("--group"));
        let second = Options { group: Some(2), ..one.clone() };
        assert_eq!(chosen(&scenario, &second).unwrap(), (1, "watch RTMP live/bench".into()));
        assert!(chosen(&scenario, &Options { group: Some(3), ..one.clone() }).is_err());
        assert!(chosen(&scenario, &Options { from: 200, group: Some(1), ..one }).is_err());
    }
}
