//! The side-by-side tables, as text and as Markdown.

use std::fmt::Write;

use serde::Serialize;

use super::{Section, Subject};
use crate::load::outcome::Outcome;

/// Figures of one round.
#[derive(Clone, Copy, Default, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Viewers that had a picture.
    pub pictures: f64,
    /// Frames of those due, in percent.
    pub delivered_percent: f64,
    /// Delay of frames in milliseconds.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// The server's CPU, in percent of a core.
    pub cpu_percent: f64,
    /// The same for 1000 packets a second that reached viewers (WebRTC), or for a viewer.
    pub cpu_percent_each: f64,
    /// Memory that came with the load, for each viewer; the publisher's is in it.
    pub rss_kib_each: f64,
    /// From a join to the end of its first key frame, half of them at most this.
    pub first_key_ms: f64,
    /// What others took of the server's core, in percent.
    pub others_percent: f64,
    /// What others took of the harness's core.
    pub harness_others_percent: f64,
}

impl Figures {
    /// Of an outcome; `None` when nothing was measured.
    pub fn of(outcome: &Outcome, section: Section) -> Option<Figures> {
        let group = outcome.viewers().next()?;
        let server = outcome.server.as_ref().filter(|_| outcome.seconds > 0.0)?;
        let viewers = group.with_picture.max(1) as f64;
        let each = match section {
            Section::Webrtc => (group.packets as f64 / outcome.seconds / 1_000.0).max(f64::MIN_POSITIVE),
            _ => viewers,
        };
        let rss = server.rss_bytes.saturating_sub(server.rss_bytes_before) as f64;
        Some(Figures {
            pictures: group.with_picture as f64,
            delivered_percent: group.delivered_percent,
            p50_ms: group.delay_ms.p50,
            p99_ms: group.delay_ms.p99,
            cpu_percent: server.cpu.percent,
            cpu_percent_each: server.cpu.percent / each,
            rss_kib_each: rss / viewers / 1_024.0,
            first_key_ms: group.first_key_ms.p50,
            others_percent: server.others_percent.unwrap_or(0.0),
            harness_others_percent: outcome.harness.others_percent.unwrap_or(0.0),
        })
    }

    /// The median of each figure.
    pub fn median(rounds: &[Figures]) -> Option<Figures> {
        let of = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            Some((values.get(values.len().checked_sub(1)? / 2)? + values.get(values.len() / 2)?) / 2.0)
        };
        Some(Figures {
            pictures: of(|f| f.pictures)?,
            delivered_percent: of(|f| f.delivered_percent)?,
            p50_ms: of(|f| f.p50_ms)?,
            p99_ms: of(|f| f.p99_ms)?,
            cpu_percent: of(|f| f.cpu_percent)?,
            cpu_percent_each: of(|f| f.cpu_percent_each)?,
            rss_kib_each: of(|f| f.rss_kib_each)?,
            first_key_ms: of(|f| f.first_key_ms)?,
            others_percent: of(|f| f.others_percent)?,
            harness_others_percent: of(|f| f.harness_others_percent)?,
        })
    }
}

/// A line of the tables.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who, and what goes in and out.
    #[serde(flatten)]
    pub subject: Subject,
    /// Viewers asked for.
    pub viewers: usize,
    /// Medians of the rounds that count.
    #[serde(flatten)]
    pub figures: Figures,
}

fn head(section: Section) -> [&'static str; 10] {
    let each = if section == Section::Webrtc { "CPU % per 1000 packets/s" } else { "CPU % a viewer" };
    [
        "server",
        "in, out",
        "viewers",
        "delivered %",
        "p50 ms",
        "p99 ms",
        "CPU % of a core",
        each,
        "KiB a viewer",
        "first key frame p50 ms",
    ]
}

fn cells(row: &Row) -> [String; 10] {
    let Figures { pictures, delivered_percent, p50_ms, p99_ms, cpu_percent, .. } = row.figures;
    let digits = if row.subject.section == Section::Webrtc { 2 } else { 3 };
    [
        row.subject.server.name().into(),
        row.subject.ways(),
        format!("{pictures:.0}/{}", row.viewers),
        format!("{delivered_percent:.2}"),
        format!("{p50_ms:.1}"),
        format!("{p99_ms:.1}"),
        format!("{cpu_percent:.1}"),
        format!("{:.digits$}", row.figures.cpu_percent_each),
        format!("{:.0}", row.figures.rss_kib_each),
        format!("{:.0}", row.figures.first_key_ms),
    ]
}

fn sections(rows: &[Row]) -> impl Iterator<Item = (Section, Vec<&Row>)> {
    Section::ALL
        .into_iter()
        .map(|section| {
            (section, rows.iter().filter(|row| row.subject.section == section).collect::<Vec<_>>())
        })
        .filter(|(_, rows)| !rows.is_empty())
}

/// For a terminal.
pub fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for (section, rows) in sections(rows) {
        let mut lines = vec![head(section).map(str::to_owned)];
        lines.extend(rows.into_iter().map(cells));
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 10] = std::array::from_fn(width);
        // Writing to a String has no error.
        let _ = writeln!(text, "\n{}", section.title());
        for line in &lines {
            let padded = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
                0 | 1 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            });
            let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
    text
}

/// For a document.
pub fn markdown(rows: &[Row], notes: &[String]) -> String {
    let mut text = String::new();
    for (section, rows) in sections(rows) {
        let columns = head(section);
        let rule = columns.iter().enumerate().map(|(column, _)| if column < 2 { "---" } else { "---:" });
        let _ = writeln!(text, "**{}**\n\n| {} |", section.title(), columns.join(" | "));
        let _ = writeln!(text, "| {} |", rule.collect::<Vec<_>>().join(" | "));
        for row in rows {
            let _ = writeln!(text, "| {} |", cells(row).join(" | "));
        }
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::peers::SUBJECTS;

    #[test]
    fn medians_are_of_each_figure_and_tables_have_a_line_each() {
        let round = |p50_ms, cpu_percent| Figures { p50_ms, cpu_percent, ..Figures::default() };
        assert_eq!(Figures::median(&[]), None);
        let median = Figures::median(&[round(3.0, 1.0), round(1.0, 2.0), round(2.0, 9.0)]).unwrap();
        assert_eq!((median.p50_ms, median.cpu_percent), (2.0, 2.0));
        assert_eq!(Figures::median(&[round(1.0, 0.0), round(2.0, 0.0)]).unwrap().p50_ms, 1.5);
        let rows: Vec<Row> =
            SUBJECTS.iter().map(|subject| Row { subject: *subject, viewers: 3, figures: median }).collect();
        let text = text(&rows);
        assert_eq!(text.lines().filter(|line| line.contains("0/3")).count(), SUBJECTS.len(), "{text}");
        assert_eq!(text.matches("per 1000 packets/s").count(), 1, "{text}");
        let markdown = markdown(&rows, &["a note".into()]);
        assert!(
            markdown.contains("| Janus | RTP, WebRTC | 0/3 |") && markdown.ends_with("- a note\n"),
            "{markdown}"
        );
        let columns = |line: &str| line.matches('|').count();
        assert!(markdown.lines().filter(|line| line.starts_with('|')).all(|line| columns(line) == 11));
    }
}
