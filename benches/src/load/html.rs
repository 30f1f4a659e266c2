//! An outcome as one HTML file, with plots: no scripts, nothing from elsewhere, so it can be opened from a disk and mailed.

use std::fmt::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::histogram::Summary;
use super::outcome::{Group, GroupSecond, Outcome, Second, Server};
use super::plot::{Line, Plot, Scale, short};

/// Less of the frames is no clean run.
const DELIVERED_PERCENT_MIN: f64 = 99.9;
const STYLE: &str = include_str!("html.css");
/// Colours of the style sheet.
const COLOURS: usize = 8;
/// Groups have the colours from the first on; these are of the other end.
const SERVER_COLOUR: usize = 6;
const WORKER_COLOUR: usize = 7;

/// Writes the report.
///
/// # Errors
/// A file that cannot be written.
pub fn save(outcome: &Outcome, path: &Path) -> Result<()> {
    std::fs::write(path, page(outcome)).with_context(|| format!("cannot write {}", path.display()))
}

/// The report.
pub fn page(outcome: &Outcome) -> String {
    let mut page = String::new();
    // Writing to a String has no error.
    let _ = write_page(outcome, &mut page);
    page
}

fn write_page(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let name = if outcome.scenario.name.is_empty() { "Load test" } else { &outcome.scenario.name };
    let title = escape(name);
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} - millrace-bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{title}</h1>\n<p class=\"soft\">millrace-bench, {}</p></header>\n<main>\n",
        date(outcome.started_unix_s)
    )?;
    write_verdict(outcome, page)?;
    write_facts(outcome, page)?;
    write_viewers(outcome, page)?;
    write_plots(outcome, page)?;
    write_publishers(outcome, page)?;
    if let Some(server) = &outcome.server {
        write_server(server, page)?;
    }
    write_failures(outcome, page)?;
    let scenario = toml::to_string(&outcome.scenario).unwrap_or_default();
    writeln!(
        page,
        "<details><summary>The whole scenario</summary><pre>{}</pre></details>",
        escape(&scenario)
    )?;
    write!(page, "</main>\n</body>\n</html>\n")
}

