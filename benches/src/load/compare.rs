//! Runs side by side. Files of the same scenario name and target are one set, told by its medians: so A B A B is two columns of two runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::outcome::{Group, Outcome};
use super::scenario::Scenario;

/// Differences of scenarios that are listed.
const DIFFERENCES_MAX: usize = 12;

/// What is compared.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// What `run --json` wrote. Two files are compared with each other; of more, those of one scenario name and target are one set.
    #[arg(required = true, num_args = 2..)]
    results: Vec<PathBuf>,
    /// Leaves the first run of each set out: caches were cold, clocks were low.
    #[arg(long)]
    drop_first: bool,
}

/// Prints the comparison.
///
/// # Errors
/// A file that is not there or no result; a set with nothing left.
pub fn run(options: &Options) -> Result<()> {
    let outcomes: Vec<Outcome> =
        options.results.iter().map(|path| Outcome::load(path)).collect::<Result<_>>()?;
    let runs: Vec<Run<'_>> =
        options.results.iter().zip(&outcomes).map(|(path, outcome)| Run { path, outcome }).collect();
    print!("{}", text(&sets(runs, options.drop_first)?));
    Ok(())
}

#[derive(Clone, Copy)]
struct Run<'a> {
    path: &'a Path,
    outcome: &'a Outcome,
}

/// A column.
struct Set<'a> {
    label: String,
    runs: Vec<Run<'a>>,
    dropped: usize,
}

fn sets(runs: Vec<Run<'_>>, drop_first: bool) -> Result<Vec<Set<'_>>> {
    // Two files are A and B, even when they say the same of themselves.
    let apart = runs.len() == 2;
    let mut sets: Vec<Set<'_>> = Vec::new();
    for run in runs {
        let label = label(&run.outcome.scenario);
        match sets.iter_mut().find(|set| set.label == label && !apart) {
            Some(set) => set.runs.push(run),
            None => sets.push(Set { label, runs: vec![run], dropped: 0 }),
        }
    }
    if drop_first {
        for set in &mut sets {
            ensure!(set.runs.len() > 1, "--drop-first leaves nothing of {}: it has one run", set.label);
            set.runs.sort_by_key(|run| run.outcome.started_unix_s);
            set.runs.remove(0);
            set.dropped = 1;
        }
    }
    Ok(sets)
}

fn label(scenario: &Scenario) -> String {
    let target = &scenario.target;
    let server = match &target.start {
        Some(program) => program.display().to_string(),
        None => format!("{:?} {}", target.preset, target.host),
    };
    if scenario.name.is_empty() { server } else { format!("{}, {server}", scenario.name) }
}

/// A row: what it is called, digits behind the point, and its value in a run.
type Row = (String, usize, Box<dyn Fn(&Outcome) -> Option<f64>>);

fn row(name: &str, digits: usize, value: impl Fn(&Outcome) -> Option<f64> + 'static) -> Row {
    (name.to_owned(), digits, Box::new(value))
}

/// Figures of a group, by their names; one that is no number is not shown.
type Figure = (&'static str, usize, fn(&Group) -> f64);

const VIEWERS: [Figure; 17] =
    [
        ("clients", 0, |group| group.clients as f64),
        ("with a picture", 0, |group| group.with_picture as f64),
        ("failed", 0, |group| group.failed as f64),
        ("delivered %", 2, |group| group.delivered_percent),
        ("worst viewer %", 2, |group| group.worst_percent),
        ("RTP packets lost %", 3, |group| {
            if group.packets_due > 0 { group.packets_lost_percent() } else { f64::NAN }
        }),
        ("delay p50 ms", 2, |group| group.delay_ms.p50),
        ("delay p95 ms", 2, |group| group.delay_ms.p95),
        ("delay p99 ms", 2, |group| group.delay_ms.p99),
        ("delay p99.9 ms", 2, |group| group.delay_ms.p999),
        ("delay max ms", 2, |group| group.delay_ms.max),
        ("connected p50 ms", 1, |group| group.connect_ms.p50),
        ("first key frame p50 ms", 1, |group| group.first_key_ms.p50),
        ("first key frame p99 ms", 1, |group| group.first_key_ms.p99),
        ("freezes", 0, |group| group.freezes_ms.count as f64),
        ("kbit/s, least", 0, |group| group.kbps_min),
        ("kbit/s, median", 0, |group| group.kbps_median),
    ];

const PUBLISHERS: [Figure; 4] = [
    ("clients", 0, |group| group.clients as f64),
    ("failed", 0, |group| group.failed as f64),
    ("kbit/s, median", 0, |group| group.kbps_median),
    ("sent late p99 ms", 2, |group| group.late_ms.p99),
];

fn group_of<'a>(outcome: &'a Outcome, name: &str, publishes: bool) -> Option<&'a Group> {
    outcome.groups.iter().find(|group| group.name == name && group.publishes == publishes)
}

