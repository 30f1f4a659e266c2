//! The scoreboard: each scenario, its seeds, what was measured over them, and what must be reached.

use std::fmt::Write;

use crate::scenario::{Figure, Goal, Scenario, Value};

/// One line of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// The result over all seeds; `None` when the node has no such thing.
    pub measured: Option<f64>,
    /// What it must be: missing it is a failure.
    pub goal: Goal,
    /// What each seed gave.
    pub by_seed: Vec<(u64, Option<f64>)>,
}

impl Row {
    /// The seed that came out worst.
    pub fn worst_seed(&self) -> Option<u64> {
        let bad = |measured: &Option<f64>| match (self.goal, measured) {
            (Goal::Least(_), Some(it)) => -it,
            (_, Some(it)) => *it,
            (_, None) => f64::NEG_INFINITY,
        };
        self.by_seed.iter().max_by(|a, b| bad(&a.1).total_cmp(&bad(&b.1))).map(|(seed, _)| *seed)
    }

    /// Whether the goal is reached.
    pub fn is_reached(&self) -> bool {
        match (self.goal, self.measured) {
            (Goal::Shown, _) => true,
            (_, None) => false,
            (Goal::Least(least), Some(measured)) => measured >= least,
            (Goal::Most(most), Some(measured)) => measured <= most,
        }
    }

    /// As the scoreboard has it.
    pub fn line(&self) -> String {
        let measured = self.measured.map_or("none".to_string(), |it| format!("{it:.2}"));
        let goal = match self.goal {
            Goal::Least(it) => format!(">= {it}"),
            Goal::Most(it) => format!("<= {it}"),
            Goal::Shown => String::new(),
        };
        let gate = match (self.goal, self.is_reached()) {
            (Goal::Shown, _) => "",
            (_, true) => "gate",
            (_, false) => "gate MISSED",
        };
        let line = format!("  {:<58} {measured:>9}  {goal:<10} {gate}", self.what);
        line.trim_end().to_string()
    }
}

/// Runs a scenario with each seed and puts the results together.
pub fn measure(scenario: &Scenario, seeds: &[u64]) -> Vec<Row> {
    let runs: Vec<(u64, Vec<Figure>)> =
        seeds.iter().map(|seed| (*seed, scenario.run(*seed, false))).collect();
    rows(scenario, &runs)
}

/// Puts the figures of several runs together, each with its seed.
pub fn rows(scenario: &Scenario, runs: &[(u64, Vec<Figure>)]) -> Vec<Row> {
    let figures = runs.first().map_or(0, |(_, run)| run.len());
    let row = |index: usize| {
        let Figure { what, goal, .. } = runs[0].1[index];
        let values = || runs.iter().map(|(_, run)| &run[index].value);
        let by_seed = runs.iter().map(|(seed, run)| (*seed, together([&run[index].value]))).collect();
        Row { scenario: scenario.name, what, measured: together(values()), goal, by_seed }
    };
    (0..figures).map(row).collect()
}

fn together<'a>(values: impl IntoIterator<Item = &'a Value>) -> Option<f64> {
    let (mut good, mut of, mut most, mut samples, mut percentile) = (0, 0, None, Vec::new(), 0);
    for value in values {
        match value {
            Value::Share(some, all) => (good, of) = (good + some, of + all),
            Value::Most(one) => most = Some(f64::max(most.unwrap_or(*one), *one)),
            Value::Percentile(p, some) => {
                percentile = *p as usize;
                samples.extend_from_slice(some);
            }
            Value::Nothing => {}
        }
    }
    samples.sort_by(f64::total_cmp);
    let sample = samples.len().checked_sub(1).map(|last| samples[(last * percentile).div_ceil(100)]);
    // Rounded as it is shown, and never up to a goal that was missed: 99.996 % is not 100.
    let share = (of > 0).then(|| (good as f64 * 10_000.0 / of as f64).floor() / 100.0);
    share.or(most).or(sample)
}

/// The text for rows that stand together by scenario.
pub fn text(scenarios: &[&Scenario], rows: &[Row], seeds: &[u64]) -> String {
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let mut text = format!(
        "What the node does on bad networks: `cargo xtask sim` measures, `cargo xtask sim --accept` writes this file.\n\
         Seeds {}; shares over all of them, else the worst.\n",
        seeds.join(" ")
    );
    for scenario in scenarios {
        let _ = write!(text, "\n{}: {}\n", scenario.name, scenario.about);
        for row in rows.iter().filter(|row| row.scenario == scenario.name) {
            let _ = writeln!(text, "{}", row.line());
        }
    }
    text
}