/// Text from outside as HTML, in elements and in attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Seconds of the Unix epoch as a date and time of UTC.
fn date(unix_s: u64) -> String {
    // Years from March, in eras of 400 years of 146,097 days (H. Hinnant, "chrono-compatible low-level date algorithms").
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second = unix_s % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

fn write_verdict(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let viewers: Vec<&Group> = outcome.viewers().collect();
    let sum = |count: fn(&Group) -> u64| viewers.iter().map(|group| count(group)).sum::<u64>();
    let (due, came) = (sum(|group| group.frames_due), sum(|group| group.frames));
    let delivered = if due > 0 { 100.0 * came as f64 / due as f64 } else { 100.0 };
    let limited = outcome.harness.was_the_limit;
    let (class, verdict) = if limited {
        ("bad", "THE HARNESS WAS THE LIMIT")
    } else if !outcome.complete {
        ("bad", "The run did not come to its end")
    } else if !outcome.is_sound() {
        ("bad", "Not everybody was served")
    } else if delivered < DELIVERED_PERCENT_MIN {
        ("warn", "Everybody was served to the end, but not every frame came")
    } else if outcome.warnings.is_empty() {
        ("good", "Everybody was served to the end")
    } else {
        ("warn", "Everybody was served to the end, but read this")
    };
    let p99 = viewers.iter().map(|group| group.delay_ms.p99).fold(0.0, f64::max);
    write!(
        page,
        "<section class=\"verdict {class}\"><p><strong>{verdict}.</strong> {} of {} viewers had a picture, {delivered:.2} % of the \
         frames came, delay p99 {} ms in the slowest group, {:.1} s measured.</p>",
        sum(|group| group.with_picture as u64),
        sum(|group| group.clients as u64),
        short(p99),
        outcome.seconds
    )?;
    if !outcome.warnings.is_empty() {
        write!(page, "<ul>")?;
        for warning in &outcome.warnings {
            let class = if limited && warning.contains("THE HARNESS WAS THE LIMIT") {
                " class=\"limit\""
            } else {
                ""
            };
            write!(page, "<li{class}>{}</li>", escape(warning))?;
        }
        write!(page, "</ul>")?;
    }
    writeln!(page, "</section>")
}

fn write_facts(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let target = &outcome.scenario.target;
    let server = match &target.start {
        Some(program) => {
            let cores: Vec<String> = target.start_cores.iter().map(usize::to_string).collect();
            let cores =
                if cores.is_empty() { "not pinned".into() } else { format!("on core {}", cores.join(", ")) };
            format!("{}, started for this run, {cores}", program.display())
        }
        None => format!("{:?} at {}", target.preset, target.host),
    };
    let groups: Vec<String> =
        outcome.groups.iter().map(|group| format!("{} x {}", group.clients, group.name)).collect();
    let machine = &outcome.machine;
    let harness = &outcome.harness;
    let workers = outcome.scenario.harness.workers;
    let facts = [
        ("Scenario", groups.join("; ")),
        ("Target", server),
        ("Machine", format!("{}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel)),
        (
            "Harness",
            format!(
                "{workers} worker{}; the busiest took {:.1} % of a core, {:.0} % in its worst second{}",
                if workers == 1 { "" } else { "s" },
                harness.worker_percent,
                harness.worker_percent_max,
                harness
                    .others_percent
                    .map_or(String::new(), |percent| format!("; others took {percent:.1} % of its cores"))
            ),
        ),
    ];
    write!(page, "<dl>")?;
    facts.iter().try_for_each(|(name, value)| write!(page, "<dt>{name}</dt><dd>{}</dd>", escape(value)))?;
    writeln!(page, "</dl>")
}

/// A table: its first column are row headers, already HTML.
fn write_table(
    page: &mut String,
    caption: &str,
    heads: &[&str],
    rows: &[(String, Vec<String>)],
) -> fmt::Result {
    write!(
        page,
        "<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table><caption>{caption}</caption><thead><tr>"
    )?;
    heads.iter().try_for_each(|head| write!(page, "<th scope=\"col\">{head}</th>"))?;
    write!(page, "</tr></thead><tbody>")?;
    for (name, cells) in rows {
        write!(page, "<tr><th scope=\"row\">{name}</th>")?;
        cells.iter().try_for_each(|cell| write!(page, "<td>{cell}</td>"))?;
        write!(page, "</tr>")?;
    }
    writeln!(page, "</tbody></table></div>")
}

fn colour(number: usize) -> usize {
    number % COLOURS
}

/// A group's row header, with the colour of its lines.
fn header(number: usize, group: &Group) -> String {
    format!("<span class=\"key c{}\"></span>{}", colour(number), escape(&group.name))
}

fn ms(value: f64) -> String {
    format!("{value:.1}")
}

fn write_viewers(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let groups: Vec<(usize, &Group)> =
        outcome.groups.iter().enumerate().filter(|(_, group)| !group.publishes).collect();
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(page, "<h2>Viewers</h2>")?;
    let rows = |cells: &dyn Fn(&Group) -> Vec<String>| -> Vec<(String, Vec<String>)> {
        groups.iter().map(|(number, group)| (header(*number, group), cells(group))).collect()
    };
    let delivered = rows(&|group| {
        let rtp = |value: String| if group.packets_due > 0 { value } else { "-".into() };
        vec![
            format!("{}/{}", group.with_picture, group.clients),
            format!("{:.2} %", group.delivered_percent),
            format!("{:.2} %", group.worst_percent),
            rtp(group.packets.to_string()),
            rtp(format!("{} ({:.3} %)", group.packets_lost, group.packets_lost_percent())),
            group.freezes_ms.count.to_string(),
            if group.freezes_ms.count > 0 { format!("{:.0}", group.freezes_ms.max) } else { "-".into() },
            format!("{:.0}", group.kbps_min),
            format!("{:.0}", group.kbps_median),
        ]
    });
    let heads = [
        "Group",
        "Pictures",
        "Delivered",
        "Worst viewer",
        "RTP packets",
        "Lost",
        "Freezes",
        "Longest ms",
        "kbit/s least",
        "kbit/s median",
    ];
    write_table(page, "What came in the measured time", &heads, &delivered)?;
    let delays = rows(&|group| {
        let Summary { p50, p95, p99, p999, max, .. } = group.delay_ms;
        [p50, p95, p99, p999, max].map(ms).into()
    });
    let heads = ["Group", "p50", "p95", "p99", "p99.9", "Max"];
    write_table(page, "Delay from sending a frame to its last byte at a viewer, in ms", &heads, &delays)?;
    let joins = rows(&|group| {
        let (connect, key) = (&group.connect_ms, &group.first_key_ms);
        [connect.p50, connect.p95, connect.max, key.p50, key.p95, key.max].map(ms).into()
    });
    let heads = ["Group", "Connected p50", "p95", "Max", "First key frame p50", "p95", "Max"];
    write_table(
        page,
        "Joins: from their start to the connection and to the end of the first key frame, in ms",
        &heads,
        &joins,
    )?;
    write_oddities(&groups, page)
}

/// What is there only sometimes.
fn write_oddities(groups: &[(usize, &Group)], page: &mut String) -> fmt::Result {
    type Oddity = (&'static str, fn(&Group) -> f64);
    let oddities: [Oddity; 9] = [
        ("Joins in the measured time", |group| group.joins as f64),
        ("Packets recovered", |group| group.packets_recovered as f64),
        ("Reordered", |group| group.packets_reordered as f64),
        ("Came again", |group| group.packets_again as f64),
        ("Frames again", |group| group.frames_again as f64),
        ("Frames of other streams", |group| group.frames_foreign as f64),
        ("Dropped by its own link", |group| group.packets_discarded as f64),
        ("Sound against picture p50 ms", |group| group.skew_ms.p50),
        ("p99 ms", |group| group.skew_ms.p99),
    ];
    let there: Vec<&Oddity> =
        oddities.iter().filter(|(_, value)| groups.iter().any(|(_, group)| value(group) > 0.0)).collect();
    if there.is_empty() {
        return Ok(());
    }
    let heads: Vec<&str> = std::iter::once("Group").chain(there.iter().map(|(head, _)| *head)).collect();
    let rows: Vec<(String, Vec<String>)> = groups
        .iter()
        .map(|(number, group)| {
            (header(*number, group), there.iter().map(|(_, value)| short(value(group))).collect())
        })
        .collect();
    write_table(page, "Also", &heads, &rows)
}

fn write_publishers(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let groups = outcome.groups.iter().enumerate().filter(|(_, group)| group.publishes);
    let rows: Vec<(String, Vec<String>)> = groups
        .map(|(number, group)| {
            let cells = vec![
                format!("{}/{}", group.with_picture, group.clients),
                group.frames.to_string(),
                format!("{:.0}", group.kbps_min),
                format!("{:.0}", group.kbps_median),
                ms(group.connect_ms.p50),
                ms(group.late_ms.p99),
                ms(group.late_ms.max),
            ];
            (header(number, group), cells)
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(page, "<h2>Publishers</h2>")?;
    let heads = [
        "Group",
        "Sent",
        "Frames",
        "kbit/s least",
        "kbit/s median",
        "Connected p50 ms",
        "Frames late p99 ms",
        "Max ms",
    ];
    write_table(page, "What was sent in the measured time", &heads, &rows)
}

fn write_server(server: &Server, page: &mut String) -> fmt::Result {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let [voluntary, forced] = server.cpu.switches_per_second;
    writeln!(page, "<h2>Server</h2>")?;
    let mut rows = vec![
        ("CPU".to_owned(), vec![format!("{:.1} % of a core", server.cpu.percent)]),
        (
            "Memory (RSS)".to_owned(),
            vec![format!("{}, {} before", mib(server.rss_bytes), mib(server.rss_bytes_before))],
        ),
        ("Context switches".to_owned(), vec![format!("{voluntary:.0}/s, and {forced:.0}/s forced")]),
    ];
    if let Some(percent) = server.others_percent {
        rows.push(("Others on its cores".to_owned(), vec![format!("{percent:.1} % of a core")]));
    }
    let threads = server.cpu.threads.iter().filter(|(_, percent)| *percent >= 0.05);
    rows.extend(threads.map(|(name, percent)| {
        (format!("Thread {}", escape(name)), vec![format!("{percent:.1} % of a core")])
    }));
    write_table(page, "The server's process in the measured time", &["What", "Value"], &rows)?;
    if server.metrics.is_empty() {
        return Ok(());
    }
    write!(
        page,
        "<details><summary>{} metrics changed in the measured time</summary>",
        server.metrics.len()
    )?;
    let rows: Vec<(String, Vec<String>)> = server
        .metrics
        .iter()
        .map(|(name, before, after)| {
            (escape(name), vec![before.to_string(), after.to_string(), short(after - before)])
        })
        .collect();
    write_table(page, "Metrics", &["Name", "Before", "After", "Change"], &rows)?;
    writeln!(page, "</details>")
}

fn write_failures(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let failures = outcome.groups.iter().enumerate();
    let failures =
        failures.flat_map(|(number, group)| group.failures.iter().map(move |one| (number, group, one)));
    let mut failures = failures.peekable();
    if failures.peek().is_none() {
        return Ok(());
    }
    write!(
        page,
        "<h2>Failures</h2>\n<div class=\"scroll\" role=\"region\" aria-label=\"Failures\" tabindex=\"0\"><table><thead><tr>\
         <th scope=\"col\">Group</th><th scope=\"col\">Times</th><th scope=\"col\">Why</th></tr></thead><tbody>"
    )?;
    for (number, group, (why, times)) in failures {
        write!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{times}</td><td class=\"wide\">{}</td></tr>",
            header(number, group),
            escape(why)
        )?;
    }
    writeln!(page, "</tbody></table></div>")
}

fn write_plots(outcome: &Outcome, page: &mut String) -> fmt::Result {
    let plots: Vec<Plot> = plots(outcome).into_iter().filter(|plot| !plot.is_empty()).collect();
    if plots.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<h2>Plots</h2>\n<p class=\"soft\">Shaded: the measured time.</p>\n<div class=\"plots\">"
    )?;
    for (number, plot) in plots.iter().enumerate() {
        write!(
            page,
            "<figure><h3>{}</h3>{}<figcaption>",
            plot.title,
            plot.svg(&format!("p{number}"), escape)
        )?;
        for line in plot.lines.iter().filter(|line| !line.points.is_empty()) {
            let thin = if line.thin { " thin" } else { "" };
            write!(
                page,
                "<span><span class=\"key{thin} c{}\"></span>{}</span>",
                line.colour,
                escape(&line.name)
            )?;
        }
        writeln!(page, "</figcaption></figure>")?;
    }
    writeln!(page, "</div>")
}

fn plots(outcome: &Outcome) -> Vec<Plot> {
    let measured = || outcome.timeline.iter().filter(|second| second.measured).map(|second| second.at as f64);
    let shade = measured().next().zip(measured().next_back()).map(|(first, last)| (first - 1.0, last));
    let over_time = |title: &str, y, y_scale, lines| Plot {
        title: title.into(),
        x: "seconds since the run's begin",
        y,
        x_scale: Scale::Linear,
        y_scale,
        lines,
        shade,
    };
    let line = |name: &str, colour, value: &dyn Fn(&Second) -> Option<f64>| {
        let points = outcome.timeline.iter().filter_map(|second| Some((second.at as f64, value(second)?)));
        Line { name: name.to_owned(), colour, thin: false, points: points.collect() }
    };
    // Of those groups, what `value` says of each second.
    type Value = fn(&GroupSecond) -> Option<f64>;
    let lines = |of: fn(&Group) -> bool, value: Value| -> Vec<Line> {
        let groups = outcome.groups.iter().enumerate().filter(|(_, group)| of(group));
        let lines = groups.map(|(number, group)| {
            line(&group.name, colour(number), &|second| value(second.groups.get(number)?))
        });
        lines.collect()
    };
    let viewers = |group: &Group| !group.publishes;
    let delays = |value: fn(&Summary) -> f64, what: &str, thin| {
        let groups = outcome.groups.iter().enumerate().filter(|(_, group)| !group.publishes);
        let lines = groups.map(|(number, group)| {
            let value = |second: &Second| {
                let delay = second.groups.get(number)?.delay_ms;
                (delay.count > 0).then(|| value(&delay))
            };
            Line { thin, ..line(&format!("{} {what}", group.name), colour(number), &value) }
        });
        lines.collect::<Vec<Line>>()
    };
    let mut by_second = delays(|delay| delay.p99, "p99", false);
    by_second.extend(delays(|delay| delay.p50, "p50", true));
    let per_client: Value =
        |second| (second.picture > 0).then(|| second.frames as f64 / second.picture as f64);
    let cpu = vec![
        line("server", SERVER_COLOUR, &|second| second.server_percent),
        line("busiest worker", WORKER_COLOUR, &|second| Some(second.worker_percent)),
    ];
    let memory = |second: &Second| second.server_rss_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    let mut plots = vec![
        percentiles(outcome),
        over_time("Delay by second", "ms", Scale::Log, by_second),
        over_time(
            "Clients that have a picture, or send",
            "clients",
            Scale::Linear,
            lines(|_| true, |s| Some(s.picture as f64)),
        ),
        over_time("Frames a second at each viewer", "frames/s", Scale::Linear, lines(viewers, per_client)),
        over_time(
            "RTP packets missing, by second (below 0: late ones came)",
            "packets",
            Scale::Linear,
            lines(|group| group.packets_due > 0, |second| Some(second.packets_lost as f64)),
        ),
        over_time("CPU", "% of a core", Scale::Linear, cpu),
        over_time(
            "The server's memory (RSS)",
            "MiB",
            Scale::Linear,
            vec![line("server", SERVER_COLOUR, &memory)],
        ),
    ];
    if outcome.viewers().any(|group| group.freezes_ms.count > 0) {
        let freezes = lines(viewers, |second| Some(second.freezes as f64));
        plots.insert(5, over_time("Freezes that ended, by second", "freezes", Scale::Linear, freezes));
    }
    plots
}

/// Of each group: the delay that so many percent of the frames have at most.
fn percentiles(outcome: &Outcome) -> Plot {
    let groups = outcome.groups.iter().enumerate().filter(|(_, group)| !group.publishes);
    let lines = groups.map(|(number, group)| {
        let counts = &group.delay_us_counts;
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        let mut sum = 0;
        let start = counts.first().map(|(us, _)| (0.0, *us as f64 / 1_000.0));
        let points = counts.iter().map(|(us, count)| {
            sum += count;
            // The greatest of N stands for the last half of an Nth: its place is not at 100 %, which is nowhere.
            let below = (sum as f64).min(total as f64 - 0.5);
            (100.0 * below / total as f64, *us as f64 / 1_000.0)
        });
        let points = start.into_iter().chain(points).collect();
        Line { name: group.name.clone(), colour: colour(number), thin: false, points }
    });
    Plot {
        title: "Delay in the measured time, by percentile".into(),
        x: "percent of the frames",
        y: "at most ms",
        x_scale: Scale::Percentile,
        y_scale: Scale::Log,
        lines: lines.collect(),
        shade: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::outcome::example;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        const HOSTILE: &str = "</title><script>alert('x')</script>&\"<img src=x onerror=y>";
        let mut outcome = example();
        outcome.scenario.name = HOSTILE.into();
        outcome.scenario.target.host = HOSTILE.into();
        outcome.machine.cpu = HOSTILE.into();
        outcome.warnings.push(HOSTILE.into());
        for group in &mut outcome.groups {
            group.name = HOSTILE.into();
            group.failures.push((HOSTILE.into(), 1));
        }
        let server = outcome.server.as_mut().unwrap();
        server.metrics = vec![(HOSTILE.into(), 0.0, 1.0)];
        server.cpu.threads = vec![(HOSTILE.into(), 2.0)];
        let page = page(&outcome);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("alert('"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 20);
        assert_eq!(page.matches("</title>").count(), page.matches("<title").count());
    }

    #[test]
    fn a_report_is_whole_and_needs_nothing_else() {
        let mut outcome = example();
        let good = page(&outcome);
        for part in [
            "2023-11-14 22:13:20 UTC",
            "Everybody was served to the end",
            "Delay by second",
            "millrace_packets_sent_total",
            "scope=\"col\"",
            "prefers-color-scheme: dark",
        ] {
            assert!(good.contains(part), "{part}");
        }
        assert_eq!(good.matches("<svg").count(), 7);
        for foreign in ["src=", "href=", "@import", "url("] {
            assert!(!good.contains(foreign), "{foreign}");
        }
        outcome.harness.was_the_limit = true;
        outcome.warnings.push("THE HARNESS WAS THE LIMIT: a worker took 99 %".into());
        assert!(page(&outcome).contains("verdict bad") && page(&outcome).contains("class=\"limit\""));
    }

    #[test]
    fn a_run_that_reached_nothing_has_a_report_too() {
        let mut outcome = example();
        outcome.groups.clear();
        outcome.timeline.clear();
        (outcome.server, outcome.complete) = (None, false);
        let page = page(&outcome);
        assert!(page.contains("did not come to its end") && !page.contains("<svg") && !page.contains("NaN"));
    }

    #[test]
    fn dates_are_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59 UTC");
    }
}