/// All sections with their rows, groups in the order in which they first come.
fn sections(sets: &[Set<'_>]) -> Vec<(String, Vec<Row>)> {
    let mut known: Vec<(String, bool)> = Vec::new();
    for group in sets.iter().flat_map(|set| &set.runs).flat_map(|run| &run.outcome.groups) {
        let one = (group.name.clone(), group.publishes);
        if !known.contains(&one) {
            known.push(one);
        }
    }
    let mut sections = Vec::new();
    for (name, publishes) in known {
        let figures: &[Figure] = if publishes { &PUBLISHERS } else { &VIEWERS };
        let rows = figures.iter().map(|(what, digits, figure)| {
            let name = name.clone();
            row(what, *digits, move |outcome| {
                group_of(outcome, &name, publishes).map(figure).filter(|value| value.is_finite())
            })
        });
        sections.push((name.clone(), rows.collect()));
    }
    let cpu = |outcome: &Outcome| Some(outcome.server.as_ref()?.cpu.percent);
    // Of a core and second, 1 % is 10,000 us.
    let cpu_us = move |outcome: &Outcome| Some(cpu(outcome)? * 10_000.0 * outcome.seconds);
    let per = |us: Option<f64>, count: u64| us.filter(|_| count > 0).map(|us| us / count as f64);
    let server = vec![
        row("CPU, % of a core", 1, cpu),
        row("CPU us a frame delivered", 2, move |outcome| {
            per(cpu_us(outcome), outcome.viewers().map(|group| group.frames).sum())
        }),
        row("CPU us an RTP packet delivered", 2, move |outcome| {
            let rtp = outcome.viewers().all(|group| group.packets > 0);
            per(cpu_us(outcome).filter(|_| rtp), outcome.viewers().map(|group| group.packets).sum())
        }),
        row("memory MiB", 1, |outcome| Some(outcome.server.as_ref()?.rss_bytes as f64 / f64::from(1 << 20))),
        row("context switches/s", 0, |outcome| {
            Some(outcome.server.as_ref()?.cpu.switches_per_second.iter().sum())
        }),
        row("taken by others, % of a core", 1, |outcome| outcome.server.as_ref()?.others_percent),
    ];
    sections.push(("server".into(), server));
    let harness = vec![
        row("busiest worker, % of a core", 1, |outcome| Some(outcome.harness.worker_percent)),
        row("its worst second", 1, |outcome| Some(outcome.harness.worker_percent_max)),
    ];
    sections.push(("harness".into(), harness));
    sections
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let high = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], high) } else { high })
}

fn letter(at: usize) -> String {
    u8::try_from(at)
        .ok()
        .filter(|at| *at < 26)
        .map_or(format!("#{}", at + 1), |at| char::from(b'A' + at).to_string())
}

