//! Instructions per packet by stage, as committed, and what a new count says against them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// More than this is a failure; less than its opposite is worth a new baseline.
const CHANGE_PERCENT_MAX: f64 = 10.0;
/// How a change is accepted.
const ACCEPT: &str = "cargo xtask bench instructions --accept";
const HEAD: &str = "\
# Instructions per packet (or message, look-up, ...) by stage: the gate of `cargo xtask bench instructions`.
# Written by `cargo xtask bench instructions --accept`. docs/BENCHMARKS.md says what a stage is.
";

/// Figures by stage, in the order of the names.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

/// What a count says about a stage. Its text is for who has to act on it.
#[derive(Clone, PartialEq, Debug)]
pub enum Finding {
    /// As before, within the bound.
    Same,
    /// It takes more: a failure. Before, after.
    Grown(f64, f64),
    /// It takes less: passes, and may be accepted.
    Shrunk(f64, f64),
    /// Counted, but not in the baseline: a failure.
    New(f64),
    /// In the baseline, but no stage any more: a failure.
    Gone,
}

impl Finding {
    fn of(before: f64, after: f64) -> Finding {
        let (change, change_max) = ((after - before) * 100.0, before * CHANGE_PERCENT_MAX);
        if change > change_max {
            Finding::Grown(before, after)
        } else if change < -change_max {
            Finding::Shrunk(before, after)
        } else {
            Finding::Same
        }
    }

    /// Whether it must not pass.
    pub fn is_failure(&self) -> bool {
        matches!(self, Finding::Grown(..) | Finding::New(_) | Finding::Gone)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |before: f64, after: f64| (after / before - 1.0) * 100.0;
        match *self {
            Finding::Same => write!(out, "as before"),
            Finding::Grown(before, after) => write!(
                out,
                "grew from {before:.1} to {after:.1} instructions ({:+.1} %, {CHANGE_PERCENT_MAX} % at most). If that is meant: `{ACCEPT}`, and why in the commit",
                percent(before, after)
            ),
            Finding::Shrunk(before, after) => write!(
                out,
                "went from {before:.1} to {after:.1} instructions ({:+.1} %). Keep the gain: `{ACCEPT}`",
                percent(before, after)
            ),
            Finding::New(after) => {
                write!(out, "takes {after:.1} instructions and has no line in the baseline: `{ACCEPT}`")
            }
            Finding::Gone => {
                write!(out, "has a line in the baseline, but there is no such stage: `{ACCEPT}`")
            }
        }
    }
}

impl Figures {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Figures> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        text.parse().with_context(|| format!("{}", path.display()))
    }

    /// Adds or replaces a stage's figure, rounded as the file has it.
    pub fn set(&mut self, stage: &str, instructions: f64) {
        self.0.insert(stage.to_owned(), (instructions * 10.0).round() / 10.0);
    }

    /// A stage's figure.
    pub fn get(&self, stage: &str) -> Option<f64> {
        self.0.get(stage).copied()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `after` says against this baseline, stage by stage.
    pub fn findings<'a>(&'a self, after: &'a Figures) -> BTreeMap<&'a str, Finding> {
        let gone = self.0.keys().map(|stage| (&**stage, Finding::Gone));
        let counted = after.0.iter().map(|(stage, &now)| {
            (&**stage, self.get(stage).map_or(Finding::New(now), |before| Finding::of(before, now)))
        });
        gone.chain(counted).collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(HEAD)?;
        self.0.iter().try_for_each(|(stage, instructions)| writeln!(out, "{stage} {instructions:.1}"))
    }
}

impl FromStr for Figures {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Figures> {
        let mut figures = Figures::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((stage, figure)) = line.split_once(' ') else { bail!("`{line}`: not `stage figure`") };
            let figure: f64 = figure.parse().with_context(|| format!("`{line}`"))?;
            ensure!(figure > 0.0 && figure.is_finite(), "`{line}`: no stage takes nothing");
            figures.0.insert(stage.to_owned(), figure);
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(of: &[(&str, f64)]) -> Figures {
        let mut figures = Figures::default();
        of.iter().for_each(|(stage, figure)| figures.set(stage, *figure));
        figures
    }

    #[test]
    fn what_is_written_is_read_and_sorted() {
        let some = figures(&[("rewrite", 310.04), ("flv_tag", 12.0)]);
        let text = some.to_string();
        assert!(
            text.ends_with(
                "accept`. docs/BENCHMARKS.md says what a stage is.\nflv_tag 12.0\nrewrite 310.0\n"
            ),
            "{text}"
        );
        assert_eq!(text.parse::<Figures>().unwrap(), some);
        for wrong in ["rewrite", "rewrite many", "rewrite 0", "rewrite -1", "rewrite NaN", "rewrite inf"] {
            assert!(wrong.parse::<Figures>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn growth_and_a_stage_on_one_side_alone_fail() {
        let before = figures(&[("a", 100.0), ("b", 100.0), ("c", 100.0), ("d", 100.0), ("old", 1.0)]);
        let after = figures(&[("a", 110.0), ("b", 110.1), ("c", 90.0), ("d", 89.9), ("young", 1.0)]);
        let findings = before.findings(&after);
        let failed: Vec<_> =
            findings.iter().filter(|(_, it)| it.is_failure()).map(|(name, _)| *name).collect();
        assert_eq!(failed, ["b", "old", "young"]);
        assert_eq!(findings["a"], Finding::Same);
        assert_eq!(findings["c"], Finding::Same);
        assert_eq!(findings["d"], Finding::Shrunk(100.0, 89.9));
        let text = findings["b"].to_string();
        assert!(text.starts_with("grew from 100.0 to 110.1 instructions (+10.1 %, 10 % at most)"), "{text}");
        assert!(text.contains("--accept"), "{text}");
        assert!(findings["old"].to_string().contains("no such stage"));
        assert!(findings["young"].to_string().contains("no line in the baseline"));
    }
}