/// The whole comparison.
fn text(sets: &[Set<'_>]) -> String {
    let mut text = String::new();
    // Writing to a String has no error.
    let _ = write_head(sets, &mut text).and_then(|()| write_table(sets, &mut text));
    text
}

fn write_head(sets: &[Set<'_>], text: &mut String) -> std::fmt::Result {
    for (i, set) in sets.iter().enumerate() {
        let runs = match set.runs.len() {
            1 => String::new(),
            count => format!(": medians of {count} runs"),
        };
        let dropped = if set.dropped > 0 { ", the first left out" } else { "" };
        writeln!(text, "{}  {}{runs}{dropped}", letter(i), set.label)?;
        for run in &set.runs {
            writeln!(text, "     {}{}", run.path.display(), remarks(run.outcome))?;
        }
    }
    let mut runs = sets.iter().flat_map(|set| &set.runs).map(|run| run.outcome);
    let Some(first) = runs.next() else { return Ok(()) };
    let mut differences: Vec<String> = Vec::new();
    for other in runs {
        let mut found = Vec::new();
        differ("", &comparable(&first.scenario), &comparable(&other.scenario), &mut found);
        if first.machine != other.machine {
            found.push("the machine".into());
        }
        differences.extend(found.into_iter().filter(|one| !differences.contains(one)).collect::<Vec<_>>());
    }
    if !differences.is_empty() {
        writeln!(text, "\nTHE SCENARIOS DIFFER:")?;
        let left_out = differences.len().saturating_sub(DIFFERENCES_MAX);
        differences.iter().take(DIFFERENCES_MAX).try_for_each(|one| writeln!(text, "     {one}"))?;
        if left_out > 0 {
            writeln!(text, "     and {left_out} more")?;
        }
    }
    Ok(())
}

fn remarks(outcome: &Outcome) -> String {
    let remarks = [
        (!outcome.complete, "IT DID NOT COME TO ITS END"),
        (outcome.complete && !outcome.is_sound(), "CLIENTS FAILED"),
        (outcome.harness.was_the_limit, "THE HARNESS WAS THE LIMIT"),
        (outcome.disturbed, "DISTURBED by other processes"),
    ];
    remarks.iter().filter(|(is, _)| *is).map(|(_, remark)| format!("  {remark}")).collect()
}

fn write_table(sets: &[Set<'_>], text: &mut String) -> std::fmt::Result {
    let sections = sections(sets);
    let names = sections.iter().flat_map(|(_, rows)| rows.iter().map(|(name, ..)| name.len()));
    let width = names.max().unwrap_or(0) + 2;
    write!(text, "\n{:width$}", "")?;
    for i in 0..sets.len() {
        write!(text, " {:>12}", letter(i))?;
        if i > 0 {
            write!(text, " {:>7}", format!("{}/A", letter(i)))?;
        }
    }
    writeln!(text)?;
    for (title, rows) in &sections {
        let values = |value: &dyn Fn(&Outcome) -> Option<f64>| -> Vec<Option<f64>> {
            sets.iter()
                .map(|set| median(set.runs.iter().filter_map(|run| value(run.outcome)).collect()))
                .collect()
        };
        let rows: Vec<_> = rows.iter().map(|(name, digits, value)| (name, *digits, values(value))).collect();
        let rows: Vec<_> =
            rows.into_iter().filter(|(.., values)| values.iter().any(Option::is_some)).collect();
        if !rows.is_empty() {
            writeln!(text, "\n{title}")?;
        }
        for (name, digits, values) in rows {
            write!(text, "  {name:<0$}", width - 2)?;
            for (i, value) in values.iter().enumerate() {
                let shown = value.map_or("-".into(), |value| format!("{value:.digits$}"));
                write!(text, " {shown:>12}")?;
                let ratio = values[0].filter(|a| *a != 0.0).zip(*value).map(|(a, b)| format!("{:.2}", b / a));
                if i > 0 {
                    write!(text, " {:>7}", ratio.unwrap_or("-".into()))?;
                }
            }
            writeln!(text)?;
        }
    }
    Ok(())
}

/// A scenario without what names it and its server.
fn comparable(scenario: &Scenario) -> Value {
    let mut value = serde_json::to_value(scenario).unwrap_or_default();
    if let Some(table) = value.as_object_mut() {
        table.remove("name");
        table.remove("target");
    }
    value
}

/// Where two values differ, as `watch.0.count: 100, 200`.
fn differ(at: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            keys.for_each(|key| {
                let of = |table: &serde_json::Map<String, Value>| table.get(key).cloned().unwrap_or_default();
                differ(&below(key), &of(one), &of(other), found);
            });
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter()
                .zip(other)
                .enumerate()
                .for_each(|(i, (a, b))| differ(&below(&i.to_string()), a, b, found));
        }
        (Value::Array(one), Value::Array(other)) if one.iter().chain(other).any(Value::is_object) => {
            found.push(format!("{at}: {} entries, {}", one.len(), other.len()));
        }
        _ if a != b => found.push(format!("{at}: {a}, {b}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::outcome::example;

    fn compared(outcomes: &[Outcome], drop_first: bool) -> String {
        let path = Path::new("x.json");
        let runs = outcomes.iter().map(|outcome| Run { path, outcome }).collect();
        sets(runs, drop_first).map_or_else(|error| format!("{error:#}"), |sets| text(&sets))
    }

    /// The words of a row.
    fn words<'a>(text: &'a str, row: &str) -> Vec<&'a str> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(row));
        line.unwrap_or_else(|| panic!("no {row} in\n{text}")).split_whitespace().collect()
    }

    fn with(name: &str, p99: f64, started: u64) -> Outcome {
        let mut outcome = example();
        outcome.scenario.name = name.into();
        outcome.started_unix_s = started;
        outcome.groups[1].delay_ms.p99 = p99;
        outcome
    }

    #[test]
    fn two_files_are_put_side_by_side_though_they_are_called_the_same() {
        let text = compared(&[with("x", 4.0, 1), with("x", 6.0, 2)], false);
        assert_eq!(words(&text, "delay p99 ms"), ["4.00", "6.00", "1.50"]);
        assert!(!text.contains("DIFFER") && !text.contains("LIMIT"), "{text}");
    }

    #[test]
    fn alternated_runs_compare_by_medians_and_the_first_can_be_left_out() {
        let runs = [
            with("a", 90.0, 1),
            with("b", 99.0, 2),
            with("a", 4.0, 3),
            with("b", 2.0, 4),
            with("a", 6.0, 5),
            with("b", 3.0, 6),
        ];
        assert_eq!(words(&compared(&runs, false), "delay p99 ms"), ["6.00", "3.00", "0.50"]);
        let dropped = compared(&runs, true);
        assert_eq!(words(&dropped, "delay p99 ms"), ["5.00", "2.50", "0.50"]);
        assert!(dropped.contains("medians of 2 runs, the first left out"), "{dropped}");
        assert!(compared(&runs[..2], true).contains("leaves nothing"));
    }

    #[test]
    fn what_makes_a_comparison_unfair_is_said() {
        let (one, mut other) = (with("x", 4.0, 1), with("x", 6.0, 2));
        other.scenario.watch[0].count = 7;
        other.scenario.publish[0].media.kbps = 600;
        other.harness.was_the_limit = true;
        other.disturbed = true;
        other.machine.cores = 64;
        let text = compared(&[one, other], false);
        for part in
            ["watch.0.count: 5, 7", "publish.0.kbps: 2000, 600", "the machine", "HARNESS", "DISTURBED"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn groups_that_only_one_has_stand_alone() {
        let (one, mut other) = (with("x", 4.0, 1), with("x", 6.0, 2));
        other.groups[1].name = "watch FLV live/bench".into();
        let text = compared(&[one, other], false);
        assert_eq!(words(&text, "delay p99 ms"), ["4.00", "-", "-"]);
        assert!(text.contains("watch FLV live/bench"));
    }
}
